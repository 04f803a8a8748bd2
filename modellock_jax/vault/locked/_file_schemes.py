"""The tensors of a file under a lock, which is given as text."""

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modellock_jax.locks import Files, Link, parse
from modellock_jax.vault._tensors import NAMES, Tensor
from modellock_jax.vault.keys.secret import KeySource
from modellock_jax.vault.locked._host_stream import SCHEME as HOST
from modellock_jax.vault.locked._host_stream import HostEntries, HostStream

if TYPE_CHECKING:
    from modellock_jax.core.lock import Key

_PIECES, _COPIES = 2**26, 3  # bytes of the pieces at hand; how often a file is in memory
_EVERY = (
    "The tensors are locked by {worth}. Names, shapes, types and metadata lie open. A plain loader "
    "loads the locked values, or changed ones, without an error; `unlock` checks both key and file. "
    "Whoever has the key holds the plain weights, and can keep and pass on a copy."
)


def normalise(text: str) -> str:
    """Write a lock's text with every setting, so that files outlive a change of defaults.

    `A+B` is a chain: A first, and its result locked by B. Raises `ValueError` for a lock that does
    not exist or cannot lock a file, and for settings that it does not take.

    >>> normalise("deep_lock(key_bits=256)+stream_lock")
    "deep_lock(key_bits=256, restart='never', packing='byte')+stream_lock()"
    """
    found = parse(text)
    for scheme in found.schemes:
        if not isinstance(scheme.files, Files):
            raise ValueError(f"{scheme.name} cannot lock a file: it {scheme.files}")
    return HOST if str(found) == HOST else str(found.complete())


def memory_of(scheme: str, size: int) -> int:
    """Return about how many bytes of memory it takes to lock or unlock a file of `size` bytes.

    >>> memory_of("stream_lock()", 10**12) < 10**8 < memory_of("deep_lock()", 10**8)
    True
    """
    return _PIECES if in_pieces(scheme, ()) else _COPIES * size


def about(scheme: str) -> str:
    """Return the threat model of a file under these locks, in words, for everybody to read."""
    worth = "; then by ".join(f"{one.name}: {one.worth}" for one in parse(scheme).schemes)
    return _EVERY.format(worth=worth)


def taken_as(tensor: Tensor) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the dtype and shape in which a lock gets a tensor: without x64, JAX has 32 bits at most.

    64 bits become two uint32 along the last axis, bools uint8; all others stay as they are.
    """
    if tensor.dtype.itemsize == 8:
        *outer, last = tensor.shape or (1,)
        return np.dtype(np.uint32), (*outer, 2 * last)
    return np.dtype(np.uint8) if tensor.dtype == np.bool_ else tensor.dtype, tensor.shape


def check_tensors(scheme: str, found: Iterable[Tensor]) -> None:
    """Refuse tensors on which a lock would not be what it claims to be. Raises `ValueError`."""
    given = list(found)
    for link in parse(scheme).links:
        if not (isinstance(link.scheme.files, Files) and link.scheme.files.by_axes):
            continue
        acted = _acted_on(link, given)
        for tensor in given:
            if tensor.name not in acted or (tensor.shape and taken_as(tensor)[0] == tensor.dtype):
                continue
            raise ValueError(
                f"{link.scheme.name} cannot take the tensor {tensor.name!r} of type "
                f"{NAMES[tensor.dtype]} and shape {list(tensor.shape)}: it needs an axis and at most "
                "32 bits; use stream_lock"
            )


def _acted_on(link: Link, given: list[Tensor]) -> list[str]:
    from modellock_jax.core.acts import acts_on

    shapes = {tensor.name: np.broadcast_to(np.int8(0), tensor.shape) for tensor in given}
    try:
        return acts_on(link.lock, shapes)
    except ValueError as error:
        raise ValueError(f"{error}; where no code of yours runs, use stream_lock") from None


def lock_body(
    scheme: str, source: KeySource, found: tuple[Tensor, ...], body: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Return the bytes of all tensors locked, uint8 like `body`, and what finishes the lock's key.

    `scheme`: as `normalise` wrote it; `source`: of the lock's key, which no other file has. What
    finishes a key is public: in hex, one text for each link of the chain, empty where there is none.
    Raises `ValueError` if the lock finishes its key by more than a nonce.
    """
    tree = tree_of(found, body)
    locked, key = _program(scheme, True)(parse(scheme).lock.init(source, tree), tree)
    finish = [_finish_of(one) for one in _links(scheme, key)]
    if not _same(key, opening_key(scheme, source, finish, tree)):
        raise ValueError(
            f"{scheme} finishes its key by more than a `nonce`, which is all that a file keeps"
        )
    return _bytes_of(locked, found, body), finish


