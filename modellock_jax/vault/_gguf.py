"""The GGUF format of llama.cpp: typed metadata and places of tensors before their bytes."""

import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from modellock_jax.vault._tensors import LONGEST, Tensor

MAGIC, VERSIONS = b"GGUF", (2, 3)
_PLAIN: dict[int, tuple[str, np.dtype[Any]]] = {
    0: ("F32", np.dtype(np.float32)),
    1: ("F16", np.dtype(np.float16)),
    24: ("I8", np.dtype(np.int8)),
    25: ("I16", np.dtype(np.int16)),
    26: ("I32", np.dtype(np.int32)),
    27: ("I64", np.dtype(np.int64)),
    28: ("F64", np.dtype(np.float64)),
    30: ("BF16", np.dtype(ml_dtypes.bfloat16)),
}
BLOCKS = {
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
"""Of quantised types by number: the name, the weights of a block, and its bytes."""

# By number, as `struct` writes them.
_VALUES = ("B", "b", "H", "h", "I", "i", "f", "?", "string", "array", "Q", "q", "d")
_STRING, _ARRAY = 8, 9
_MOST_AXES, _DEEPEST, _PIECE = 4, 4, 2**20


class Gguf(NamedTuple):
    """What a GGUF file says of itself.

    `tensors`: in the order of their bytes, which begin `start` bytes after the file's beginning; those
    of quantised types are uint8 `[..., bytes of a row]`. `types`: their names, by tensor. `metadata`: as
    text; of an array how many values it has.
    """

    version: int
    tensors: tuple[Tensor, ...]
    types: dict[str, str]
    metadata: dict[str, str]
    start: int

    def find(self, name: str) -> Tensor | None:
        """Return the tensor of a name."""
        return next((one for one in self.tensors if one.name == name), None)


def parse(read: Callable[[int, int], bytes], size: int) -> Gguf:
    """Read the head of a file of `size` bytes by `read(offset, length)`.

    Raises `ValueError` for what is no GGUF file, or none whose tensors lie well.

    **Guarantees.** Tensors lie within the file and apart from one another; a head of more than 100 MB is
    refused.
    """
    head = _Head(read, size)
    if head.take(4) != MAGIC:
        raise ValueError("is not a GGUF file")
    version = int(head.number("I"))
    if version not in VERSIONS:
        raise ValueError(f"is a GGUF file of version {version}; this release reads 2 and 3")
    count, fields = int(head.number("Q")), int(head.number("Q"))
    metadata: dict[str, str] = {}
    for _ in range(fields):
        name = head.text()
        if name in metadata:
            raise ValueError("has a field of metadata twice")
        metadata[name] = head.value(int(head.number("I")))
    found: dict[str, tuple[str, np.dtype[Any], tuple[int, ...], int]] = {}
    for _ in range(count):
        name = head.text()
        if name in found:
            raise ValueError("has a tensor twice")
        found[name] = _tensor(head)
    align = _alignment(metadata)
    start = -(-head.at // align) * align
    tensors = list[Tensor]()
    for name, (_, dtype, shape, begin) in sorted(found.items(), key=lambda one: one[1][3]):
        end = begin + math.prod(shape) * dtype.itemsize
        if begin % align or (tensors and begin < tensors[-1].end) or start + end > size:
            raise ValueError("has tensors that overlap, or lie beyond its end")
        tensors.append(Tensor(name, dtype, shape, begin, end))
    return Gguf(version, tuple(tensors), {n: one[0] for n, one in found.items()}, metadata, start)


def _alignment(metadata: dict[str, str]) -> int:
    text = metadata.get("general.alignment", "32")
    align = int(text) if text.isdecimal() else 0
    if not 1 <= align <= 2**20:
        raise ValueError("has an alignment that none can have")
    return align


def _tensor(head: "_Head") -> tuple[str, np.dtype[Any], tuple[int, ...], int]:
    """Return the name of a tensor's type, its dtype, its shape and where it begins."""
    axes = int(head.number("I"))
    if axes > _MOST_AXES:
        raise ValueError(f"has a tensor of {axes} axes; there are at most {_MOST_AXES}")
    shape = tuple(int(head.number("Q")) for _ in range(axes))[::-1]  # rows last, as numpy has them
    kind, begin = int(head.number("I")), int(head.number("Q"))
    if math.prod(n or 1 for n in shape) >= 2**60:
        raise ValueError("has a tensor of a shape that no array can have")
    if kind in _PLAIN:
        return *_PLAIN[kind], shape, begin
    if kind not in BLOCKS:
        raise ValueError(f"has a tensor of type {kind}, which is not known here")
    name, weights, length = BLOCKS[kind]
    if not shape or shape[-1] % weights:
        raise ValueError(f"has a tensor whose rows are no whole blocks of {name}")
    return name, np.dtype(np.uint8), (*shape[:-1], shape[-1] // weights * length), begin


class _Head:
    """The bytes from the beginning on, read in pieces."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size, self._data, self._from = read, min(size, LONGEST), b"", 0
        self.at = 0

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        if count > self._size - self.at:
            raise ValueError("is cut off in its head, or has a head that is too long")
        if self.at + count > self._from + len(self._data):
            self._from = self.at
            self._data = self._read(self.at, min(max(count, _PIECE), self._size - self.at))
        begin = self.at - self._from
        self.at += count
        return self._data[begin : begin + count]

    def number(self, kind: str) -> Any:
        """Return the next number, of a type of `struct`."""
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def text(self) -> str:
        """Return the next string."""
        try:
            return self.take(int(self.number("Q"))).decode()
        except UnicodeDecodeError:
            raise ValueError("has a name or a text that is not UTF-8") from None

    def value(self, kind: int, depth: int = 0) -> str:
        """Pass over the next value of metadata, and return it as text."""
        if kind >= len(_VALUES) or depth > _DEEPEST:
            raise ValueError("has metadata of a type that is not known here")
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return str(self.number(_VALUES[kind]))
        inner, count = int(self.number("I")), int(self.number("Q"))
        if inner < len(_VALUES) and inner not in (_STRING, _ARRAY):
            self.skip(count * struct.calcsize("<" + _VALUES[inner]))
        else:
            for _ in range(count):
                self.value(inner, depth + 1)
        return f"[{count} values]"

    def skip(self, count: int) -> None:
        """Pass over bytes."""
        if count > self._size - self.at:
            raise ValueError("is cut off in its head, or has a head that is too long")
        self.at += count
