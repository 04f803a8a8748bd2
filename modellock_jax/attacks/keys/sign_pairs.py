"""Which kernels of a model read what which others write, from the trace of its forward."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from modellock_jax.attacks.keys._moves import MOVES, Move
from modellock_jax.core.lock import Forward, Params

__all__ = ["SUMS", "Axes", "Writer", "sign_pairs"]

SUMS = 2
"""Over how many residual sums a writer is followed; what lies further says little about it."""


class Writer(NamedTuple):
    """A layer: its kernel `[in, n]`, the kernels that read its outputs, and its number of positions.

    `kernel`: the taps of a convolution are among the inputs; `reader`: `[n, out]`, all that read it
    side by side, each of Frobenius norm one, rows multiplied by the gains of norms between, None if no
    kernel does, as of a head; `positions`: how many entries one channel has in one example.
    """

    kernel: jax.Array
    reader: jax.Array | None
    positions: int


def sign_pairs(forward: Forward, params: Params, example: Any) -> list[Writer]:
    """Find the kernels that write channels and those that read them, in the order of the model.

    `forward(params, x)` is traced, and nothing of it runs but what depends on the parameters alone. A
    kernel is what a matrix product or a convolution multiplies data with. Channels are followed through
    all that acts entry by entry, through norms, pooling, reshaping, flattening, transposition and up to
    two residual sums; where those are met, rows and columns count by direction alone. Not through
    concatenation, attention or loops, nor depthwise convolutions.

    Args:
        forward: `forward(params, x)` of the architecture.
        params: The locked parameters, a tree of arrays.
        example: Inputs `[1, ...]` whose values do not matter.

    Returns:
        The writers, each with its kernel `[inputs, units]` and its readers.
    """
    leaves = jax.tree.leaves(params)
    closed = jax.make_jaxpr(forward)(params, example)
    data = [_Data({}, {}) for _ in jax.tree.leaves(example)]
    trace = _Trace()
    trace.follow(closed.jaxpr, closed.consts, [*leaves, *data])
    return [_joined(*one) for one in zip(trace.kernels, trace.readers, trace.positions)]


def _joined(kernel: jax.Array, readers: list[tuple[jax.Array, bool]], positions: int) -> Writer:
    if not readers:
        return Writer(kernel, None, positions)
    rows = [matrix for matrix, _ in readers]
    if any(residual for _, residual in readers):
        kernel = _unit(kernel, 0)
        rows = [_unit(matrix, 1) for matrix in rows]
    sizes = [jnp.linalg.norm(matrix) for matrix in rows]
    rows = [matrix / jnp.where(size > 0, size, 1) for matrix, size in zip(rows, sizes)]
    return Writer(kernel, jnp.concatenate(rows, 1), positions)


def _unit(matrix: jax.Array, axis: int) -> jax.Array:
    size = jnp.linalg.norm(matrix, axis=axis, keepdims=True)
    return matrix / jnp.where(size > 0, size, 1)


class _Mark(NamedTuple):
    """That an axis holds the channels of a writer as `[outer, n, inner]`, after so many sums."""

    writer: int
    outer: int
    n: int
    inner: int
    sums: int
    gain: np.ndarray  # of each entry of the axis


Axes = dict[int, list[_Mark]]


class _Data(NamedTuple):
    """What depends on the inputs: the writers on its axes, and by what parameters it was multiplied."""

    marks: Axes
    gains: dict[int, np.ndarray]


class _Trace:
    """Computes what depends on parameters alone, and follows channels through the rest."""

    def __init__(self) -> None:
        self.kernels: list[jax.Array] = []
        self.readers: list[list[tuple[jax.Array, bool]]] = []
        self.positions: list[int] = []

    def follow(self, jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Return what the outputs hold: arrays, or `_Data`."""
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts))
        known |= dict(zip(jaxpr.invars, args))
        for eqn in jaxpr.eqns:
            values = [v.val if isinstance(v, core.Literal) else known[v] for v in eqn.invars]
            known |= dict(zip(eqn.outvars, self.equation(eqn, values)))
        return [v.val if isinstance(v, core.Literal) else known[v] for v in jaxpr.outvars]

    def equation(self, eqn: Any, values: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        if name == "platform_index":
            return [0]
        if name == "cond" and eqn.params.get("branches_platforms"):
            # The last branch is the one for no platform of its own, where a convolution is one.
            inner = eqn.params["branches"][-1]
            return self.follow(inner.jaxpr, inner.consts, values[1:])
        for field in ("jaxpr", "call_jaxpr", "call", "fun_jaxpr"):
            inner = eqn.params.get(field)
            if name not in ("scan", "while") and inner is not None:
                consts = getattr(inner, "consts", ())
                return self.follow(getattr(inner, "jaxpr", inner), consts, values)
        if not any(isinstance(value, _Data) for value in values):
            out = eqn.primitive.bind(*values, **eqn.params)
            return out if eqn.primitive.multiple_results else [out]
        if name == "dot_general":
            return [self.product(eqn, values)]
        if name == "conv_general_dilated":
            return [self.convolution(eqn, values)]
        shapes = [v.aval.shape for v in eqn.invars]
        out = [v.aval.shape for v in eqn.outvars]
        if name in MOVES:
            return [_moved(values[0], MOVES[name](eqn.params, shapes[0], out[0]))]
        if len(out) == 1 and all(_fits(shape, out[0]) for shape in shapes):
            return [_entrywise(name, values)]
        return [_Data({}, {}) for _ in out]

    def product(self, eqn: Any, values: list[Any]) -> _Data:
        (contract, batch) = eqn.params["dimension_numbers"]
        side = 0 if isinstance(values[0], _Data) else 1
        data, kernel = values[side], values[1 - side]
        if isinstance(kernel, _Data) or batch[0]:
            return _Data({}, {})
        for mine, theirs in zip(contract[side], contract[1 - side]):
            self.read(data.marks.get(mine, []), np.moveaxis(np.asarray(kernel), theirs, 0))
        free = [axis for axis in range(kernel.ndim) if axis not in contract[1 - side]]
        if not free:
            return _Data({}, {})
        shape = eqn.outvars[0].aval.shape
        at = len(shape) - 1 if side == 0 else len(free) - 1
        kept = [a for a in range(eqn.invars[side].aval.ndim) if a not in contract[side]]
        offset = 0 if side == 0 else len(free)
        marks = {offset + new: data.marks[old] for new, old in enumerate(kept) if old in data.marks}
        return self.written(np.moveaxis(np.asarray(kernel), free[-1], -1), shape, at, marks)

    def convolution(self, eqn: Any, values: list[Any]) -> _Data:
        data, kernel = values
        numbers = eqn.params["dimension_numbers"]
        if isinstance(kernel, _Data) or not isinstance(data, _Data):
            return _Data({}, {})
        outputs, inputs = numbers.rhs_spec[:2]
        if eqn.params["feature_group_count"] == eqn.params["batch_group_count"] == 1:
            marks = data.marks.get(numbers.lhs_spec[1], [])
            self.read(marks, np.moveaxis(np.asarray(kernel), inputs, 0))
        shape = eqn.outvars[0].aval.shape
        return self.written(
            np.moveaxis(np.asarray(kernel), outputs, -1), shape, numbers.out_spec[1], {}
        )

    def read(self, marks: list[_Mark], kernel: np.ndarray) -> None:
        """Enter a kernel `[axis, ...]` as a reader of the writers on that axis."""
        for mark in marks:
            gain = mark.gain.reshape(-1, *[1] * (kernel.ndim - 1))
            with np.errstate(all="ignore"):  # weights may be no numbers
                rows = (kernel * gain).reshape(mark.outer, mark.n, -1)
            matrix = jax.device_put(np.moveaxis(rows, 1, 0).reshape(mark.n, -1))
            self.readers[mark.writer].append((matrix, mark.sums > 0))

    def written(self, kernel: np.ndarray, shape: Sequence[int], at: int, marks: Axes) -> _Data:
        """Enter a kernel `[..., n]` as the writer of an axis of a new array of that shape."""
        n = shape[at]
        self.kernels.append(jax.device_put(kernel.astype(np.float32).reshape(-1, n)))
        self.readers.append([])
        self.positions.append(math.prod(shape[1:]) // n if at else 1)
        mark = _Mark(len(self.kernels) - 1, 1, n, 1, 0, np.ones(n, np.float32))
        return _Data({**marks, at: [mark]}, {})


def _fits(shape: Sequence[int], out: Sequence[int]) -> bool:
    """Whether an operation entry by entry may take that shape."""
    one = (1,) * len(out)
    return not shape or (
        len(shape) == len(out) and all(a in b for a, b in zip(shape, zip(one, out)))
    )


def _entrywise(name: str, values: list[Any]) -> _Data:
    """Return what an operation entry by entry gives: all writers of what it takes, under the gains."""
    data = [value for value in values if isinstance(value, _Data)]
    known = [value for value in values if not isinstance(value, _Data)]
    marks: Axes = {}
    for axis in sorted({axis for one in data for axis in one.marks}):
        lists = [one.marks[axis] for one in data if axis in one.marks]
        found = {mark.writer: mark for marks in reversed(lists) for mark in marks}
        writers = [{mark.writer for mark in marks} for marks in lists]
        summed = name in ("add", "sub") and any(one != writers[0] for one in writers)
        kept = [mark._replace(sums=mark.sums + summed) for mark in found.values()]
        marks[axis] = [mark for mark in kept if mark.sums <= SUMS]
    gains: dict[int, np.ndarray] = {}
    if name == "mul":
        parts = [one.gains for one in data if not one.marks] + [_vector(value) for value in known]
        for axis, gain in [item for part in parts for item in part.items()]:
            gains[axis] = gains.get(axis, np.float32(1)) * gain
    if not marks:
        return _Data({}, gains)
    one = np.float32(1)
    return _Data(
        {a: [m._replace(gain=m.gain * gains.get(a, one)) for m in marks[a]] for a in marks}, {}
    )


def _vector(value: Any) -> dict[int, np.ndarray]:
    """Return a factor that varies along one axis alone, by that axis."""
    array = np.asarray(value, np.float32)
    along = [a for a in range(array.ndim) if (array != array.take([0], a)).any()]
    if len(along) != 1:
        return {}
    index = tuple(slice(None) if a == along[0] else 0 for a in range(array.ndim))
    return {along[0]: array[index]}


def _moved(data: Any, moves: dict[int, Move]) -> _Data:
    """Return the same channels after their axes moved; those of others are lost."""
    marks: Axes = {}
    for old, found in data.marks.items():
        if old in moves:
            to = moves[old]
            marks[to.axis] = [
                mark._replace(
                    outer=mark.outer * to.outer,
                    inner=mark.inner * to.inner,
                    gain=_spread(mark.gain, to),
                )
                for mark in found
            ]
    gains = {moves[a].axis: _spread(g, moves[a]) for a, g in data.gains.items() if a in moves}
    return _Data(marks, gains)


def _spread(gain: np.ndarray, to: Move) -> np.ndarray:
    return np.tile(np.repeat(gain, to.inner), to.outer)
