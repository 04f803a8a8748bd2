"""The safetensors format: a directory of names, dtypes and shapes before the bytes of the arrays."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from modellock_jax.vault.files import strict_json

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "C64": np.dtype(np.complex64),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
METADATA = "__metadata__"
LONGEST = 100_000_000  # bytes of a head, as in the format's own reader
MOST_AXES = 64  # of an array of numpy


class Tensor(NamedTuple):
    """One entry of a directory: its bytes lie in [begin, end) after the head."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


class Directory(NamedTuple):
    """`head`: the bytes before the arrays, length included; the tensors in the order of their bytes."""

    head: bytes
    tensors: tuple[Tensor, ...]
    metadata: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.head) + (self.tensors[-1].end if self.tensors else 0)


def head_length(first: bytes, size: int) -> int:
    """Bytes before the arrays, told by the first 8 of a file of `size` bytes. Raises `ValueError`."""
    length = 8 + int.from_bytes(first, "little")
    if len(first) != 8 or length > min(size, LONGEST):
        raise ValueError("is not a safetensors file, or is cut off")
    return length


def parse(head: bytes) -> Directory:
    """Read a head. Raises `ValueError` unless its arrays lie without gap or overlap."""
    document = strict_json(head[8:])
    if not isinstance(document, dict):
        raise ValueError("has a head that is not a table of tensors")
    metadata = document.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("has metadata that are not text")
    tensors = sorted(
        (_entry(name, entry) for name, entry in document.items()), key=lambda t: (t.begin, t.end)
    )
    end = 0
    for tensor in tensors:
        if tensor.begin != end:
            raise ValueError("has arrays with a gap or an overlap between them")
        end = tensor.end
    return Directory(head, tuple(tensors), metadata)


def _entry(name: str, entry: Any) -> Tensor:
    wrong = ValueError("has a tensor without proper dtype, shape and data_offsets")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise wrong
    shape, offsets = entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise wrong
    if len(offsets) != 2 or not isinstance(entry["dtype"], str):
        raise wrong
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"has a tensor of dtype {entry['dtype'][:12]!r}, which is not known here")
    dtype = DTYPES[entry["dtype"]]
    if len(shape) > MOST_AXES or math.prod(n or 1 for n in shape) * dtype.itemsize >= 2**63:
        raise ValueError("has a tensor of a shape that no array can have")
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise wrong
    return Tensor(name, dtype, tuple(shape), *offsets)


def lay_out(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Directory:
    """The directory of arrays that are not in a file yet, wide dtypes first, then by name.

    Raises `TypeError` for a dtype that the format does not have and for names and metadata that are
    not text, `ValueError` for names that it cannot write.
    """
    for text in (*arrays, *metadata, *metadata.values()):
        if not isinstance(text, str):
            raise TypeError(f"names and metadata must be text, and {text!r} is not")
    for name, array in arrays.items():
        if name == METADATA or any("\ud800" <= sign <= "\udfff" for sign in name):
            raise ValueError(f"safetensors cannot name an array {name!r}; choose another name")
        if array.dtype not in NAMES:
            raise TypeError(f"{name!r} has dtype {array.dtype}, which safetensors does not have")
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    tensors, at = [], 0
    for name in order:
        array = arrays[name]
        tensors.append(Tensor(name, array.dtype, array.shape, at, at + array.nbytes))
        at += array.nbytes
    return Directory(head(tensors, metadata), tuple(tensors), dict(metadata))


def head(tensors: list[Tensor], metadata: Mapping[str, str], room: int = 0) -> bytes:
    """The head of tensors in this order, with spaces at its end up to `room` bytes, or a multiple of 8.

    Raises `ValueError` if it needs more than `room`.
    """
    table: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    for tensor in tensors:
        table[tensor.name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [tensor.begin, tensor.end],
        }
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    length = room or -(-(8 + len(text)) // 8) * 8
    if 8 + len(text) > length:
        raise ValueError(f"a head of {8 + len(text)} bytes does not fit into {length}")
    return (length - 8).to_bytes(8, "little") + text.ljust(length - 8)
