"""What can be read: a path, bytes or a binary file object."""

import contextlib
import io
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Protocol

from modellock_jax import _temporary
from modellock_jax.vault._files import open_to_read
from modellock_jax.vault.errors import Tampered


class Stream(Protocol):
    """What is read once, as a binary file object is."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at its end."""


AnySource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Stream
PIECE = 2**20  # bytes that are read from a stream at once


class Reader(contextlib.AbstractContextManager["Reader"]):
    """Bytes that can be read at any offset, by several threads; made by `open_reader`.

    `size`: how many there are; `path`: where they lie, if they came by a path; `name`: for messages.
    """

    path: str | os.PathLike[str] | None
    name: str
    size: int
    mode: int = 0o600
    """Who may read it: for a copy that shall be no more open."""

    def read_into(self, into: Any, offset: int) -> None:
        """Fill a buffer from an offset. Raises `Tampered` if there is less."""
        raise NotImplementedError

    def read(self, length: int, offset: int = 0) -> bytes:
        """At most so many bytes from an offset."""
        raise NotImplementedError

    def pieces(self, size: int) -> Iterator[Any]:
        """All of it in buffers of `size` bytes, the last of which may be shorter."""
        for start in range(0, self.size, size):
            data = bytearray(min(size, self.size - start))
            self.read_into(data, start)
            yield data

    def close(self) -> None:
        """Give back what is held; nothing can be read afterwards. Again is no fault."""

    def __exit__(self, *_: object) -> None:
        self.close()


class _File(Reader):
    def __init__(
        self, file: Any, path: str | os.PathLike[str] | None, name: str, base: int = 0
    ) -> None:
        self._file, self.path, self.name, self._base = file, path, name, base
        found = os.fstat(file.fileno())
        self.size, self.mode = max(0, found.st_size - base), found.st_mode & 0o666

    def read_into(self, into: Any, offset: int) -> None:
        read_all(self._file.fileno(), into, self._base + offset)

    def read(self, length: int, offset: int = 0) -> bytes:
        return os.pread(self._file.fileno(), length, self._base + offset)

    def close(self) -> None:
        self._file.close()


class _Memory(Reader):
    def __init__(self, data: Any) -> None:
        self.path, self.name, self._data = None, "the data", memoryview(data).cast("B")
        self.size = len(self._data)

    def read_into(self, into: Any, offset: int) -> None:
        view = memoryview(into).cast("B")
        if offset + len(view) > self.size:
            raise Tampered("there are fewer bytes than there should be")
        view[:] = self._data[offset : offset + len(view)]

    def read(self, length: int, offset: int = 0) -> bytes:
        return bytes(self._data[offset : offset + length])

    def pieces(self, size: int) -> Iterator[Any]:
        for start in range(0, self.size, size):
            yield self._data[start : start + size]


def open_reader(source: AnySource, check: Callable[[bytes], object] = lambda _: None) -> Reader:
    """Return a reader of all that a source has, from a file object's position on; to be closed.

    A stream without positions is copied, as it is, into a nameless file in `$TMPDIR`, after `check`
    has refused what does not begin as ciphertext does. Raises `Unreadable` for a path that names no
    plain file, `TypeError` for what is no source.
    """
    known = at_offsets(source)
    if known is not None:
        return known
    spool = _temporary.spool()
    try:
        pieces = stream(source)
        start = first(pieces, PIECE)
        check(start)
        for piece in itertools.chain([start], pieces):
            spool.write(piece)
        return _File(spool, None, name_of(source))
    except BaseException:
        spool.close()
        raise


def hold_in_memory(source: AnySource) -> Reader:
    """As `open_reader`, for plaintext: a stream is held in memory, and written nowhere."""
    known = at_offsets(source)
    return _Memory(b"".join(stream(source))) if known is None else known


def at_offsets(source: AnySource) -> Reader | None:
    """As `open_reader`, and None for a stream, of which nothing is read yet."""
    if isinstance(source, str | os.PathLike):
        return _File(io.FileIO(open_to_read(source)), source, str(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return _Memory(source)
    if isinstance(source, io.BytesIO):
        return _Memory(source.read())
    if not hasattr(source, "read") or isinstance(source, io.TextIOBase):
        kind = type(source).__name__
        raise TypeError(f"give a path, bytes or a file opened in binary mode, not a {kind}")
    # Of others, such as gzip's, the descriptor holds something else than they read.
    plain = isinstance(source, io.FileIO | io.BufferedReader | io.BufferedRandom)
    if plain and isinstance(getattr(source, "raw", source), io.FileIO):
        assert isinstance(source, io.IOBase)
        file = source.fileno()
        if stat.S_ISREG(os.fstat(file).st_mode):
            return _File(io.FileIO(os.dup(file)), None, name_of(source), source.tell())
    return None


def stream(source: Any) -> Iterator[bytes]:
    """Yield what a binary file object still gives. Raises `TypeError` if that is text."""
    while piece := source.read(PIECE):
        if not isinstance(piece, bytes):
            raise TypeError("give a file opened in binary mode; this one gives text")
        yield piece


def first(pieces: Iterator[bytes], count: int) -> bytes:
    """At least so many bytes of a stream, or all there are."""
    found = bytearray()
    while len(found) < count and (piece := next(pieces, b"")):
        found += piece
    return bytes(found)


def of_file(file: int, path: str | os.PathLike[str]) -> Reader:
    """Return a reader of an open file, which stays open when the reader is closed."""
    return _File(io.FileIO(file, closefd=False), path, str(path))


def name_of(source: Any) -> str:
    """Return a source's name in a message."""
    if isinstance(source, str | os.PathLike):
        return str(source)
    name = getattr(source, "name", "")
    return name if isinstance(name, str) and name else "the data"


def regroup(pieces: Iterable[Any], size: int) -> Iterator[Any]:
    """Yield the same bytes in buffers of `size`, the last of which may be shorter.

    Nothing is copied where a piece has a whole buffer.

    >>> [bytes(one) for one in regroup([b"ab", b"cdefg", b""], 3)]
    [b'abc', b'def', b'g']
    """
    rest: list[memoryview] = []
    wanted = size
    for piece in pieces:
        view = memoryview(piece).cast("B")
        while view:
            part, view = view[:wanted], view[wanted:]
            wanted -= len(part)
            rest.append(part)
            if not wanted:
                yield rest[0] if len(rest) == 1 else b"".join(rest)
                rest, wanted = [], size
    if rest:
        yield b"".join(rest)


def read_all(file: int, into: Any, offset: int) -> None:
    """Fill a buffer from an offset of a file. Raises `Tampered` if the file ends before."""
    view = memoryview(into).cast("B")
    while view:
        count = os.preadv(file, [view], offset)
        if count == 0:
            raise Tampered("the file became shorter while it was read")
        view, offset = view[count:], offset + count
