"""What goes into a sealed file: arrays, or a file of any kind, in pieces."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from modellock_jax._printing import printable
from modellock_jax.vault import _kinds, _sources, _tensors
from modellock_jax.vault._sources import AnySource, Reader
from modellock_jax.vault._tensors import Directory
from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.sealed._writing import Content
from modellock_jax.vault.sealed.opened import BYTES, TENSORS, bytes_of


def content_of_arrays(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Content:
    """Return arrays as a safetensors file, of which no copy is made."""
    arrays = {key: np.asarray(array, order="C") for key, array in arrays.items()}
    directory = _tensors.lay_out(arrays, metadata)
    flat = (bytes_of(arrays[tensor.name]) for tensor in directory.tensors)
    return Content(TENSORS, itertools.chain([directory.head], flat), directory.size)


@contextlib.contextmanager
def content_of(source: AnySource) -> Iterator[Content]:
    """Yield what `seal` makes of a file. Raises `Unreadable` for a damaged safetensors file."""
    called = _sources.name_of(source)
    reader = _sources.at_offsets(source)
    if reader is None:
        yield _content_of_stream(source, called)
        return
    with reader:
        kind = BYTES
        if _kinds.is_safetensors(reader.read(_kinds.START), called):
            directory_of(reader)
            kind = TENSORS
        yield Content(kind, reader.pieces(_sources.PIECE), reader.size)


def _content_of_stream(source: Any, called: str) -> Content:
    pieces = _sources.stream(source)
    start = _sources.first(pieces, _kinds.START)
    if not _kinds.is_safetensors(start, called):
        return Content(BYTES, itertools.chain([start], pieces), None)
    length = 8 + int.from_bytes(start[:8], "little")
    if length <= _tensors.LONGEST:
        start += _sources.first(pieces, length - len(start))
    try:
        head = start[: _tensors.head_length(start[:8], len(start))]
        size = _tensors.parse(head).size
    except ValueError as error:
        raise _not_whole(called, error) from None

    def whole() -> Iterator[bytes]:
        found = 0
        for piece in itertools.chain([start], pieces):
            found += len(piece)
            yield piece
        if found != size:
            raise _not_whole(called, f"should have {size} bytes and has {found}")

    return Content(TENSORS, whole(), size)


def directory_of(reader: Reader) -> Directory:
    """Return the directory of a safetensors file. Raises `Unreadable`, naming other kinds."""
    _kinds.need_safetensors(reader.read(_kinds.START), reader.name)
    try:
        directory = _tensors.parse(reader.read(_tensors.head_length(reader.read(8), reader.size)))
        if directory.size != reader.size:
            raise ValueError(f"should have {directory.size} bytes and has {reader.size}")
    except ValueError as error:
        raise _not_whole(reader.name, error) from None
    return directory


def _not_whole(called: str, why: object) -> Unreadable:
    return Unreadable(f"{printable(called)} {why}; give a whole safetensors file")
