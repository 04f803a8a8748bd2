"""The relaxation of a shuffle: a matrix whose rows and columns sum to one, sharpened on the way."""

import jax
import jax.numpy as jnp
import optax.assignment
from jax import lax

from modellock_jax.attacks.keys.relaxed_key import Relaxation
from modellock_jax.core.lock import Key, Lock
from modellock_jax.locks.pixel_shuffle import PixelKey, pixel_shuffle

_ROUNDS = 20  # of Sinkhorn's scaling, from which float32 gains no more at these temperatures
_HOT, _COLD = 1.0, 0.1  # the temperature at the start and at the end


def relaxed_permutation(block: int, channels: int = 3) -> Relaxation:
    """The keys of `pixel_shuffle(block, channels)`: theta, float32 `[n, n]` for n entries a block.

    A soft key is a `PixelKey` whose permutation is a matrix `[n, n]`, Sinkhorn's scaling of
    exp((theta + Gumbel noise) / temperature); the noise fades and the temperature falls from 1 to
    0.1. The rounded key is the assignment of largest theta (the Hungarian algorithm of optax).

    Raises `ValueError` as `pixel_shuffle` does.

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

        def scale(log_p: jax.Array, _: None) -> tuple[jax.Array, None]:
            log_p = jax.nn.log_softmax(log_p, 1)
            return jax.nn.log_softmax(log_p, 0), None

        log_p, _ = lax.scan(scale, noisy / temperature, length=_ROUNDS)
        return PixelKey(jnp.exp(log_p))

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
