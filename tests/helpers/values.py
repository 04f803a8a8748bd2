"""Leaves that hold every bit pattern of their dtype, and comparisons on bits alone."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helpers.table import DTYPES

# What begins every leaf of 32 bits: zeros, infinities, NaNs of both kinds, a denormal.
SPECIAL = [0, 1 << 31, 0x7F800000, 0xFF800000, 0x7F800001, 0x7FC00001, 0xFFFFFFFF, 1]


def bits(leaf: Any) -> np.ndarray:
    leaf = np.asarray(leaf)
    return leaf.view(f"u{leaf.dtype.itemsize}")


def same(a: Any, b: Any) -> bool:
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and np.array_equal(bits(x), bits(y)) for x, y in leaves)


def row(params: Any, i: int) -> Any:
    """Tree number i of a stack, cut on the host, where no bit changes."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[i], params)


def values(dtype: str, shape: tuple[int, ...]) -> jax.Array:
    """Random bits that begin with every pattern there is, or with special values of 32 bits."""
    size, type_ = math.prod(shape), jnp.dtype(dtype)
    raw = np.random.default_rng(1).bytes(size * type_.itemsize)
    uint = np.frombuffer(raw, f"u{type_.itemsize}").copy()
    first = SPECIAL if type_.itemsize == 4 else np.arange(256**type_.itemsize)
    uint[: len(first)] = np.asarray(first, uint.dtype)
    return jnp.asarray(uint.view(type_).reshape(shape))


def tree(shape: tuple[int, ...], dtypes: list[str] = DTYPES) -> dict[str, Any]:
    """One kernel of that shape for each dtype."""
    return {dtype: {"kernel": values(dtype, shape)} for dtype in dtypes}
