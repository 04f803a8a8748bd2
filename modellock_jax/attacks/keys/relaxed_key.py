"""Gradient descent on the key itself: a discrete key made continuous, and rounded at the end."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from modellock_jax.attacks._programs import bind, compiled
from modellock_jax.attacks.attack import Attack, run_shuffled
from modellock_jax.attacks.case import Case, Entry, Found, with_key
from modellock_jax.attacks.keys.key_search import key_loss
from modellock_jax.attacks.keys.relaxation import (
    Relaxation,
    Theta,
    relaxed_permutation,
    relaxed_signs,
)
from modellock_jax.attacks.keys.relaxed_values import relaxed_ffx, relaxed_negative
from modellock_jax.attacks.keys.sign_algebra import correct_signs
from modellock_jax.attacks.keys.sign_search import SIGNS, as_mask
from modellock_jax.attacks.keys.signs_from_weights import SignReading
from modellock_jax.attacks.keys.signs_of_model import reading_of
from modellock_jax.core.lock import Forward, Key, Params, user_forward
from modellock_jax.locks.sign import SignKey
from modellock_jax.tasks import Task, classify

__all__ = ["ENTRIES", "RELAXED", "Relaxed", "best_key", "key_by_labels", "relaxed_key"]


class Relaxed(NamedTuple):
    """A descent on its way.

    Attributes:
        theta: A tree `[restarts, ...]`.
        losses: Running means, float32 `[restarts]`.
        opt_state: The optimiser's state.
        steps: How many were made, int32.
        locked: The locked parameters.
        rng: The generator.
    """

    theta: Theta
    losses: jax.Array
    opt_state: Any
    steps: jax.Array
    locked: Params
    rng: jax.Array


def relaxed_key(
    relaxation: Relaxation,
    forward: Forward,
    steps: int,
    *,
    restarts: int = 8,
    learning_rate: float = 0.1,
    task: Task = classify(),
) -> Attack:
    """Recover a key by Adam on a relaxation of it, from `restarts` random starts at once.

    A step takes `(x, y)`: inputs `[B, ...]` and what is known of them, see `key_loss`: truths, the
    unlocked model's `Answers`, or None. It gives the losses, float32 `[restarts]`. Give it few
    inputs augmented and many in random batches; a learning rate falls by a cosine over `steps`.
    `forward(state, x)` answers under the key of the restart whose running loss is lowest, which is
    also `best_key(relaxation, state)`.

    Args:
        relaxation: A key space made continuous.
        forward: `forward(params, x, tap)` of the architecture.
        steps: Over how many steps the learning rate falls by a cosine, at least 1.
        restarts: How many random starts, at least 1.
        learning_rate: That of the first step.
        task: What the model is for.

    Returns:
        An attack whose `step(state, (x, y))` gives the losses, float32 `[restarts]`.

    Raises:
        ValueError: For settings below 1.

    Threat model: the attacker has the locked weights, the scheme and a few inputs of the right kind;
    with `Answers` for `y`, a device that has the key.

    **Guarantees.** Restarts are chosen by the inputs given, and by nothing else. The answer is that
    of a key of the lock's own kind, never of a relaxed one.

    Source: gradients on the key as in LLA (2026) and Li et al. (2024).

    >>> import jax, modellock_jax as ml
    >>> from modellock_jax.attacks import run_batches
    >>> def forward(params, x, tap=ml.untapped):
    ...     return tap("dense", x @ params)
    >>> relaxation = relaxed_signs(ml.sign_mask(bits=3), bits=3)
    >>> attack = relaxed_key(relaxation, forward, steps=30, restarts=2)
    >>> x, y = jax.numpy.eye(3), jax.numpy.arange(3)
    >>> params = jax.numpy.diag(jax.numpy.array([4.0, -4.0, 4.0]))
    >>> batches = jax.tree.map(lambda a: jax.numpy.stack([a] * 30), (x, y))
    >>> state, losses = run_batches(attack, attack.init(jax.random.key(0), params), batches)
    >>> best_key(relaxation, state).signs.tolist()
    [1, -1, 1]
    """
    if min(steps, restarts) < 1:
        raise ValueError(
            f"relaxed_key: steps and restarts must be at least 1, not {steps}, {restarts}"
        )
    user = user_forward(relaxation.lock, forward)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def init(rng: jax.Array, locked: Params) -> Relaxed:
        rng, draw = jax.random.split(rng)
        theta = jax.vmap(relaxation.init)(jax.random.split(draw, restarts))
        losses = jnp.zeros(restarts, jnp.float32)
        return Relaxed(theta, losses, optimizer.init(theta), jnp.int32(0), locked, rng)

    def step(state: Relaxed, batch: Any) -> tuple[Relaxed, jax.Array]:
        x, y = batch
        rng, draw = jax.random.split(state.rng)
        done = state.steps / steps

        def loss(theta: Theta, rng: jax.Array) -> jax.Array:
            key = relaxation.soft(theta, rng, done)
            return key_loss(user(key, state.locked, x), y, task) + relaxation.penalty(key)

        losses, gradient = jax.vmap(jax.value_and_grad(loss))(
            state.theta, jax.random.split(draw, restarts)
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state)
        # The mean over about the last 20 batches, unbiased while there are fewer.
        weight = jnp.maximum(0.05, 1 / (state.steps + 1))
        running = state.losses + weight * (losses - state.losses)
        theta = optax.apply_updates(state.theta, updates)
        return Relaxed(theta, running, opt_state, state.steps + 1, state.locked, rng), losses

    def answer(state: Relaxed, x: Any) -> Any:
        return user(best_key(relaxation, state), state.locked, x)

    return Attack(init, step, answer)


def best_key(relaxation: Relaxation, state: Relaxed) -> Key:
    """Return the rounded key of the restart whose running loss is lowest.

    Args:
        relaxation: A key space made continuous.
        state: A state of `relaxed_key`.

    Returns:
        A key of the lock.
    """
    best = jnp.argmin(state.losses)
    return relaxation.hard(jax.tree.map(lambda leaf: leaf[best], state.theta))


def key_by_labels(case: Case, **settings: int) -> Found | None:
    """Run `relaxed_key` on all labels that an attacker has.

    Args:
        case: What the attacker has, `labels` among it.
        **settings: `steps`, `restarts` and `batch_size`, at least 1.

    Returns:
        The key found, and the user's forward with it.
    """
    return _descend(case, *case.labels, **settings)


def _relaxed_key_unlabelled(case: Case, **settings: int) -> Found | None:
    return _descend(case, case.unlabelled, None, **settings)


def _descend(
    case: Case, x: Any, y: Any, *, steps: int = 400, restarts: int = 8, batch_size: int = 64
) -> Found | None:
    signs, settings = case.scheme in SIGNS, {"steps": steps, "batch_size": batch_size}
    program = compiled(
        bind(
            _descended, _space(case, None if y is None else len(x)), case.model.forward, case.task,
            signs, restarts=restarts, **settings,
        )
    )  # fmt: skip
    return with_key(case, program(case.rng, case.locked, _reading(case, x, y), x, y))


def _descended(
    space: Callable[..., Relaxation],
    forward: Forward,
    task: Task,
    signs: bool,
    rng: jax.Array,
    locked: Params,
    reading: SignReading | None,
    x: jax.Array,
    y: jax.Array | None,
    *,
    steps: int,
    restarts: int,
    batch_size: int,
) -> Key:
    relaxation = space(reading) if signs else space()
    rate = 0.1 if reading is None else 0.02
    attack = relaxed_key(
        relaxation, forward, steps, restarts=restarts, learning_rate=rate, task=task
    )
    start, order = jax.random.split(rng)
    state, _ = run_shuffled(
        attack, attack.init(start, locked), x, y, order,
        steps=steps, batch_size=min(batch_size, len(x)), augment=task.augment,
    )  # fmt: skip
    key = best_key(relaxation, state)
    if not signs or y is None:
        return key
    mended = correct_signs(relaxation.lock, forward, locked, key, x, y, task).best
    if reading is None:
        return mended

    def against(key: Key) -> jax.Array:
        out = user_forward(relaxation.lock, forward)(key, locked, x)
        return key_loss(out, y, task) + relaxation.penalty(key)

    # Few labels alone say less than the weights do.
    better = against(mended) < against(key)
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), mended, key)


def _reading(case: Case, x: Any, y: Any) -> SignReading | None:
    """Return what the weights say of a sign key; where there are labels these choose its side."""
    reading = reading_of(case) if case.scheme in SIGNS else None
    if reading is None or y is None:
        return reading
    user = user_forward(as_mask(case)[0], case.model.forward)
    sides = [
        key_loss(user(SignKey(signs), case.locked, x), y, case.task)
        for signs in (reading.signs, -reading.signs)
    ]
    return reading if sides[0] <= sides[1] else reading._replace(signs=-reading.signs)


def _space(case: Case, inputs: int | None) -> Callable[..., Relaxation]:
    """Return what makes the key space of a case's lock continuous; of signs, given their reading."""
    if case.scheme in SIGNS:
        return bind(relaxed_signs, *as_mask(case), inputs=inputs)
    block = case.settings["patch" if case.scheme == "patch_shuffle" else "block"]
    return bind(_BLOCKS[case.scheme], block, case.settings["channels"])


_BLOCKS = {
    "pixel_shuffle": relaxed_permutation,
    # The weights stay locked: its twin undoes on inputs what it did to rows.
    "patch_shuffle": relaxed_permutation,
    "negative_positive": relaxed_negative,
    "ffx": relaxed_ffx,
}
RELAXED = (*SIGNS, *_BLOCKS)
"""The schemes whose key spaces are made continuous here."""

ENTRIES = (
    Entry("relaxed_key", key_by_labels, RELAXED, ("labels",), "key"),
    Entry("relaxed_key_unlabelled", _relaxed_key_unlabelled, RELAXED, ("unlabelled",), "key"),
)
