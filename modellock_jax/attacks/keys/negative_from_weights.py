"""The key of `negative_positive` from the locked weights alone: no data, no labels, no device."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from modellock_jax.attacks.case import Case, Entry, Found, with_key
from modellock_jax.attacks.keys._by_chance import TRIES
from modellock_jax.attacks.keys._consensus import cut, fit
from modellock_jax.attacks.keys._smooth_rows import alike, apart, checked, rows_of
from modellock_jax.attacks.keys.chosen_image import image_shape
from modellock_jax.attacks.keys.signs_from_weights import LEVEL, POWER
from modellock_jax.locks.negative_positive import NegativeKey

__all__ = ["ENTRIES", "negative_from_weights"]

_NEAR = 1.0
"""The standard deviation, in pixels, of the normal weights by which entries count as neighbours."""


def negative_from_weights(
    rows: Float[jax.Array, "entries blocks units"], block: int, shape: tuple[int, int, int]
) -> NegativeKey | None:
    """Read which entries of a block are negative off the rows of the first layer.

    Neighbouring entries of natural images are alike, and training gives them rows alike; where one of
    the two is negative, rows that are opposite. So the products of the rows of neighbours, in all
    blocks, have the sign of the product of two signs, and the key is their leading eigenvector.

    Args:
        rows: Those of the first layer: row (i, b) is multiplied with entry i of block b, or of every
            block if b is 0 alone, as in a patch embedding.
        block: The side of a block, which divides H and W.
        shape: `(H, W, C)` of an image.

    Returns:
        The key; None where the same rows in other places fit one as well, at the level of 1 %, or where
        one side has fewer than a quarter of the entries, as without a lock.

    Raises:
        ValueError: For rows that do not fit blocks and images.

    Threat model: the attacker has the locked weights, and knows the scheme and the architecture, whose
    first layer reads whole blocks: a dense one, or a patch embedding of the block's side.

    **Guarantees.** Of rows that do not depend on where they are, as of untrained ones, it reads a key at
    most once in a hundred draws. The smaller rows are taken for the negative entries, as Adam makes them
    on images that are mostly dark; on bright ones try the other half. A block that is the whole of a
    small image may be read right in parts only.

    Source: our own; the spectral method is that of Z2 synchronization (Singer 2011).

    >>> import jax, modellock_jax as ml
    >>> key = ml.negative_positive(4, channels=1).init(jax.random.key(0), None)
    >>> smooth = jax.random.normal(jax.random.key(1), (8, 8, 30)).cumsum(0).cumsum(1)
    >>> rows = smooth.reshape(2, 4, 2, 4, 30).transpose(1, 3, 0, 2, 4).reshape(16, 4, 30)
    >>> signs = jax.numpy.where(key.negative[:, None, None], -1, 2)
    >>> locked = signs * (rows - rows.mean((0, 1), keepdims=True))
    >>> bool((negative_from_weights(locked, 4, (8, 8, 1)).negative == key.negative).all())
    True
    """
    kernel = checked("negative_from_weights", rows, block, shape)
    n, blocks = kernel.shape[:2]
    flat = n * blocks
    near = jnp.asarray(np.exp(-apart(kernel, block, shape) / (2 * _NEAR**2)), jnp.float32)
    products = jnp.asarray(alike(kernel).reshape(flat, flat), jnp.float32)
    rng = np.random.default_rng(0)
    orders = np.stack([np.arange(flat), *(rng.permutation(flat) for _ in range(TRIES))])
    sides, fits = _in_orders(products, near, jnp.asarray(orders))
    if (1 + int((fits[1:] >= fits[0]).sum())) / (1 + TRIES) > LEVEL:
        return None
    side = np.asarray(sides[0])
    if not n // 4 <= (side < 0).sum() <= n - n // 4:
        return None
    sizes = (kernel**2).sum((1, 2))
    if sizes[side < 0].mean() > sizes[side > 0].mean():
        side = -side
    negative = np.zeros(n, bool)
    negative[np.argsort(side, kind="stable")[: n // 2]] = True
    return NegativeKey(jnp.asarray(negative))


@jax.jit
def _in_orders(
    products: jax.Array, near: jax.Array, orders: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return, with the rows in each order, on which side an entry is and how surely, and the fit."""

    def solve(order: jax.Array) -> tuple[jax.Array, jax.Array]:
        moved = products[order].T[order].reshape(near.shape)
        evidence = (moved * near).sum((1, 3))
        evidence = jnp.where(jnp.eye(len(evidence), dtype=bool), 0, evidence)
        signs = cut(evidence, POWER)
        return evidence @ signs, fit(evidence, signs)

    return lax.map(solve, orders)


def _negative_from_weights(case: Case) -> Found | None:
    block, shape = case.settings["block"], image_shape(case)
    rows = rows_of(case.locked, block, shape)
    return with_key(case, None if rows is None else negative_from_weights(rows, block, shape))


ENTRIES = (
    Entry("negative_from_weights", _negative_from_weights, ("negative_positive",), (), "key"),
)
