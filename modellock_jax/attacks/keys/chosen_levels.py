"""The keys of transforms of values from chosen images: `negative_positive` and `ffx`.

Both do the same in every block and image, so what they do to each entry and level once is all there is.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from modellock_jax.attacks.case import Case, Entry, Found, with_key
from modellock_jax.attacks.keys.chosen_image import (
    block_counts,
    from_blocks,
    image_shape,
    to_blocks,
)
from modellock_jax.locks.ffx import FfxKey
from modellock_jax.locks.negative_positive import NegativeKey

__all__ = ["ENTRIES", "ffx_chosen_images", "negative_positive_chosen_image"]

_LEVELS = 256

_Scramble = Callable[[jax.Array], Any]


def negative_positive_chosen_image(
    scrambled: UInt8[jax.Array, "1 H W C"], block: int
) -> NegativeKey | None:
    """Return the key from the scrambled form of one image that is black, uint8 zeros.

    Args:
        scrambled: That image as the user's lock scrambles it.
        block: The side of a block, which divides H and W.

    Returns:
        The key; None if no such key makes this image.

    Raises:
        ValueError: If `block` does not divide the sides.

    Threat model: the attacker can have one image of their choice scrambled by the key's owner, as a
    preprocessing service or camera does, and sees the result. The model is not needed.

    **Guarantees.** Exact.

    >>> import jax, modellock_jax as ml
    >>> lock = ml.negative_positive(2, channels=1)
    >>> key = ml.NegativeKey(jax.numpy.array([True, False, False, True]))
    >>> black = jax.numpy.zeros((1, 4, 4, 1), "uint8")
    >>> negative_positive_chosen_image(lock.scramble(key, black), 2).negative.tolist()
    [True, False, False, True]
    """
    name = "negative_positive_chosen_image"
    n = block_counts(name, block, scrambled.shape[1:])[1]
    parts = to_blocks(np.asarray(scrambled), block).reshape(-1, n)
    negative = parts[0] == _LEVELS - 1
    if negative.sum() != n // 2 or (parts != np.where(negative, _LEVELS - 1, 0)).any():
        return None
    return NegativeKey(jnp.asarray(negative))


def ffx_chosen_images(
    scramble: _Scramble, block: int, shape: tuple[int, int, int]
) -> FfxKey | None:
    """Return the key from what it makes of a few chosen images.

    An image of one level shows which entries are encrypted, unless the secret table leaves that level
    alone: then the next level is asked. Those entries are then given all 256 levels.

    Args:
        scramble: `f(x) -> x`, the user's lock, asked for images uint8 `[B, H, W, C]`.
        block: The side of a block, which divides H and W.
        shape: `(H, W, C)` of an image.

    Returns:
        The key; None if no such key makes these images.

    Raises:
        ValueError: If `block` does not divide the sides.

    Threat model: that of `negative_positive_chosen_image`, with a few images.

    **Guarantees.** Exact: two images unless images have fewer than 512 entries, or, once in 256
    keys, the table leaves black alone.

    >>> import jax, modellock_jax as ml
    >>> lock, asked = ml.ffx(4, channels=1), []
    >>> key = lock.init(jax.random.key(0), None)
    >>> def scramble(x):
    ...     asked.append(len(x))
    ...     return lock.scramble(key, x)
    >>> found = ffx_chosen_images(scramble, 4, (28, 28, 1))
    >>> bool((found.table == key.table).all() and (found.chosen == key.chosen).all()), asked
    (True, [1, 1])
    """
    blocks, n = block_counts("ffx_chosen_images", block, shape)

    def ask(parts: np.ndarray) -> np.ndarray:
        images = jnp.asarray(from_blocks(parts.astype(np.uint8), block, shape))
        return to_blocks(np.asarray(scramble(images)), block)

    chosen = np.zeros(n, bool)
    for level in range(_LEVELS):
        parts = np.full((1, blocks, n), level)
        chosen |= (ask(parts) != parts).any((0, 1))
        if chosen.sum() >= n // 2:
            break
    if chosen.sum() != n // 2:
        return None
    if not chosen.any():
        return FfxKey(jnp.asarray(chosen), jnp.arange(_LEVELS, dtype=jnp.uint8))
    images = -(-_LEVELS // int(blocks * chosen.sum()))
    parts = np.zeros((images, blocks, n), np.int64)
    parts[..., chosen] = np.resize(np.arange(_LEVELS), (images, blocks, int(chosen.sum())))
    found = ask(parts)
    table = np.zeros(_LEVELS, np.uint8)
    table[parts[..., chosen]] = found[..., chosen]
    fits = (found == np.where(chosen, table[parts], parts)).all()
    if not fits or len(np.unique(table)) != _LEVELS:
        return None
    return FfxKey(jnp.asarray(chosen), jnp.asarray(table))


def _negative(case: Case) -> Found | None:
    scrambled = case.chosen_input(jnp.zeros((1, *image_shape(case)), jnp.uint8))
    return with_key(case, negative_positive_chosen_image(scrambled, case.settings["block"]))


def _ffx(case: Case) -> Found | None:
    shape = image_shape(case)
    return with_key(case, ffx_chosen_images(case.chosen_input, case.settings["block"], shape))


ENTRIES = (
    Entry(
        "negative_positive_chosen_image",
        _negative,
        ("negative_positive",),
        ("chosen_input",),
        "key",
    ),
    Entry("ffx_chosen_images", _ffx, ("ffx",), ("chosen_input",), "key"),
)
