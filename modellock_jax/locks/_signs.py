"""Signs of channels, and how weights take them on, bit for bit."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.core.bits import from_uint, to_uint
from modellock_jax.core.lock import Params
from modellock_jax.core.outputs import output_axes
from modellock_jax.core.paths import paths
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


def in_pieces(key: Any, shapes: Params) -> Callable[[str, int, np.ndarray], None]:
    """Return what negates stretches of leaves by a `SignKey` on the host, see `Files.in_pieces`."""
    names, leaves = jax.tree.leaves(paths(shapes)), jax.tree.leaves(shapes)
    found = output_axes("sign_flip", shapes)
    axes = {names[i]: (axis, leaves[i].shape) for i, axis in found.items()}
    check_negates(key.signs, max(shape[axis] for axis, shape in axes.values()))
    signs = np.asarray(key.signs)

    def change(name: str, first: int, entries: np.ndarray) -> None:
        if name in axes:
            _negate_stretch(signs, *axes[name], first, entries)

    return change


def check_negates(signs: jax.Array, channels: int) -> None:
    """Refuse signs that negate no channel of layers of so many at most, as far as it can be seen."""
    if isinstance(signs, jax.core.Tracer):
        return
    if (np.asarray(signs)[:channels] > 0).all():
        raise ValueError(
            f"sign_flip: the key negates none of the layers' channels, {channels} at most, so that "
            "nothing would be locked; draw another key"
        )


def _negate_stretch(
    signs: np.ndarray, axis: int, shape: tuple[int, ...], first: int, entries: np.ndarray
) -> None:
    """Negate in place, as `negate`, entries `[N]` of a leaf that begin at number `first` in C order."""
    inner = math.prod(shape[axis + 1 :])
    begin, end = first // inner, -(-(first + entries.size) // inner)
    negative = signs[np.arange(begin, end) % shape[axis] % signs.size] < 0
    mask = np.repeat(negative, inner)[first - begin * inner :][: entries.size]
    if jnp.issubdtype(entries.dtype, jnp.floating):
        bits = entries.view(f"u{entries.itemsize}")
        bits ^= mask.astype(bits.dtype) << (8 * entries.itemsize - 1)
    else:
        np.negative(entries, out=entries, where=mask)
