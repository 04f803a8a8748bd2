"""The body of a sealed file: one run of bytes, in chunks that are encrypted one by one."""

import hashlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from modellock_jax.vault._sources import Reader
from modellock_jax.vault.errors import Tampered

CHUNK, TAG, HASH = 2**21, 16, 32
THREADS = min(4, os.cpu_count() or 1)


class Chunk(NamedTuple):
    """`length` plain bytes from `start` on are sealed at `place` of the body, as number `number`."""

    number: int
    start: int
    length: int
    place: int


def count(size: int) -> int:
    """How many chunks so many plain bytes make."""
    return -(-size // CHUNK)


def chunk(number: int, size: int) -> Chunk:
    """One of the chunks that `size` plain bytes make.

    >>> tuple(chunk(1, CHUNK + 3))
    (1, 2097152, 3, 2097168)
    """
    start = number * CHUNK
    return Chunk(number, start, min(CHUNK, size - start), number * (CHUNK + TAG))


def sealed_size(size: int) -> int:
    """Bytes of the body of so many plain bytes."""
    return size + count(size) * TAG


def plain_size(body: int) -> int:
    """Return the inverse of `sealed_size`. Raises `Tampered` if no body has this size."""
    size = body - -(-body // (CHUNK + TAG)) * TAG
    if size < 1 or sealed_size(size) != body:
        raise Tampered("the body has a size that none can have; get the file again")
    return size


class Cipher:
    """AES-256-GCM under the payload key of one file; `binding` ties every chunk to that file.

    **Guarantees.** The nonce is the chunk's number, and a payload key seals one body once, so no
    nonce comes twice. A chunk opens at its own place in its own file, and nowhere else.
    """

    __slots__ = ("_aead", "_binding")

    def __init__(self, key: bytes, binding: bytes) -> None:
        self._aead, self._binding = AESGCM(key), binding

    def seal(self, number: int, data: Any, into: Any) -> None:
        """Encrypt `data` into a buffer of `TAG` bytes more."""
        self._aead.encrypt_into(number.to_bytes(12, "big"), data, self._binding, into)

    def open(self, number: int, sealed: Any, into: Any) -> None:
        """Decrypt into a buffer of `TAG` bytes less. Raises `Tampered`, with zeros in the buffer."""
        try:
            self._aead.decrypt_into(number.to_bytes(12, "big"), sealed, self._binding, into)
        except InvalidTag:
            memoryview(into).cast("B")[:] = bytes(len(sealed) - TAG)
            raise Tampered(
                f"chunk {number} was changed, moved or comes from another file; get the file again"
            ) from None


def seal_all(
    cipher: Cipher,
    pieces: Iterable[Any],
    write: Callable[[int, Any], None],
    done: Callable[[int], None],
    *,
    hashed: bool,
    in_turn: bool,
) -> bytes:
    """Encrypt pieces of `CHUNK` bytes; `write` is told places in the body and sealed chunks.

    It is called from several threads at once, or, if `in_turn`, by this one in the chunks' order.
    Gives the SHA-256 digests of all sealed chunks one after another if `hashed`, else nothing.
    """
    buffers = Buffers()

    def one(item: tuple[int, Any]) -> tuple[bytes, Any]:
        number, piece = item
        size = len(piece) + TAG
        sealed = memoryview(bytearray(size)) if in_turn else buffers.whole[:size]
        cipher.seal(number, piece, sealed)
        digest = hashlib.sha256(sealed).digest() if hashed else b""
        if not in_turn:
            write(number * (CHUNK + TAG), sealed)
        done(len(piece))
        return digest, sealed

    digests = bytearray()
    for number, (digest, sealed) in enumerate(in_order(one, enumerate(pieces))):
        if in_turn:
            write(number * (CHUNK + TAG), sealed)
        digests += digest
    return bytes(digests)


def digests_of(reader: Reader, at: int, body: int, done: Callable[[int], None]) -> bytes:
    """Return the SHA-256 digests, joined, of all sealed chunks of a body that begins at `at`."""
    buffers = Buffers()

    def one(place: int) -> bytes:
        part = buffers.whole[: min(CHUNK + TAG, body - place)]
        reader.read_into(part, at + place)
        done(len(part))
        return hashlib.sha256(part).digest()

    return b"".join(in_order(one, range(0, body, CHUNK + TAG)))


class Buffers(threading.local):
    """Room for one sealed chunk in each thread."""

    def __init__(self) -> None:
        self.whole = memoryview(bytearray(CHUNK + TAG))


def in_order(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yield what `work` makes of each item, in order, a few at a time; `items` are drawn as they go.

    >>> list(in_order(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    items = iter(items)
    first = list(itertools.islice(items, 2))
    if len(first) < 2:  # which needs no thread
        yield from map(work, first)
        return
    ahead: deque[Future[Any]] = deque()
    pool = ThreadPoolExecutor(THREADS)
    try:
        for item in itertools.chain(first, items):
            ahead.append(pool.submit(work, item))
            if len(ahead) > 2 * THREADS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        # The collector may end this in any thread, also in one that just begins: no thread is joined.
        pool.shutdown(wait=False, cancel_futures=True)
        wait([future for future in ahead if not future.cancelled()])
