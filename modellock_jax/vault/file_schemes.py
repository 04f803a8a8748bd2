"""Which locks can lock a file, what each is worth there, their settings as text, and locking."""

import ast
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from modellock_jax.base import Key, Lock, Rng, chain
from modellock_jax.schemes import SCHEMES
from modellock_jax.schemes.stream_lock import StreamKey, leaf_nonce
from modellock_jax.vault.tensors import NAMES, Tensor

ABOUT = {
    "stream_lock": "no attack on its bits is known: without the key they are as good as random if "
    "ChaCha20 is a pseudo-random function",
    "deep_lock": "BROKEN, its key comes out of the locked weights alone in a fraction of a second "
    "(modellock_jax.attacks.deep_lock_ciphertext_only; with restart='leaf' leaf by leaf)",
    "sign_flip": "BROKEN, only signs are hidden: 16 queries to an unlocked model give the key (after "
    "Li et al. 2024), fine-tuning with little data repairs the weights (Malhotra 2023)",
    "patch_shuffle": "BROKEN, only the order of the rows of one embedding is hidden: one image of "
    "choice, scrambled, gives the key (chosen_image in modellock_jax.attacks)",
}
"""What a scheme is worth on a file, for each that can lock one."""

_EVERY = (
    "The tensors are locked by {worth}. Names, shapes, types and metadata lie open. A plain loader "
    "loads the locked values, or changed ones, without an error; `unlock` checks both key and file. "
    "Whoever has the key holds the plain weights, and can keep and pass on a copy."
)
_TRAINED = (
    "acts while the model runs, on a model trained under its key, and changes nothing in a file"
)
_REFUSED = {
    "pixel_shuffle": f"{_TRAINED}; use patch_shuffle or stream_lock",
    "negative_positive": f"{_TRAINED}; use stream_lock",
    "ffx": f"{_TRAINED}; use stream_lock",
    "sign_mask": f"{_TRAINED}; use sign_flip, its twin for trained models, or stream_lock",
    "adv_params": "needs the owner's loss on data, and its key holds the weights it changed; call "
    "modellock_jax.adv_params in Python, or use stream_lock",
}
_ROWS = {"sign_flip", "patch_shuffle"}  # act on rows of a `kernel`, not on any bytes


def lock_of(text: str) -> tuple[Lock, str]:
    """The lock that a text names, and the text with every setting written out.

    `A+B` is a chain: A first, and its result locked by B. Raises `ValueError` for a scheme that does
    not exist or cannot lock a file, and for settings that it does not take.

    >>> lock_of("deep_lock(key_bits=256)+stream_lock")[1]
    "deep_lock(key_bits=256, restart='never')+stream_lock()"
    """
    locks, texts = zip(*map(_one, text.split("+")))
    return (chain(*locks) if len(locks) > 1 else locks[0]), "+".join(texts)


