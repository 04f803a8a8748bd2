"""How alike the rows of a first layer are, and how far apart their entries lie in an image.

The gradient of a row is a sum of errors times that row's entry of the inputs. Neighbouring entries of an
image are alike, so training gives them rows alike: what a key does to the entries, it does to the rows.
"""

import math

import jax
import numpy as np

from modellock_jax.attacks.keys.chosen_image import to_blocks
from modellock_jax.attacks.keys.permutation_from_base import block_rows
from modellock_jax.core.lock import Params
from modellock_jax.core.paths import paths


def rows_of(params: Params, block: int, shape: tuple[int, int, int]) -> jax.Array | None:
    """Return the rows `[entries, blocks, units]` of the one kernel that reads blocks of images.

    A patch embedding reads one block; None if there is no such kernel, or two.
    """
    named = zip(jax.tree.leaves(paths(params)), jax.tree.leaves(params))
    kernels = (leaf for path, leaf in named if path.split("/")[-1] == "kernel")
    found = [rows for leaf in kernels if (rows := block_rows(leaf, block, shape)) is not None]
    return found[0] if len(found) == 1 else None


def checked(name: str, rows: jax.Array, block: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Return rows as float64, zero where not all are finite; `ValueError` for another number of them."""
    n = block * block * shape[2]
    if rows.ndim != 3 or rows.shape[0] != n or rows.shape[1] not in (1, math.prod(shape) // n):
        raise ValueError(
            f"{name}: needs rows [{n}, blocks, units] for blocks of side {block} in images of "
            f"{list(shape)}, not {list(rows.shape)}"
        )
    array = np.asarray(rows, np.float64)
    return array if np.isfinite(array).all() else np.zeros_like(array)


def apart(rows: np.ndarray, block: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the squared distances of entries in the image `[entries, blocks, entries, blocks]`."""
    whole = shape if rows.shape[1] > 1 else (block, block, shape[2])
    at = np.stack([to_blocks(one, block).T for one in np.indices(whole)[:2]])
    return ((at[:, :, :, None, None] - at[:, None, None]) ** 2).sum(0)


def alike(rows: np.ndarray) -> np.ndarray:
    """Return the products of rows about their mean `[entries, blocks, entries, blocks]`."""
    centred = rows - rows.mean((0, 1))
    return np.tensordot(centred, centred, (2, 2))
