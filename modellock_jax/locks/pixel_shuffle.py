"""The entries of every block of an image permuted by a key.

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

from modellock_jax.core.keys import check_key, redacted
from modellock_jax.core.lock import Key, Lock, Params
from modellock_jax.core.source import Rng
from modellock_jax.locks._blocks import (
    BYPASSED,
    INPUTS_ONLY,
    ImageShape,
    block_entries,
    check_image,
    draw_shuffle,
    from_images,
    swap_two,
)
from modellock_jax.locks._scheme import Break, Scheme

__all__ = ["SCHEME", "PixelKey", "permutation_bits", "pixel_shuffle", "shuffle_name"]


class PixelKey(NamedTuple):
    """The key of `pixel_shuffle` and `patch_shuffle`.

    Attributes:
        permutation: int32 `[block * block * channels]`; entry i of a shuffled block is entry
            `permutation[i]` of the plain one.
    """

    permutation: jax.Array

    def __repr__(self) -> str:
        return redacted(self)


def pixel_shuffle(block: int, channels: int = 3, image_shape: ImageShape = None) -> Lock:
    """Shuffle the entries of every block of an image by one secret permutation.

    Images `[..., H, W, C]` of any dtype are cut into `block` x `block` blocks. Each block is
    flattened pixel by pixel with its channels, permuted, and put back. The model is trained under
    the key (`owner_forward`); the parameters are not touched. Shuffle either before or after
    normalising each channel, always the same: the two are different functions.

    Args:
        block: The side of a block, at least 1, which divides H and W.
        channels: C, at least 1.
        image_shape: `(H, W, C)`, to check the sides when the lock is made; None for no check.

    Returns:
        A lock with `init` and `scramble`; its key is a `PixelKey`.

    Raises:
        ValueError: If a side is no multiple of `block`, the channels differ, or a block has one entry.

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
        return PixelKey(draw_shuffle(rng, n, shuffle_name(block, channels)))

    def scramble(key: Key, x: jax.Array) -> jax.Array:
        check_key("pixel_shuffle", key, PixelKey, (n,))
        check_image("pixel_shuffle", x.shape, block, channels)
        # One flat gather an image: on CPU nine times faster than cutting and joining blocks.
        order = _order(key.permutation, block, x.shape[-3:])[:, None]
        rows = lax.GatherDimensionNumbers(
            offset_dims=(0,), collapsed_slice_dims=(1,), start_index_map=(1,)
        )
        flat = x.reshape(-1, order.shape[0])
        shuffled = lax.gather(flat, order, rows, (flat.shape[0], 1), mode="promise_in_bounds")
        return shuffled.reshape(x.shape)

    return Lock(init, scramble=scramble)


def shuffle_name(block: int, channels: int) -> str:
    """Return the one name of `pixel_shuffle` and its twin `patch_shuffle`, which share their key.

    Args:
        block: The side of a block.
        channels: How many an image has.

    Returns:
        As "shuffle(block=2, channels=3)".
    """
    return f"shuffle(block={block}, channels={channels})"


def permutation_bits(params: Params, sites: Any, block: int, channels: int = 3, **_: Any) -> float:
    """Key space in bits: log2 of the number of permutations of a block but the identity.

    Args:
        params: The model's parameters, which do not matter.
        sites: Its pre-activations, which do not matter.
        block: The side of a block.
        channels: How many an image has.
        **_: Other settings, which do not matter.

    Returns:
        Bits, a float.
    """
    n = block * block * channels
    few = n < 20  # of which the identity is a part that shows
    return math.log2(math.factorial(n) - 1) if few else math.lgamma(n + 1) / math.log(2)


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


SCHEME = Scheme(
    name="pixel_shuffle",
    factory=pixel_shuffle,
    paper="AprilPyone & Kiya (2020), arXiv 2008.02450",
    acts="inputs: each block's entries permuted",
    trained_under=True,
    protects="A model trained on images whose blocks are permuted by a key answers badly to plain "
    "images.",
    lies_open="The weights lie open: any thief can train on.",
    broken=(
        Break(
            attack="permutation_from_weights",
            how="where a dense first layer reads images of several blocks, the locked weights alone, "
            "without data or a device, give the key or nearly",
        ),
        Break(
            attack="pixel_shuffle_chosen_image",
            how="one chosen image with distinct values in a block, scrambled by a user, shows the "
            "whole permutation",
        ),
        Break(
            attack="pixel_shuffle_logit_oracle",
            how="with small blocks the logits that an unlocked device gives show it, too",
        ),
        Break(
            attack="relaxed_key",
            how="with small blocks a few labelled images give a key that opens it nearly",
        ),
        Break(
            attack="permutation_from_base",
            how="where training began at a public model, its first layer's rows permuted by the key, "
            "that model gives the key by their directions",
            source="ArrowMatch, USENIX Security 2025",
        ),
        BYPASSED,
    ),
    wrong_key="a block keeps its ink under every key, and its coarse shape is enough where blocks are "
    "small",
    twin="patch_shuffle",
    near=swap_two,
    bits=permutation_bits,
    from_data=from_images,
    study="pixel_shuffle",
    variants=("pixel_shuffle(block=4)",),
    files=f"{INPUTS_ONLY}; use patch_shuffle, its twin for trained models, or stream_lock",
)
