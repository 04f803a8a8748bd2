"""Fine-tuning, swept: what the thief's own data chooses among settings and stops, and the control."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Float, Int

from modellock_jax.attacks.attack import run_batches
from modellock_jax.attacks.weights.fine_tune import Variant, fine_tune
from modellock_jax.core.lock import Params
from modellock_jax.models import Model
from modellock_jax.tasks import Task, classify

__all__ = ["OPTIMIZERS", "RATES", "Trial", "best_so_far", "trial"]

RATES: dict[str, tuple[float, ...]] = {"adam": (3e-4, 1e-3, 5e-3), "sgd": (0.01, 0.03, 0.1)}
OPTIMIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "adam": optax.adam,
    "sgd": functools.partial(optax.sgd, momentum=0.9),
}
_HOLD_OUT = 5  # every fifth of the thief's inputs is held out


class Trial(NamedTuple):
    """One setting, tried.

    Attributes:
        params: Those before it and at every stop, a tree `[1 + stops, ...]`.
        value: Theirs on the inputs that the thief held out, in the task's unit, float32 `[1 + stops]`.
        loss: Theirs there, float32 `[1 + stops]`.
    """

    params: Params
    value: jax.Array
    loss: jax.Array


def trial(
    model: Model,
    example: Any,
    variant: Variant = "all",
    optimizer: str = "adam",
    *,
    steps: int = 300,
    batch_size: int = 32,
    stops: int = 6,
    task: Task = classify(),
) -> Callable[..., Trial]:
    """`f(rng, locked, rate, x, y, size) -> Trial`: `fine_tune` with one setting, watched on the way.

    The thief owns the first `size` >= 2 of the inputs x and truths y, `[N, ...]`, and keeps the
    first fifth of them for `value` and `loss`. Batches are drawn with replacement from the rest,
    augmented as the task says; `example` is that of `fine_tune`. `rate` and `size` may be traced,
    so that one program serves all budgets; `vmap` it over `rng`, models, rates and data.

    Args:
        model: The architecture.
        example: Inputs `[B, ...]`, of which only shapes and dtypes count.
        variant: As in `fine_tune`.
        optimizer: Its name, of `OPTIMIZERS`.
        steps: How many batches, at least 1.
        batch_size: Entries of a batch, at least 1.
        stops: How often the thief looks, a divisor of `steps`.
        task: What the model is for.

    Returns:
        `f(rng, locked, rate, x, y, size) -> Trial`.

    Raises:
        ValueError: For an unknown optimiser or variant, or stops that do not divide the steps.
    """
    if optimizer not in OPTIMIZERS or stops < 1 or steps % stops:
        raise ValueError(
            f"trial: needs one of {', '.join(OPTIMIZERS)} and steps that are a multiple of stops, "
            f"not {optimizer!r}, {steps}, {stops}"
        )

    def one(rng: jax.Array, locked: Params, rate: Any, x: Any, y: Any, size: Any) -> Trial:
        attack = fine_tune(model, rate, example, variant, OPTIMIZERS[optimizer], task)
        start, order, noise = jax.random.split(rng, 3)
        held = jnp.maximum(1, size // _HOLD_OUT)
        shape = (stops, steps // stops, batch_size)
        index = jax.random.randint(order, shape, held, size)
        noise = jax.random.split(noise, shape[:2])
        most = max(1, len(jax.tree.leaves(x)[0]) // _HOLD_OUT)
        kept_x, kept_y = jax.tree.map(lambda a: a[:most], (x, y))
        counts = jnp.arange(most) < held

        def look(params: Params) -> Trial:
            out = model.forward(params, kept_x)
            loss = jnp.mean(task.loss(out, kept_y), where=counts)
            return Trial(params, task.value(_tally(task, out, kept_y, counts)), loss)

        def stretch(state: Any, at: Any) -> tuple[Any, Trial]:
            index, noise = at
            inputs, truths = jax.tree.map(lambda a: a[index], (x, y))
            state, _ = run_batches(attack, state, (jax.vmap(task.augment)(noise, inputs), truths))
            return state, look(state[0])

        first = attack.init(start, locked)
        rest = lax.scan(stretch, first, (index, noise))[1]
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), look(first[0]), rest)

    return one


def _tally(task: Task, out: Any, y: Any, counts: jax.Array) -> Any:
    """Return the tally of the examples that count, bool `[B]`, whose number may be traced."""

    def one(out: Any, y: Any) -> Any:
        return task.tally(*jax.tree.map(lambda a: a[None], (out, y)))

    def total(of_each: jax.Array) -> jax.Array:
        mine = counts.reshape(-1, *(1,) * (of_each.ndim - 1))
        return jnp.where(mine, of_each, 0).sum(0, dtype=of_each.dtype)

    return jax.tree.map(total, jax.vmap(one)(out, y))


def best_so_far(
    merit: Float[jax.Array, "settings stops"], loss: Float[jax.Array, "settings stops"]
) -> tuple[Int[jax.Array, " stops"], Int[jax.Array, " stops"]]:
    """Return what the thief holds after each stop.

    The highest merit of all settings up to that stop, of equals the one with the lowest loss, and of
    those the first; a loss that is not finite comes last.

    Args:
        merit: Of inputs that choose (see `tasks.merit`), float32 `[settings, stops]`.
        loss: Of the same inputs, float32 `[settings, stops]`.

    Returns:
        The setting and the stop, each int32 `[stops]`.
    """
    loss = jnp.where(jnp.isfinite(loss), loss, jnp.inf)
    # Stop by stop, so that of equals the earlier one comes first.
    order = jnp.lexsort((loss.T.ravel(), -merit.T.ravel()))
    rank = jnp.argsort(order).astype(jnp.int32).reshape(merit.T.shape)
    first = order[lax.cummin(rank.min(1))].astype(jnp.int32)
    return first % merit.shape[0], first // merit.shape[0]
