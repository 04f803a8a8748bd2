"""Gradient descent on the key itself: a discrete key made continuous, and rounded at the end."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from modellock_jax.attacks.attack import Attack
from modellock_jax.attacks.keys.key_search import key_loss
from modellock_jax.core.lock import Forward, Key, Lock, Params, user_forward
from modellock_jax.locks.sign import SignKey

Theta = Any


class Relaxation(NamedTuple):
    """A key space made continuous: `theta` are the numbers that the gradient moves.

    `init(rng) -> theta`; `soft(theta, rng, done) -> key` with a gradient, `done` in [0, 1] being how
    much of the descent is over; `hard(theta) -> key`, a key of the lock's own kind. `lock` takes the
    soft keys.
    """

    lock: Lock
    init: Callable[[jax.Array], Theta]
    soft: Callable[[Theta, jax.Array, jax.Array], Key]
    hard: Callable[[Theta], Key]


class Relaxed(NamedTuple):
    """A descent on its way: `theta`, a tree `[restarts, ...]`; their `losses`, running means, float32
    `[restarts]`; the optimiser's state; steps made, int32; the locked parameters; the generator."""

    theta: Theta
    losses: jax.Array
    opt_state: Any
    steps: jax.Array
    locked: Params
    rng: jax.Array


def relaxed_signs(lock: Lock, bits: int) -> Relaxation:
    """Sign keys: theta, float32 `[bits]`, counts as its sign forwards and as its tanh backwards.

    For locks with a differentiable `SignKey`: `sign_mask(bits)`, and in its place for `sign_flip`
    (leave the weights locked: the mask negates what the lock negated).

    **Guarantees.** The loss that is descended is that of a real key. With tanh in both directions
    the descent settles on keys of fractions, whose rounding is worth little: of 32 restarts on the
    study's CNN 3 came near the right key, and all 32 this way.

    Source: straight-through estimation, Bengio et al. (2013); tanh as in LLA (2026).
    """

    def init(rng: jax.Array) -> jax.Array:
        return 0.1 * jax.random.normal(rng, (bits,))

    def soft(theta: jax.Array, rng: jax.Array, done: jax.Array) -> SignKey:
        smooth = jnp.tanh(theta)
        return SignKey(smooth + lax.stop_gradient(jnp.where(theta < 0, -1, 1) - smooth))

    def hard(theta: jax.Array) -> SignKey:
        return SignKey(jnp.where(theta < 0, -1, 1).astype(jnp.int8))

    return Relaxation(lock, init, soft, hard)


def relaxed_key(
    relaxation: Relaxation,
    forward: Forward,
    steps: int,
    *,
    restarts: int = 8,
    learning_rate: float = 0.1,
) -> Attack:
    """Recover a key by Adam on a relaxation of it, from `restarts` random starts at once.

    A step takes `(x, y)`: images `[B, H, W, C]` and what is known of them, see `key_loss`: labels, the
    unlocked model's logits, or None. It gives the losses, float32 `[restarts]`. Give it few images
    in random shifts and many in random batches; a learning rate falls by a cosine over `steps`.
    `forward(state, x)` answers under the key of the restart whose running loss is lowest, which is
    also `best_key(relaxation, state)`. Raises `ValueError` for settings below 1.

    Threat model: the attacker has the locked weights, the scheme and a few images of the right kind;
    with logits for `y`, a device that has the key.

    **Guarantees.** Restarts are chosen by the images given, and by nothing else. The answer is that
    of a key of the lock's own kind, never of a relaxed one.

    Source: gradients on the key as in LLA (2026) and Li et al. (2024).

    >>> import jax, modellock_jax as ml
    >>> from modellock_jax.attacks import run
    >>> def forward(params, x, tap=ml.untapped):
    ...     return tap("dense", x @ params)
    >>> relaxation = relaxed_signs(ml.sign_mask(bits=3), bits=3)
    >>> attack = relaxed_key(relaxation, forward, steps=30, restarts=2)
    >>> x, y = jax.numpy.eye(3), jax.numpy.arange(3)
    >>> params = jax.numpy.diag(jax.numpy.array([4.0, -4.0, 4.0]))
    >>> batches = jax.tree.map(lambda a: jax.numpy.stack([a] * 30), (x, y))
    >>> state, losses = run(attack, attack.init(jax.random.key(0), params), batches)
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
            return key_loss(user(relaxation.soft(theta, rng, done), state.locked, x), y)

        losses, gradient = jax.vmap(jax.value_and_grad(loss))(
            state.theta, jax.random.split(draw, restarts)
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state)
        # The mean over about the last 20 batches, unbiased while there are fewer.
        weight = jnp.maximum(0.05, 1 / (state.steps + 1))
        running = state.losses + weight * (losses - state.losses)
        theta = optax.apply_updates(state.theta, updates)
        return Relaxed(theta, running, opt_state, state.steps + 1, state.locked, rng), losses

    def answer(state: Relaxed, x: jax.Array) -> jax.Array:
        return user(best_key(relaxation, state), state.locked, x)

    return Attack(init, step, answer)


def best_key(relaxation: Relaxation, state: Relaxed) -> Key:
    """The rounded key of the restart whose running loss is lowest."""
    best = jnp.argmin(state.losses)
    return relaxation.hard(jax.tree.map(lambda leaf: leaf[best], state.theta))
