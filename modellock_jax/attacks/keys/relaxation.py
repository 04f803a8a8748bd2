"""Key spaces made continuous: signs as numbers, shuffles as doubly stochastic matrices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax.assignment
from jax import lax

from modellock_jax.attacks.keys.signs_from_weights import SignReading
from modellock_jax.core.lock import Key, Lock
from modellock_jax.locks.pixel_shuffle import PixelKey, pixel_shuffle
from modellock_jax.locks.sign import SignKey

__all__ = ["Relaxation", "Theta", "relaxed_permutation", "relaxed_signs"]

_ROUNDS = 20  # of Sinkhorn's scaling, from which float32 gains no more at these temperatures
_HOT, _COLD = 1.0, 0.1  # the temperature at the start and at the end
_ODDS = 3.0


Theta = Any


def _none(key: Key) -> jax.Array:
    return jnp.float32(0)


class Relaxation(NamedTuple):
    """A key space made continuous: `theta` are the numbers that the gradient moves.

    `init(rng) -> theta`; `soft(theta, rng, done) -> key` with a gradient, `done` in [0, 1] being how
    much of the descent is over; `hard(theta) -> key`, a key of the lock's own kind. `lock` takes the
    soft keys. `penalty(key) -> scalar`, what speaks against a key, soft or hard, beside the inputs.
    """

    lock: Lock
    init: Callable[[jax.Array], Theta]
    soft: Callable[[Theta, jax.Array, jax.Array], Key]
    hard: Callable[[Theta], Key]
    penalty: Callable[[Key], jax.Array] = _none


def relaxed_signs(
    lock: Lock, bits: int, prior: SignReading | None = None, inputs: int | None = None
) -> Relaxation:
    """Relax sign keys: theta, float32 `[bits]`, counts as its sign forwards and as its tanh backwards.

    For locks with a differentiable `SignKey`: `sign_mask(bits)`, and in its place for `sign_flip`
    (leave the weights locked: the mask negates what the lock negated).

    Args:
        lock: A lock with a differentiable `SignKey`: `sign_mask(bits)`.
        bits: The length of the key, at least 1.
        prior: What the weights say of the key, on the side that it is believed to be. Starts are then
            that, each sign as far from 0 as it is sure, and little else; a learning rate of 0.02
            leaves the surest where they are.
        inputs: How many labelled inputs the descent sees, at least 1: the fewer, the more a sign that
            differs from the prior costs. None where the prior is a start and no more.

    Returns:
        The key space made continuous, for `relaxed_key`.

    **Guarantees.** The loss that is descended is that of a real key. With tanh in both directions
    the descent settles on keys of fractions, whose rounding is worth little: of 32 restarts on the
    study's CNN 3 came near the right key, and all 32 this way.

    Source: straight-through estimation, Bengio et al. (2013); tanh as in LLA (2026).
    """
    believed = jnp.zeros(bits, jnp.float32) if prior is None else _believed(prior)

    def init(rng: jax.Array) -> jax.Array:
        return believed + 0.1 * jax.random.normal(rng, (bits,))

    def penalty(key: SignKey) -> jax.Array:
        # Of a sign as sure as the median the log-odds are `_ODDS`: the descent is on a posterior.
        against = (jnp.abs(believed) - believed * key.signs) / 2
        return _ODDS * against.sum() / inputs if inputs else jnp.float32(0)

    def soft(theta: jax.Array, rng: jax.Array, done: jax.Array) -> SignKey:
        smooth = jnp.tanh(theta)
        return SignKey(smooth + lax.stop_gradient(jnp.where(theta < 0, -1, 1) - smooth))

    def hard(theta: jax.Array) -> SignKey:
        return SignKey(jnp.where(theta < 0, -1, 1).astype(jnp.int8))

    return Relaxation(lock, init, soft, hard, penalty)


def _believed(prior: SignReading) -> jax.Array:
    """Return signs, each as large as it is sure beside the median one, and at most 2."""
    known = jnp.where(prior.certainty > 0, prior.certainty, jnp.nan)
    sure = prior.certainty / jnp.nanmedian(known)
    return prior.signs.astype(jnp.float32) * jnp.minimum(sure, 2)


def relaxed_permutation(block: int, channels: int = 3) -> Relaxation:
    """Relax the keys of `pixel_shuffle(block, channels)`: theta, float32 `[n, n]` for n entries a block.

    A soft key is a `PixelKey` whose permutation is a matrix `[n, n]`, Sinkhorn's scaling of
    exp((theta + Gumbel noise) / temperature); the noise fades and the temperature falls from 1 to
    0.1. The rounded key is the assignment of largest theta (the Hungarian algorithm of optax).

    Args:
        block: The side of a block, which divides H and W.
        channels: C, at least 1.

    Returns:
        The key space made continuous, for `relaxed_key`.

    Raises:
        ValueError: As `pixel_shuffle` does.

    **Guarantees.** Rounded keys are permutations. The loss that is descended is that of images mixed
    by a noisy matrix, and so only a guide to the rounded key's.

    Source: Mena et al. (2018), Gumbel-Sinkhorn.

    >>> import jax, jax.numpy as jnp
    >>> relaxation = relaxed_permutation(2, channels=1)
    >>> theta = 9.0 * jnp.eye(4)[jnp.array([3, 1, 2, 0])]
    >>> relaxation.hard(theta).permutation.tolist()
    [3, 1, 2, 0]
    >>> relaxation.soft(theta, jax.random.key(0), jnp.float32(1)).permutation.round(2).tolist()[0]
    [0.0, 0.0, 0.0, 1.0]
    """
    lock, n = pixel_shuffle(block, channels), block * block * channels

    def init(rng: jax.Array) -> jax.Array:
        return 0.01 * jax.random.normal(rng, (n, n))

    def soft(theta: jax.Array, rng: jax.Array, done: jax.Array) -> PixelKey:
        temperature = _HOT * (_COLD / _HOT) ** done
        noisy = theta + (1 - done) * jax.random.gumbel(rng, theta.shape)
        return PixelKey(_doubly_stochastic(noisy / temperature))

    def hard(theta: jax.Array) -> PixelKey:
        rows, columns = optax.assignment.hungarian_algorithm(-theta)
        return PixelKey(jnp.zeros(n, jnp.int32).at[rows].set(columns.astype(jnp.int32)))

    def scramble(key: Key, x: jax.Array) -> jax.Array:
        if key.permutation.ndim == 1:
            return lock.scramble(key, x)
        height, width = x.shape[-3] // block, x.shape[-2] // block
        parts = x.reshape(-1, height, block, width, block, channels).swapaxes(2, 3)
        mixed = parts.reshape(-1, n) @ key.permutation.T
        mixed = mixed.reshape(-1, height, width, block, block, channels).swapaxes(2, 3)
        return mixed.reshape(x.shape)

    return Relaxation(Lock(lock.init, scramble=scramble), init, soft, hard)


def _doubly_stochastic(logits: jax.Array) -> jax.Array:
    """Scale exp(logits) `[n, n]` until its rows and columns sum to 1, the columns last."""
    # After one round in logarithms no sum is small, and the others need no more than products.
    once = jax.nn.log_softmax(jax.nn.log_softmax(logits, 1), 0)
    p = jnp.exp(once)

    def scale(columns: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        rows = 1 / (p @ columns)
        return 1 / (rows @ p), rows

    columns, rows = lax.scan(scale, jnp.ones(len(p), p.dtype), length=_ROUNDS - 1)
    return rows[-1][:, None] * p * columns[None]
