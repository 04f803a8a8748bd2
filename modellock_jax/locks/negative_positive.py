"""Half of every block's entries turned negative by a key.

Source: AprilPyone MaungMaung & Kiya (2020, 2021), arXiv 2010.00801, 2105.14756.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modellock_jax.core.keys import check_key, redacted
from modellock_jax.core.lock import Key, Lock, Params
from modellock_jax.core.source import Rng
from modellock_jax.locks._blocks import (
    BYPASSED,
    INPUTS_ONLY,
    ImageShape,
    block_entries,
    check_image,
    draw_permutation,
    from_images,
    half_bits,
    swap_two,
    tile,
)
from modellock_jax.locks._scheme import Break, Scheme

__all__ = ["SCHEME", "NegativeKey", "negative_positive"]


class NegativeKey(NamedTuple):
    """`negative`: bool `[block * block * channels]`, true on half of the entries."""

    negative: jax.Array

    def __repr__(self) -> str:
        return redacted(self)


def negative_positive(block: int, channels: int = 3, image_shape: ImageShape = None) -> Lock:
    """Turn half of the entries of every block into their negative, x -> 1 - x.

    The model is trained under the key. Images `[..., H, W, C]` are floats in [0, 1], or integers whose
    negative is `max - x`.

    Args:
        block: The side of a block, at least 1, which divides H and W.
        channels: C, at least 1.
        image_shape: `(H, W, C)`, to check the sides when the lock is made; None for no check.

    Returns:
        A lock with `init` and `scramble`; its key is a `NegativeKey`.

    Raises:
        ValueError: If a side is no multiple of `block`, the channels differ, or a block has one entry.

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
        check_image("negative_positive", x.shape, block, channels)
        top = 1 if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).max
        return jnp.where(tile(key.negative, block, x), jnp.asarray(top, x.dtype) - x, x)

    return Lock(init, scramble=scramble)


def _negative_bits(params: Params, sites: Any, block: int, channels: int = 3, **_: Any) -> float:
    """Key space in bits: log2 of the ways to choose half of a block's entries."""
    return half_bits(block * block * channels)


SCHEME = Scheme(
    name="negative_positive",
    factory=negative_positive,
    paper="AprilPyone & Kiya (2020, 2021), arXiv 2010.00801, 2105.14756",
    acts="inputs: half of each block's entries turned negative",
    trained_under=True,
    protects="A model trained on images of which a key turns half of each block negative answers badly "
    "to plain images.",
    lies_open="The weights lie open: any thief can train on.",
    broken=(
        Break(
            attack="negative_from_weights",
            how="where the first layer reads whole blocks, the locked weights alone, without data or a "
            "device, give the key",
        ),
        Break(
            attack="negative_positive_chosen_image",
            how="one black image, scrambled by a user, shows it",
        ),
        Break(
            attack="relaxed_key",
            how="a few labelled images give a key that opens it nearly",
        ),
        BYPASSED,
    ),
    wrong_key="half of each block stays in clear under every key",
    near=swap_two,
    bits=_negative_bits,
    from_data=from_images,
    files=f"{INPUTS_ONLY}; use stream_lock",
)
