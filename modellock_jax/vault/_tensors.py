"""The safetensors format: a directory of names, dtypes and shapes before the bytes of the arrays."""

import json
import math
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex, overload

import ml_dtypes
import numpy as np

from modellock_jax.vault._head_text import (
    ENTRY,
    MEMBER,
    SPACE,
    check_utf8,
    text_of,
    value_end,
    walk,
)
from modellock_jax.vault._json import strict_json

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
MOST_FIELDS = 4096  # of metadata


class Tensor(NamedTuple):
    """One entry of a directory: its bytes lie in [begin, end) after the head."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


class Directory:
    """The head of a safetensors file: `head`, its bytes, length included; its tensors and metadata.

    Only places are kept, some 30 bytes a tensor: entries are read again when they are asked for.
    """

    __slots__ = ("_metadata", "head", "size", "start", "tensors")

    def __init__(self, head: bytes, places: "_Places", metadata: int) -> None:
        self.head, self._metadata = head, metadata
        self.tensors = Tensors(head, places)
        """In the order of their bytes."""
        self.start = len(head)
        """Bytes before the arrays."""
        self.size = len(head) + self.tensors.end
        """Bytes of the whole file."""

    def find(self, name: str) -> Tensor | None:
        """Return the tensor of a name."""
        return self.tensors.find(name)

    @property
    def metadata(self) -> dict[str, str]:
        """What was saved beside the tensors."""
        return {name: text.decode() for name, text in self.texts()}

    @property
    def fields(self) -> list[str]:
        """The names of the fields of the metadata."""
        return list(self._fields())

    def field(self, name: str) -> bytes | None:
        """Return the UTF-8 text of one field of the metadata."""
        place = self._fields().get(name)
        return None if place is None else text_of(self.head[slice(*place)])

    def texts(self) -> Iterator[tuple[str, bytes]]:
        """Yield the metadata's names and UTF-8 texts, one after another."""
        for name, place in self._fields().items():
            yield name, text_of(self.head[slice(*place)])

    def _fields(self) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}

        def value(name: bytes, member: re.Match[bytes]) -> int:
            end = value_end(self.head, member.end())
            found[name.decode()] = (member.end() + 1, end - 1)
            return end

        if self._metadata:
            walk(self.head, self._metadata, value)
        return found


class _Places(NamedTuple):
    """Of each tensor where its entry begins in the head, its bytes' ends, and a hash of its name."""

    entries: "array[int]"
    begins: "array[int]"
    ends: "array[int]"
    hashes: "array[int]"


