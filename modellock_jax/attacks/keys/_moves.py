"""Where the axes of an array go in the operations that only move, merge or drop them."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Move(NamedTuple):
    """Where an axis goes: to `axis`, as `[outer, axis, inner]`."""

    axis: int
    outer: int = 1
    inner: int = 1


Shape = tuple[int, ...]


def _reshaped(params: Any, old: Shape, new: Shape) -> dict[int, Move]:
    """Axes that stay, and those that are merged into one; axes of length one come and go."""
    moves: dict[int, Move] = {}
    rest = [axis for axis in range(len(old)) if old[axis] != 1]
    for axis, size in enumerate(new):
        taken: list[int] = []
        while rest and size != 1 and math.prod(old[a] for a in taken) < size:
            taken.append(rest.pop(0))
        if math.prod(old[a] for a in taken) != size:
            break  # one axis is cut into several; what comes after it is not followed
        for i, a in enumerate(taken):
            outer, inner = (math.prod(old[b] for b in part) for part in (taken[:i], taken[i + 1 :]))
            moves[a] = Move(axis, outer, inner)
    return moves


def _reduced(params: Any, old: Shape, new: Shape) -> dict[int, Move]:
    kept = [axis for axis in range(len(old)) if axis not in params["axes"]]
    return {axis: Move(at) for at, axis in enumerate(kept)}


def _broadcast(params: Any, old: Shape, new: Shape) -> dict[int, Move]:
    to = enumerate(params["broadcast_dimensions"])
    return {axis: Move(at) for axis, at in to if old[axis] == new[at]}


def _squeezed(params: Any, old: Shape, new: Shape) -> dict[int, Move]:
    return _reduced({"axes": params["dimensions"]}, old, new)


def _transposed(params: Any, old: Shape, new: Shape) -> dict[int, Move]:
    return {axis: Move(at) for at, axis in enumerate(params["permutation"])}


def _whole(params: Any, old: Shape, new: Shape) -> dict[int, Move]:
    """Axes that a window, a cut or a border leaves as long as they were."""
    return {axis: Move(axis) for axis in range(len(old)) if old[axis] == new[axis]}


MOVES: dict[str, Callable[[Any, Shape, Shape], dict[int, Move]]] = {
    "reshape": _reshaped,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeezed,
    "transpose": _transposed,
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"), _reduced),
    **dict.fromkeys(("slice", "pad", "reduce_window"), _whole),
    **dict.fromkeys(("reduce_window_sum", "reduce_window_max", "reduce_window_min"), _whole),
}
