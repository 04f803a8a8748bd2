"""An open sealed file: its names, its metadata, and its arrays one by one."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from modellock_jax.vault import _gguf, _tensors
from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault._gguf import Gguf
from modellock_jax.vault._sources import Reader
from modellock_jax.vault._targets import AnyTarget, write_pieces
from modellock_jax.vault._tensors import Directory, Tensor
from modellock_jax.vault.errors import Tampered, Unreadable
from modellock_jax.vault.sealed._body import Body, Done, quiet
from modellock_jax.vault.sealed._chunks import Cipher
from modellock_jax.vault.sealed._header_fields import Header

__all__ = ["Sealed"]

INDEX = 16  # bytes at the beginning of the body: the kind of what follows, and zeros
TENSORS, BYTES, SET = "safetensors", "bytes", "set"
_KINDS = {name.encode().ljust(INDEX, b"\0"): name for name in (TENSORS, BYTES, SET)}


class Sealed(contextlib.AbstractContextManager["Sealed"]):
    """An open sealed file: names, metadata, and arrays one by one; made by `vault.open`.

    `header`: as it was read, once; `kind`: `"safetensors"`, or `"bytes"` for any other file, which
    opens as a whole, and array by array if it is a GGUF file; `size`: plain bytes of it.

    **Guarantees.** Everything comes from the file that was open when its head was read; where
    signatures were asked for, from the very bytes that they vouch for, whatever happens to the file
    afterwards.
    """

    def __init__(self, reader: Reader, made: Header, cipher: Cipher, at: int) -> None:
        self._reader, self._body = reader, Body(reader, at, made.body, cipher)
        self.header = made
        self._directory: Directory | None = None

    @clears_frames
    def begin(self) -> None:
        """Read the index, and the directory of tensors.

        Raises:
            Tampered: If they were changed.
            Unreadable: If they cannot be read.
        """
        size = self._body.size
        if size < INDEX or (index := bytes(self._body.read(0, INDEX))) not in _KINDS:
            raise Unreadable("holds what this release does not know; open it with a newer one")
        self.kind, self.size = _KINDS[index], size - INDEX
        if self.kind != TENSORS:
            return
        try:
            first = bytes(self._body.read(INDEX, min(8, self.size)))
            head = self._body.read(INDEX, _tensors.head_length(first, self.size))
            self._directory = _tensors.parse(bytes(head))
        except ValueError as error:
            raise Tampered(f"what is sealed {error}") from None
        if self._directory.size != self.size:
            raise Tampered("the directory is of another file")

    @property
    def directory(self) -> Directory:
        """The head of the safetensors file. Raises `Unreadable` if it is none."""
        if self.kind == SET:
            raise Unreadable("is the manifest of a set; open the folder that it lies in")
        if self._directory is None:
            raise Unreadable(
                "holds no safetensors file but bytes: use `export`, or the command open"
            )
        return self._directory

    @functools.cached_property
    def layout(self) -> Directory | Gguf:
        """Where the arrays lie. Raises `Unreadable` for a file that has none by name."""
        if self.kind != BYTES or bytes(self._body.read(INDEX, min(4, self.size))) != _gguf.MAGIC:
            return self.directory
        try:
            return _gguf.parse(
                lambda at, count: bytes(self._body.read(INDEX + at, count)), self.size
            )
        except ValueError as error:
            raise Unreadable(f"what is sealed {error}; `export` gives it as it is") from None

    @property
    def metadata(self) -> dict[str, str]:
        """What was saved beside the arrays; of a GGUF file's arrays how many values they have."""
        return self.layout.metadata

    @property
    def names(self) -> list[str]:
        """The arrays' names, in the order of their bytes."""
        return [tensor.name for tensor in self.layout.tensors]

    @clears_frames
    def array(self, name: str, done: Done = quiet) -> np.ndarray:
        """Decrypt one array alone; of a GGUF file's quantised ones the blocks as they are, uint8.

        Args:
            name: Of `names`.
            done: Told the number of bytes after each piece.

        Returns:
            The array.

        Raises:
            KeyError: For an unknown name.
            Tampered: If it was changed.
        """
        tensor = self.layout.find(name)
        if tensor is None:
            raise KeyError(f"there is no array {name!r} in this file")
        array = np.empty(tensor.shape, tensor.dtype)
        self.read(tensor, 0, bytes_of(array), done)
        return array

    @clears_frames
    def load(self, done: Done = quiet) -> dict[str, np.ndarray]:
        """Decrypt all arrays.

        Args:
            done: Told the number of bytes after each piece.

        Returns:
            Arrays by name.

        Raises:
            Tampered: If anything was changed.

        **Guarantees.** Plain values are written to no file; peak memory is that of the arrays.
        """
        arrays, parts = {}, []
        for tensor in self.layout.tensors:
            arrays[tensor.name] = array = np.empty(tensor.shape, tensor.dtype)
            parts.append((self._place(tensor), bytes_of(array)))
        self._body.fill(parts, done)
        return arrays

    @clears_frames
    def read(self, tensor: Tensor, start: int, into: memoryview, done: Done = quiet) -> None:
        """Fill a view of bytes with a tensor's.

        Args:
            tensor: Of `directory`.
            start: The first of its bytes that is wanted, from 0.
            into: As many bytes as are wanted.
            done: Told the number of bytes after each piece.

        Raises:
            ValueError: For bytes that the tensor has not.
            Tampered: If it was changed.
        """
        if start < 0 or start + len(into) > tensor.end - tensor.begin:
            raise ValueError(f"{tensor.name!r} has no {len(into)} bytes from {start} on")
        self._body.fill([(self._place(tensor) + start, into)], done)

    def _place(self, tensor: Tensor) -> int:
        return INDEX + self.layout.start + tensor.begin

    def plain(self, done: Done = quiet) -> Iterator[Any]:
        """Return the plain file that was sealed, piece by piece.

        Args:
            done: Told the number of bytes after each piece.

        Returns:
            Its bytes, in order.

        Raises:
            Tampered: If anything was changed.
        """
        return self._body.pieces(INDEX, done)

    @clears_frames
    def check(self, done: Done = quiet) -> None:
        """Decrypt all of it, and give nothing.

        Args:
            done: Told the number of bytes after each piece.

        Raises:
            Tampered: If anything was changed.
        """
        for _ in self.plain(done):
            pass

    @clears_frames
    def export(self, target: AnyTarget, done: Done = quiet) -> None:
        """Write the plain file, bit for bit what was sealed.

        A file object, whose bytes cannot be taken back, gets none before all was checked.

        Args:
            target: A path, or a binary file object.
            done: Told the number of bytes after each piece.

        Raises:
            Tampered: If anything was changed.
            OSError: If the disk refuses.

        **Guarantees.** A new file is no more open to others than the sealed one; else as `replacing`.
        """
        if hasattr(target, "write"):
            self.check()
        write_pieces(target, self.plain(done), self._reader.mode)

    @clears_frames
    def check_digest(self, done: Done = quiet) -> None:
        """Read all, and hold every later read to it.

        Args:
            done: Told the number of bytes after each piece.

        Raises:
            Tampered: If it is not what was signed.
        """
        self._body.check(self.header.digest, done)

    def close(self) -> None:
        """Close the file; nothing can be read afterwards. Again is no fault."""
        self._reader.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def bytes_of(array: np.ndarray) -> Any:
    """Return the bytes of a contiguous array, of any dtype, without a copy."""
    return array.reshape(-1).view(np.uint8).data
