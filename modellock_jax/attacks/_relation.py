"""Whether one model was made from another: columns that lie alike beside columns in random order."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.attacks.keys._by_chance import LAYERS, TESTED, TRIES
from modellock_jax.core.lock import Params

Columns = tuple[np.ndarray, np.ndarray]
"""A layer's columns `[inputs, n]`, float32, of one model and of the other."""


def columns_of(name: str, locked: Params, base: Params, axes: Mapping[int, int]) -> list[Columns]:
    """Return the layers of two models as columns, for the attack `name`.

    `axes`: from the number of a leaf to the axis of its outputs. The columns of each such leaf are
    divided by its largest entry; zeros stand for a leaf that is not finite. Raises `ValueError` for
    trees that differ in structure or shapes.
    """
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (locked, base)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{name}: the locked model and the base differ in structure or shapes; give a base of the "
            "same architecture"
        )
    both = list(zip(jax.tree.leaves(locked), jax.tree.leaves(base)))
    return [(_columns(both[i][0], axis), _columns(both[i][1], axis)) for i, axis in axes.items()]


def _columns(leaf: Any, axis: int) -> np.ndarray:
    matrix = np.moveaxis(np.asarray(leaf, np.float32), axis, -1).reshape(-1, leaf.shape[axis])
    size = np.abs(matrix).max(initial=0)
    if not 0 < size < np.inf:
        return np.zeros_like(matrix)
    return matrix / size


def relation(layers: Sequence[Columns]) -> float:
    """How probable it is that columns lie as much alike if the models are no relatives.

    In each column's place the columns of the base are ranked by the size of the cosine, and the ranks of
    the right ones are compared with those under `TRIES` random orders. A model trained apart has its
    units in random order, so the test holds its level, but for the few columns of a head, which are
    those of classes in either. At least 1 / (1 + `TRIES`).
    """
    rng = np.random.default_rng(0)
    fits = np.zeros(1 + TRIES)
    # At random, or they might be all of one kind, as every second layer's.
    for number in rng.choice(len(layers), min(LAYERS, len(layers)), replace=False):
        ranks = _ranks(*(columns[:, :TESTED] for columns in layers[number]))
        units = np.arange(len(ranks))
        orders = np.stack([units, *(rng.permutation(units) for _ in range(TRIES))])
        fits += ranks[units, orders].sum(1)
    return float((fits >= fits[0]).mean())


def _ranks(locked: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Rank the columns of the base for each locked one, `[n, n]`; equal ones alike."""
    cosines = np.abs(_directions(locked).T @ _directions(base))
    ordered = np.sort(cosines, axis=1)
    return np.stack([np.searchsorted(row, own) for row, own in zip(ordered, cosines)])


def _directions(columns: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(columns, axis=0, keepdims=True)
    return columns / np.where(size > 0, size, 1)
