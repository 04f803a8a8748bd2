"""Search of permutations by their score: hill climbing and simulated annealing over swaps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from modellock_jax.attacks._programs import bind
from modellock_jax.attacks.attack import Attack
from modellock_jax.attacks.case import Case, Entry, Found
from modellock_jax.attacks.keys.key_search import CHUNK
from modellock_jax.attacks.keys.search import (
    Search,
    accept,
    best_forward,
    init_search,
    losses_of_keys,
    run_search,
)
from modellock_jax.core.lock import Forward, Lock
from modellock_jax.locks.pixel_shuffle import PixelKey
from modellock_jax.tasks import Task, classify

__all__ = ["ENTRIES", "anneal", "hill_climb"]


def hill_climb(
    lock: Lock,
    forward: Forward,
    *,
    restarts: int = 4,
    swaps: int = 64,
    chunk: int = CHUNK,
    task: Task = classify(),
) -> Attack:
    """Climb over permutations: the best of `swaps` random swaps, if the loss falls.

    `lock` has a `PixelKey`: `pixel_shuffle`, `patch_shuffle`. Steps, info and errors as in
    `coordinate_flips`; a step scores `swaps` + 1 keys for each restart.

    Args:
        lock: `pixel_shuffle` or `patch_shuffle`.
        forward: `forward(params, x, tap)` of the architecture.
        restarts: How many keys are searched side by side, at least 1.
        swaps: How many swaps a step scores, at least 1.
        chunk: How many keys are scored at a time, at least 1.
        task: What the model is for.

    Returns:
        An attack whose `step(state, (x, y))` gives the losses, float32 `[restarts]`.

    Threat model: as for `random_keys`.

    **Guarantees.** On one batch the losses never rise.

    Source: the swap search of AprilPyone & Kiya (2020).
    """
    losses_of = losses_of_keys(lock, forward, chunk, task)
    return _swapping("hill_climb", lock, forward, restarts, swaps, losses_of, lambda steps: 0.0)


def anneal(
    lock: Lock,
    forward: Forward,
    steps: int,
    *,
    hot: float = 0.1,
    cold: float = 1e-3,
    restarts: int = 4,
    swaps: int = 16,
    chunk: int = CHUNK,
    task: Task = classify(),
) -> Attack:
    """Anneal over permutations, with the moves of `hill_climb`.

    The next key is drawn from the present one and `swaps` swaps of it with probability proportional
    to exp(-loss / temperature), Glauber's rule; over `steps` steps the temperature, in units of the
    loss, falls from `hot` to `cold` by equal factors. The rest is as in `hill_climb`, but losses may
    rise; the best key is kept.

    Args:
        lock: `pixel_shuffle` or `patch_shuffle`.
        forward: `forward(params, x, tap)` of the architecture.
        steps: Over how many steps the temperature falls, at least 1.
        hot: The temperature at the start, in units of the loss.
        cold: That at the end, above 0.
        restarts: How many keys are searched side by side, at least 1.
        swaps: How many swaps a step scores, at least 1.
        chunk: How many keys are scored at a time, at least 1.
        task: What the model is for.

    Returns:
        An attack whose `step(state, (x, y))` gives the losses, float32 `[restarts]`.

    Raises:
        ValueError: For settings below 1, or temperatures that are not 0 < cold <= hot.

    Source: Kirkpatrick, Gelatt & Vecchi (1983).
    """
    if steps < 1 or not 0 < cold <= hot:
        raise ValueError(f"anneal: needs steps >= 1, 0 < cold <= hot, not {steps}, {cold}, {hot}")

    def temperature(done: jax.Array) -> jax.Array:
        return hot * (cold / hot) ** (done.astype(jnp.float32) / steps)

    losses_of = losses_of_keys(lock, forward, chunk, task)
    return _swapping("anneal", lock, forward, restarts, swaps, losses_of, temperature)


def _swapping(
    name: str,
    lock: Lock,
    forward: Forward,
    restarts: int,
    swaps: int,
    losses_of: Callable[..., jax.Array],
    temperature: Callable[[jax.Array], Any],
) -> Attack:
    """Both searches over permutations: at temperature zero the best candidate is taken."""
    if swaps < 1:
        raise ValueError(f"{name}: needs at least one swap a step, not {swaps}")

    def swap(order: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        return order.at[first].set(order[second]).at[second].set(order[first])

    def step(state: Search, batch: Any) -> tuple[Search, jax.Array]:
        rng, draw, choose = jax.random.split(state.rng, 3)
        orders = state.keys.permutation
        n = orders.shape[1]
        first, apart = jax.random.randint(
            draw, (2, restarts, swaps), jnp.array([0, 1])[:, None, None], n
        )
        swapped = jax.vmap(jax.vmap(swap, (None, 0, 0)))(orders, first, (first + apart) % n)
        keys = PixelKey(jnp.concatenate([orders[:, None], swapped], 1))
        losses = losses_of(state.locked, keys, *batch)
        t = temperature(state.steps)
        # Gumbel noise makes an argmin a draw; without it the first of equals, the present key, stays.
        noise = jax.random.gumbel(choose, losses.shape, losses.dtype) * t
        choice = jnp.argmin(jnp.where(jnp.isfinite(losses), losses - noise, losses), axis=1)
        return accept(state._replace(rng=rng), keys, losses, choice)

    return Attack(init_search(name, lock, PixelKey, restarts), step, best_forward(lock, forward))


_SHUFFLES = ("pixel_shuffle", "patch_shuffle")


def _some(case: Case, inputs: int) -> tuple[jax.Array, jax.Array]:
    x, y = case.labels
    return x[:inputs], y[:inputs]


def _hill_climb(case: Case, *, steps: int = 30, swaps: int = 63, inputs: int = 100) -> Found | None:
    # With the key itself, the swaps fill 16 chunks.
    make = bind(
        hill_climb, case.lock, case.model.forward, restarts=1, swaps=swaps, chunk=4, task=case.task
    )
    return run_search(case, make, steps, _some(case, inputs))


def _anneal(case: Case, *, steps: int = 120, swaps: int = 15, inputs: int = 100) -> Found | None:
    make = bind(
        anneal,
        case.lock,
        case.model.forward,
        steps,
        restarts=1,
        swaps=swaps,
        chunk=4,
        task=case.task,
    )
    return run_search(case, make, steps, _some(case, inputs))


ENTRIES = (
    Entry("hill_climb", _hill_climb, _SHUFFLES, ("labels",), "key"),
    Entry("anneal", _anneal, _SHUFFLES, ("labels",), "key"),
)