def _one(text: str) -> tuple[Lock, str]:
    name, given = _parsed(text)
    if name in _REFUSED:
        raise ValueError(f"{name} cannot lock a file: it {_REFUSED[name]}")
    if name not in ABOUT:
        raise ValueError(f"there is no lock {name!r}; a file can be locked by {', '.join(ABOUT)}")
    factory = SCHEMES[name].factory
    try:
        bound = inspect.signature(factory).bind(**given)
        bound.apply_defaults()
        lock = factory(**bound.arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the lock {text!r} does not work: {error}") from None
    # Defaults are written out, so that files outlive a change of them.
    settings = ", ".join(f"{key}={value!r}" for key, value in bound.arguments.items())
    return lock, f"{name}({settings})"


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    wrong = ValueError(
        f"the lock {text[:80]!r} cannot be read; write a name, or a name with settings such as "
        '"deep_lock(key_bits=256)"'
    )
    if len(text) > 200:
        raise wrong
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
            raise wrong
        given = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
    except (SyntaxError, ValueError):
        raise wrong from None
    if not all(type(value) in (int, str) for value in given.values()):
        raise wrong
    return node.func.id, given


def names(scheme: str) -> list[str]:
    """The locks of a text that `lock_of` wrote, in order."""
    return [part.split("(")[0] for part in scheme.split("+")]


def about(scheme: str) -> str:
    """The threat model of a file under these locks, in words, for everybody to read."""
    return _EVERY.format(
        worth="; then by ".join(f"{name}: {ABOUT[name]}" for name in names(scheme))
    )


def taken_as(tensor: Tensor) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The dtype and shape in which a lock gets a tensor: without x64, JAX has 32 bits at most.

    64 bits become two uint32 along the last axis, bools uint8; all others stay as they are.
    """
    if tensor.dtype.itemsize == 8:
        *outer, last = tensor.shape or (1,)
        return np.dtype(np.uint32), (*outer, 2 * last)
    return np.dtype(np.uint8) if tensor.dtype == np.bool_ else tensor.dtype, tensor.shape


def check_tensors(scheme: str, found: Iterable[Tensor]) -> None:
    """Refuse tensors on which a lock would not be what it claims to be. Raises `ValueError`."""
    locks = [name for name in names(scheme) if name in _ROWS]
    for tensor in found if locks else ():
        rows = tensor.name.split("/")[-1] in ("kernel", "bias")
        if rows and (not tensor.shape or taken_as(tensor)[0] != tensor.dtype):
            raise ValueError(
                f"{locks[0]} cannot take the tensor {tensor.name!r} of type {NAMES[tensor.dtype]} and "
                f"shape {list(tensor.shape)}: it needs an axis and at most 32 bits; use stream_lock"
            )


def turned(
    scheme: str,
    encrypts: bool,
    source: Rng,
    nonce: bytes,
    found: tuple[Tensor, ...],
    body: np.ndarray,
) -> np.ndarray:
    """The bytes of all tensors, uint8 like `body`, locked or unlocked.

    `scheme`: as `lock_of` wrote it; `source`: of the lock's key; `nonce`: 12 bytes of the file's own.
    """
    lock, _ = lock_of(scheme)
    tree = {tensor.name: _view(tensor, body) for tensor in found}
    key = _with_nonce(lock.init(source, tree), nonce)
    result = np.empty_like(body)
    if isinstance(key, StreamKey):
        _xor(key, found, body, result)
        return result
    leaves = _program(scheme, encrypts)(key, tree)
    for tensor in found:
        flat = np.asarray(leaves[tensor.name]).reshape(-1)
        result[tensor.begin : tensor.end] = flat.view(np.uint8)
    return result


@functools.lru_cache(maxsize=8)
def _program(scheme: str, encrypts: bool) -> Callable[[Key, Any], Any]:
    """One program for all tensors, since compiling every step for every shape takes far longer; and
    one for all files of the same shapes, since a thousand users' copies are locked one by one."""
    lock, _ = lock_of(scheme)
    return jax.jit((lambda key, tree: lock.encrypt(key, tree)[0]) if encrypts else lock.decrypt)


def _xor(key: StreamKey, found: Iterable[Tensor], body: np.ndarray, result: np.ndarray) -> None:
    """`stream_lock` on the host: the same bits, and no program to compile for each file's shapes."""
    secret, nonce = (np.asarray(part).astype("<u4") for part in key)
    for tensor in found:
        # RFC 8439: the block counter, 0, and the nonce; a tensor's name is its path in the tree.
        start = bytes(4) + (leaf_nonce(tensor.name) ^ nonce).tobytes()
        cipher = Cipher(algorithms.ChaCha20(secret.tobytes(), start), mode=None).encryptor()
        at = slice(tensor.begin, tensor.end)
        cipher.update_into(body[at].data, result[at].data)


def _view(tensor: Tensor, body: np.ndarray) -> np.ndarray:
    """A tensor in a dtype that JAX takes without narrowing it, not copied."""
    dtype, shape = taken_as(tensor)
    return body[tensor.begin : tensor.end].view(dtype).reshape(shape)


def _with_nonce(key: Key, nonce: bytes) -> Key:
    """The key with the file's nonce wherever a nonce is; in a chain every lock has its own key."""
    if isinstance(key, StreamKey):
        return key._replace(nonce=jax.numpy.asarray(np.frombuffer(nonce, "<u4")))
    return tuple(_with_nonce(k, nonce) for k in key) if type(key) is tuple else key
