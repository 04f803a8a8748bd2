"""Half of every block's entries encrypted by a key, as values of 8 bits.

Source: AprilPyone MaungMaung & Kiya (2020, 2021), arXiv 2010.00801, 2105.14756.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from modellock_jax.core.keys import check_key, redacted
from modellock_jax.core.lock import Key, Lock, Params
from modellock_jax.core.source import Rng, random_words
from modellock_jax.locks._blocks import (
    BYPASSED,
    INPUTS_ONLY,
    ImageShape,
    block_entries,
    check_image,
    from_images,
    half_bits,
    rank,
    swap_two,
    tile,
)
from modellock_jax.locks._scheme import Break, Scheme

__all__ = ["SCHEME", "FfxKey", "ffx"]


class FfxKey(NamedTuple):
    """`chosen`: bool `[block * block * channels]`, true on half; `table`: uint8 `[256]`."""

    chosen: jax.Array
    table: jax.Array

    def __repr__(self) -> str:
        return redacted(self)


def ffx(block: int, channels: int = 3, image_shape: ImageShape = None) -> Lock:
    """Encrypt half of the entries of every block as 8-bit values, keeping their format.

    The papers use the FFX mode; on a domain of 256 values its ideal is a secret permutation of
    them, and that permutation is the key here. The model is trained under the key. Images `[..., H,
    W, C]` are uint8, or floats in [0, 1], which are rounded to 256 levels first.

    Args:
        block: The side of a block, at least 1, which divides H and W.
        channels: C, at least 1.
        image_shape: `(H, W, C)`, to check the sides when the lock is made; None for no check.

    Returns:
        A lock with `init` and `scramble`; its key is an `FfxKey`.

    Raises:
        ValueError: If a side is no multiple of `block`, the channels differ, or a block has one entry.

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
        chosen = rank(words[: 2 * n]) < n // 2
        return FfxKey(chosen, rank(words[2 * n :]).astype(jnp.uint8))

    def scramble(key: Key, x: jax.Array) -> jax.Array:
        check_key("ffx", key, FfxKey, (n,), (256,))
        check_image("ffx", x.shape, block, channels)
        if x.dtype == jnp.uint8:
            coded = _look_up(key.table, x)
        else:
            level = jnp.clip(jnp.round(x * 255), 0, 255).astype(jnp.uint8)
            # Looked up: XLA divides by 255 in one program and multiplies by its inverse in another.
            coded = _look_up(jnp.asarray(np.arange(256) / 255, x.dtype)[key.table], level)
        return jnp.where(tile(key.chosen, block, x), coded, x)

    return Lock(init, scramble=scramble)


def _look_up(table: jax.Array, index: jax.Array) -> jax.Array:
    sharding = jax.typeof(index).sharding
    explicit = AxisType.Explicit in sharding.mesh.axis_types
    return table.at[index].get(out_sharding=sharding if explicit else None)


def _ffx_bits(params: Params, sites: Any, block: int, channels: int = 3, **_: Any) -> float:
    """Key space in bits: the choice of entries and the permutation of 256 values."""
    return half_bits(block * block * channels) + math.lgamma(257) / math.log(2)


SCHEME = Scheme(
    name="ffx",
    factory=ffx,
    paper="AprilPyone & Kiya (2020, 2021), arXiv 2010.00801, 2105.14756",
    acts="inputs: half of each block's entries encrypted",
    trained_under=True,
    protects="A model trained on images of which a key encrypts half of each block answers badly to "
    "plain images.",
    lies_open="The weights lie open: any thief can train on.",
    broken=(
        Break(
            attack="ffx_chosen_images",
            how="two chosen images, scrambled by a user, show the entries and the whole table",
        ),
        Break(
            attack="relaxed_key",
            how="a few labelled images give a key that opens it nearly",
        ),
        BYPASSED,
    ),
    wrong_key="half of each block stays in clear under every key",
    near=swap_two,
    bits=_ffx_bits,
    from_data=from_images,
    files=f"{INPUTS_ONLY}; use stream_lock",
)
