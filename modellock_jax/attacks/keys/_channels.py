"""Where the channels that layers write lie in an array, and what met them on the way."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from modellock_jax.attacks.keys._moves import Move

SUMS = 2
"""Over how many residual sums a writer is followed; what lies further says little about it."""


class Mark(NamedTuple):
    """That an axis holds the channels of a writer as `[outer, n, inner]`, after so many sums."""

    writer: int
    outer: int
    n: int
    inner: int
    sums: int
    gain: np.ndarray  # of each entry of the axis
    raw: bool  # whether what it wrote from a norm met nothing but known factors and summands


Axes = dict[int, list[Mark]]


class Data(NamedTuple):
    """What depends on the inputs: the writers on its axes, and the parameters that met it last.

    `gains`: what multiplied it, `shifts`: what was added, both of axes along which they vary alone.
    """

    marks: Axes
    gains: dict[int, np.ndarray]
    shifts: dict[int, np.ndarray]


def fits(shape: Sequence[int], out: Sequence[int]) -> bool:
    """Whether an operation entry by entry may take that shape."""
    one = (1,) * len(out)
    return not shape or (
        len(shape) == len(out) and all(a in b for a, b in zip(shape, zip(one, out)))
    )


def entrywise(name: str, values: list[Any]) -> Data:
    """Return what an operation entry by entry gives: all writers of what it takes, under the gains."""
    data = [value for value in values if isinstance(value, Data)]
    known = [value for value in values if not isinstance(value, Data)]
    marks: Axes = {}
    for axis in sorted({axis for one in data for axis in one.marks}):
        lists = [one.marks[axis] for one in data if axis in one.marks]
        found = {mark.writer: mark for marks in reversed(lists) for mark in marks}
        writers = [{mark.writer for mark in marks} for marks in lists]
        summed = name in ("add", "sub") and any(one != writers[0] for one in writers)
        raw = len(data) == 1 and name in ("add", "sub", "mul")
        kept = [m._replace(sums=m.sums + summed, raw=m.raw and raw) for m in found.values()]
        marks[axis] = [mark for mark in kept if mark.sums <= SUMS]
    gains: dict[int, np.ndarray] = {}
    if name == "mul":
        parts = [one.gains for one in data if not one.marks] + [_vector(value) for value in known]
        for axis, gain in [item for part in parts for item in part.items()]:
            gains[axis] = gains.get(axis, np.float32(1)) * gain
    shifts = _shifts(name, values)
    if not marks:
        return Data({}, gains, shifts)
    one = np.float32(1)
    return Data(
        {a: [m._replace(gain=m.gain * gains.get(a, one)) for m in marks[a]] for a in marks},
        {},
        shifts,
    )


def _shifts(name: str, values: list[Any]) -> dict[int, Any]:
    """Return what was added so far: none after what is not affine in the one array of data."""
    data = [value for value in values if isinstance(value, Data)]
    if len(data) != 1 or name not in ("add", "sub", "mul"):
        return {}
    (known,) = [value for value in values if not isinstance(value, Data)]
    shifts, vector = data[0].shifts, _vector(known)
    if name == "mul":
        factor = [vector.get(axis, np.float32(1)) for axis in shifts]
        return {axis: shift * by for (axis, shift), by in zip(shifts.items(), factor)}
    sign = np.float32(1 if name == "add" else -1)
    if not isinstance(values[0], Data) and name == "sub":
        return {}
    axes = {*shifts, *vector}
    return {a: shifts.get(a, np.float32(0)) + sign * vector.get(a, np.float32(0)) for a in axes}


def _vector(value: Any) -> dict[int, np.ndarray]:
    """Return a factor that varies along one axis alone, by that axis."""
    array = np.asarray(value, np.float32)
    along = [a for a in range(array.ndim) if (array != array.take([0], a)).any()]
    if len(along) != 1:
        return {}
    index = tuple(slice(None) if a == along[0] else 0 for a in range(array.ndim))
    return {along[0]: array[index]}


def moved(data: Any, moves: dict[int, Move]) -> Data:
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
    gains, shifts = (
        {moves[a].axis: _spread(g, moves[a]) for a, g in along.items() if a in moves}
        for along in (data.gains, data.shifts)
    )
    return Data(marks, gains, shifts)


def _spread(gain: np.ndarray, to: Move) -> np.ndarray:
    return np.tile(np.repeat(gain, to.inner), to.outer)
