"""Block-wise keyed transforms of images.

Source: AprilPyone MaungMaung & Kiya (2020), arXiv 2008.02450, and the later papers of the same
group for the sister transforms. The authors wrote in 2023 (arXiv 2309.01620) that adaptive attacks
bypass these transforms; one chosen image with distinct values in a block shows the whole permutation.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType

from modellock_jax.core.lock import Key, Lock, Params, Rng, check_key, hidden, random_words


class PixelKey(NamedTuple):
    """`permutation`: int32 `[block * block * channels]`; entry i of a shuffled block is entry
    `permutation[i]` of the plain one."""

    permutation: jax.Array

    def __repr__(self) -> str:
        return hidden(self)


class NegativeKey(NamedTuple):
    """`negative`: bool `[block * block * channels]`, true on half of the entries."""

    negative: jax.Array

    def __repr__(self) -> str:
        return hidden(self)


class FfxKey(NamedTuple):
    """`chosen`: bool `[block * block * channels]`, true on half; `table`: uint8 `[256]`."""

    chosen: jax.Array
    table: jax.Array

    def __repr__(self) -> str:
        return hidden(self)


ImageShape = tuple[int, int, int] | None


def pixel_shuffle(block: int, channels: int = 3, image_shape: ImageShape = None) -> Lock:
    """Shuffle the entries of every block of an image by one secret permutation.

    Images `[..., H, W, C]`, any dtype, with C = `channels`, are cut into `block` x `block` blocks.
    Each block is flattened pixel by pixel with its channels, permuted, and put back. The model is
    trained under the key (`owner_forward`); the parameters are not touched. `image_shape`, `(H, W,
    C)`, checks the sides when the lock is made. Shuffle either before or after normalising each
    channel, always the same: the two are different functions.

    Raises `ValueError` if a side is no multiple of `block`, or the channels differ.

    **Guarantees.** The scrambled image holds the same entries; swapping two entries of the key gives
    another image unless they are equal in every block. Nothing protects the parameters: an attacker
    may fine-tune them on plain images.

    Source: AprilPyone & Kiya (2020).

    >>> import jax, modellock_jax as ml
    >>> lock = ml.pixel_shuffle(block=2, channels=1, image_shape=(4, 4, 1))
    >>> key = ml.PixelKey(jax.numpy.array([3, 1, 2, 0]))
    >>> image = jax.numpy.arange(16).reshape(4, 4, 1)
    >>> lock.scramble(key, image)[:2, :2, 0].tolist()
    [[5, 1], [4, 0]]
    """
    n = block_entries("pixel_shuffle", block, channels, image_shape)

    def init(rng: Rng, params: Params) -> PixelKey:
        return PixelKey(draw_permutation(rng, n, shuffle_name(block, channels)))

    def scramble(key: Key, x: jax.Array) -> jax.Array:
        check_key("pixel_shuffle", key, PixelKey, (n,))
        _check_image("pixel_shuffle", x.shape, block, channels)
        # One flat gather an image: on CPU nine times faster than cutting and joining blocks.
        order = _order(key.permutation, block, x.shape[-3:])[:, None]
        rows = lax.GatherDimensionNumbers(
            offset_dims=(0,), collapsed_slice_dims=(1,), start_index_map=(1,)
        )
        flat = x.reshape(-1, order.shape[0])
        shuffled = lax.gather(flat, order, rows, (flat.shape[0], 1), mode="promise_in_bounds")
        return shuffled.reshape(x.shape)

    return Lock(init, scramble=scramble)


def negative_positive(block: int, channels: int = 3, image_shape: ImageShape = None) -> Lock:
    """Turn half of the entries of every block into their negative, x -> 1 - x.

    Images `[..., H, W, C]`, floats in [0, 1], or integers whose negative is `max - x`. Trained under
    the key, like `pixel_shuffle`, with the same errors.

    **Guarantees.** The transform is its own inverse on integers.

    Source: AprilPyone & Kiya (2020, 2021), arXiv 2010.00801, 2105.14756.

    >>> import jax, modellock_jax as ml
    >>> lock = ml.negative_positive(block=2, channels=1)
    >>> key = ml.NegativeKey(jax.numpy.array([True, False, False, True]))
    >>> lock.scramble(key, jax.numpy.full((2, 2, 1), 10, "uint8"))[..., 0].tolist()
    [[245, 10], [10, 245]]
    """
    n = block_entries("negative_positive", block, channels, image_shape)

    def init(rng: Rng, params: Params) -> NegativeKey:
        name = f"negative_positive(block={block}, channels={channels})"
        return NegativeKey(draw_permutation(rng, n, name) < n // 2)

    def scramble(key: Key, x: jax.Array) -> jax.Array:
        check_key("negative_positive", key, NegativeKey, (n,))
        _check_image("negative_positive", x.shape, block, channels)
        top = 1 if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).max
        return jnp.where(_tile(key.negative, block, x), jnp.asarray(top, x.dtype) - x, x)

    return Lock(init, scramble=scramble)


def ffx(block: int, channels: int = 3, image_shape: ImageShape = None) -> Lock:
    """Encrypt half of the entries of every block as 8-bit values, keeping their format.

    Images `[..., H, W, C]`: uint8, or floats in [0, 1], which are rounded to 256 levels first. The
    papers use the FFX mode; on a domain of 256 values its ideal is a secret permutation of them,
    and that permutation is the key here. Trained under the key, with the errors of `pixel_shuffle`.

    **Guarantees.** A bijection on 8-bit images. Its gradient with respect to the image is zero on the
    chosen entries of float images: an attack must go around it.

    Source: AprilPyone & Kiya (2020, 2021), arXiv 2010.00801, 2105.14756.

    >>> import jax, modellock_jax as ml
    >>> lock = ml.ffx(block=2, channels=1)
    >>> key = lock.init(jax.random.key(0), None)
    >>> image = jax.numpy.zeros((2, 2, 1), "uint8")
    >>> int((lock.scramble(key, image) != image).sum())
    2
    """
    n = block_entries("ffx", block, channels, image_shape)

    def init(rng: Rng, params: Params) -> FfxKey:
        # One draw of both: the first n words rank the entries, the others the 256 values.
        words = random_words(rng, 2 * (n + 256), f"ffx(block={block}, channels={channels})")
        chosen = _rank(words[: 2 * n]) < n // 2
        return FfxKey(chosen, _rank(words[2 * n :]).astype(jnp.uint8))

    def scramble(key: Key, x: jax.Array) -> jax.Array:
        check_key("ffx", key, FfxKey, (n,), (256,))
        _check_image("ffx", x.shape, block, channels)
        if x.dtype == jnp.uint8:
            coded = _look_up(key.table, x)
        else:
            level = jnp.clip(jnp.round(x * 255), 0, 255).astype(jnp.uint8)
            # Looked up: XLA divides by 255 in one program and multiplies by its inverse in another.
            coded = _look_up(jnp.asarray(np.arange(256) / 255, x.dtype)[key.table], level)
        return jnp.where(_tile(key.chosen, block, x), coded, x)

    return Lock(init, scramble=scramble)


def block_entries(scheme: str, block: int, channels: int, image_shape: ImageShape) -> int:
    """How many entries a block has, once the settings are checked."""
    if block < 1 or channels < 1:
        raise ValueError(
            f"{scheme}: block and channels must be at least 1, not {block}, {channels}"
        )
    if image_shape is not None:
        _check_image(scheme, image_shape, block, channels)
    return block * block * channels


def draw_permutation(rng: Rng, n: int, lock: str) -> jax.Array:
    """A random permutation, int32 `[n]`, for a lock of that name."""
    return _rank(random_words(rng, 2 * n, lock))


def shuffle_name(block: int, channels: int) -> str:
    """The one name of `pixel_shuffle` and its twin `patch_shuffle`, which share their key."""
    return f"shuffle(block={block}, channels={channels})"


def swap_two(rng: jax.Array, key: Any) -> Any:
    """The nearest wrong key: two entries of its first field swapped, as far as they differ."""
    entries = key[0]
    first, second = jax.random.choice(rng, entries.shape[0], (2,), replace=False)
    if entries.dtype == jnp.bool_:
        first, second = jnp.argmax(entries), jnp.argmin(entries)
    swapped = entries.at[first].set(entries[second]).at[second].set(entries[first])
    return key._replace(**{key._fields[0]: swapped})


def permutation_bits(params: Params, sites: Any, block: int, channels: int = 3, **_: Any) -> float:
    """Key space in bits: log2 of the number of permutations of a block."""
    return math.lgamma(block * block * channels + 1) / math.log(2)


def _half_bits(n: int) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(n // 2 + 1) - math.lgamma(n - n // 2 + 1)
    return ways / math.log(2)


def negative_bits(params: Params, sites: Any, block: int, channels: int = 3, **_: Any) -> float:
    """Key space in bits: log2 of the ways to choose half of a block's entries."""
    return _half_bits(block * block * channels)


