"""Which locks can lock a file, what each is worth there, their settings as text, and locking."""

import ast
import functools
import inspect
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from modellock_jax.ciphers.nonces import leaf_nonce, tree_key
from modellock_jax.vault.keys.secret import KeySource
from modellock_jax.vault.tensors import NAMES, Tensor

if TYPE_CHECKING:
    from modellock_jax.core.lock import Key, Lock

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
_ON_HOST = "stream_lock()"  # needs no JAX; not so in a chain
_ROWS = {"sign_flip", "patch_shuffle"}  # act on rows of a `kernel`, not on any bytes


def settled(text: str) -> str:
    """The text of a lock with every setting written out.

    `A+B` is a chain: A first, and its result locked by B. Raises `ValueError` for a scheme that does
    not exist or cannot lock a file, and for settings that it does not take.

    >>> settled("deep_lock(key_bits=256)+stream_lock")
    "deep_lock(key_bits=256, restart='never')+stream_lock()"
    """
    return "+".join(map(_settled, text.split("+")))


def _settled(text: str) -> str:
    name, given = _parsed(text)
    if name in _REFUSED:
        raise ValueError(f"{name} cannot lock a file: it {_REFUSED[name]}")
    if name not in ABOUT:
        raise ValueError(f"there is no lock {name!r}; a file can be locked by {', '.join(ABOUT)}")
    if (name, given) == ("stream_lock", {}):
        return _ON_HOST
    factory = _factory(name)
    try:
        bound = inspect.signature(factory).bind(**given)
        bound.apply_defaults()
        factory(**bound.arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the lock {text!r} does not work: {error}") from None
    # Defaults are written out, so that files outlive a change of them.
    settings = ", ".join(f"{key}={value!r}" for key, value in bound.arguments.items())
    return f"{name}({settings})"


def _factory(name: str) -> Callable[..., "Lock"]:
    # Imported here, because a file under `stream_lock` needs nothing of JAX.
    from modellock_jax.locks import SCHEMES

    return SCHEMES[name].factory


def lock_of(scheme: str) -> "Lock":
    """The lock of a text that `settled` wrote."""
    from modellock_jax.core.compose import chain

    locks = [_factory(name)(**given) for name, given in map(_parsed, scheme.split("+"))]
    return chain(*locks) if len(locks) > 1 else locks[0]


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
    """The locks of a text that `settled` wrote, in order."""
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


def lock_body(
    scheme: str, source: KeySource, found: tuple[Tensor, ...], body: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """The bytes of all tensors locked, uint8 like `body`, and what finishes the lock's key.

    `scheme`: as `settled` wrote it; `source`: of the lock's key, which no other file has. What
    finishes a key is public: in hex, one text for each link of the chain, empty where there is none.
    Raises `ValueError` if there is no tensor.
    """
    if not found:
        raise ValueError("the file has no tensors: there is nothing to lock")
    if scheme == _ON_HOST:
        nonce = os.urandom(12)
        return _by_openssl(source, nonce, found, body), [nonce.hex()]
    tree = tree_of(found, body)
    locked, key = _program(scheme, True)(lock_of(scheme).init(source, tree), tree)
    return _bytes_of(locked, found, body), [_finish_of(one) for one in _links(key)]


def unlock_body(
    scheme: str,
    source: KeySource,
    finish: list[str],
    found: tuple[Tensor, ...],
    body: np.ndarray,
) -> np.ndarray:
    """The inverse of `lock_body`, which gave `finish`. Raises `ValueError` where that does not fit."""
    if len(finish) != len(names(scheme)):
        raise ValueError("what finishes the keys does not fit the lock")
    if scheme == _ON_HOST:
        return _by_openssl(source, bytes.fromhex(finish[0]), found, body)
    tree = tree_of(found, body)
    return _bytes_of(
        _program(scheme, False)(opening_key(scheme, source, finish, tree), tree), found, body
    )


def opening_key(scheme: str, source: KeySource, finish: list[str], locked: Any) -> "Key":
    """The finished key of a locked tree."""
    key = lock_of(scheme).init(source, locked)
    links = tuple(_finished(one, text) for one, text in zip(_links(key), finish, strict=True))
    return links if len(links) > 1 else links[0]


@functools.lru_cache(maxsize=8)
def _program(scheme: str, encrypts: bool) -> Callable[["Key", Any], Any]:
    """One program for all tensors, since compiling every step for every shape takes far longer; and
    one for all files of the same shapes, since a thousand users' copies are locked one by one."""
    import jax

    lock = lock_of(scheme)
    return jax.jit(lock.encrypt if encrypts else lock.decrypt)


def _by_openssl(
    source: KeySource, nonce: bytes, found: Iterable[Tensor], body: np.ndarray
) -> np.ndarray:
    """`stream_lock` on the host: the same bits, and no program to compile for each file's shapes."""
    key = source.for_lock(_ON_HOST).words(8).astype("<u4").tobytes()
    stream, result = tree_key(key, nonce), np.empty_like(body)
    for tensor in found:
        # RFC 8439: the block counter, 0, and the nonce; a tensor's name is its path in the tree.
        start = bytes(4) + leaf_nonce(tensor.name).astype("<u4").tobytes() + bytes(4)
        cipher = Cipher(algorithms.ChaCha20(stream, start), mode=None).encryptor()
        at = slice(tensor.begin, tensor.end)
        cipher.update_into(body[at].data, result[at].data)
    return result


def tree_of(found: Iterable[Tensor], body: np.ndarray) -> dict[str, np.ndarray]:
    """What a lock gets: the tensors by name, as `taken_as` says, not copied."""
    return {tensor.name: _view(tensor, body) for tensor in found}


def _view(tensor: Tensor, body: np.ndarray) -> np.ndarray:
    dtype, shape = taken_as(tensor)
    return body[tensor.begin : tensor.end].view(dtype).reshape(shape)


def _bytes_of(leaves: Any, found: Iterable[Tensor], body: np.ndarray) -> np.ndarray:
    result = np.empty_like(body)
    for tensor in found:
        flat = np.asarray(leaves[tensor.name]).reshape(-1)
        result[tensor.begin : tensor.end] = flat.view(np.uint8)
    return result


def _links(key: "Key") -> tuple["Key", ...]:
    return key if type(key) is tuple else (key,)


def _finish_of(key: "Key") -> str:
    nonce = getattr(key, "nonce", None)
    return "" if nonce is None else np.asarray(nonce).astype("<u4").tobytes().hex()


def _finished(key: "Key", text: str) -> "Key":
    if not hasattr(key, "nonce"):
        return key
    return key._replace(nonce=np.frombuffer(bytes.fromhex(text), "<u4").astype(np.uint32))
