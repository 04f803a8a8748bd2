"""Where bytes go: to a path, whole or not at all, or to a binary file object, one after another."""

import io
import os
from collections.abc import Iterable
from typing import Any, BinaryIO

from modellock_jax._atomic import replacing, write_all

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


def put(target: Any, data: Any) -> None:
    """Write all of a buffer to a file object, however often it takes only a part."""
    view = memoryview(data).cast("B")
    while view:
        done = target.write(view)
        view = view[len(view) if done is None else done :]
