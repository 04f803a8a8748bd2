"""Key streams in operations that XLA splits by itself, for TPUs with several chips."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.schemes.shards import Part


def write(part: Part, own: jax.Array, place: Sequence[Any], entries: jax.Array) -> jax.Array:
    """The part `own` with entries at one place of the leaf: an index for each axis, or None for all.

    Nothing happens where the place lies in another part.
    """
    starts, inside = list[Any](), jnp.bool_(True)
    for axis, index in enumerate(place):
        if index is not None and part.names[axis]:
            index = index - part.numbers[axis] * own.shape[axis]
            inside &= (index >= 0) & (index < own.shape[axis])
        starts.append(0 if index is None else index)
    shape = tuple(n if index is None else 1 for n, index in zip(own.shape, place))
    entries = entries.reshape(shape).astype(own.dtype)
    if any(part.names):
        entries = jnp.where(inside, entries, lax.dynamic_slice(own, starts, shape))
    return lax.dynamic_update_slice(own, entries, starts)


Words = Callable[[Any], tuple[Any, list[jax.Array]]]


def fill(part: Part, own: tuple[int, ...], dtype: Any, lanes: int, state: Any, words: Words) -> Any:
    """The part of a key stream, unsigned integers of `dtype` and shape `own`, a few entries at a time.

    A lane is what one index along the first `lanes` axes chooses; its entries lie one after the other.
    `words(state) -> (state, entries)` makes the next entries of every lane, a list of arrays whose shape
    is that of the lanes. Returns the state after the last entry, and the part.

    Each entry is written by itself, and nothing is read: XLA splits that along any axis of any length
    without collectives, and needs no memory but the part.
    """
    lane = part.shape[lanes:]
    total = math.prod(lane)
    if total >= 2**31:
        raise ValueError(
            f"a leaf of shape {list(part.shape)} has stretches of {total} entries, and on TPUs at most "
            "2**31 - 1 can be counted; give it another axis"
        )

    def put(made: jax.Array, i: Any, entry: jax.Array) -> jax.Array:
        return write(part, made, (*[None] * lanes, *jnp.unravel_index(i, lane)), entry)

    made, count = jnp.zeros(own, dtype), len(jax.eval_shape(words, state)[1])
    if not made.size:
        return state, made

    def step(i: Any, carry: Any) -> Any:
        state, made = carry
        state, entries = words(state)
        for j, entry in enumerate(entries):
            made = put(made, i * count + j, entry)
        return state, made

    state, made = lax.fori_loop(0, total // count, step, (state, made))
    if total % count:
        state, entries = words(state)
        for j, entry in enumerate(entries[: total % count]):
            made = put(made, total - total % count + j, entry)
    return state, made


def entries_from(words: Sequence[jax.Array], size: int) -> list[jax.Array]:
    """Words, uint32 arrays, as unsigned integers of `size` bytes, in little-endian order."""
    if size == 4:
        return list(words)
    if size == 8:
        pairs = zip(words[::2], words[1::2])
        return [low.astype("uint64") | (high.astype("uint64") << 32) for low, high in pairs]
    bits = 8 * size
    return [
        ((word >> np.uint32(bits * j)) & np.uint32(2**bits - 1)).astype(f"uint{bits}")
        for word in words
        for j in range(4 // size)
    ]
