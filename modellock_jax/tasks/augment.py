"""Inputs changed a little at random, so that there seem to be more of them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["random_gain", "random_shift", "unchanged"]


def unchanged(rng: jax.Array, x: Any) -> Any:
    """Return the inputs as they are.

    Args:
        rng: A JAX PRNG key, which is not used.
        x: Inputs, a tree `[B, ...]`.

    Returns:
        `x`.
    """
    return x


def random_shift(rng: jax.Array, x: jax.Array, pixels: int = 2) -> jax.Array:
    """Shift each image by up to `pixels` in each direction, zeros coming in.

    Images are `[B, H, W, C]`; inputs of another rank have no directions and come back as they are.

    Args:
        rng: A JAX PRNG key.
        x: Images `[B, H, W, C]`; inputs of another rank come back as they are.
        pixels: The largest shift in each direction, at least 0.

    Returns:
        Like `x`.

    >>> import jax, jax.numpy as jnp
    >>> moved = random_shift(jax.random.key(0), jnp.ones((3, 6, 6, 1)))
    >>> moved.shape, bool((moved.sum((1, 2, 3)) >= 16).all())
    ((3, 6, 6, 1), True)
    """
    if x.ndim != 4:
        return x
    padded = jnp.pad(x, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    corners = jax.random.randint(rng, (x.shape[0], 2), 0, 2 * pixels + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (corner[0], corner[1], 0), x.shape[1:])

    return jax.vmap(crop)(padded, corners)


def random_gain(rng: jax.Array, x: jax.Array, max_change: float = 0.2) -> jax.Array:
    """Multiply each input of `[B, ...]` by a number drawn evenly from [1 - max_change, 1 + max_change].

    Args:
        rng: A JAX PRNG key.
        x: Inputs `[B, ...]`, float.
        max_change: The largest change, as a share of the input.

    Returns:
        float `[B, ...]`, not clipped.

    >>> import jax, jax.numpy as jnp
    >>> bool((jnp.abs(random_gain(jax.random.key(0), jnp.ones((9, 4))) - 1) <= 0.2001).all())
    True
    """
    shape = (x.shape[0], *(1,) * (x.ndim - 1))
    return x * jax.random.uniform(rng, shape, x.dtype, 1 - max_change, 1 + max_change)
