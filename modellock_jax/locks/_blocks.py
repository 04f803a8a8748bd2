"""What the block-wise transforms of images share: blocks, draws, and settings from the data."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax.core.source import Rng, random_words
from modellock_jax.locks._scheme import Break

BYPASSED = Break(
    how="adaptive attacks bypass the transform, as its authors wrote later",
    source="AprilPyone & Kiya, 2023, arXiv 2309.01620",
)
"""What the authors of these transforms wrote of all of them."""
INPUTS_ONLY = "acts on inputs, of a model trained under its key, and changes nothing in a file"
"""Why such a lock locks no file."""

ImageShape = tuple[int, int, int] | None


def block_entries(scheme: str, block: int, channels: int, image_shape: ImageShape) -> int:
    """How many entries a block has, once the settings are checked."""
    if block < 1 or channels < 1:
        raise ValueError(
            f"{scheme}: block and channels must be at least 1, not {block}, {channels}"
        )
    if block * block * channels < 2:
        raise ValueError(f"{scheme}: a block of one entry has nothing to lock; use larger blocks")
    if image_shape is not None:
        check_image(scheme, image_shape, block, channels)
    return block * block * channels


def from_images(shape: tuple[int, ...]) -> dict[str, Any]:
    """Derive the settings for images `(H, W, C)`: blocks of 14 on 28 x 28, of 4 on 32 x 32.

    Four is the paper's. On digits a smaller block keeps so much ink in place that a wrong key opens
    the model.

    Raises:
        ValueError: For inputs that are no images.
    """
    return {
        "block": largest_side(shape, (14, 4, 2, 1)),
        "channels": shape[-1],
        "image_shape": shape,
    }


def largest_side(shape: tuple[int, ...], sides: tuple[int, ...]) -> int:
    """Return the first of `sides` that divides both sides of images `(H, W, C)`.

    Raises:
        ValueError: For inputs that are no images.
    """
    if len(shape) != 3:
        raise ValueError(
            f"the lock acts on images [H, W, C], and one input has the shape {list(shape)}; choose "
            "another lock"
        )
    return next(s for s in sides if shape[0] % s == shape[1] % s == 0)


def draw_permutation(rng: Rng, n: int, lock: str) -> jax.Array:
    """Return a random permutation, int32 `[n]`, for a lock of that name."""
    return rank(random_words(rng, 2 * n, lock))


def draw_shuffle(rng: Rng, n: int, lock: str) -> jax.Array:
    """Return a random permutation, int32 `[n]`, that is not the identity: two change places in that."""
    order = draw_permutation(rng, n, lock)
    first, second, *rest = range(n)
    swapped = jnp.array([second, first, *rest], jnp.int32)
    return jnp.where((order == jnp.arange(n, dtype=jnp.int32)).all(), swapped, order)


def swap_two(rng: jax.Array, key: Any) -> Any:
    """Return the nearest wrong key: two entries of its first field swapped, as far as they differ."""
    entries = key[0]
    first, second = jax.random.choice(rng, entries.shape[0], (2,), replace=False)
    if entries.dtype == jnp.bool_:
        first, second = jnp.argmax(entries), jnp.argmin(entries)
    swapped = entries.at[first].set(entries[second]).at[second].set(entries[first])
    return key._replace(**{key._fields[0]: swapped})


def half_bits(n: int) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(n // 2 + 1) - math.lgamma(n - n // 2 + 1)
    return ways / math.log(2)


def check_image(scheme: str, shape: tuple[int, ...], block: int, channels: int) -> None:
    if len(shape) < 3 or shape[-1] != channels:
        raise ValueError(
            f"{scheme}: images must be [..., H, W, {channels}], not {list(shape)}; "
            "set `channels` to the last axis"
        )
    height, width = shape[-3:-1]
    if height % block or width % block:
        fits = [b for b in range(2, math.gcd(height, width) + 1) if not (height % b or width % b)]
        raise ValueError(
            f"{scheme}: block {block} does not divide images of {height} x {width}; "
            f"blocks that do: {', '.join(map(str, fits)) or 'only 1'}"
        )


def tile(entries: jax.Array, block: int, x: jax.Array) -> jax.Array:
    height, width, channels = x.shape[-3:]
    tile = entries.reshape(block, block, channels)
    tile = jnp.tile(tile, (height // block, width // block, 1))
    return tile.reshape((1,) * (x.ndim - 3) + tile.shape)


def rank(words: jax.Array) -> jax.Array:
    """Return a permutation, int32 `[n]`, from 2n words: 64 bits an entry make ties negligible."""
    high, low = words.reshape(2, -1)
    index = jnp.arange(high.shape[0], dtype=jnp.int32)
    return lax.sort((high, low, index), num_keys=2)[2]
