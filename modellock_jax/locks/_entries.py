"""Single entries of some leaves written over, wherever they lie on devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.core.bits import from_uint, to_uint
from modellock_jax.core.lock import Params
from modellock_jax.core.shards import Part, by_leaves


def overwrite(
    params: Params, numbers: list[int], leaf: jax.Array, position: jax.Array, values: jax.Array
) -> Params:
    """Write `values` at entries of the leaves `numbers`.

    `leaf`: int32 `[count]`, a leaf's number, -1 where unused; `position`: int32 `[count]`, the place in
    that leaf, in C order; `values`: `[count]`, float32, or bits in uint32.
    """
    leaves, tree = jax.tree.flatten(params)
    new = write(numbers, (leaf, position, values), [leaves[i] for i in numbers])
    for i, written in zip(numbers, new):
        leaves[i] = written
    return jax.tree.unflatten(tree, leaves)


@by_leaves
def write(
    numbers: tuple[int, ...], args: Any, parts: list[Part], leaves: list[jax.Array]
) -> list[jax.Array]:
    """Write into leaves of these numbers; `args` are the last three of `overwrite`."""
    leaf, position, values = args
    new = []
    for i, part, old in zip(numbers, parts, leaves):
        uint = to_uint(old)
        is_bits = values.dtype == jnp.uint32
        value = values.astype(uint.dtype) if is_bits else to_uint(values.astype(old.dtype))
        new.append(from_uint(_scatter(part, uint, leaf == i, position, value), old.dtype))
    return new


def _write_one(
    numbers: tuple[tuple[int, int], ...], args: Any, parts: list[Part], leaves: list[jax.Array]
) -> list[jax.Array]:
    new = []
    for (i, which), part, old in zip(numbers, parts, leaves):
        leaf, position, bits = (arg[which] for arg in args)
        place, inside = _place(part, old.shape, leaf == i, position)
        # XLA compiles it sooner than a scatter.
        before = lax.dynamic_slice(old, place, (1,) * old.ndim)
        after = jnp.where(inside, _as(bits, old.dtype).reshape(before.shape), before)
        new.append(lax.dynamic_update_slice(old, after, place))
    return new


def _plainly_write_one(
    numbers: tuple[tuple[int, int], ...], args: Any, parts: list[Part], leaves: list[jax.Array]
) -> list[jax.Array]:
    new = []
    for (i, which), part, old in zip(numbers, parts, leaves):
        leaf, position, bits = (arg[which] for arg in args)
        place, inside = _place(part, old.shape, leaf == i, position)
        # A scatter of one entry would become a slice, for which XLA gathers the leaf.
        for k, at in enumerate(place):
            inside = inside & (lax.broadcasted_iota(jnp.int32, old.shape, k) == at)
        new.append(jnp.where(inside, _as(bits, old.dtype), old))
    return new


write_one = by_leaves(_write_one, _plainly_write_one)
"""Write one entry, or none, into each of some leaves of unsigned integers or float32; bits are given.

A leaf's number is two: its own, and which of the entries in `args`, as in `overwrite`, may be its.
"""


def _as(bits: jax.Array, dtype: Any) -> jax.Array:
    return from_uint(bits, dtype) if dtype == jnp.float32 else bits.astype(dtype)


def _place(
    part: Part, own: tuple[int, ...], is_here: jax.Array, position: jax.Array
) -> tuple[list[jax.Array], jax.Array]:
    """Where in its part a position of a leaf is, an index for each axis, and whether it is in there."""
    starts = [number * n for number, n in zip(part.numbers, own)]
    whole = jnp.unravel_index(jnp.maximum(position, 0), part.shape)
    place = [p - start for p, start in zip(whole, starts)]
    for p, n in zip(place, own):
        is_here &= (p >= 0) & (p < n)
    return place, is_here


def _scatter(
    part: Part, uint: jax.Array, is_here: jax.Array, position: jax.Array, bits: jax.Array
) -> jax.Array:
    place, inside = _place(part, uint.shape, is_here, position)
    # Places in other leaves and parts go out of bounds and are dropped.
    first = jnp.where(inside, place[0], uint.shape[0])
    return uint.at[(first, *place[1:])].set(bits, mode="drop")


def check_entries(
    lock: str, params: Params, numbers: list[int], leaf: jax.Array, position: jax.Array
) -> None:
    """Raise `ValueError` if a key's entries, as in `overwrite`, are not in the leaves `numbers`."""
    if isinstance(leaf, jax.core.Tracer) or isinstance(position, jax.core.Tracer):
        return
    leaves = jax.tree.leaves(params)
    for i, at in zip(np.asarray(leaf).tolist(), np.asarray(position).tolist()):
        if i >= 0 and (i not in numbers or not 0 <= at < leaves[i].size):
            raise ValueError(
                f"{lock}: the key points at entry {at} of leaf {i}, which these parameters do not "
                "have: it was made for another model"
            )
