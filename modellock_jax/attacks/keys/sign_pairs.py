"""Which kernels of a model read what which others write, from the trace of its forward."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from modellock_jax.attacks.keys._channels import Axes, Data, Mark, entrywise, fits, moved
from modellock_jax.attacks.keys._evidence import unit
from modellock_jax.attacks.keys._moves import MOVES
from modellock_jax.core.lock import Forward, Params

__all__ = ["Writer", "sign_pairs"]


class Writer(NamedTuple):
    """A layer: its kernel `[in, n]`, the kernels that read its outputs, and its number of positions.

    `kernel`: the taps of a convolution are among the inputs; `reader`: `[n, out]`, all that read it
    side by side, each of Frobenius norm one, rows multiplied by the gains of norms between, None if no
    kernel does, as of a head; `positions`: how many entries one channel has in one example; `shift`:
    `[n]`, what a bias and the shift of the norm before it add whatever the inputs; zero where no norm
    with a shift is before it, or a residual sum behind it.
    """

    kernel: jax.Array
    reader: jax.Array | None
    positions: int
    shift: np.ndarray


def sign_pairs(forward: Forward, params: Params, example: Any) -> list[Writer]:
    """Find the kernels that write channels and those that read them, in the order of the model.

    `forward(params, x)` is traced, and nothing of it runs but what depends on the parameters alone. A
    kernel is what a matrix product or a convolution multiplies data with. Channels are followed through
    all that acts entry by entry, through norms, pooling, reshaping, flattening, transposition and up to
    two residual sums; where those are met, rows and columns count by direction alone. Not through
    concatenation, attention or loops. A depthwise convolution is a writer, but reads nothing: the bit
    that negates a channel negates its window too, so that no product of the two has the sign. Nor is a
    head a writer whose kernel is the embedding that the tokens were looked up in.

    Args:
        forward: `forward(params, x)` of the architecture.
        params: The locked parameters, a tree of arrays.
        example: Inputs `[1, ...]` whose values do not matter.

    Returns:
        The writers, each with its kernel `[inputs, units]` and its readers.
    """
    leaves = jax.tree.leaves(params)
    closed = jax.make_jaxpr(forward)(params, example)
    data = [Data({}, {}, {}) for _ in jax.tree.leaves(example)]
    trace = _Trace()
    with np.errstate(all="ignore"):  # weights may be no numbers
        trace.follow(closed.jaxpr, closed.consts, [*leaves, *data])
    found = zip(trace.kernels, trace.readers, trace.positions, trace.shifts)
    return [_joined(*one) for one in found]


class _Read(NamedTuple):
    """That a kernel `[outer * n * inner, ...]` reads a writer's channels, multiplied by gains."""

    kernel: np.ndarray
    gain: np.ndarray
    outer: int
    n: int
    residual: bool


def _joined(kernel: jax.Array, readers: list[_Read], positions: int, shift: np.ndarray) -> Writer:
    if not readers:
        return Writer(kernel, None, positions, 0 * shift)
    residual = any(one.residual for one in readers)
    shapes = tuple((one.outer, one.n) for one in readers)
    kernel, reader = _pair(kernel, [one[:2] for one in readers], shapes, residual)
    return Writer(kernel, reader, positions, 0 * shift if residual else shift)


@partial(jax.jit, static_argnums=(2, 3))
def _pair(
    kernel: jax.Array,
    readers: list[tuple[np.ndarray, np.ndarray]],
    shapes: tuple[tuple[int, int], ...],
    residual: bool,
) -> tuple[jax.Array, jax.Array]:
    """Return a writer, and its readers `[n, ...]` side by side, each of norm one."""
    parts = []
    for (reader, gain), (outer, n) in zip(readers, shapes):
        rows = (reader * gain.reshape(-1, *[1] * (reader.ndim - 1))).reshape(outer, n, -1)
        matrix = jnp.moveaxis(rows, 1, 0).reshape(n, -1)
        parts.append(unit(unit(matrix, 1) if residual else matrix))
    return unit(kernel, 0) if residual else kernel, jnp.concatenate(parts, 1)


def _ungrouped(kernel: np.ndarray, inputs: int, outputs: int, groups: int) -> np.ndarray:
    """Return a kernel that reads groups of inputs as one that reads them all, with zeros."""
    size, parts = kernel.shape[inputs], np.split(kernel, groups, outputs)
    border = [[(0, 0)] * kernel.ndim for _ in parts]
    for group, pads in enumerate(border):
        pads[inputs] = (group * size, (groups - 1 - group) * size)
    return np.concatenate([*map(np.pad, parts, border)], outputs)


