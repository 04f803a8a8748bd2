"""The body of an open sealed file: plain bytes at an offset, each chunk checked as it is read."""

import hashlib
import hmac
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from modellock_jax.vault._sources import Reader
from modellock_jax.vault.errors import Tampered
from modellock_jax.vault.sealed import _chunks
from modellock_jax.vault.sealed._chunks import HASH, TAG, Cipher

Done = Callable[[int], None]  # told how many bytes are done, from several threads


def quiet(_: int) -> None:
    """Tell nobody."""


class Body:
    """The plain bytes, `size` of them, of a body that begins at `at` and has `body` bytes.

    **Guarantees.** A chunk is read once, into memory that nobody else has, and that copy is both
    checked and decrypted: by its tag, and after `check` by the digest that was signed, too. So a
    file that is changed while it is open gives what was checked, or `Tampered`.
    """

    def __init__(self, reader: Reader, at: int, body: int, cipher: Cipher) -> None:
        self._reader, self._at, self._body, self._cipher = reader, at, body, cipher
        self._digests, self._buffers, self._plain = b"", _chunks.Buffers(), _chunks.Buffers()
        self.size = _chunks.plain_size(body)

    def check(self, digest: bytes, done: Done = quiet) -> None:
        """Read all, and have every later read agree with what was read. Raises `Tampered`.

        `digest`: of the chunks' digests, as it was signed.
        """
        found = _chunks.digests_of(self._reader, self._at, self._body, done)
        if not hmac.compare_digest(hashlib.sha256(found).digest(), digest):
            raise Tampered("the content is not what was signed; get the file again")
        self._digests = found

    def read(self, start: int, length: int) -> bytearray:
        """Plain bytes from an offset on."""
        data = bytearray(length)
        self.fill([(start, memoryview(data))])
        return data

    def fill(self, parts: Iterable[tuple[int, memoryview]], done: Done = quiet) -> None:
        """Fill views of bytes with those from an offset each on; they are in order and overlap not.

        No chunk is decrypted that holds none of them.
        """
        parts = [(start, view) for start, view in parts if len(view)]
        starts = [start for start, _ in parts]

        def one(number: int) -> None:
            begin = number * _chunks.CHUNK
            end = min(begin + _chunks.CHUNK, self.size)
            at = bisect_right(starts, begin) - 1
            start, view = parts[max(at, 0)]
            if start <= begin and end <= start + len(view):
                self._open(number, view[begin - start : end - start])
                return
            plain = self._plain.whole[: end - begin]
            self._open(number, plain)
            for start, view in parts[max(at, 0) : bisect_right(starts, end - 1)]:
                low, high = max(start, begin), min(start + len(view), end)
                if low < high:
                    view[low - start : high - start] = plain[low - begin : high - begin]

        def numbers() -> Iterator[int]:
            last = -1
            for start, view in parts:
                first = max(last + 1, start // _chunks.CHUNK)
                last = max(last, (start + len(view) - 1) // _chunks.CHUNK)
                yield from range(first, last + 1)

        for _ in _chunks.in_order(self._told(one, done), numbers()):
            pass

    def pieces(self, start: int, done: Done = quiet) -> Iterator[memoryview]:
        """All plain bytes from an offset on, chunk by chunk."""

        def one(number: int) -> memoryview:
            begin = number * _chunks.CHUNK
            plain = memoryview(bytearray(min(_chunks.CHUNK, self.size - begin)))
            self._open(number, plain)
            return plain[max(0, start - begin) :]

        numbers = range(start // _chunks.CHUNK, _chunks.count(self.size))
        return _chunks.in_order(self._told(one, done), numbers)

    def _told(self, work: Callable[[int], Any], done: Done) -> Callable[[int], Any]:
        def one(number: int) -> Any:
            made = work(number)
            done(min(_chunks.CHUNK, self.size - number * _chunks.CHUNK))
            return made

        return one

    def _open(self, number: int, into: memoryview) -> None:
        sealed = self._buffers.whole[: len(into) + TAG]
        self._reader.read_into(sealed, self._at + number * (_chunks.CHUNK + TAG))
        if self._digests:
            signed = self._digests[number * HASH : (number + 1) * HASH]
            if not hmac.compare_digest(hashlib.sha256(sealed).digest(), signed):
                raise Tampered(
                    f"chunk {number} was changed after it was checked; get the file again"
                )
        self._cipher.open(number, sealed, into)
