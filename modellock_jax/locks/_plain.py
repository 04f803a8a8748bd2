"""Key streams in operations that XLA splits by itself, for TPUs with several chips."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.ciphers import chacha
from modellock_jax.core.shards import Part


def write(part: Part, own: jax.Array, place: Sequence[Any], entries: jax.Array) -> jax.Array:
    """Write entries at one place of the leaf into `own`: an index for each axis, or None for all.

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


_FEW = 4  # entries that are written without a loop
Words = Callable[[Any], tuple[Any, jax.Array]]


def fill(part: Part, own: tuple[int, ...], dtype: Any, lanes: int, state: Any, words: Words) -> Any:
    """Fill a part of a key stream, uints of `dtype` and shape `own`, a few entries at a time.

    A lane is what one index along the first `lanes` axes chooses; its entries lie one after the other.
    `words(state) -> (state, entries)` makes the next entries of every lane, `[count, *lanes]`. Returns
    the state after the last entry, and the part.

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

    made, entries = jnp.zeros(own, dtype), jax.eval_shape(words, state)[1]
    count = entries.shape[0]
    if not made.size:
        return state, made
    state, made = chacha.match_varying((state, made), entries, part.numbers)

    def step(i: Any, carry: Any, some: int = count) -> Any:
        state, entries = words(carry[0])

        def one(j: Any, made: jax.Array) -> jax.Array:
            return put(made, i * count + j, entries[j])

        return state, lax.fori_loop(0, some, one, carry[1], unroll=count <= _FEW)

    state, made = lax.fori_loop(0, total // count, step, (state, made))
    if total % count:
        state, made = step(total // count, (state, made), total % count)
    return state, made


def entries_from(words: jax.Array, size: int) -> jax.Array:
    """Words, uint32 `[N, ...]`, as unsigned integers of `size` bytes `[M, ...]`, little-endian."""
    if size == 4:
        return words
    if size == 8:
        low, high = words[::2].astype("uint64"), words[1::2].astype("uint64")
        return low | (high << 32)
    shifts = np.arange(0, 32, 8 * size, dtype=np.uint32).reshape(1, -1, *[1] * (words.ndim - 1))
    entries = (words[:, None] >> shifts).astype(f"uint{8 * size}")
    return entries.reshape(-1, *words.shape[1:])
