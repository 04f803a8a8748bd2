"""Files of PyTorch's first format, as published weights often are, read without PyTorch and its code."""

import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from modellock_jax._printing import printable

__all__ = ["read_state"]

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_TYPES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "DoubleStorage": "<f8", "LongStorage": "<i8"}


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """Read the arrays of a file that `torch.save(module.state_dict(), path)` wrote before PyTorch 1.6.

    Args:
        path: A file.

    Returns:
        Arrays by their names, of floats or int64.

    Raises:
        OSError: For a file that cannot be read.
        ValueError: For any other kind of file.

    **Guarantees.** The file is a pickle, but nothing that it names is imported or called: it can only
    say which parts of its own bytes are arrays.
    """
    with open(path, "rb") as file:
        try:
            return _arrays(file)
        except _FAULTS as error:
            raise ValueError(
                f"read_state: {printable(path)} is no file of PyTorch's first format, or cut off: "
                f"{printable(error, 100)}"
            ) from None


_FAULTS = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
)


class _Tensor(NamedTuple):
    """That an array lies in a storage from an entry on."""

    dtype: str
    storage: str
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: Any, start: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    _, dtype, key, *_ = storage
    whole = [start, *shape, *strides]
    if not all(type(n) is int and 0 <= n < 2**62 for n in whole) or len(shape) != len(strides):
        raise ValueError("an array has no shape")
    return _Tensor(_TYPES[dtype], str(key), start, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _TYPES:
            return name
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    magic, protocol, about = (_Unpickler(file).load() for _ in range(3))
    if (magic, protocol, about["little_endian"]) != (_MAGIC, _PROTOCOL, True):
        raise ValueError("it begins otherwise")
    state, order = _Unpickler(file).load(), _Unpickler(file).load()
    if not all(type(n) is str and isinstance(t, _Tensor) for n, t in state.items()):
        raise ValueError("it holds more than arrays by their names")
    types = {tensor.storage: tensor.dtype for tensor in state.values()}
    storages = {}
    for key in order:
        (size,) = np.frombuffer(file.read(8), "<i8")
        dtype = np.dtype(types[key])
        storages[key] = np.frombuffer(file.read(max(0, int(size)) * dtype.itemsize), dtype)
        if len(storages[key]) != size:
            raise ValueError("an array is cut off")
    return {name: _strided(tensor, storages[tensor.storage]) for name, tensor in state.items()}


def _strided(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """Copy an array out of a storage, within its bounds."""
    steps = [(n - 1) * step for n, step in zip(tensor.shape, tensor.strides)]
    if math.prod(tensor.shape) > storage.size or tensor.start + sum(steps) >= storage.size:
        raise ValueError("an array lies outside of its storage")
    strides = [step * storage.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(
        storage[tensor.start :], tensor.shape, strides, writeable=False
    ).copy()
