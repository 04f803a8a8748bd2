"""Single entries of some leaves written over, wherever they lie on devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.core.bits import from_uint, to_uint
from modellock_jax.core.lock import Params
from modellock_jax.core.shards import Part, by_leaves


def overwrite(
    params: Params, layers: list[int], leaf: jax.Array, position: jax.Array, values: jax.Array
) -> Params:
    """Write `values` at entries of the leaves `layers`.

    `leaf`: int32 `[count]`, a leaf's number, -1 where unused; `position`: int32 `[count]`, the place in
    that leaf, in C order; `values`: `[count]`, float32, or bits in uint32.
    """
    leaves, tree = jax.tree.flatten(params)
    new = _scatter(layers, (leaf, position, values), [leaves[i] for i in layers])
    for i, written in zip(layers, new):
        leaves[i] = written
    return jax.tree.unflatten(tree, leaves)


@by_leaves
def _scatter(
    layers: tuple[int, ...], args: Any, parts: list[Part], leaves: list[jax.Array]
) -> list[jax.Array]:
    leaf, position, values = args
    new = []
    for i, part, old in zip(layers, parts, leaves):
        uint = to_uint(old)
        is_bits = values.dtype == jnp.uint32
        value = values.astype(uint.dtype) if is_bits else to_uint(values.astype(old.dtype))
        starts = [number * own for number, own in zip(part.numbers, uint.shape)]
        whole = jnp.unravel_index(jnp.maximum(position, 0), part.shape)
        place = [p - start for p, start in zip(whole, starts)]
        # Places in other leaves and parts go out of bounds and are dropped.
        inside = leaf == i
        for p, own in zip(place, uint.shape):
            inside &= (p >= 0) & (p < own)
        first = jnp.where(inside, place[0], uint.shape[0])
        uint = uint.at[(first, *place[1:])].set(value, mode="drop")
        new.append(from_uint(uint, old.dtype))
    return new


def check_entries(
    lock: str, params: Params, layers: list[int], leaf: jax.Array, position: jax.Array
) -> None:
    """Raise `ValueError` if a key's entries, as in `overwrite`, are not in the leaves `layers`."""
    if isinstance(leaf, jax.core.Tracer) or isinstance(position, jax.core.Tracer):
        return
    leaves = jax.tree.leaves(params)
    for i, at in zip(np.asarray(leaf).tolist(), np.asarray(position).tolist()):
        if i >= 0 and (i not in layers or not 0 <= at < leaves[i].size):
            raise ValueError(
                f"{lock}: the key points at entry {at} of leaf {i}, which these parameters do not "
                "have: it was made for another model"
            )