def ffx_bits(params: Params, sites: Any, block: int, channels: int = 3, **_: Any) -> float:
    """Key space in bits: the choice of entries and the permutation of 256 values."""
    return _half_bits(block * block * channels) + math.lgamma(257) / math.log(2)


def _check_image(scheme: str, shape: tuple[int, ...], block: int, channels: int) -> None:
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


def _order(permutation: jax.Array, block: int, shape: tuple[int, ...]) -> jax.Array:
    """For each entry of a flat image, which entry comes there: uint32 `[H * W * C]`."""
    height, width, channels = shape
    grid = (height // block, block, width // block, block, channels)
    entries = np.arange(math.prod(shape), dtype=np.uint32).reshape(grid)
    place = entries.transpose(1, 3, 4, 0, 2).reshape(permutation.shape[0], -1)
    source = jnp.asarray(place).at[permutation].get(mode="clip")
    # A scatter, since XLA would work out any plainer expression again for every image; unsigned, so
    # that it bounds each index on one side alone.
    order = jnp.zeros((place.size,), jnp.uint32).at[place.astype(np.int32)]
    return order.set(source, unique_indices=True, mode="promise_in_bounds")


def _look_up(table: jax.Array, index: jax.Array) -> jax.Array:
    sharding = jax.typeof(index).sharding
    explicit = AxisType.Explicit in sharding.mesh.axis_types
    return table.at[index].get(out_sharding=sharding if explicit else None)


def _tile(entries: jax.Array, block: int, x: jax.Array) -> jax.Array:
    height, width, channels = x.shape[-3:]
    tile = entries.reshape(block, block, channels)
    tile = jnp.tile(tile, (height // block, width // block, 1))
    return tile.reshape((1,) * (x.ndim - 3) + tile.shape)


def _rank(words: jax.Array) -> jax.Array:
    """A permutation, int32 `[n]`, from 2n words: 64 bits an entry make ties negligible."""
    high, low = words.reshape(2, -1)
    index = jnp.arange(high.shape[0], dtype=jnp.int32)
    return lax.sort((high, low, index), num_keys=2)[2]
