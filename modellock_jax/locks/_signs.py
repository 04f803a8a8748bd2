"""Signs of channels, and how weights take them on, bit for bit."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.core.bits import from_uint, to_uint
from modellock_jax.core.shards import Part, by_leaves


def signs_of(signs: jax.Array, units: tuple[int, ...]) -> jax.Array:
    """Repeat signs over units `[..., C]`: `[rows, C]`; each row continues the one before."""
    bits, width, rows = signs.shape[0], math.prod(units[-1:]), math.prod(units[:-1])
    # Rows come round again: one round is looked up, as an array of its own that XLA does not make anew
    # in every use, and repeated where the product is taken. To look up every unit costs as much as
    # the layer at small batches.
    once = min(rows, bits // math.gcd(bits, width))
    table = signs.at[np.arange(once * width) % bits].get(mode="promise_in_bounds")
    return jnp.tile(table.reshape(once, width), (-(-rows // max(once, 1)), 1))[:rows]


@by_leaves
def negate(
    axes: Sequence[int], signs: jax.Array, parts: list[Part], leaves: list[jax.Array]
) -> list[jax.Array]:
    new = []
    for axis, part, leaf in zip(axes, parts, leaves):
        unit = part.numbers[axis] * leaf.shape[axis] + jnp.arange(leaf.shape[axis])
        negative = signs.at[unit % signs.shape[0]].get(mode="promise_in_bounds") < 0
        negative = negative.reshape(unit.shape + (1,) * (leaf.ndim - 1 - axis))
        negative = negative.reshape((1,) * axis + negative.shape)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            bits = to_uint(leaf)
            sign_bit = jnp.asarray(1 << (8 * leaf.dtype.itemsize - 1), bits.dtype)
            bits ^= jnp.where(negative, sign_bit, jnp.zeros((), bits.dtype))
            new.append(from_uint(bits, leaf.dtype))
        else:
            new.append(jnp.where(negative, -leaf, leaf))
    return new
