"""The keyed digest of a tree in operations that XLA splits by itself, for TPUs with several chips."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax.ciphers import chacha
from modellock_jax.core.bits import to_uint
from modellock_jax.locks._rows import LANES, number_of, stretch_of

_SELECTED = 16  # rows in a stretch, at most, of which one is selected for each entry


def added(key: jax.Array, table: jax.Array, leaf_number: int, leaf: jax.Array) -> jax.Array:
    """What a whole leaf adds to the digest, uint32 `[LANES]`; `table`: uint32 `[LANES, 2, N]`.

    Each entry is taken where it lies, times the words of its place in its row and of its row.
    """
    if leaf.dtype.itemsize == 8:
        leaf = lax.bitcast_convert_type(leaf, jnp.uint32)
    uint, shape = to_uint(leaf), leaf.shape
    axis, length = stretch_of(shape, uint.dtype.itemsize)
    counts = (*shape[:axis], -(-shape[axis] // length))
    number = number_of(shape, counts, [jnp.uint32(0)] * len(shape), length)
    own, zero = jnp.uint32(leaf_number), jnp.uint32(0)
    factors = chacha.words(
        key, [own, number.high.reshape(counts), zero], number.low.reshape(counts)
    )
    stretch = jnp.arange(shape[axis], dtype=jnp.int32) // length
    products = []
    for words, factor in zip(table, factors):
        factor = factor.at[..., stretch].get(mode="promise_in_bounds")
        inner: Any = sum(
            piece * _spread(view, shape[axis:], length).reshape(*[1] * axis, *shape[axis:])
            for piece, view in zip(_pieces(uint), _views(words, uint.dtype.itemsize))
        )
        products.append(inner * factor.reshape(*shape[: axis + 1], *[1] * (len(shape) - axis - 1)))
    # One pass over the leaf for all lanes, in no memory of its own; devices exchange a word for each.
    zeros, axes = (jnp.uint32(0),) * LANES, tuple(range(len(shape)))
    lanes = lax.reduce(tuple(products), zeros, lambda a, b: tuple(map(jnp.add, a, b)), axes)
    return jnp.stack(lanes)


def _pieces(uint: jax.Array) -> list[jax.Array]:
    """Entries as pieces of 16 bits or less, uint32."""
    words = uint.astype(jnp.uint32)
    return [words & 0xFFFF, words >> 16] if uint.dtype.itemsize == 4 else [words]


def _views(words: jax.Array, size: int) -> list[jax.Array]:
    """For each piece of an entry of `size` bytes, what it is taken times at each place of a row.

    `words`: uint32 `[2, N]`, for the lower and the upper half of each word of a row.
    """
    if size == 4:
        return [words[0], words[1]]
    halves = words.T.reshape(-1)
    return [halves if size == 2 else jnp.stack([halves, halves << 8], axis=1).reshape(-1)]


def _spread(view: jax.Array, inner: tuple[int, ...], length: int) -> jax.Array:
    """The view of a row's places over all of `inner`, whose first axis holds rows of `length`."""
    first, *rest = inner
    # Looked up, not reshaped: what is made of iotas XLA splits in any way.
    place = jnp.zeros(rest, jnp.int32)
    for k in range(len(rest)):
        place += lax.broadcasted_iota(jnp.int32, rest, k) * math.prod(rest[k + 1 :])

    index = (jnp.arange(first, dtype=jnp.int32) % length).reshape(-1, *[1] * len(rest))
    if not rest or length > _SELECTED or length == first:
        at = index * math.prod(rest) + place[None]
        return view.at[at].get(mode="promise_in_bounds")
    # One of few is selected: nothing of the leaf's size is made.
    spread = jnp.zeros((), jnp.uint32)
    for i in range(length):
        row = view.at[i * math.prod(rest) + place].get(mode="promise_in_bounds")
        spread = jnp.where(index == i, row[None], spread)
    return spread