class Tensors(Sequence[Tensor]):
    """The tensors of a head, read from it one by one. Raises `ValueError` unless they lie well."""

    def __init__(self, head: bytes, places: _Places) -> None:
        entries, begins, ends, hashes = (np.frombuffer(part, part.typecode) for part in places)
        order = np.lexsort((ends, begins))
        self.end = int(ends[order[-1]]) if len(order) else 0
        if len(order) and (begins[order[0]] or (begins[order[1:]] != ends[order[:-1]]).any()):
            raise ValueError("has arrays with a gap or an overlap between them")
        self._head, self._entries, hashes = head, entries[order], hashes[order]
        self._order = np.argsort(hashes).astype(np.uint32)
        self._hashes = hashes[self._order]
        for i in np.flatnonzero(self._hashes[1:] == self._hashes[:-1]):
            if self[self._order[i]].name == self[self._order[i + 1]].name:
                raise ValueError("has a key twice")

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, i: SupportsIndex) -> Tensor: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[Tensor, ...]: ...
    def __getitem__(self, i: SupportsIndex | slice) -> Tensor | tuple[Tensor, ...]:
        if isinstance(i, slice):
            return tuple(self[j] for j in range(*i.indices(len(self))))
        member = MEMBER.match(self._head, int(self._entries[i]))
        assert member  # it was read before
        return _tensor(self._head, member)[0]

    def entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the names and the entries as they are written, in the order in which they are."""
        for at in np.sort(self._entries):
            member = MEMBER.match(self._head, int(at))
            assert member  # it was read before
            entry = ENTRY.match(self._head, member.end())
            assert entry
            yield text_of(member[1]).decode(), strict_json(entry[0])

    def find(self, name: str) -> Tensor | None:
        """Return the tensor of a name."""
        wanted = hash(name)
        for i in range(int(np.searchsorted(self._hashes, wanted)), len(self)):
            if self._hashes[i] != wanted:
                break
            if (tensor := self[int(self._order[i])]).name == name:
                return tensor
        return None


def head_length(first: bytes, size: int) -> int:
    """Bytes before the arrays, told by the first 8 of a file of `size` bytes. Raises `ValueError`."""
    length = 8 + int.from_bytes(first, "little")
    if len(first) != 8 or length > min(size, LONGEST):
        raise ValueError("is not a safetensors file, or is cut off")
    return length


def parse(head: bytes, at: int = 8) -> Directory:
    """Read a head, whose text begins at `at`. Raises `ValueError` for arrays with gaps or overlaps.

    **Guarantees.** Memory of at most twice the head's bytes, whatever is in them, and a megabyte.
    """
    places, metadata = _Places(array("I"), array("Q"), array("Q"), array("q")), 0

    def value(name: bytes, member: re.Match[bytes]) -> int:
        nonlocal metadata
        if name == METADATA.encode():
            if metadata:
                raise ValueError("has a key twice")
            metadata = member.end()
            return _check_metadata(head, metadata)
        tensor, end = _tensor(head, member)
        numbers = member.start(1) - 1, tensor.begin, tensor.end, hash(tensor.name)
        for part, number in zip(places, numbers):
            part.append(number)
        return end

    check_utf8(head, at)
    end = walk(head, at, value)
    if not SPACE.fullmatch(head, end):
        raise ValueError("is not JSON")
    return Directory(head, places, metadata)


def _check_metadata(head: bytes, at: int) -> int:
    names: set[bytes] = set()

    def value(name: bytes, member: re.Match[bytes]) -> int:
        if name in names:
            raise ValueError("has a key twice")
        names.add(name)
        if len(names) > MOST_FIELDS:
            raise ValueError(f"has more than {MOST_FIELDS} fields of metadata")
        return value_end(head, member.end())

    return walk(head, at, value)


def _tensor(head: bytes, member: re.Match[bytes]) -> tuple[Tensor, int]:
    """Return a tensor, and where its entry ends. Raises `ValueError`."""
    entry = ENTRY.match(head, member.end())
    if not entry:
        raise ValueError("has a tensor without proper dtype, shape and data_offsets")
    return _entry(text_of(member[1]).decode(), strict_json(entry[0])), entry.end()


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
    """Return the directory of arrays that are not in a file yet, wide dtypes first, then by name.

    Raises `TypeError` for a dtype that the format does not have and for names and metadata that are
    not text, `ValueError` for names that it cannot write.
    """
    for text in (*arrays, *metadata, *metadata.values()):
        if not isinstance(text, str):
            raise TypeError(f"names and metadata must be text, and {text!r} is not")
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            raise ValueError(f"safetensors cannot hold the text {text!r}; choose another name")
    for name, one in arrays.items():
        if name == METADATA:
            raise ValueError(f"safetensors cannot name an array {name!r}; choose another name")
        if one.dtype not in NAMES:
            raise TypeError(f"{name!r} has dtype {one.dtype}, which safetensors does not have")
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    table: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    at = 0
    for name in order:
        one = arrays[name]
        table[name] = {
            "dtype": NAMES[one.dtype],
            "shape": list(one.shape),
            "data_offsets": [at, at + one.nbytes],
        }
        at += one.nbytes
    head = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    if len(head) + 8 > LONGEST:
        raise ValueError("the names and metadata are longer than a head may be; shorten them")
    return parse(len(head).to_bytes(8, "little") + head)
