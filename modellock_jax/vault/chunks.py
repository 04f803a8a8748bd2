"""The body of a sealed file: a directory and its arrays, in chunks that are encrypted one by one."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from modellock_jax.vault.errors import Tampered
from modellock_jax.vault.files import write_all
from modellock_jax.vault.tensors import Directory

CHUNK, TAG = 2**21, 16
LENGTH = 8  # bytes of the first chunk: how long the directory is
THREADS = min(4, os.cpu_count() or 1)


class Chunk(NamedTuple):
    """`length` bytes of `name` from `start` on are sealed at `place` of the body, as number `number`."""

    number: int
    name: str
    start: int
    length: int
    place: int


def plan(parts: Iterable[tuple[str, int]], index: int = 0, place: int = 0) -> Iterator[Chunk]:
    """The chunks of named parts of so many bytes each, one after another.

    >>> [tuple(chunk) for chunk in plan([("a", 3), ("b", 0), ("c", 1)])]
    [(0, 'a', 0, 3, 0), (1, 'c', 0, 1, 19)]
    """
    for name, size in parts:
        for start in range(0, size, CHUNK):
            length = min(CHUNK, size - start)
            yield Chunk(index, name, start, length, place)
            index, place = index + 1, place + length + TAG


def of_directory(directory: Directory) -> list[Chunk]:
    """All chunks of a file with this directory."""
    arrays = ((f"tensor/{t.name}", t.end - t.begin) for t in directory.tensors)
    return list(plan([("length", LENGTH), ("directory", len(directory.head)), *arrays]))


def sealed_size(chunks: Sequence[Chunk]) -> int:
    """Bytes of a body of these chunks."""
    return chunks[-1].place + chunks[-1].length + TAG


class Cipher:
    """AES-256-GCM under the payload key of one file; `binding` ties every chunk to its header.

    **Guarantees.** The nonce is the chunk's number, and a payload key seals one body once, so no
    nonce comes twice. A chunk opens at its own place, in its own tensor and file, and nowhere else.
    """

    __slots__ = ("_aead", "_binding")

    def __init__(self, key: bytes, binding: bytes) -> None:
        self._aead, self._binding = AESGCM(key), binding

    def seal(self, chunk: Chunk, data: Any, into: Any) -> None:
        """Encrypt `data` into a buffer of `TAG` bytes more."""
        self._aead.encrypt_into(self._nonce(chunk), data, self._bound(chunk), into)

    def open(self, chunk: Chunk, sealed: Any, into: Any) -> None:
        """Decrypt into a buffer of `TAG` bytes less. Raises `Tampered`, with zeros in the buffer."""
        try:
            self._aead.decrypt_into(self._nonce(chunk), sealed, self._bound(chunk), into)
        except InvalidTag:
            memoryview(into).cast("B")[:] = bytes(chunk.length)
            raise Tampered(
                f"chunk {chunk.number} was changed, moved or comes from another file; get the file again"
            ) from None

    def _nonce(self, chunk: Chunk) -> bytes:
        return chunk.number.to_bytes(12, "big")

    def _bound(self, chunk: Chunk) -> bytes:
        return self._binding + chunk.name.encode("utf-8", "surrogatepass")


def seal_all(
    cipher: Cipher,
    chunks: Sequence[Chunk],
    read: Callable[[Chunk], Any],
    file: int,
    at: int,
    done: Callable[[int], None],
) -> None:
    """Encrypt every chunk that `read` gives, and write it to a file whose body begins at `at`."""
    local = threading.local()

    def one(chunk: Chunk) -> None:
        if not hasattr(local, "buffer"):
            local.buffer = bytearray(CHUNK + TAG)
        sealed = memoryview(local.buffer)[: chunk.length + TAG]
        cipher.seal(chunk, read(chunk), sealed)
        write_all(file, sealed, at + chunk.place)
        done(chunk.length)

    _each(one, chunks)


def open_all(
    cipher: Cipher,
    chunks: Sequence[Chunk],
    file: int,
    at: int,
    into: Callable[[Chunk], Any],
    done: Callable[[int], None],
) -> None:
    """Decrypt chunks of a file whose body begins at `at`, each into the buffer that `into` gives."""
    local = threading.local()

    def one(chunk: Chunk) -> None:
        if not hasattr(local, "buffer"):
            local.buffer = bytearray(CHUNK + TAG)
        sealed = memoryview(local.buffer)[: chunk.length + TAG]
        read_all(file, sealed, at + chunk.place)
        cipher.open(chunk, sealed, into(chunk))
        done(chunk.length)

    _each(one, chunks)


def open_range(
    cipher: Cipher,
    chunks: Sequence[Chunk],
    start: int,
    into: memoryview,
    file: int,
    at: int,
    done: Callable[[int], None],
) -> None:
    """Fill a view of bytes from the byte `start` on of what `chunks`, all of one name, make up.

    No chunk is decrypted that holds none of them.
    """
    edges: dict[int, bytearray] = {}  # the chunks of which only a part is wanted

    def place(chunk: Chunk) -> Any:
        first = chunk.start - start
        if first >= 0 and first + chunk.length <= len(into):
            return into[first : first + chunk.length]
        return edges.setdefault(first, bytearray(chunk.length))

    wanted = chunks[start // CHUNK : -(-(start + len(into)) // CHUNK)]
    open_all(cipher, wanted, file, at, place, done)
    for first, data in edges.items():
        begin, end = max(first, 0), min(first + len(data), len(into))
        into[begin:end] = data[begin - first : end - first]


def digest(file: int, at: int, size: int, done: Callable[[int], None]) -> bytes:
    """SHA-256 over the SHA-256 of each `CHUNK` bytes of a body: what a signature vouches for."""
    local = threading.local()

    def one(start: int) -> bytes:
        if not hasattr(local, "buffer"):
            local.buffer = bytearray(CHUNK)
        part = memoryview(local.buffer)[: min(CHUNK, size - start)]
        read_all(file, part, at + start)
        done(len(part))
        return hashlib.sha256(part).digest()

    return hashlib.sha256(b"".join(_each(one, range(0, size, CHUNK)))).digest()


def read_all(file: int, into: Any, offset: int) -> None:
    """Fill a buffer from an offset of a file. Raises `Tampered` if the file ends before."""
    view = memoryview(into).cast("B")
    while view:
        count = os.preadv(file, [view], offset)
        if count == 0:
            raise Tampered("the file became shorter while it was read")
        view, offset = view[count:], offset + count


def _each(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    if len(items) < 3:
        return [work(item) for item in items]
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