class _Trace:
    """Computes what depends on parameters alone, and follows channels through the rest."""

    def __init__(self) -> None:
        self.kernels: list[jax.Array] = []
        self.readers: list[list[_Read]] = []
        self.positions: list[int] = []
        self.shifts: list[np.ndarray] = []
        self.embeddings: list[np.ndarray] = []

    def follow(self, jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Return what the outputs hold: arrays, or `Data`."""
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
        if not any(isinstance(value, Data) for value in values):
            out = eqn.primitive.bind(*values, **eqn.params)
            return out if eqn.primitive.multiple_results else [out]
        if name == "dot_general":
            return [self.product(eqn, values)]
        if name == "conv_general_dilated":
            return [self.convolution(eqn, values)]
        if name == "gather" and not isinstance(values[0], Data):
            self.embeddings.append(np.asarray(values[0]))
        shapes = [v.aval.shape for v in eqn.invars]
        out = [v.aval.shape for v in eqn.outvars]
        if name in MOVES:
            return [moved(values[0], MOVES[name](eqn.params, shapes[0], out[0]))]
        if len(out) == 1 and all(fits(shape, out[0]) for shape in shapes):
            return [self.entrywise(name, values)]
        return [Data({}, {}, {}) for _ in out]

    def product(self, eqn: Any, values: list[Any]) -> Data:
        (contract, batch) = eqn.params["dimension_numbers"]
        side = 0 if isinstance(values[0], Data) else 1
        data, kernel = values[side], values[1 - side]
        if isinstance(kernel, Data) or batch[0]:
            return Data({}, {}, {})
        for mine, theirs in zip(contract[side], contract[1 - side]):
            self.read(data.marks.get(mine, []), np.moveaxis(np.asarray(kernel), theirs, 0))
        free = [axis for axis in range(kernel.ndim) if axis not in contract[1 - side]]
        if not free or self.looks_up(np.moveaxis(np.asarray(kernel), free[0], 0)):
            return Data({}, {}, {})
        shape = eqn.outvars[0].aval.shape
        at = len(shape) - 1 if side == 0 else len(free) - 1
        kept = [a for a in range(eqn.invars[side].aval.ndim) if a not in contract[side]]
        offset = 0 if side == 0 else len(free)
        marks = {offset + new: data.marks[old] for new, old in enumerate(kept) if old in data.marks}
        found = self.written(np.moveaxis(np.asarray(kernel), free[-1], -1), shape, at, marks)
        if kernel.ndim == 2 and contract[side][0] in data.shifts:
            shift = data.shifts[contract[side][0]] @ np.moveaxis(np.asarray(kernel), free[0], 1)
            found.shifts[at] = self.shifts[-1] = shift
            found.marks[at] = [mark._replace(raw=True) for mark in found.marks[at]]
        return found

    def convolution(self, eqn: Any, values: list[Any]) -> Data:
        data, kernel = values
        numbers = eqn.params["dimension_numbers"]
        if isinstance(kernel, Data) or not isinstance(data, Data):
            return Data({}, {}, {})
        outputs, inputs = numbers.rhs_spec[:2]
        kernel = np.asarray(kernel)
        if kernel.shape[inputs] > 1:
            kernel = _ungrouped(kernel, inputs, outputs, eqn.params["feature_group_count"])
        if kernel.shape[inputs] == eqn.invars[0].aval.shape[numbers.lhs_spec[1]]:
            marks = data.marks.get(numbers.lhs_spec[1], [])
            self.read(marks, np.moveaxis(kernel, inputs, 0))
        shape = eqn.outvars[0].aval.shape
        return self.written(np.moveaxis(kernel, outputs, -1), shape, numbers.out_spec[1], {})

    def looks_up(self, kernel: np.ndarray) -> bool:
        """Whether a kernel `[n, ...]` is an embedding, one row an output."""
        return any(np.array_equal(kernel, each, equal_nan=True) for each in self.embeddings)

    def read(self, marks: list[Mark], kernel: np.ndarray) -> None:
        """Enter a kernel `[axis, ...]` as a reader of the writers on that axis."""
        for mark in marks:
            read = _Read(kernel, mark.gain, mark.outer, mark.n, mark.sums > 0)
            self.readers[mark.writer].append(read)

    def written(self, kernel: np.ndarray, shape: Sequence[int], at: int, marks: Axes) -> Data:
        """Enter a kernel `[..., n]` as the writer of an axis of a new array of that shape."""
        n = shape[at]
        self.kernels.append(jax.device_put(kernel.astype(np.float32).reshape(-1, n)))
        self.readers.append([])
        self.positions.append(math.prod(shape[1:]) // n if at else 1)
        self.shifts.append(np.zeros(n, np.float32))
        mark = Mark(len(self.kernels) - 1, 1, n, 1, 0, np.ones(n, np.float32), raw=False)
        return Data({**marks, at: [mark]}, {}, {})

    def entrywise(self, name: str, values: list[Any]) -> Data:
        """Return what an operation entry by entry gives, and keep what it adds to a layer."""
        found = entrywise(name, values)
        for axis, shift in found.shifts.items():
            marks = found.marks.get(axis, [])
            if len(marks) == 1 and marks[0].raw and len(shift) == marks[0].n:
                self.shifts[marks[0].writer] = shift
        return found
