"""A keyed digest of a tree, from which a lock takes a nonce that depends on what is locked.

A leaf is cut into *rows*, a stretch of one axis and all axes after it, and a row into pieces of 16
bits. A lane sums the pieces, each times a random word of its place
in the row, and then the rows, each times a random word of its own, modulo 2^32. All of it is linear,
so that devices add up what their parts give, wherever a leaf is split.
"""

import hashlib
import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.ciphers import chacha
from modellock_jax.ciphers.wide import Wide
from modellock_jax.core.bits import to_uint
from modellock_jax.core.lock import Params, paths
from modellock_jax.core.shards import Part, sum_over_parts
from modellock_jax.locks import _digest_plain
from modellock_jax.locks._rows import LANES, ROW, number_of, stretch_of

_SHORT = 64  # rows of a leaf that shares one reduction with others
_TABLE = 2**32 - 1  # in place of a leaf's number, for the words of the places in a row


class _Cut(NamedTuple):
    """A part as `rows`, uint `[N, W]`, their numbers in the leaf, or None for 0 to N - 1, and what takes
    the words of a row's places from the table of all, or None for the first W."""

    rows: jax.Array
    number: Wide | None
    take: Callable[[jax.Array], jax.Array] | None


def tree_digest(key: jax.Array, leaves: list[jax.Array]) -> jax.Array:
    """Eight words, uint32 `[8]`, of all bits of all leaves and their places, under a key, uint32 `[8]`.

    **Guarantees.** The same however the leaves are sharded; devices exchange these 32 bytes once. Two
    lists of the same shapes and dtypes that differ in any bit have one digest with probability at most
    2^-110 over the key's random words, which are ChaCha20's (Nir & Langley 2018): of a lane, an
    inner sum of pieces of 16 bits is a multiple of 2^t with probability at most 2^(15-t), the outer sum
    is then 0 with probability 2^(t-32), and together that is at most 19 / 2^18; lanes are independent.
    """
    full = [i for i, leaf in enumerate(leaves) if leaf.size]
    return _digest(tuple(full), key, [jnp.atleast_1d(leaves[i]) for i in full])


def structure(params: Params) -> np.ndarray:
    """SHA-256 of the path, shape and dtype of every leaf in order, as uint32 `[8]`."""
    named = zip(jax.tree.leaves(paths(params)), jax.tree.leaves(params))
    text = json.dumps([[path, list(leaf.shape), str(leaf.dtype)] for path, leaf in named])
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), "<u4").astype(np.uint32)


def _added(
    numbers: tuple[int, ...], key: jax.Array, parts: list[Part], leaves: list[jax.Array]
) -> jax.Array:
    """What each leaf's part adds, uint32 `[leaves, LANES]`; the first short one stands for all."""
    table = _table(key)
    cut = [_cut(part, leaf) for part, leaf in zip(parts, leaves)]
    factors = _factors(key, numbers, cut)
    ends = np.cumsum([0] + [one.rows.shape[0] for one in cut])
    short = [
        i
        for i, (one, part) in enumerate(zip(cut, parts))
        if one.rows.shape[0] <= _SHORT and not any(part.names)
    ]
    added = [jnp.zeros(LANES, jnp.uint32)] * len(cut)
    for i in set(range(len(cut))) - set(short):
        rows, _, take = cut[i]
        words = table[..., : rows.shape[1]] if take is None else take(table)
        added[i] = _sum(_lanes(rows, words), factors[ends[i] : ends[i + 1]])
    # One reduction for all short leaves: a program that XLA compiles soon.
    if short:
        width = max(cut[i].rows.shape[1] for i in short)
        rows = jnp.concatenate(
            [jnp.pad(cut[i].rows, ((0, 0), (0, width - cut[i].rows.shape[1]))) for i in short]
        )
        own = np.concatenate([np.arange(ends[i], ends[i + 1]) for i in short])
        added[short[0]] = _sum(_lanes(rows, table[..., :width]), factors[own])
    return jnp.stack(added)


