"""Adversarial examples: inputs moved by at most `eps` in every entry so that a model errs.

Every attack takes a classifier `f(x) -> logits`, inputs x, floats `[B, ...]` in `bounds`, labels y int
`[B]` and `eps`, a scalar that may be traced: `vmap` over it gives a whole curve. All are pure; jit
them with `f` closed over. What the attacker knows of a lock is in `f`::

    lambda x: user_forward(lock, forward)(key, locked, x)           # the key is known
    lambda x: forward(locked, x)                                    # unknown: then `transfer`
    expectation(lambda key, x: user(key, locked, x), random_keys)   # unknown: averaged over keys

Logits may have a leading axis of keys, `[K, B, classes]`: losses and gradients are means over it.
A non-finite logit counts as an error, a non-finite gradient as zero.

Inputs outside the bounds, (0, 1) by default, labels that are no class and an `eps` of 0 or less, or
wider than the bounds, are refused: there the answer would overstate robustness. Inside `jit`, where
values cannot be seen, the answer is NaN.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Integer

from modellock_jax.attacks.evasion._adversarial import (
    Bounds,
    Classifier,
    Evasion,
    Point,
    check,
    cross_entropy,
    in_range,
    initial_point,
    keep_best,
    make_gradient,
    make_result,
    make_scorer,
    margin,
    projection,
    random_starts,
)
from modellock_jax.core.lock import Key

__all__ = ["expectation", "fgsm", "pgd", "square", "transfer"]


def expectation(f: Callable[[Key, jax.Array], jax.Array], keys: Key) -> Classifier:
    """`f(key, x)` under many keys, a tree `[K, ...]`: a classifier with logits `[K, B, classes]`.

    An attack on it follows the gradient's mean over the keys. Keys may be PRNG keys, for a defence
    that is random itself. One key whose logits are not finite spoils the mean: sanitise before.

    Args:
        f: `f(key, x) -> logits`, `[B, classes]`.
        keys: A tree `[K, ...]`; may be PRNG keys.

    Returns:
        `f(x) -> logits`, `[K, B, classes]`, for any attack of this module.

    Threat model: the attacker has the locked weights and the scheme, not the key, and draws keys.

    Source: expectation over transformation, Athalye et al. (2018).
    """
    return lambda x: jax.vmap(lambda key: f(key, x))(keys)


def fgsm(
    f: Classifier,
    x: Float[jax.Array, " batch *entries"],
    y: Integer[jax.Array, " batch"],
    eps: Any,
    *,
    bounds: Bounds = (0.0, 1.0),
) -> Evasion:
    """Take one step of length `eps` along the sign of the cross-entropy's gradient.

    The module says what the arguments are; `pgd` says the rest.

    Args:
        f: `f(x) -> logits`, `[B, classes]` or `[K, B, classes]`.
        x: Inputs, floats `[B, ...]` within the bounds.
        y: Labels, int `[B]`.
        eps: The largest change of an entry, above 0; may be traced.
        bounds: The least and the largest value of an input.

    Returns:
        The inputs found `[B, ...]`, and where the classifier withstood them.

    Source: Goodfellow et al. (2015).
    """
    return pgd(f, x, y, eps, steps=1, step_size=eps, bounds=bounds)


def pgd(
    f: Classifier,
    x: Float[jax.Array, " batch *entries"],
    y: Integer[jax.Array, " batch"],
    eps: Any,
    rng: jax.Array | None = None,
    *,
    steps: int = 40,
    step_size: Any = None,
    restarts: int = 1,
    bounds: Bounds = (0.0, 1.0),
) -> Evasion:
    """Descend by projected gradients in the L-infinity ball, on the cross-entropy.

    Starts at a random point of the ball, or with `rng=None` at the input itself; with `restarts` at so
    many points, one after the other. `step_size` defaults to 2.5 eps / steps.

    Args:
        f: `f(x) -> logits`, `[B, classes]` or `[K, B, classes]`.
        x: Inputs, floats `[B, ...]` within the bounds.
        y: Labels, int `[B]`.
        eps: The largest change of an entry, above 0; may be traced.
        rng: A JAX PRNG key; None to start at the input itself.
        steps: How many, at least 1.
        step_size: 2.5 eps / steps by default.
        restarts: How many random points it starts at, at least 1; 1 without `rng`.
        bounds: The least and the largest value of an input.

    Returns:
        The inputs found `[B, ...]`, and where the classifier withstood them.

    Raises:
        ValueError: For `steps` or `restarts` below 1, or inputs, labels or `eps` that do not fit.
        TypeError: For other dtypes.

    Threat model: whoever can differentiate `f`; see the module.

    **Guarantees.** The inputs are in the bounds and within `eps` of x up to rounding; of all points
    visited from all starts each input's is one that fools most keys, and of those the one of highest
    loss. So what fewer steps of the same size, or fewer restarts, find, more find too.

    Source: Madry et al. (2018).

    >>> import jax, jax.numpy as jnp
    >>> x, y = jnp.full((2, 1, 1, 1), 0.5), jnp.array([0, 1])
    >>> def f(x):
    ...     return jnp.concatenate([0.6 - x, x - 0.6], -1).reshape(-1, 2)
    >>> [jax.jit(lambda eps: pgd(f, x, y, eps))(eps).robust.tolist() for eps in (0.05, 0.2)]
    [[1.0, 0.0], [0.0, 0.0]]
    """
    sound = check(f, x, y, eps, steps, bounds)
    evaluate, score, project = (
        make_gradient(f, y, cross_entropy),
        make_scorer(f, y, cross_entropy),
        projection(x, eps, bounds),
    )
    size = 2.5 * eps / steps if step_size is None else step_size

    def step(carry: tuple[jax.Array, Point], _: None) -> tuple[tuple[jax.Array, Point], None]:
        here = evaluate(carry[0])
        return (project(here.x + size * here.direction), keep_best(here, carry[1])), None

    def run(best: Point, start: jax.Array) -> tuple[Point, None]:
        return lax.scan(step, (start, best), length=steps + 1)[0][1], None

    starts = random_starts(x, eps, rng, restarts, bounds)
    best, _ = lax.scan(run, initial_point(x, score(x)[1]), starts)
    return make_result(best.x, best.fooled, sound)


def square(
    f: Classifier,
    x: Float[jax.Array, "batch height width channels"],
    y: Integer[jax.Array, " batch"],
    eps: Any,
    rng: jax.Array,
    *,
    queries: int = 500,
    bounds: Bounds = (0.0, 1.0),
) -> Evasion:
    """Search at random, without gradients: squares of +-eps, kept where the margin worsens.

    Each query sets one square of each image `[H, W, C]`, its side shrinking as the search goes on.

    Args:
        f: `f(x) -> logits`, `[B, classes]` or `[K, B, classes]`.
        x: Images `[B, H, W, C]`, floats within the bounds.
        y: Labels, int `[B]`.
        eps: The largest change of an entry, above 0; may be traced.
        rng: A JAX PRNG key.
        queries: How often `f` is asked, at least 1.
        bounds: The least and the largest value of an input.

    Returns:
        The images found `[B, H, W, C]`, and where the classifier withstood them.

    Raises:
        ValueError: For `queries` below 1, inputs that are no images, or shapes that do not fit.

    Threat model: the attacker sends images to `f`, a user's device say, and reads the logits.

    **Guarantees.** As for `pgd`; asks `f` for `queries` + 2 answers an input.

    Source: a short form of the Square Attack, Andriushchenko et al. (2020).
    """
    sound = check(f, x, y, eps, queries, bounds)
    if x.ndim != 4:
        raise ValueError(
            f"square: moves squares of images [B, H, W, C], not inputs {list(x.shape)}; use pgd or apgd"
        )
    score, (batch, height, width, channels) = make_scorer(f, y, margin), x.shape
    project = projection(x, eps, bounds)
    # The share of an image that a square covers, at the paper's halving points of 10,000 queries.
    halvings = np.searchsorted(
        np.array([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]),
        np.arange(queries) * 10_000 // queries,
    )
    sides = np.sqrt(0.8 / 2.0**halvings * height * width).round().clip(1, min(height, width))

    def signs(rng: jax.Array, *shape: int) -> jax.Array:
        return jax.random.rademacher(rng, shape, x.dtype)

    def candidate(moved: jax.Array) -> Point:
        return Point(moved, jnp.zeros_like(y), *score(moved))

    def query(best: Point, at: Any) -> tuple[Point, None]:
        rng, side = at
        place, sign = jax.random.split(rng)
        room = jnp.array([height, width], jnp.int32) - side + 1
        corner = jax.random.randint(place, (batch, 2), 0, room[None], jnp.int32)
        rows = jnp.arange(height, dtype=jnp.int32)[None] - corner[:, :1]
        columns = jnp.arange(width, dtype=jnp.int32)[None] - corner[:, 1:]
        down, across = ((at >= 0) & (at < side) for at in (rows, columns))
        inside = down[:, :, None, None] & across[:, None, :, None]
        moved = project(x + eps * signs(sign, batch, 1, 1, channels))
        return keep_best(candidate(jnp.where(inside, moved, best.x)), best), None

    stripes, rng = jax.random.split(rng)
    first = candidate(project(x + eps * signs(stripes, batch, 1, width, channels)))
    best = keep_best(first, candidate(x))
    best, _ = lax.scan(query, best, (jax.random.split(rng, queries), sides.astype(np.int32)))
    return make_result(best.x, best.fooled, sound)


def transfer(
    f: Classifier,
    x: Float[jax.Array, " batch *entries"],
    y: Integer[jax.Array, " batch"],
    moved: Float[jax.Array, " batch *entries"],
    *,
    bounds: Bounds = (0.0, 1.0),
) -> Evasion:
    """Score inputs moved elsewhere, from x, against `f`: the attacker made them without this `f`.

    Args:
        f: `f(x) -> logits`, `[B, classes]` or `[K, B, classes]`.
        x: Inputs, floats `[B, ...]` within the bounds.
        y: Labels, int `[B]`.
        moved: Inputs made elsewhere from x, of its shape.
        bounds: The least and the largest value of an input.

    Returns:
        The given inputs, and where the classifier withstood them.

    Raises:
        ValueError: For shapes that differ, inputs, labels or bounds that do not fit.
        TypeError: For other dtypes.
    """
    sound = check(f, x, y, bounds[1] - bounds[0], 1, bounds) & in_range(moved, bounds)
    if moved.shape != x.shape:
        raise ValueError(
            f"evasion: inputs moved from {list(x.shape)} have that shape, not {list(moved.shape)}"
        )
    score = make_scorer(f, y, margin)
    return make_result(moved, jnp.maximum(score(moved)[1], score(x)[1]), sound)
