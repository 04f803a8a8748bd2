"""Where bytes go: to a path, whole or not at all, or to a binary file object, one after another."""

import io
import os
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from modellock_jax._atomic import replacing, write_all
from modellock_jax.vault.errors import Tampered

AnyTarget = str | os.PathLike[str] | BinaryIO


def is_path(target: AnyTarget) -> bool:
    """Whether a target is a path. Raises `TypeError` for what is neither path nor binary file."""
    if isinstance(target, str | os.PathLike):
        return True
    if not hasattr(target, "write") or isinstance(target, io.TextIOBase):
        kind = type(target).__name__
        raise TypeError(f"give a path or a file opened in binary mode, not a {kind}")
    return False


def write_pieces(target: AnyTarget, pieces: Iterable[Any], mode: int = 0o644) -> None:
    """Write pieces one after another; a new file gets `mode`, as `_atomic.replacing` says."""
    if not is_path(target):
        for piece in pieces:
            put(target, piece)
        target.flush()  # type: ignore[union-attr]
        return
    with replacing(target, mode) as file:  # type: ignore[arg-type]
        at = 0
        for piece in pieces:
            write_all(file, piece, at)
            at += len(piece)


def write_behind(
    target: AnyTarget,
    length: int,
    head: Callable[[bytes], bytes],
    pieces: Callable[[], Iterable[tuple[bytes, Any]]],
    mode: int = 0o644,
) -> None:
    """Write a head of a known length, which the joined digests of all pieces decide, and the pieces.

    `pieces()` yields each after its digest. A file object, which cannot be gone back in, is given
    them after a first time through; raises `Tampered` if they were others then.
    """
    if not is_path(target):
        digests = b"".join(digest for digest, _ in pieces())
        put(target, head(digests))
        again = bytearray()
        for digest, piece in pieces():
            again += digest
            put(target, piece)
        if again != digests:
            raise Tampered("what is locked was changed while it was read; lock it again")
        target.flush()  # type: ignore[union-attr]
        return
    with replacing(target, mode) as file:  # type: ignore[arg-type]
        at, found = length, bytearray()
        for digest, piece in pieces():
            found += digest
            write_all(file, piece, at)
            at += len(piece)
        write_all(file, head(bytes(found)), 0)


def put(target: Any, data: Any) -> None:
    """Write all of a buffer to a file object, however often it takes only a part."""
    view = memoryview(data).cast("B")
    while view:
        done = target.write(view)
        view = view[len(view) if done is None else done :]
