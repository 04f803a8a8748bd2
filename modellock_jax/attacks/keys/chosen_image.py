"""The key of a pixel shuffle from images: chosen ones or known ones.

The permutation is the same in every block and image, so what one image shows of it is all there is.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from modellock_jax.attacks.case import Case, Entry, Found, with_key
from modellock_jax.locks.pixel_shuffle import PixelKey

__all__ = [
    "ENTRIES",
    "block_counts",
    "chosen_images",
    "from_blocks",
    "image_shape",
    "pixel_shuffle_chosen_image",
    "pixel_shuffle_known_pairs",
    "to_blocks",
]


def chosen_images(block: int, shape: tuple[int, int, int]) -> jax.Array:
    """Make images whose shuffled form shows the key.

    Entry j of a block holds a digit of j in base 256, block after block the next one, so that one
    image is enough unless a block has more than 256 entries and there is no other block to hold the
    second digit.

    Args:
        block: The side of a block, which divides H and W.
        shape: `(H, W, C)` of an image.

    Returns:
        Images, uint8 `[Q, H, W, C]`.

    Raises:
        ValueError: If `block` does not divide the sides.

    >>> chosen_images(2, (2, 4, 1))[..., 0].tolist()
    [[[0, 1, 0, 1], [2, 3, 2, 3]]]
    """
    blocks, n = block_counts("chosen_images", block, shape)
    queries = -(-_digits(n) // blocks)
    place = np.arange(queries * blocks) % _digits(n)
    digits = np.arange(n)[None] // 256 ** place[:, None] % 256
    parts = digits.reshape(queries, blocks, n).astype(np.uint8)
    return jnp.asarray(from_blocks(parts, block, shape))


def pixel_shuffle_chosen_image(scrambled: jax.Array, block: int) -> PixelKey | None:
    """Return the key from the shuffled form of `chosen_images(block, shape)`.

    Args:
        scrambled: The shuffled form of `chosen_images(block, shape)`, uint8 `[Q, H, W, C]`.
        block: The side of a block, which divides H and W.

    Returns:
        The key; None if no shuffle makes these images, but another transform or another block.

    Raises:
        ValueError: If `block` does not divide the sides.

    Threat model: the attacker can have one image of their choice scrambled by the key's owner, as
    a preprocessing service or camera does, and sees the result. The model is not needed.

    **Guarantees.** Exact, with one image wherever `chosen_images` makes one.

    >>> import jax, modellock_jax as ml
    >>> lock, images = ml.pixel_shuffle(2, channels=3), chosen_images(2, (4, 4, 3))
    >>> key = lock.init(jax.random.key(0), None)
    >>> found = pixel_shuffle_chosen_image(lock.scramble(key, images), 2)
    >>> len(images), bool((found.permutation == key.permutation).all())
    (1, True)
    """
    height, width, channels = scrambled.shape[1:]
    chosen = chosen_images(block, (height, width, channels))
    known = pixel_shuffle_known_pairs(chosen, scrambled, block)
    return None if known is None else known[0]


def pixel_shuffle_known_pairs(
    plain: Shaped[jax.Array, "B H W C"], scrambled: Shaped[jax.Array, "B H W C"], block: int
) -> tuple[PixelKey, np.ndarray] | None:
    """Return the key from images and their shuffled forms. On the host.

    Entry i of a shuffled block can only be an entry j that equals it in every block of every image;
    entries that are alike throughout take their candidates in order.

    Args:
        plain: Images `[B, H, W, C]`.
        scrambled: Their shuffled forms, of the same shape and dtype.
        block: The side of a block, which divides H and W.

    Returns:
        The key, and which of its entries have one candidate only, bool `[block * block * C]`; None
        if no permutation fits.

    Raises:
        ValueError: If the shapes differ or `block` does not divide the sides.

    Threat model: the attacker sees some natural images before and after scrambling; no model.

    **Guarantees.** The key scrambles the given images exactly as the owner's does. One natural image
    often suffices; borders that are black in all images cannot be told apart, and matter as little.

    >>> import jax, modellock_jax as ml
    >>> lock, key = ml.pixel_shuffle(2, channels=1), ml.PixelKey(jax.numpy.array([3, 1, 2, 0]))
    >>> image = jax.numpy.array([[1, 2], [3, 3]]).reshape(1, 2, 2, 1)
    >>> found, sure = pixel_shuffle_known_pairs(image, lock.scramble(key, image), 2)
    >>> found.permutation.tolist(), sure.tolist()
    ([2, 1, 3, 0], [False, True, False, True])
    """
    if plain.shape != scrambled.shape or plain.ndim != 4:
        raise ValueError(
            "pixel_shuffle_known_pairs: plain and scrambled must both be [B, H, W, C], not "
            f"{list(plain.shape)} and {list(scrambled.shape)}"
        )
    # An entry's history: its values in all blocks and images. Equal histories sort side by side.
    n = block_counts("pixel_shuffle_known_pairs", block, plain.shape[1:])[1]
    before, after = (to_blocks(np.asarray(x), block).reshape(-1, n) for x in (plain, scrambled))
    first, second = np.lexsort(before), np.lexsort(after)
    before, after = before[:, first], after[:, second]
    if not (before == after).all():
        return None
    permutation = np.empty(len(first), np.int32)
    permutation[second] = first
    differs = np.concatenate([[True], (before[:, 1:] != before[:, :-1]).any(0), [True]])
    sure = np.empty(len(first), bool)
    sure[second] = differs[1:] & differs[:-1]
    return PixelKey(jnp.asarray(permutation)), sure


def _digits(n: int) -> int:
    return next(count for count in range(1, 9) if 256**count >= n)


def block_counts(name: str, block: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """How many blocks an image has, and how many entries a block.

    Args:
        name: Of the attack, for the message.
        block: The side of a block.
        shape: `(H, W, C)` of an image.

    Returns:
        The blocks of an image, and the entries of a block.

    Raises:
        ValueError: If `block` does not divide the sides.
    """
    height, width, channels = shape
    if block < 1 or height % block or width % block:
        raise ValueError(f"{name}: block {block} does not divide images of {height} x {width}")
    return height * width // block**2, block * block * channels


def to_blocks(x: Any, block: int) -> Any:
    """Cut images `[..., H, W, C]` into blocks `[..., blocks, entries]`, in the order of the scheme.

    Args:
        x: Images `[..., H, W, C]`.
        block: The side of a block, which divides H and W.

    Returns:
        Blocks `[..., blocks, entries]`.
    """
    *lead, height, width, channels = x.shape
    x = x.reshape(*lead, height // block, block, width // block, block, channels)
    return x.swapaxes(-4, -3).reshape(*lead, -1, block * block * channels)


def from_blocks(parts: Any, block: int, shape: tuple[int, int, int]) -> Any:
    """Invert `to_blocks` for images of that shape.

    Args:
        parts: Blocks `[..., blocks, entries]`.
        block: The side of a block.
        shape: `(H, W, C)` of an image.

    Returns:
        Images `[..., H, W, C]`.
    """
    height, width, channels = shape
    lead = parts.shape[:-2]
    parts = parts.reshape(*lead, height // block, width // block, block, block, channels)
    return parts.swapaxes(-4, -3).reshape(*lead, *shape)


def image_shape(case: Case) -> tuple[int, int, int]:
    """Return the shape (H, W, C) of one image of a case.

    Args:
        case: What the attacker has.

    Returns:
        `(H, W, C)`.
    """
    height, width, channels = case.example.shape[1:]
    return height, width, channels


def _chosen_image(case: Case) -> Found | None:
    block = case.settings["block"]
    scrambled = case.chosen_input(chosen_images(block, image_shape(case)))
    return with_key(case, pixel_shuffle_chosen_image(scrambled, block))


def _known_pairs(case: Case) -> Found | None:
    x = case.unlabelled
    found = pixel_shuffle_known_pairs(x, case.chosen_input(x), case.settings["block"])
    return with_key(case, None if found is None else found[0])


_SHUFFLE = ("pixel_shuffle",)
ENTRIES = (
    Entry("pixel_shuffle_chosen_image", _chosen_image, _SHUFFLE, ("chosen_input",), "key"),
    Entry(
        "pixel_shuffle_known_pairs", _known_pairs, _SHUFFLE, ("unlabelled", "chosen_input"), "key"
    ),
)
