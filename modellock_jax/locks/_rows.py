"""How the keyed digest of a tree cuts a leaf into rows."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.ciphers.wide import Wide
from modellock_jax.core.bits import to_uint
from modellock_jax.core.shards import Part, by_platform

LANES = 8
ROW = 4096  # bytes of the longest row


class Cut(NamedTuple):
    """A part of a leaf as rows.

    Attributes:
        rows: uint `[N, W]`.
        number: Their numbers in the leaf; None for 0 to N - 1.
        take: What takes the words of a row's places from the table of all; None for the first W.
    """

    rows: jax.Array
    number: Wide | None
    take: Callable[[jax.Array], jax.Array] | None


def stretch_of(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Which axis of a leaf is cut into stretches, and how long they are; its entries have `size` bytes.

    A row is a stretch of that axis and all of the axes after it, at most `ROW` bytes.
    """
    axis = len(shape) - 1
    while axis and math.prod(shape[axis:]) * size < ROW // 2:
        axis -= 1
    inner = math.prod(shape[axis + 1 :]) * size
    if shape[axis] * inner <= ROW:
        return axis, shape[axis]
    return axis, 1 << ((ROW // inner).bit_length() - 1)


def number_of(
    shape: tuple[int, ...], counts: tuple[int, ...], starts: list[Any], length: int
) -> Wide:
    """Return the number of each row among those of the whole leaf, in C order, flat."""
    axis = len(counts) - 1
    whole = (*shape[:axis], -(-shape[axis] // length))
    number = Wide.of(jnp.zeros(counts, jnp.uint32))
    for k in range(axis + 1):
        start = starts[k] // length if k == axis else starts[k]
        index = start + lax.broadcasted_iota(jnp.uint32, counts, k)
        number += Wide.of(index) * math.prod(whole[k + 1 :])
    return Wide(number.high.reshape(-1), number.low.reshape(-1))


def cut(part: Part, leaf: jax.Array) -> Cut:
    """Return the rows of a part."""
    if leaf.dtype.itemsize == 8:
        uint = lax.bitcast_convert_type(leaf, jnp.uint32)
        part = Part((*part.shape, 2), (*part.numbers, 0), (*part.names, None))
    else:
        uint = to_uint(leaf)
    own, size = uint.shape, uint.dtype.itemsize
    axis, length = stretch_of(part.shape, size)
    starts = [jnp.asarray(n).astype(jnp.uint32) * k for n, k in zip(part.numbers, own)]
    for k, names in enumerate(part.names):
        if names:  # what lies past the leaf's end counts nothing
            index = starts[k] + lax.broadcasted_iota(jnp.uint32, own, k)
            uint = jnp.where(index < part.shape[k], uint, jnp.zeros((), uint.dtype))
    # A part may begin within a stretch.
    within = length if part.names[axis] and own[axis] % length else 1
    stretches = -(-(own[axis] + within - 1) // length)
    if stretches * length != own[axis]:
        longer = jnp.zeros((*own[:axis], stretches * length, *own[axis + 1 :]), uint.dtype)
        shift = (starts[axis] % within).astype(jnp.int32)
        uint = lax.dynamic_update_slice_in_dim(longer, uint, shift, axis)
    counts = (*own[:axis], stretches)
    number = number_of(part.shape, counts, starts, length) if any(part.names) else None
    rows = uint.reshape(math.prod(counts), -1)
    if not any(part.names[axis + 1 :]):
        return Cut(_as_words(rows), number, None)
    bounds = (length, *own[axis + 1 :]), [jnp.uint32(0), *starts[axis + 1 :]]
    if own[-1] * size % 4 == 0 and part.shape[-1] * size % 4 == 0:
        rows = _as_words(rows)
    return Cut(
        rows, number, partial(_of_part, (length, *part.shape[axis + 1 :]), size, bounds, rows)
    )


def _as_words(rows: jax.Array) -> jax.Array:
    """Rows as uint32, with zeros at the end."""
    each = 4 // rows.dtype.itemsize
    if each == 1:
        return rows
    rows = jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % each)))

    def strided(rows: jax.Array) -> jax.Array:
        words = [rows[:, k::each].astype(jnp.uint32) << (32 // each * k) for k in range(each)]
        return sum(words[1:], words[0])

    def joined(rows: jax.Array) -> jax.Array:
        return lax.bitcast_convert_type(rows.reshape(rows.shape[0], -1, each), jnp.uint32)

    # TPUs pad a last axis of a few entries to 128.
    return by_platform(strided, joined, rows)


def _of_part(
    shape: tuple[int, ...], size: int, bounds: Any, rows: jax.Array, table: jax.Array
) -> jax.Array:
    """Cut the table for parts that are split within rows: of rows of `shape`, what is in `bounds`."""
    (own, starts), each = bounds, 4 // size
    is_words = rows.dtype.itemsize == 4
    if not is_words:
        # The pieces as their entries see them, bytes of the upper half of a piece times 256.
        entry = np.arange(4 * table.shape[2] // size)
        half = (entry * size // 2 % 2, entry * size // 4)
        shifts = (8 * (entry * size % 2)).astype(np.uint32)[None]
        table = table[:, half[0], half[1]] << shifts
        table, each = table[:, None], 1
    *outer, last = shape
    inner = (*outer, last // each)
    words = table[..., : math.prod(inner)].reshape(*table.shape[:2], *inner)
    sizes = (*own[:-1], own[-1] // each)
    words = jnp.pad(
        words, [(0, 0)] * 2 + [(0, max(0, -n % max(k, 1))) for n, k in zip(inner, sizes)]
    )
    at = [*starts[:-1], starts[-1] // each]
    zero = jnp.uint32(0)
    cut = lax.dynamic_slice(words, [zero, zero, *at], (*table.shape[:2], *sizes))
    return cut.reshape(*table.shape[:2], -1)
