"""Fine-tuning, swept: what the thief's own data chooses among settings and stops, and his control."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from modellock_jax.attacks.attack import run
from modellock_jax.attacks.weights.fine_tune import Variant, fine_tune
from modellock_jax.core.lock import Params
from modellock_jax.models import Model
from modellock_jax.train import random_shift

RATES: dict[str, tuple[float, ...]] = {"adam": (3e-4, 1e-3, 5e-3), "sgd": (0.01, 0.03, 0.1)}
OPTIMIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "adam": optax.adam,
    "sgd": functools.partial(optax.sgd, momentum=0.9),
}
HELD = 5  # every fifth of the thief's images is held out


class Trial(NamedTuple):
    """One setting's run: `params` before it and at every stop, a tree `[1 + stops, ...]`; their
    `accuracy` and `loss` on the images that the thief held out, float32 `[1 + stops]`."""

    params: Params
    accuracy: jax.Array
    loss: jax.Array


def trial(
    model: Model,
    image_shape: tuple[int, ...],
    variant: Variant = "all",
    optimizer: str = "adam",
    *,
    steps: int = 300,
    batch_size: int = 32,
    stops: int = 6,
) -> Callable[..., Trial]:
    """`f(rng, locked, rate, x, y, size) -> Trial`: `fine_tune` with one setting, watched on the way.

    The thief owns the first `size` >= 2 of the images x `[N, H, W, C]` and labels y int32 `[N]`, and
    keeps the first fifth of them for `accuracy` and `loss`. Batches are drawn with replacement from the
    rest, in random shifts. `rate` and `size` may be traced, so that one program serves all budgets;
    `vmap` it over `rng`, models, rates and data. Raises `ValueError` for an unknown optimiser or
    variant, or stops that do not divide the steps.
    """
    if optimizer not in OPTIMIZERS or stops < 1 or steps % stops:
        raise ValueError(
            f"trial: needs one of {', '.join(OPTIMIZERS)} and steps that are a multiple of stops, "
            f"not {optimizer!r}, {steps}, {stops}"
        )

    def one(
        rng: jax.Array, locked: Params, rate: Any, x: jax.Array, y: jax.Array, size: Any
    ) -> Trial:
        attack = fine_tune(model, rate, image_shape, variant, OPTIMIZERS[optimizer])
        start, order, noise = jax.random.split(rng, 3)
        held = jnp.maximum(1, size // HELD)
        shape = (stops, steps // stops, batch_size)
        index = jax.random.randint(order, shape, held, size)
        shifts = jax.random.split(noise, shape[:2])
        kept = slice(max(1, len(x) // HELD))
        counts = jnp.arange(kept.stop) < held

        def look(params: Params) -> Trial:
            logits = model.forward(params, x[kept])
            right = (logits.argmax(-1).astype(y.dtype) == y[kept]) & jnp.isfinite(logits).all(-1)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, y[kept])
            accuracy = jnp.mean(right, where=counts, dtype=jnp.float32)
            return Trial(params, accuracy, jnp.mean(loss, where=counts))

        def stretch(state: Any, at: Any) -> tuple[Any, Trial]:
            index, shifts = at
            images = jax.vmap(random_shift)(shifts, x[index])
            state, _ = run(attack, state, (images, y[index]))
            return state, look(state[0])

        first = attack.init(start, locked)
        rest = lax.scan(stretch, first, (index, shifts))[1]
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), look(first[0]), rest)

    return one


def best_so_far(accuracy: jax.Array, loss: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the thief holds after each stop: `(setting, stop)`, each int32 `[stops]`.

    `accuracy` and `loss`, float32 `[settings, stops]`, of images that choose. The highest accuracy
    of all settings up to that stop, of equals the one with the lowest loss, and of those the first;
    a loss that is not finite comes last.

    >>> import jax.numpy as jnp
    >>> accuracy = jnp.array([[0.5, 0.5, 0.9], [0.5, 0.6, 0.7]])
    >>> [v.tolist() for v in best_so_far(accuracy, jnp.array([[2.0, 1, 1], [1.0, 1, 1]]))]
    [[1, 1, 0], [0, 1, 2]]
    """
    loss = jnp.where(jnp.isfinite(loss), loss, jnp.inf)
    # Stop by stop, so that of equals the earlier one comes first.
    order = jnp.lexsort((loss.T.ravel(), -accuracy.T.ravel()))
    rank = jnp.argsort(order).astype(jnp.int32).reshape(accuracy.T.shape)
    first = order[lax.cummin(rank.min(1))].astype(jnp.int32)
    return first % accuracy.shape[0], first // accuracy.shape[0]
