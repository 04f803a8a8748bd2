"""Search of sign keys by their score: greedy flips, and a genetic baseline."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

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
from modellock_jax.locks.sign import SignKey, sign_mask
from modellock_jax.tasks import Task, classify

__all__ = ["ENTRIES", "SIGNS", "as_mask", "coordinate_flips", "genetic", "lowest_sets"]


def coordinate_flips(
    lock: Lock,
    forward: Forward,
    *,
    restarts: int = 4,
    chunk: int = CHUNK,
    task: Task = classify(),
) -> Attack:
    """Search sign keys greedily: try every sign negated, then the best 1, 2, 4, ... of them at once.

    `lock` has a `SignKey`: `sign_mask`, `sign_flip`. A step takes `(x, y)`, inputs `[B, ...]` and
    their truths, `Answers` or None, the same at every step or another batch; it scores `bits` keys
    for each restart, takes the best candidate if its loss is lower than the key's on the same
    batch, and gives the losses, float32 `[restarts]`. `forward(state, x)` answers with the best key
    so far.

    Args:
        lock: `sign_mask` or `sign_flip`.
        forward: `forward(params, x, tap)` of the architecture.
        restarts: How many keys are searched side by side, at least 1.
        chunk: How many keys are scored at a time, at least 1.
        task: What the model is for.

    Returns:
        An attack whose `step(state, (x, y))` gives the losses, float32 `[restarts]`.

    Raises:
        TypeError: For another kind of key.
        ValueError: For settings below 1.

    Threat model: as for `random_keys`.

    **Guarantees.** On one batch the losses never rise.
    """
    losses_of = losses_of_keys(lock, forward, chunk, task)

    def step(state: Search, batch: Any) -> tuple[Search, jax.Array]:
        signs = state.keys.signs
        bits = signs.shape[1]
        one_off = signs[:, None] * (1 - 2 * jnp.eye(bits, dtype=signs.dtype))[None]
        tried = losses_of(state.locked, SignKey(one_off), *batch)
        several = jnp.where(lowest_sets(tried), -signs[:, None], signs[:, None])
        losses = losses_of(state.locked, SignKey(several), *batch)
        return accept(state, SignKey(several), losses, jnp.argmin(losses, axis=1))

    return Attack(
        init_search("coordinate_flips", lock, SignKey, restarts), step, best_forward(lock, forward)
    )


def genetic(
    lock: Lock,
    forward: Forward,
    *,
    population: int = 128,
    elite: int = 4,
    mutations: float = 1.0,
    chunk: int = CHUNK,
    task: Task = classify(),
) -> Attack:
    """Search sign keys genetically: tournaments of two, uniform crossover, mutation, an elite.

    A step scores the whole population once and breeds the next; each sign of a child is negated
    with probability `mutations` / bits. The info is the losses, float32 `[population]`; the rest is
    as in `coordinate_flips`.

    Args:
        lock: `sign_mask` or `sign_flip`.
        forward: `forward(params, x, tap)` of the architecture.
        population: How many keys live at a time.
        elite: How many of the best live on, in [1, population).
        mutations: Signs of a child that are negated, on average.
        chunk: How many keys are scored at a time, at least 1.
        task: What the model is for.

    Returns:
        An attack whose `step(state, (x, y))` gives the losses, float32 `[population]`.

    Raises:
        ValueError: For an `elite` out of range, or other settings below 1.

    Threat model: as for `random_keys`.

    **Guarantees.** On one batch the best loss never rises, for the `elite` best keys live on.

    Source: the genetic attack that NN-Lock's authors (2022) ran against sign masks.
    """
    if not 1 <= elite < population:
        raise ValueError(f"genetic: elite must be in [1, population), not {elite}, {population}")
    losses_of = losses_of_keys(lock, forward, chunk, task)

    def step(state: Search, batch: Any) -> tuple[Search, jax.Array]:
        signs = state.keys.signs
        losses = losses_of(state.locked, SignKey(signs[None]), *batch)[0]
        state, info = accept(state, state.keys, losses, None)
        rng, draw, cross, mutate = jax.random.split(state.rng, 4)
        order = signs[jnp.argsort(losses)]
        # In the sorted population the winner of a tournament is the lower index.
        rivals = jax.random.randint(draw, (2, population - elite, 2), 0, population)
        mother, father = order[rivals.min(-1)]
        children = jnp.where(jax.random.bernoulli(cross, shape=mother.shape), mother, father)
        flips = jax.random.bernoulli(mutate, mutations / signs.shape[1], children.shape)
        children = jnp.where(flips, -children, children)
        keys = SignKey(jnp.concatenate([order[:elite], children]))
        return state._replace(keys=keys, rng=rng), info

    return Attack(
        init_search("genetic", lock, SignKey, population), step, best_forward(lock, forward)
    )


def lowest_sets(
    scores: Float[jax.Array, "restarts bits"],
) -> Bool[jax.Array, "restarts sets bits"]:
    """Return the sets of the 0, 1, 2, 4, ... lowest scores `[R, bits]`, as bool `[R, sets, bits]`.

    Args:
        scores: float `[R, bits]`.

    Returns:
        bool `[R, sets, bits]`, from the empty set to the largest.
    """
    rank = jnp.argsort(jnp.argsort(scores, axis=1), axis=1)
    counts = jnp.asarray([0, *(2**i for i in range(scores.shape[1].bit_length()))])
    return rank[:, None, :] < counts[None, :, None]


SIGNS = ("sign_mask", "sign_flip")


def as_mask(case: Case) -> tuple[Lock, int]:
    """Return a sign lock as a mask with a gradient, and its bits: `sign_flip` is its own twin.

    Args:
        case: What the attacker has, of a sign lock.

    Returns:
        The mask, and the length of its key.
    """
    bits = case.settings.get("bits", 256)
    return (case.lock if case.scheme == "sign_mask" else _mask(bits)), bits


_mask = lru_cache(maxsize=8)(sign_mask)  # the same one again, so that programs are found again


def _coordinate_flips(case: Case, *, steps: int = 10, **settings: Any) -> Found | None:
    make = bind(coordinate_flips, as_mask(case)[0], case.model.forward, task=case.task, **settings)
    return run_search(case, make, steps, case.labels)


def _genetic(case: Case, *, steps: int = 60, **settings: Any) -> Found | None:
    make = bind(genetic, as_mask(case)[0], case.model.forward, task=case.task, **settings)
    return run_search(case, make, steps, case.labels)


ENTRIES = (
    Entry("coordinate_flips", _coordinate_flips, SIGNS, ("labels",), "key"),
    Entry("genetic", _genetic, SIGNS, ("labels",), "key"),
)
