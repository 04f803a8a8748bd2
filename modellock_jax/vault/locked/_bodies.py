"""The bytes of all tensors of a file: in pieces, each with its SHA-256, or whole in memory."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from modellock_jax._printing import printable
from modellock_jax.vault._sources import Reader
from modellock_jax.vault.errors import Tampered
from modellock_jax.vault.sealed import _chunks
from modellock_jax.vault.sealed._chunks import in_order

Change = Callable[[int, Any], None]  # told where in the body a buffer lies, which it changes


class Body(NamedTuple):
    """`size` bytes that a reader has from `at` on."""

    reader: Reader
    at: int
    size: int

    def read(self, start: int) -> np.ndarray:
        """Return the piece that begins there."""
        piece = np.empty(min(_chunks.CHUNK, self.size - start), np.uint8)
        self.reader.read_into(piece, self.at + start)
        return piece

    def whole(self) -> np.ndarray:
        """Return all of it."""
        body = np.empty(self.size, np.uint8)
        self.reader.read_into(body, self.at)
        return body

    def changed(self, change: Change) -> Iterator[tuple[bytes, np.ndarray]]:
        """Yield every piece changed, after its digest."""

        def one(start: int) -> tuple[bytes, np.ndarray]:
            piece = self.read(start)
            change(start, piece)
            return _digest(piece), piece

        return in_order(one, range(0, self.size, _chunks.CHUNK))

    def digests(self) -> bytes:
        """Return the digests of all pieces, joined."""
        return b"".join(digest for digest, _ in self.changed(lambda start, piece: None))

    def opened(self, digests: bytes, change: Change) -> Iterator[np.ndarray]:
        """Yield every piece changed back. Raises `Tampered` where one has another digest now."""

        def one(start: int) -> np.ndarray:
            piece, place = self.read(start), start // _chunks.CHUNK * 32
            if _digest(piece) != digests[place : place + 32]:
                name = printable(self.reader.name)
                raise Tampered(f"{name} was changed while it was read; begin again")
            change(start, piece)
            return piece

        return in_order(one, range(0, self.size, _chunks.CHUNK))


def pieces(body: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the pieces of a body in memory."""
    for start in range(0, body.size, _chunks.CHUNK):
        yield body[start : start + _chunks.CHUNK]


def hashed(body: np.ndarray) -> Iterator[tuple[bytes, np.ndarray]]:
    """Yield the pieces of a body in memory, each after its digest."""
    return in_order(lambda piece: (_digest(piece), piece), pieces(body))


def _digest(piece: np.ndarray) -> bytes:
    return hashlib.sha256(piece.data).digest()
