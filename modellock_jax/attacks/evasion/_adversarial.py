"""What attacks by adversarial inputs share: the result, the losses, the ball, the best so far."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Integer

Classifier = Callable[[jax.Array], jax.Array]
Bounds = tuple[float, float]


class Evasion(NamedTuple):
    """What an attack by adversarial inputs ends with.

    `robust` and `share` are NaN where a compiled program was given inputs, labels or an eps that are
    refused elsewhere.

    Attributes:
        inputs: `[B, ...]`, within the bounds and within eps of the given ones.
        robust: float32 `[B]`, 1 where neither the given input nor this one is misclassified; a share
            where there are several keys.
        share: The mean of `robust`, float32.
    """

    inputs: jax.Array
    robust: jax.Array
    share: jax.Array


class Point(NamedTuple):
    """A batch of inputs on the way, and what the classifier says of each."""

    x: jax.Array
    direction: jax.Array  # sign of the loss's gradient, zero where it is not finite
    loss: jax.Array  # [B]
    fooled: jax.Array  # [B], share of keys


def cross_entropy(
    logits: Float[jax.Array, "batch classes"], y: Integer[jax.Array, " batch"]
) -> Float[jax.Array, " batch"]:
    """Return the cross-entropy of each input: logits `[B, classes]`, labels int `[B]`, `[B]`."""
    true = jax.nn.one_hot(y, logits.shape[-1], dtype=jnp.bool_)
    others = jax.nn.logsumexp(jnp.where(true, -jnp.inf, logits), -1)
    # Exact where the model is sure: of 1 - p(true) in float32 only rounding errors would be left.
    return jax.nn.softplus(others - jnp.take_along_axis(logits, y[:, None], 1)[:, 0])


def with_key_axis(logits: jax.Array) -> jax.Array:
    """Logits `[B, classes]` or `[K, B, classes]` as `[K, B, classes]`."""
    return logits if logits.ndim == 3 else logits[None]


def margin(
    logits: Float[jax.Array, "batch classes"], y: Integer[jax.Array, " batch"]
) -> Float[jax.Array, " batch"]:
    """How far another class leads, `[B]`: above zero where the input is misclassified."""
    true = jax.nn.one_hot(y, logits.shape[-1], dtype=jnp.bool_)
    other = jnp.where(true, -jnp.inf, logits).max(-1)
    return other - jnp.take_along_axis(logits, y[:, None], 1)[:, 0]


def dlr(
    logits: Float[jax.Array, "batch classes"], y: Integer[jax.Array, " batch"]
) -> Float[jax.Array, " batch"]:
    """Return the difference of logits ratio of Croce & Hein (2020), `[B]`: the margin, free of scale."""
    if logits.shape[-1] < 3:
        raise ValueError(
            f"apgd: the dlr loss needs at least 3 classes, not {logits.shape[-1]}; "
            'use loss="cross_entropy"'
        )
    top = lax.top_k(logits, 3)[0]
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


Objective = Callable[[jax.Array, jax.Array], jax.Array]


def make_scorer(
    f: Classifier, y: jax.Array, measure: Objective
) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """`score(x)`: the loss and the share of keys fooled of each input, `[B]` each."""

    def score(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = with_key_axis(f(x))
        right = jnp.isfinite(logits).all(-1) & (logits.argmax(-1).astype(y.dtype) == y[None])
        losses = jax.vmap(measure, (0, None))(logits, y)
        return losses.mean(0), 1 - right.mean(0, dtype=jnp.float32)

    return score


def make_gradient(f: Classifier, y: jax.Array, measure: Objective) -> Callable[[jax.Array], Point]:
    """`evaluate(x)`: the same, and the direction in which the loss rises."""
    score = make_scorer(f, y, measure)

    def total(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        loss, fooled = score(x)
        return loss.sum(), (loss, fooled)

    def evaluate(x: jax.Array) -> Point:
        gradient, found = jax.grad(total, has_aux=True)(x)
        return Point(x, jnp.where(jnp.isfinite(gradient), jnp.sign(gradient), 0), *found)

    return evaluate


def projection(x: jax.Array, eps: Any, bounds: Bounds) -> Callable[[jax.Array], jax.Array]:
    """Return the projection into the bounds and within `eps` of x."""
    low, high = jnp.maximum(x - eps, bounds[0]), jnp.minimum(x + eps, bounds[1])
    return lambda inputs: jnp.clip(inputs, low, high)


def random_starts(
    x: jax.Array, eps: Any, rng: jax.Array | None, restarts: int, bounds: Bounds
) -> jax.Array:
    """Return random points of the ball, `[restarts, B, ...]`, the first by `rng`; without it x."""
    if restarts < 1 or (rng is None and restarts > 1):
        raise ValueError(
            f"evasion: restarts must be at least 1, and 1 without an rng, not {restarts}; give an rng "
            "to start at random points"
        )
    if rng is None:
        return x[None]
    rngs = [rng, *(jax.random.fold_in(rng, i) for i in range(1, restarts))]
    moved = [x + eps * jax.random.uniform(r, x.shape, x.dtype, -1, 1) for r in rngs]
    return jax.vmap(projection(x, eps, bounds))(jnp.stack(moved))


def initial_point(x: jax.Array, fooled: jax.Array) -> Point:
    """Return the given inputs, which any point that fools as many keys replaces."""
    return Point(x, jnp.zeros_like(x), jnp.full(fooled.shape, -jnp.inf), fooled)


def keep_best(new: Point, best: Point) -> Point:
    """For each input the point that fools more keys, then the one of higher loss."""
    level = (new.fooled == best.fooled) & (new.loss > best.loss)
    return select((new.fooled > best.fooled) | level, new, best)


def select(where: jax.Array, new: Point, old: Point) -> Point:
    """For each input `new` where `where` `[B]` says so, else `old`."""
    return jax.tree.map(lambda a, b: jnp.where(broadcast_like(where, a), a, b), new, old)


def broadcast_like(values: jax.Array, leaf: jax.Array) -> jax.Array:
    """Values `[B]` with as many axes as the leaf, to be broadcast."""
    return values.reshape(values.shape + (1,) * (leaf.ndim - 1))


def make_result(inputs: jax.Array, fooled: jax.Array, sound: jax.Array) -> Evasion:
    """Return the result, from the share of keys fooled, `[B]`; NaN unless the input was `sound`."""
    fooled = jnp.where(sound, fooled, jnp.nan)
    return Evasion(inputs, 1 - fooled, (1 - fooled).mean())


def check(
    f: Classifier, x: jax.Array, y: jax.Array, eps: Any, steps: int, bounds: Bounds
) -> jax.Array:
    """Refuse inputs, labels or an `eps` for which there is no robustness to speak of, or no steps.

    Returns whether what cannot be seen while tracing is right too, a bool scalar.
    """
    low, high = bounds
    if not -np.inf < low < high < np.inf:
        raise ValueError(f"evasion: bounds must be (low, high), finite and in order, not {bounds}")
    if x.ndim < 1 or y.shape != x.shape[:1] or not x.size:
        raise ValueError(
            f"evasion: inputs must be [B, ...] and labels [B], not {list(x.shape)} and "
            f"{list(y.shape)}"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating) or not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(
            f"evasion: inputs must be floats in {_format_bounds(bounds)} and labels integers, not "
            f"{x.dtype} and {y.dtype}; divide 8-bit images by 255, take the argmax of one-hot labels"
        )
    if steps < 1:
        raise ValueError(f"evasion: needs at least one step or query, not {steps}")
    logits = jax.eval_shape(f, x)
    if logits.ndim not in (2, 3) or logits.shape[-2] != len(x) or logits.shape[-1] < 2:
        raise ValueError(
            f"evasion: f must give logits [B, classes] or [K, B, classes] of {len(x)} inputs, not "
            f"{list(logits.shape)}"
        )
    classes = logits.shape[-1]
    sound = _holds(
        (y,), lambda y: ((y >= 0) & (y < classes)).all(), f"labels must lie in 0 to {classes - 1}"
    )
    # A curve that is compiled may begin at 0, with the given inputs.
    traced = isinstance(eps, jax.core.Tracer)
    sound &= _holds(
        (eps,),
        lambda e: ((e >= 0) if traced else (e > 0)) & (e <= high - low),
        f"eps must be above 0 and at most {high - low:g}",
    )
    return sound & in_range(x, bounds)


def in_range(x: jax.Array, bounds: Bounds) -> jax.Array:
    """Whether inputs lie within the bounds: outside `eps` and the clipping mean something else."""
    return _holds(
        (x,),
        lambda x: ((x >= bounds[0]) & (x <= bounds[1])).all(),
        f"inputs must lie in {_format_bounds(bounds)}, to which they are clipped: scale them, "
        "and undo that in f, or give other bounds",
    )


def _format_bounds(bounds: Bounds) -> str:
    return f"[{bounds[0]:g}, {bounds[1]:g}]"


def _holds(values: tuple[Any, ...], rule: Callable[..., Any], sentence: str) -> jax.Array:
    if any(isinstance(value, jax.core.Tracer) for value in values):
        return jnp.asarray(rule(*values))
    if not rule(*map(np.asarray, values)).all():
        raise ValueError(f"evasion: {sentence}")
    return jnp.bool_(True)
