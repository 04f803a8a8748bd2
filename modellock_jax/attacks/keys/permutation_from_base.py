"""Permuted rows of a first layer, by their direction beside the rows of a public base."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import optimize

from modellock_jax.attacks.case import Case, Entry, Found, with_key
from modellock_jax.attacks.keys._by_chance import TESTED, TRIES
from modellock_jax.attacks.keys.signs_from_weights import LEVEL
from modellock_jax.core.paths import paths
from modellock_jax.locks.pixel_shuffle import PixelKey

__all__ = ["ENTRIES", "block_rows", "permutation_from_base"]


def permutation_from_base(
    locked: Float[jax.Array, "rows *parts units"], base: Float[jax.Array, "rows *parts units"]
) -> jax.Array | None:
    """Find which row of a public base each locked row was, by the angles between them.

    Args:
        locked: Rows `[n, ..., units]` in an order that is secret: row i was row `permutation[i]`.
        base: Those of the model that the owner's was made from, in their own order.

    Returns:
        The permutation, int32 `[n]`; None if rows find none that lie as near as where the base is no
        relative, at the level of 1 %.

    Raises:
        ValueError: For shapes that differ, or have one axis alone.

    Threat model: the attacker has the locked weights, knows the scheme and the architecture, and has a
    public model from which the owner's was fine-tuned, or another that was.

    **Guarantees.** Of a base whose units are in random order, as one that was trained apart, it finds a
    permutation at most once in a hundred draws. Rows that are equal, or zero, come in any order.

    The assignment has the largest sum of cosines. The test compares how near the nearest row of the base
    is to each locked row with the same where the base's units are in 99 random orders.

    Source: the direction similarity of ArrowMatch (USENIX Security 2025); the assignment by Crouse
    (2016), in SciPy; the test is ours.

    >>> import jax
    >>> base = jax.random.normal(jax.random.key(0), (9, 40))
    >>> order = jax.random.permutation(jax.random.key(1), 9)
    >>> locked = base[order] + jax.random.normal(jax.random.key(2), (9, 40)) / 2
    >>> bool((permutation_from_base(locked, base) == order).all())
    True
    """
    if locked.shape != base.shape or locked.ndim < 2:
        raise ValueError(
            "permutation_from_base: needs rows [n, ..., units] of one shape, not "
            f"{list(locked.shape)} and {list(base.shape)}"
        )
    ours, theirs = _directions(locked), _directions(base)
    if not _as_near(ours[:TESTED], theirs):
        return None
    n = len(ours)
    cosines = ours.reshape(n, -1) @ theirs.reshape(n, -1).T
    return jnp.asarray(optimize.linear_sum_assignment(-cosines)[1], jnp.int32)


def _directions(rows: jax.Array) -> np.ndarray:
    """Return rows of length one; zero for those that are zero or not finite."""
    array = np.asarray(rows, np.float32)
    across = tuple(range(1, array.ndim))
    array = np.where(np.isfinite(array).all(across, keepdims=True), array, 0)
    array = array / np.maximum(np.abs(array).max(across, keepdims=True), np.finfo(np.float32).tiny)
    size = np.sqrt((array**2).sum(across, keepdims=True))
    return array / np.where(size > 0, size, 1)


def _as_near(locked: np.ndarray, base: np.ndarray) -> bool:
    """Whether rows lie nearer to the base's than to those of the base with its units in any order."""
    rng, units = np.random.default_rng(0), base.shape[-1]

    def nearest(order: Any) -> float:
        other = base[..., order].reshape(len(base), -1)
        return float((locked.reshape(len(locked), -1) @ other.T).max(1).sum())

    found = nearest(slice(None))
    as_good = sum(nearest(rng.permutation(units)) >= found for _ in range(TRIES))
    return (1 + as_good) / (1 + TRIES) <= LEVEL


def block_rows(
    kernel: jax.Array, block: int, image_shape: tuple[int, int, int]
) -> jax.Array | None:
    """Return the rows of a first layer that a shuffle of blocks permutes, if it can be moved there.

    Args:
        kernel: `[block, block, C, units]` of a patch embedding, or `[block * block * C, units]` or
            `[H * W * C, units]` of a dense layer, on one block or on images.
        block: The side of a block.
        image_shape: `(H, W, C)`.

    Returns:
        `[block * block * C, blocks, units]`; None for a kernel of another shape.
    """
    height, width, channels = image_shape
    n, units = block * block * channels, kernel.shape[-1]
    if kernel.shape[:-1] in ((block, block, channels), (n,)):
        return kernel.reshape(n, 1, units)
    if kernel.shape[:-1] != (height * width * channels,) or height % block or width % block:
        return None
    grid = kernel.reshape(height // block, block, width // block, block, channels, units)
    return grid.transpose(1, 3, 4, 0, 2, 5).reshape(n, -1, units)


def _permutation_from_base(case: Case) -> Found | None:
    settings, found = case.settings, list[tuple[jax.Array, jax.Array]]()
    block = settings["patch"] if "patch" in settings else settings["block"]
    for path, *kernels in zip(
        jax.tree.leaves(paths(case.locked)),
        jax.tree.leaves(case.locked),
        jax.tree.leaves(case.public_base),
    ):
        if path.split("/")[-1] == "kernel":
            ours, theirs = (block_rows(one, block, case.example.shape[1:]) for one in kernels)
            found += [(ours, theirs)] if ours is not None and theirs is not None else []
    # The lock acts on one leaf alone.
    if len(found) != 1:
        return None
    permutation = permutation_from_base(*found[0])
    return None if permutation is None else with_key(case, PixelKey(permutation))


_SHUFFLES = ("patch_shuffle", "pixel_shuffle")
ENTRIES = (
    Entry("permutation_from_base", _permutation_from_base, _SHUFFLES, ("public_base",), "key"),
)