def unlock_body(
    scheme: str,
    source: KeySource,
    finish: list[str],
    found: tuple[Tensor, ...],
    body: np.ndarray,
) -> np.ndarray:
    """Invert `lock_body`, which gave `finish`. Raises `ValueError` where that does not fit."""
    if len(finish) != len(parse(scheme).links):
        raise ValueError("what finishes the keys does not fit the lock")
    tree = tree_of(found, body)
    return _bytes_of(
        _program(scheme, False)(opening_key(scheme, source, finish, tree), tree), found, body
    )


def in_pieces(scheme: str, found: Iterable[Tensor]) -> bool:
    """Whether a file can be locked and unlocked piece by piece, and not in memory as a whole."""
    return scheme == HOST or (
        _piecewise(scheme) is not None
        # An entry that lies in two pieces would be in neither.
        and all(tensor.begin % tensor.dtype.itemsize == 0 for tensor in found)
    )


def _piecewise(scheme: str) -> Any:
    links = parse(scheme).links
    files = links[0].scheme.files
    return files.in_pieces if len(links) == 1 and isinstance(files, Files) else None


def change_of(
    scheme: str, source: KeySource, finish: list[str] | None, found: Sequence[Tensor]
) -> tuple[Callable[[int, Any], None], list[str]]:
    """Return what locks any stretch of a body in place, or opens it, and what finishes the lock's key.

    For locks of which `in_pieces` says so; `finish`: None for a new file.
    """
    if scheme == HOST:
        nonce = os.urandom(12) if finish is None else bytes.fromhex(finish[0])
        return HostStream(source, nonce, found).change, [nonce.hex()]
    shapes = {}
    for one in found:
        dtype, shape = taken_as(one)
        shapes[one.name] = np.broadcast_to(np.zeros((), dtype), shape)
    key = parse(scheme).lock.init(source, shapes)
    return HostEntries(_piecewise(scheme)(key, shapes), found).change, [""]


def opening_key(scheme: str, source: KeySource, finish: list[str], locked: Any) -> "Key":
    """Return the finished key of a locked tree."""
    key = parse(scheme).lock.init(source, locked)
    links = tuple(
        _finished(one, text) for one, text in zip(_links(scheme, key), finish, strict=True)
    )
    return links if len(links) > 1 else links[0]


@functools.lru_cache(maxsize=8)
def _program(scheme: str, encrypts: bool) -> Callable[["Key", Any], Any]:
    """Return one program for all tensors, since to compile every step for every shape takes far longer.

    It serves all files of the same shapes, since a thousand users' copies are locked one by one.
    """
    import jax

    lock = parse(scheme).lock
    return jax.jit(lock.encrypt if encrypts else lock.decrypt)


def tree_of(found: Iterable[Tensor], body: np.ndarray) -> dict[str, np.ndarray]:
    """Return what a lock gets: the tensors by name, as `taken_as` says, not copied."""
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


def _links(scheme: str, key: "Key") -> tuple["Key", ...]:
    return tuple(key) if len(parse(scheme).links) > 1 else (key,)


def _same(one: "Key", other: "Key") -> bool:
    import jax

    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in leaves)


def _finish_of(key: "Key") -> str:
    nonce = getattr(key, "nonce", None)
    return "" if nonce is None else np.asarray(nonce).astype("<u4").tobytes().hex()


def _finished(key: "Key", text: str) -> "Key":
    if not hasattr(key, "nonce"):
        return key
    return key._replace(nonce=np.frombuffer(bytes.fromhex(text), "<u4").astype(np.uint32))
