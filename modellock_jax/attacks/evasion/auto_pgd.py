"""Auto-PGD, which chooses its own step size; the arguments are those of `methods`."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.attacks.evasion._adversarial import (
    Bounds,
    Classifier,
    Evasion,
    Point,
    broadcast_like,
    check,
    cross_entropy,
    dlr,
    initial_point,
    keep_best,
    make_gradient,
    make_result,
    make_scorer,
    projection,
    random_starts,
    select,
)

__all__ = ["apgd"]


class _Carry(NamedTuple):
    x: jax.Array
    before: jax.Array
    loss: jax.Array
    top: Point  # of highest loss: where to go back to
    best: Point
    size: jax.Array
    rises: jax.Array
    checked: jax.Array  # the highest loss at the last checkpoint
    halved: jax.Array


def apgd(
    f: Classifier,
    x: jax.Array,
    y: jax.Array,
    eps: Any,
    rng: jax.Array | None = None,
    *,
    steps: int = 100,
    loss: Literal["cross_entropy", "dlr"] = "cross_entropy",
    restarts: int = 1,
    bounds: Bounds = (0.0, 1.0),
) -> Evasion:
    """Run Auto-PGD: momentum, and a step that halves, input by input, when the loss stops rising.

    The first step is 2 eps. At checkpoints that draw closer together it is halved, and the input
    goes back to its best point, if the loss rose in less than three quarters of the steps, or its
    best value and the step have not changed since the last checkpoint. `dlr`, the difference of
    logits ratio, has a gradient where the cross-entropy of a very sure model has none. The start is
    that of `pgd`.

    Args:
        f: `f(x) -> logits`, `[B, classes]` or `[K, B, classes]`.
        x: Inputs, floats `[B, ...]` within the bounds.
        y: Labels, int `[B]`.
        eps: The largest change of an entry, above 0; may be traced.
        rng: A JAX PRNG key; None to start at the input itself.
        steps: How many, at least 1.
        loss: "cross_entropy", or "dlr", from three classes on.
        restarts: How many random points it starts at, at least 1; 1 without `rng`.
        bounds: The least and the largest value of an input.

    Returns:
        The inputs found `[B, ...]`, and where the classifier withstood them.

    Raises:
        ValueError: As `pgd`; for another loss, and for "dlr" below three classes.
        TypeError: As `pgd`.

    Threat model: whoever can differentiate `f`; see the module.

    **Guarantees.** As for `pgd`; no step size to tune.

    Source: Croce & Hein (2020).
    """
    sound = check(f, x, y, eps, steps, bounds)
    evaluate, score = make_gradient(f, y, _measure_of(loss)), make_scorer(f, y, _measure_of(loss))
    project = projection(x, eps, bounds)

    def step(c: _Carry, at: Any) -> tuple[_Carry, None]:
        first, window = at  # window: steps since the last checkpoint, 0 between checkpoints
        here = evaluate(c.x)
        rises = c.rises + (here.loss > c.loss).astype(jnp.int32)
        top = select(here.loss > c.top.loss, here, c.top)
        stuck = ~c.halved & (top.loss <= c.checked)
        halve = (window > 0) & ((4 * rises < 3 * window) | stuck)
        size = jnp.where(halve, c.size / 2, c.size)
        now = select(halve, top, here)
        moved = project(now.x + broadcast_like(size, x) * now.direction)
        momentum = jnp.where(first, 1.0, 0.75)
        moved = project(now.x + momentum * (moved - now.x) + (1 - momentum) * (now.x - c.before))
        return _Carry(
            moved,
            now.x,
            now.loss,
            top,
            keep_best(here, c.best),
            size,
            jnp.where(window > 0, 0, rises),
            jnp.where(window > 0, top.loss, c.checked),
            jnp.where(window > 0, halve, c.halved),
        ), None

    clean_loss, clean_fooled = score(x)
    fill, windows = jnp.full_like, _checkpoints(steps)

    def run(best: Point, start: jax.Array) -> tuple[Point, None]:
        begin = _Carry(
            start,
            start,
            fill(clean_loss, jnp.inf),
            initial_point(x, clean_fooled),
            best,
            fill(clean_loss, 2 * eps),
            fill(clean_loss, 0, jnp.int32),
            fill(clean_loss, -jnp.inf),
            fill(clean_loss, True, jnp.bool_),
        )
        return lax.scan(step, begin, (np.arange(steps + 1) == 0, windows))[0].best, None

    starts = random_starts(x, eps, rng, restarts, bounds)
    best, _ = lax.scan(run, initial_point(x, clean_fooled), starts)
    return make_result(best.x, best.fooled, sound)


def _checkpoints(steps: int) -> np.ndarray:
    """At each of Croce & Hein's checkpoints the steps since the last one, elsewhere 0."""
    windows, last, percent, gap = np.zeros(steps + 1, np.int32), 0, 22, 22
    while percent <= 100:
        here = -(-percent * steps // 100)
        if here > last:
            windows[here], last = here - last, here
        gap = max(gap - 3, 6)
        percent += gap
    return windows


def _measure_of(loss: str) -> Any:
    if loss not in ("cross_entropy", "dlr"):
        raise ValueError(f'apgd: loss must be "cross_entropy" or "dlr", not {loss!r}')
    return cross_entropy if loss == "cross_entropy" else dlr
