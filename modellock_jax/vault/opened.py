"""An open sealed file: its names, its metadata, and its arrays one by one."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from modellock_jax.vault import chunks, tensors
from modellock_jax.vault.chunks import Chunk, Cipher
from modellock_jax.vault.errors import Tampered
from modellock_jax.vault.files import mode_of, replacing, write_all
from modellock_jax.vault.header import Header
from modellock_jax.vault.tensors import Directory, Tensor

Done = Callable[[int], None]  # told how many bytes are done, from several threads


def quiet(_: int) -> None:
    """Tell nobody."""


class Sealed(contextlib.AbstractContextManager["Sealed"]):
    """An open sealed file: names, metadata, and arrays one by one; made by `envelope.open_sealed`."""

    def __init__(self, file: int, at: int, made: Header, cipher: Cipher) -> None:
        self._file, self._at, self._cipher = file, at, cipher
        self.header = made
        self.directory, self._chunks = self._read_directory()

    def _read_directory(self) -> tuple[Directory, dict[str, list[Chunk]]]:
        length = chunks.LENGTH + chunks.TAG
        if self.header.body < length:
            raise Tampered("the file has no body")
        count = int.from_bytes(self._open(chunks.plan([("length", chunks.LENGTH)])), "little")
        if count > self.header.body:
            raise Tampered("the directory is longer than the file")
        head = self._open(chunks.plan([("directory", count)], 1, length))
        try:
            directory = tensors.parse(bytes(head))
        except ValueError as error:
            raise Tampered(f"the directory {error}") from None
        fits = directory.size <= self.header.body  # else the plan alone could fill the memory
        parts = chunks.of_directory(directory) if fits else []
        if not fits or chunks.sealed_size(parts) != self.header.body:
            raise Tampered("the directory is of another file")
        found: dict[str, list[Chunk]] = {}
        for part in parts:
            found.setdefault(part.name, []).append(part)
        return directory, found

    def _open(self, parts: Iterable[Chunk], done: Done = quiet) -> bytearray:
        parts = list(parts)
        data = bytearray(sum(part.length for part in parts))
        chunks.open_range(self._cipher, parts, 0, memoryview(data), self._file, self._at, done)
        return data

    @property
    def metadata(self) -> dict[str, str]:
        """What was saved beside the arrays."""
        return self.directory.metadata

    @property
    def names(self) -> list[str]:
        """The arrays' names, in the order of their bytes."""
        return [tensor.name for tensor in self.directory.tensors]

    def array(self, name: str, done: Done = quiet) -> np.ndarray:
        """One array, decrypted alone. Raises `KeyError` for an unknown name, `Tampered`."""
        tensor = next((t for t in self.directory.tensors if t.name == name), None)
        if tensor is None:
            raise KeyError(f"there is no array {name!r} in this file")
        array = np.empty(tensor.shape, tensor.dtype)
        self.read(tensor, 0, bytes_of(array), done)
        return array

    def load(self, done: Done = quiet) -> dict[str, np.ndarray]:
        """All arrays by name. Raises `Tampered`.

        **Guarantees.** Plain values are written to no file; peak memory is that of the arrays.
        """
        arrays = {t.name: np.empty(t.shape, t.dtype) for t in self.directory.tensors}
        views = {f"tensor/{name}": bytes_of(array) for name, array in arrays.items()}

        def place(chunk: Chunk) -> Any:
            return views[chunk.name][chunk.start : chunk.start + chunk.length]

        parts = [part for name in views for part in self._chunks.get(name, [])]
        chunks.open_all(self._cipher, parts, self._file, self._at, place, done)
        return arrays

    def read(self, tensor: Tensor, start: int, into: memoryview, done: Done = quiet) -> None:
        """Fill a view of bytes with a tensor's, from `start` on. Raises `Tampered`."""
        parts = self._chunks.get(f"tensor/{tensor.name}", [])
        chunks.open_range(self._cipher, parts, start, into, self._file, self._at, done)

    def plain(self, done: Done = quiet) -> Iterator[bytearray | bytes]:
        """The plain safetensors file that was sealed, piece by piece. Raises `Tampered`."""
        yield self.directory.head
        for tensor in self.directory.tensors:
            for part in self._chunks.get(f"tensor/{tensor.name}", []):
                yield self._open([part._replace(start=0)], done)

    def export(self, path: str | os.PathLike[str], done: Done = quiet) -> None:
        """Write the plain file, bit for bit what was sealed. Raises `Tampered` and `OSError`.

        **Guarantees.** A new file is no more open to others than the sealed one; else as `replacing`.
        """
        with replacing(path, mode_of(self._file)) as file:
            at = 0
            for piece in self.plain(done):
                write_all(file, piece, at)
                at += len(piece)

    def close(self) -> None:
        """Close the file; nothing can be read afterwards. Again is no fault."""
        file, self._file = self._file, -1
        if file != -1:
            os.close(file)

    def __exit__(self, *_: object) -> None:
        self.close()


def bytes_of(array: np.ndarray) -> Any:
    """The bytes of a contiguous array, of any dtype, without a copy."""
    return array.reshape(-1).view(np.uint8).data
