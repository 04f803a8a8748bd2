"""Writes files of PyTorch's first format without PyTorch."""

import pickle
from collections import OrderedDict
from typing import NamedTuple

import numpy as np


class Global(NamedTuple):
    module: str
    name: str

    def __call__(self):
        raise AssertionError("only its name is written")


class _Storage(NamedTuple):
    key: str
    kind: str
    data: np.ndarray


KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}


class _Pickler(pickle._Pickler):
    """Writes globals by their names, whether there are such or not."""

    def persistent_id(self, obj):
        if not isinstance(obj, _Storage):
            return None
        return ("storage", Global("torch", obj.kind), obj.key, "cpu", obj.data.size, None)

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Tensor):
            rest = (obj.start, obj.shape, obj.strides, False, OrderedDict())
            storage = _Storage(obj.key, KINDS[obj.data.dtype.name], obj.data)
            rebuild = Global("torch._utils", "_rebuild_tensor_v2")
            self.save_reduce(rebuild, (storage, *rest))
        elif isinstance(obj, Call):
            self.save_reduce(obj.what, obj.arguments)
        else:
            super().save(obj, save_persistent_id)


class Tensor(NamedTuple):
    """An array as it lies in its storage."""

    key: str
    data: np.ndarray
    shape: tuple
    strides: tuple
    start: int = 0


class Call(NamedTuple):
    """What a file asks its reader to call."""

    what: Global
    arguments: tuple


def tensors(arrays):
    """Lay arrays out as PyTorch does, every second one transposed."""
    found = OrderedDict()
    for number, (name, array) in enumerate(arrays.items()):
        turned = array.T if number % 2 else array
        flat = np.ascontiguousarray(turned).reshape(-1)
        strides = np.empty(turned.shape, turned.dtype).strides
        strides = tuple(s // array.itemsize for s in strides)
        found[name] = Tensor(
            str(number), flat, array.shape, strides[::-1] if number % 2 else strides
        )
    return found


def write(path, state, little_endian=True):
    """Write a state, `tensors` or what is none."""
    with open(path, "wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": little_endian}):
            pickle.dump(part, file, 2)
        _Pickler(file, 2).dump(state)
        storages = {t.key: t.data for t in state.values() if isinstance(t, Tensor)}
        pickle.dump([*storages], file, 2)
        for data in storages.values():
            file.write(np.int64(data.size).tobytes() + data.tobytes())
    return path
