"""The keyed digest of a tree in operations that XLA splits by itself, for TPUs with several chips."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax.ciphers import chacha
from modellock_jax.ciphers.wide import Wide
from modellock_jax.core.bits import to_uint
from modellock_jax.core.platforms import on_tpus
from modellock_jax.locks._rows import LANES, stretch_of

_DEVICES = 64  # among how many, a power of two, an axis that is reshaped may be split
_SHORT = 32  # of what is added up along a longer axis, XLA on CPUs makes all in memory first


def added(key: jax.Array, table: jax.Array, leaf_number: int, leaf: jax.Array) -> jax.Array:
    """Return what a whole leaf adds to the digest, uint32 `[LANES]`; `table`: uint32 `[LANES, 2, N]`.

    Each entry is taken where it lies, times the words of its place in its row and of its row: one sum
    over the leaf, which devices add up by its `LANES` words, once for each axis that is split. It is
    made in no memory of its own, but that TPUs look up words for each entry of an axis which is cut into
    stretches and is neither a power of two nor `_DEVICES` of them or a multiple.
    """
    if leaf.dtype.itemsize == 8:
        leaf = lax.bitcast_convert_type(leaf, jnp.uint32)
    given = key, table, jnp.uint32(leaf_number), to_uint(leaf)
    return on_tpus(partial(_added, 2**31), partial(_added, _SHORT), *given)


@partial(jax.jit, static_argnums=0)
def _added(
    most: int, key: jax.Array, table: jax.Array, leaf: jax.Array, uint: jax.Array
) -> jax.Array:
    shape, size = uint.shape, uint.dtype.itemsize
    axis, length = stretch_of(shape, size)
    counts = (*shape[:axis], -(-shape[axis] // length))
    in_rows = length == shape[axis] or _is_split_alike(shape[axis], length)
    if in_rows:
        uint = uint.reshape(*counts, length, *shape[axis + 1 :])
    pieces = [_view(piece, most) for piece in _pieces(uint)]
    index = _indices(uint.shape, most)
    entries = pieces[0].shape
    if in_rows:
        row, place = index[: axis + 1], index[axis + 1 :]
        factors = _factors(key, leaf, row, counts)
    else:
        if most == _SHORT:
            index[axis] = jnp.broadcast_to(index[axis], entries)
        row = [*index[:axis], index[axis] >> (length.bit_length() - 1)]
        place = [index[axis] & (length - 1), *index[axis + 1 :]]
        each = [lax.broadcasted_iota(jnp.int32, counts, k) for k in range(axis + 1)]
        factors = _factors(key, leaf, each, counts).at[:, *row].get(mode="clip")
    at = sum(index * math.prod(shape[axis + 1 + k :]) for k, index in enumerate(place))
    if most == _SHORT:  # there what is looked up for each entry alone is never in memory
        at = jnp.broadcast_to(at, entries)
    inner = sum(piece[None] * _words(table, k, size, at) for k, piece in enumerate(pieces))
    return (inner * factors).sum(range(1, len(entries) + 1), dtype=jnp.uint32)


def _is_split_alike(n: int, length: int) -> bool:
    """Whether an axis is split among devices as one of stretches is, and so may be reshaped to it."""
    return n % length == 0 and (n & (n - 1) == 0 or n % (_DEVICES * length) == 0)


def _split(n: int, most: int) -> tuple[list[int], list[int], int]:
    """Split an axis into several of at most `most` entries: (of its powers of two, others, odd).

    The first divide the largest power of two in n, since devices are as many; n is as often `odd`, and
    the product of the others is that or a little more.
    """
    even = 1 if n <= most else n & -n
    return _short(even, most), _short(n // even, most), n // even


def _view(piece: jax.Array, most: int) -> jax.Array:
    """Return a leaf with each axis as several of at most `most` entries, and zeros past its end."""
    split = [_split(n, most) for n in piece.shape]
    piece = piece.reshape([n for even, _, odd in split for n in (math.prod(even), odd)])
    piece = jnp.pad(piece, [(0, n) for _, dims, odd in split for n in (0, math.prod(dims) - odd)])
    return piece.reshape([n for even, dims, _ in split for n in (*even, *dims)])


def _indices(shape: tuple[int, ...], most: int) -> list[jax.Array]:
    """Return the indices along each axis of a leaf, as its view shows them."""
    split = [_split(n, most) for n in shape]
    sizes = [n for even, dims, _ in split for n in (*even, *dims)]
    indices, axis = [], 0
    for even, dims, odd in split:
        steps = [odd * math.prod(even[k + 1 :]) for k in range(len(even))]
        steps += [math.prod(dims[k + 1 :]) for k in range(len(dims))]
        index = jnp.zeros([1] * len(sizes), jnp.int32)
        for k, step in enumerate(steps, axis):
            own = [n if i == k else 1 for i, n in enumerate(sizes)]
            index += lax.broadcasted_iota(jnp.int32, own, k) * step
        indices.append(index)
        axis += len(steps)
    return indices


def _short(n: int, most: int) -> list[int]:
    """Axes of at most `most` entries, for n in all or a few more."""
    return [n] if n <= most else [most, *_short(-(-n // most), most)]


def _factors(
    key: jax.Array, leaf: jax.Array, row: Sequence[Any], counts: tuple[int, ...]
) -> jax.Array:
    """Return the words of rows, uint32 `[LANES, ...]`, by their indices along `counts`."""
    number = Wide.of(jnp.zeros_like(row[-1]))
    for k, index in enumerate(row):
        number += Wide.of(index.astype(jnp.uint32)) * math.prod(counts[k + 1 :])
    return jnp.stack(chacha.words(key, [leaf, number.high, jnp.uint32(0)], number.low)[:LANES])


def _pieces(uint: jax.Array) -> list[jax.Array]:
    """Entries as pieces of 16 bits or less, uint32."""
    words = uint.astype(jnp.uint32)
    return [words & 0xFFFF, words >> 16] if uint.dtype.itemsize == 4 else [words]


def _words(table: jax.Array, piece: int, size: int, place: Any) -> jax.Array:
    """Return what a piece of entries of `size` bytes at these places of a row is taken times."""
    half = place >> 1 if size == 1 else place
    upper, word = (piece, place) if size == 4 else (half & 1, half >> 1)
    # Flat: TPUs pad what is looked up along several axes.
    lane = lax.broadcasted_iota(jnp.int32, (LANES, *[1] * place.ndim), 0) * table[0].size
    found = table.reshape(-1).at[lane + (upper * table.shape[2] + word)[None]].get(mode="clip")
    return found << (8 * (place & 1)).astype(jnp.uint32)[None] if size == 1 else found
