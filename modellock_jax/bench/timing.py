"""Timing for `modellock-jax bench`: contestants in turns, ratios within rounds, rows of one shape."""

import operator
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "MIB",
    "Row",
    "alternate",
    "in_pairs",
    "keep_freed_memory",
    "matmul",
    "median_with_interval",
    "row",
]

MIB = 2**20
Row = dict[str, Any]
_Calls = Mapping[str, Callable[[], Any]]


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks of up to 30 MiB, whose pages otherwise fault in at every run."""
    np.ones(30 * MIB, np.uint8)


def alternate(
    contestants: _Calls,
    seconds: float,
    *,
    min_rounds: int = 5,
    max_rounds: int = 301,
    warm: bool = False,
) -> dict[str, np.ndarray]:
    """Measure the seconds of each contestant in each round.

    Every contestant has warmed up, compilation included, before the first round. Every second round runs
    backwards, so a busy machine slows all contestants alike. What a contestant returns is awaited, and
    freed after the clock stops.

    Args:
        contestants: Functions of no argument, by name.
        seconds: About how long all rounds take together.
        min_rounds: How many there are at least.
        max_rounds: How many at most.
        warm: Whether each round is two calls and the second counts, so that it finds the caches as
            its own call left them, not another's.

    Returns:
        Seconds by name, float64 `[rounds]`.
    """
    names = list(contestants)
    for name in names:
        jax.block_until_ready(contestants[name]())
    begin = time.perf_counter()
    for name in names:
        jax.block_until_ready(contestants[name]())
    calls = (1 + warm) * (time.perf_counter() - begin)
    rounds = int(np.clip(seconds / calls, min_rounds, max_rounds))
    taken = {name: np.zeros(rounds) for name in names}
    for i in range(rounds):
        for name in names if i % 2 else names[::-1]:
            if warm:
                jax.block_until_ready(contestants[name]())
            begin = time.perf_counter()
            out = jax.block_until_ready(contestants[name]())
            taken[name][i] = time.perf_counter() - begin
            del out
    return taken


def in_pairs(
    limit: str, contestants: _Calls, seconds: Mapping[str, float], **given: Any
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Measure each contestant but `limit` beside that one, in turns of these two alone.

    Where one contestant leaves the caches full of its own, a third would be slowed by it and not by
    itself.

    Args:
        limit: The name of the one that all are compared with.
        contestants: Functions of no argument, by name.
        seconds: For how long, by name.
        **given: Settings of `alternate`.

    Returns:
        By name, `(taken, limit's)`, float64 `[rounds]` each.
    """
    found = {}
    for name, call in contestants.items():
        if name != limit:
            pair = {limit: contestants[limit], name: call}
            taken = alternate(pair, seconds[name], **given)
            found[name] = taken[name], taken[limit]
    return found


def matmul(quick: bool) -> tuple[Callable[[], Any], Callable[[np.ndarray], float], str]:
    """Give what the machine can do: a product of matrices.

    Args:
        quick: Whether to take a small one.

    Returns:
        The call, its GFLOP/s from seconds, and its name.
    """
    side = 256 if quick else 2048
    a = jax.random.normal(jax.random.key(4), (side, side))
    product = jax.jit(jnp.matmul)

    def rate(seconds: np.ndarray) -> float:
        return 2 * side**3 / float(np.median(seconds)) / 1e9

    return lambda: product(a, a), rate, f"a matmul of {side} x {side}"


def median_with_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the median, and the 5th and 95th percentile of the medians of 2,000 resamples.

    Args:
        values: float `[rounds]`, at least one.

    Returns:
        Median, 5th percentile, 95th percentile.

    >>> median_with_interval(np.array([2.0, 2.0, 2.0]))
    (2.0, 2.0, 2.0)
    """
    picks = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.percentile(np.median(values[picks], axis=1), [5, 95])
    return float(np.median(values)), float(low), float(high)


def row(
    part: str,
    case: str,
    name: str,
    value: float | None,
    unit: str,
    *,
    limit: str = "",
    ratios: np.ndarray | None = None,
    sense: Literal["<=", ">="] = ">=",
    target: float | None = None,
    note: str = "",
    **more: Any,
) -> Row:
    """Make one line of the table.

    A target is for the median ratio or, without ratios, for the value; `met` compares them as they are,
    whatever the interval.

    Args:
        part: Of the bench, a name of `PARTS`.
        case: What was worked on.
        name: The contestant.
        value: What it did, in `unit`; None if it could not be measured.
        unit: Of the value.
        limit: The contestant that it is compared with.
        ratios: To the limit, float `[rounds]`.
        sense: Whether a target is an upper or a lower bound.
        target: Of the median ratio, or of the value; None for none.
        note: What a reader should know.
        **more: Further fields of the row.

    Returns:
        A row that JSON takes.
    """
    found: Row = {"part": part, "case": case, "name": name, "value": value, "unit": unit}
    if ratios is not None:
        ratio, low, high = median_with_interval(ratios)
        found |= {"limit": limit, "ratio": ratio, "low": low, "high": high}
    if target is not None:
        reached = found.get("ratio", value)
        compare = operator.ge if sense == ">=" else operator.le
        found |= {"target": target, "sense": sense}
        found["met"] = None if reached is None else bool(compare(reached, target))
    return found | ({"note": note} if note else {}) | more
