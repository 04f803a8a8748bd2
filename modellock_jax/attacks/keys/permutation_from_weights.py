"""The key of `pixel_shuffle` from the locked weights alone: no data, no labels, no device."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from modellock_jax.attacks.case import Case, Entry, Found, with_key
from modellock_jax.attacks.keys._by_chance import TRIES
from modellock_jax.attacks.keys._embedding import drawn
from modellock_jax.attacks.keys._matching import assigned, fit_of, matched, matrix
from modellock_jax.attacks.keys._smooth_rows import alike, apart, checked, rows_of
from modellock_jax.attacks.keys.chosen_image import image_shape
from modellock_jax.attacks.keys.signs_from_weights import LEVEL
from modellock_jax.locks.pixel_shuffle import PixelKey

__all__ = ["ENTRIES", "permutation_from_weights"]

_NEAR: tuple[float, ...] = (1 / 4, 1 / 6, 1 / 7, 1 / 9)
"""From wide to narrow, within what share of the image's side rows should be alike."""
_BORDER = 1 / 28
"""The same, by which it is judged how block meets block."""
_DRAWN, _SURE, _AFTER = 3, 0.5, (1 / 9, 1 / 14)
"""How many orders by the drawing are starts, how much of a start they are, and what is near then."""


def permutation_from_weights(
    rows: Float[jax.Array, "entries blocks units"], block: int, shape: tuple[int, int, int]
) -> jax.Array | None:
    """Find the order of a block's entries in which the first layer is smoothest.

    Neighbouring entries of natural images are alike, and training gives them rows alike. The rows of
    all blocks are in one secret order; wanted is the order under which rows are the more alike the
    nearer their entries lie, within blocks and across their borders: a quadratic assignment. It is
    solved from no order, for a wide neighbourhood first and from there for narrower ones, and from
    orders that a plane drawing of the graph of like rows gives. Of what is found, and of its mirror
    images, that is taken which goes on best across the borders.

    Args:
        rows: Those of the first layer: row (i, b) is multiplied with entry i of the scrambled block b.
        block: The side of a block, which divides H and W.
        shape: `(H, W, C)` of an image.

    Returns:
        The permutation, int32 `[entries]`; None where rows in random orders fit as well, at the level of
        1 %, or where there is one block alone, whose mirror images would fit as well.

    Raises:
        ValueError: For rows that do not fit blocks and images.

    Threat model: the attacker has the locked weights, and knows the scheme and the architecture, whose
    first layer reads whole images of several blocks, as a dense one does.

    **Guarantees.** Of rows whose units do not depend on each other, as of untrained ones, it finds an
    order at most once in a hundred draws: an order that half of the units choose is tried on the other
    half, beside 99 others. Channels of one pixel cannot be told apart.

    Source: our own; we know of no one who has published it. Quadratic assignment by Frank-Wolfe steps:
    Vogelstein et al. (2015); drawing by eigenvectors of a graph: Belkin & Niyogi (2003).

    >>> import jax, modellock_jax as ml
    >>> key = ml.pixel_shuffle(4, channels=1).init(jax.random.key(0), None)
    >>> smooth = jax.random.normal(jax.random.key(1), (8, 8, 90)).cumsum(0).cumsum(1)
    >>> rows = smooth.reshape(2, 4, 2, 4, 90).transpose(1, 3, 0, 2, 4).reshape(16, 4, 90)
    >>> found = permutation_from_weights(rows[key.permutation], 4, (8, 8, 1))
    >>> bool((found == key.permutation).all())
    True
    """
    kernel = checked("permutation_from_weights", rows, block, shape)
    if kernel.shape[1] == 1:
        return None
    squares = apart(kernel, block, shape) / max(shape[:2]) ** 2
    first, second = (alike(kernel[:, :, half::2]) for half in range(2))
    found, rng = _order(first, squares, block), np.random.default_rng(0)
    near = _within(squares, _NEAR[-1])
    orders = [found, *(found[rng.permutation(len(found))] for _ in range(TRIES))]
    fits = [fit_of(second, near, order) for order in orders]
    as_good = sum(fit >= fits[0] for fit in fits[1:])
    if (1 + as_good) / (1 + TRIES) > LEVEL:
        return None
    return jnp.asarray(_order(alike(kernel), squares, block), jnp.int32)


def _order(products: np.ndarray, squares: np.ndarray, block: int) -> np.ndarray:
    """Return the permutation under which near rows are alike: the best from several starts."""
    n, images = len(products), _mirror_images(block, len(products) // block**2)
    evenly, near = np.full((n, n), 1 / n), _within(squares, _NEAR[-1])
    seen = [image[order] for order in drawn(products, block, n // block**2) for image in images]
    seen.sort(key=lambda order: fit_of(products, near, order))
    starts = [(evenly, _NEAR)]
    starts += [((1 - _SURE) * evenly + _SURE * matrix(one), _AFTER) for one in seen[-_DRAWN:]]
    found = []
    for p, widths in starts:
        for width in widths:
            p = matched(products, _within(squares, width), p)
        found += [image[assigned(p)] for image in images]
    return max(found, key=lambda order: fit_of(products, _within(squares, _BORDER), order))


def _within(squares: np.ndarray, width: float) -> np.ndarray:
    """Return how alike entries should be by their squared distance."""
    return np.exp(-squares / (2 * width**2))


def _mirror_images(block: int, channels: int) -> list[np.ndarray]:
    """Return the eight permutations of a block's entries that keep all distances within it."""
    entries = np.arange(block * block * channels).reshape(block, block, channels)
    symmetric = [np.rot90(one, k) for one in (entries, entries[:, ::-1]) for k in range(4)]
    return [one.reshape(-1) for one in symmetric]


def _permutation_from_weights(case: Case) -> Found | None:
    block, shape = case.settings["block"], image_shape(case)
    rows = rows_of(case.locked, block, shape)
    if rows is None:
        return None
    permutation = permutation_from_weights(rows, block, shape)
    return None if permutation is None else with_key(case, PixelKey(permutation))


ENTRIES = (
    Entry("permutation_from_weights", _permutation_from_weights, ("pixel_shuffle",), (), "key"),
)