def _plainly_added(
    numbers: tuple[int, ...], key: jax.Array, parts: list[Part], leaves: list[jax.Array]
) -> jax.Array:
    table = _table(key)
    return jnp.stack(
        [_digest_plain.added(key, table, number, leaf) for number, leaf in zip(numbers, leaves)]
    )


def _table(key: jax.Array) -> jax.Array:
    """The words of the places in a row, uint32 `[LANES, 2, words]`."""
    counters = jnp.arange(2 * LANES * ROW // 64, dtype=jnp.uint32)
    table = chacha.blocks(key, jnp.array([_TABLE, 0, 0], jnp.uint32), counters)
    return table.reshape(LANES, 2, ROW // 4)


_digest = sum_over_parts(_added, _plainly_added)


def _factors(key: jax.Array, numbers: tuple[int, ...], cut: list[_Cut]) -> jax.Array:
    """The words of each row of each leaf, uint32 `[rows, LANES]`."""
    counts = [one.rows.shape[0] for one in cut]
    ends = np.cumsum(counts)
    row = lax.iota(jnp.uint32, int(ends[-1]))
    leaf = jnp.searchsorted(
        jnp.asarray(ends.astype(np.uint32)), row, side="right", method="scan_unrolled"
    )
    own = jnp.asarray(np.array(numbers, np.uint32))[leaf]
    if all(one.number is None for one in cut):
        number = Wide.of(row - jnp.asarray((ends - counts).astype(np.uint32))[leaf])
    else:
        each = [one.number or Wide.of(lax.iota(jnp.uint32, n)) for one, n in zip(cut, counts)]
        number = Wide(*(jnp.concatenate(words) for words in zip(*each)))
    nonces = jnp.stack([own, number.high, jnp.zeros_like(own)])
    return chacha.blocks(key, nonces, number.low)[:, :LANES]


def _sum(lanes: jax.Array, factors: jax.Array) -> jax.Array:
    return (lanes * factors).sum(0, dtype=jnp.uint32)


def _lanes(rows: jax.Array, table: jax.Array) -> jax.Array:
    """The lanes of rows, uint `[N, W]`; `table`: uint32 `[LANES, P, W]`, for the lower 16 bits of an
    entry and, if P is 2, the upper ones."""
    words = rows.astype(jnp.uint32)
    pieces = [words & 0xFFFF, words >> 16] if table.shape[1] == 2 else [words]
    # One pass over the rows for all lanes, and eight without it.
    products = tuple(
        sum(piece * table[lane, p][None] for p, piece in enumerate(pieces)) for lane in range(LANES)
    )
    zeros = (jnp.uint32(0),) * LANES
    lanes = lax.reduce(products, zeros, lambda a, b: tuple(map(jnp.add, a, b)), (1,))
    return jnp.stack(lanes, axis=1)


def _cut(part: Part, leaf: jax.Array) -> _Cut:
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
        return _Cut(_as_words(rows), number, None)
    bounds = (length, *own[axis + 1 :]), [jnp.uint32(0), *starts[axis + 1 :]]
    if own[-1] * size % 4 == 0 and part.shape[-1] * size % 4 == 0:
        rows = _as_words(rows)
    return _Cut(
        rows, number, partial(_of_part, (length, *part.shape[axis + 1 :]), size, bounds, rows)
    )


def _as_words(rows: jax.Array) -> jax.Array:
    """Rows as uint32, with zeros at the end."""
    each = 4 // rows.dtype.itemsize
    if each == 1:
        return rows
    rows = jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % each)))
    return lax.bitcast_convert_type(rows.reshape(rows.shape[0], -1, each), jnp.uint32)


def _of_part(
    shape: tuple[int, ...], size: int, bounds: Any, rows: jax.Array, table: jax.Array
) -> jax.Array:
    """The table for parts that are split within rows: of rows of `shape`, what lies within `bounds`."""
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
