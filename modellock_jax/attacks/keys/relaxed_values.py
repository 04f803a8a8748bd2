"""Key spaces made continuous, of the transforms of values: `negative_positive` and `ffx`."""

import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax.attacks.keys.relaxation import Relaxation, Theta
from modellock_jax.core.lock import Key, Lock
from modellock_jax.locks._blocks import tile
from modellock_jax.locks.ffx import FfxKey, ffx
from modellock_jax.locks.negative_positive import NegativeKey, negative_positive

__all__ = ["relaxed_ffx", "relaxed_negative"]


def relaxed_negative(block: int, channels: int = 3) -> Relaxation:
    """Relax the keys of `negative_positive(block, channels)`: theta, float32 `[n]`, n entries a block.

    The half of the entries with the largest theta counts as negative forwards; backwards each counts as
    the logistic function of its theta.

    Args:
        block: The side of a block, which divides H and W.
        channels: C, at least 1.

    Returns:
        The key space made continuous, for `relaxed_key`; images are floats in [0, 1].

    Raises:
        ValueError: As `negative_positive` does.

    **Guarantees.** The loss that is descended is that of a real key.

    Source: straight-through estimation, Bengio et al. (2013).

    >>> import jax.numpy as jnp
    >>> relaxed_negative(2, channels=1).hard(jnp.array([3.0, -1.0, 0.0, 2.0])).negative.tolist()
    [True, False, False, True]
    """
    lock, n = negative_positive(block, channels), block * block * channels

    def init(rng: jax.Array) -> jax.Array:
        return 0.1 * jax.random.normal(rng, (n,))

    def soft(theta: Theta, rng: jax.Array, done: jax.Array) -> NegativeKey:
        return NegativeKey(_half(theta))

    def hard(theta: Theta) -> NegativeKey:
        return NegativeKey(_largest(theta))

    def scramble(key: Key, x: jax.Array) -> jax.Array:
        if key.negative.dtype == jnp.bool_:
            return lock.scramble(key, x)
        return x + tile(key.negative, block, x) * (1 - 2 * x)

    return Relaxation(Lock(lock.init, scramble=scramble), init, soft, hard)


def relaxed_ffx(block: int, channels: int = 3) -> Relaxation:
    """Relax the keys of `ffx(block, channels)`: theta, float32 `[n]` for entries, `[256]` for levels.

    The half of the entries with the largest theta counts as encrypted, and the table sends the level
    whose theta is the k-th smallest to k; backwards an entry counts as the logistic function of its
    theta, and a level's image as its theta.

    Args:
        block: The side of a block, which divides H and W.
        channels: C, at least 1.

    Returns:
        The key space made continuous, for `relaxed_key`; images are floats in [0, 1].

    Raises:
        ValueError: As `ffx` does.

    **Guarantees.** The loss that is descended is that of a real key. Levels that the inputs do not have
    stay in random order.

    Source: straight-through estimation, Bengio et al. (2013).

    >>> import jax, jax.numpy as jnp
    >>> relaxation = relaxed_ffx(2, channels=1)
    >>> theta = jnp.array([3.0, -1.0, 0.0, 2.0]), -jnp.arange(256.0)
    >>> key = relaxation.hard(theta)
    >>> key.chosen.tolist(), key.table[:3].tolist()
    ([True, False, False, True], [255, 254, 253])
    """
    lock, n = ffx(block, channels), block * block * channels

    def init(rng: jax.Array) -> Theta:
        entries, levels = jax.random.split(rng)
        return 0.1 * jax.random.normal(entries, (n,)), jax.random.uniform(levels, (256,))

    def soft(theta: Theta, rng: jax.Array, done: jax.Array) -> FfxKey:
        entries, levels = theta
        images = _ranks(levels) / 255
        return FfxKey(_half(entries), levels + lax.stop_gradient(images - levels))

    def hard(theta: Theta) -> FfxKey:
        entries, levels = theta
        return FfxKey(_largest(entries), _ranks(levels).astype(jnp.uint8))

    def scramble(key: Key, x: jax.Array) -> jax.Array:
        if key.chosen.dtype == jnp.bool_:
            return lock.scramble(key, x)
        level = jnp.clip(jnp.round(x * 255), 0, 255).astype(jnp.uint8)
        return x + tile(key.chosen, block, x) * (key.table[level] - x)

    return Relaxation(Lock(lock.init, scramble=scramble), init, soft, hard)


def _ranks(theta: jax.Array) -> jax.Array:
    return jnp.argsort(jnp.argsort(theta)).astype(jnp.float32)


def _largest(theta: jax.Array) -> jax.Array:
    """Return the half of the entries with the largest theta, bool."""
    return _ranks(theta) >= len(theta) - len(theta) // 2


def _half(theta: jax.Array) -> jax.Array:
    """Return the same as numbers, with the gradient of the logistic function."""
    smooth = jax.nn.sigmoid(theta)
    return smooth + lax.stop_gradient(_largest(theta) - smooth)
