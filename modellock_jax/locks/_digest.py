"""A keyed digest of a tree, from which a lock takes a nonce that depends on what is locked.

A leaf is cut into *rows*, a stretch of one axis and all axes after it, and a row into pieces of 16
bits. A lane sums the pieces, each times a random word of its place
in the row, and then the rows, each times a random word of its own, modulo 2^32. All of it is linear,
so that devices add up what their parts give, wherever a leaf is split.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.ciphers import chacha, native
from modellock_jax.ciphers.wide import Wide
from modellock_jax.core.lock import Params
from modellock_jax.core.paths import paths
from modellock_jax.core.shards import Part, sum_over_parts
from modellock_jax.locks import _digest_plain
from modellock_jax.locks._rows import LANES, ROW, Cut, cut, stretch_of

_SHORT = 64  # rows of a leaf that shares one reduction with others
_TABLE = 2**32 - 1  # in place of a leaf's number, for the words of the places in a row


def tree_digest(key: jax.Array, leaves: list[jax.Array], compiled: bool = True) -> jax.Array:
    """Digest all bits of all leaves and their places, under a key, uint32 `[8]`, to uint32 `[8]`.

    **Guarantees.** The same however the leaves are sharded; devices exchange these 32 bytes once. Two
    lists of the same shapes and dtypes that differ in any bit have one digest with probability at most
    2^-110 over the key's random words, which are ChaCha20's (Nir & Langley 2018): of a lane, an
    inner sum of pieces of 16 bits is a multiple of 2^t with probability at most 2^(15-t), the outer sum
    is then 0 with probability 2^(t-32), and together that is at most 19 / 2^18; lanes are independent.

    On CPUs one compiled call sums all leaves, where `native/` of a clone is installed; not if
    `compiled` is False.
    """
    full = [i for i, leaf in enumerate(leaves) if leaf.size]
    compiled = compiled and native.has_digest()
    return _digest((compiled, tuple(full)), key, [jnp.atleast_1d(leaves[i]) for i in full])


def structure(params: Params) -> np.ndarray:
    """SHA-256 of the path, shape and dtype of every leaf in order, as uint32 `[8]`."""
    named = zip(jax.tree.leaves(paths(params)), jax.tree.leaves(params))
    text = json.dumps([[path, list(leaf.shape), str(leaf.dtype)] for path, leaf in named])
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), "<u4").astype(np.uint32)


_How = tuple[bool, tuple[int, ...]]  # whether by the compiled call, and the leaves' numbers


def _added(how: _How, key: jax.Array, parts: list[Part], leaves: list[jax.Array]) -> jax.Array:
    """Return what each leaf's part adds, uint32 `[leaves, LANES]`."""
    compiled, numbers = how
    if not (compiled and leaves):
        return _in_jax(numbers, key, parts, leaves)
    at = jnp.array([number for part in parts for number in part.numbers], jnp.int32)

    def by_call(key: jax.Array, at: jax.Array, *leaves: jax.Array) -> list[jax.Array]:
        return [_native(numbers, key, at, parts, leaves)]

    def by_jax(key: jax.Array, at: jax.Array, *leaves: jax.Array) -> list[jax.Array]:
        i, placed = iter(range(at.size)), []
        for part in parts:
            own = tuple(at[k] if names else 0 for names, k in zip(part.names, i))
            placed.append(part._replace(numbers=own))
        return [_in_jax(numbers, key, placed, leaves)]

    return native.on_cpu(by_call, by_jax)(key, at, *leaves)[0]


def _native(
    numbers: tuple[int, ...],
    key: jax.Array,
    at: jax.Array,
    parts: list[Part],
    leaves: Sequence[jax.Array],
) -> jax.Array:
    own = np.array([n for leaf in leaves for n in leaf.shape], np.uint32)
    return native.tree_digest(
        key,
        _table(key),
        at.astype(jnp.uint32) * own,
        leaves,
        numbers=numbers,
        shapes=[part.shape for part in parts],
        stretches=[stretch_of(p.shape, leaf.dtype.itemsize) for p, leaf in zip(parts, leaves)],
    )


def _in_jax(
    numbers: tuple[int, ...], key: jax.Array, parts: list[Part], leaves: Sequence[jax.Array]
) -> jax.Array:
    """As `_added`; the first short leaf stands for all."""
    table = _table(key)
    cuts = [cut(part, leaf) for part, leaf in zip(parts, leaves)]
    factors = _factors(key, numbers, cuts)
    ends = np.cumsum([0] + [one.rows.shape[0] for one in cuts])
    short = [
        i
        for i, (one, part) in enumerate(zip(cuts, parts))
        if one.rows.shape[0] <= _SHORT and not any(part.names)
    ]
    added = [jnp.zeros(LANES, jnp.uint32)] * len(cuts)
    for i in set(range(len(cuts))) - set(short):
        rows, _, take = cuts[i]
        words = table[..., : rows.shape[1]] if take is None else take(table)
        added[i] = _sum(_lanes(rows, words), factors[ends[i] : ends[i + 1]])
    # One reduction for all short leaves: a program that XLA compiles soon.
    if short:
        width = max(cuts[i].rows.shape[1] for i in short)
        rows = jnp.concatenate(
            [jnp.pad(cuts[i].rows, ((0, 0), (0, width - cuts[i].rows.shape[1]))) for i in short]
        )
        own = np.concatenate([np.arange(ends[i], ends[i + 1]) for i in short])
        added[short[0]] = _sum(_lanes(rows, table[..., :width]), factors[own])
    return jnp.stack(added)


def _plainly_added(
    how: _How, key: jax.Array, parts: list[Part], leaves: list[jax.Array]
) -> jax.Array:
    table = _table(key)
    return jnp.stack(
        [_digest_plain.added(key, table, number, leaf) for number, leaf in zip(how[1], leaves)]
    )


def _table(key: jax.Array) -> jax.Array:
    """Return the words of the places in a row, uint32 `[LANES, 2, words]`."""
    counters = jnp.arange(2 * LANES * ROW // 64, dtype=jnp.uint32).reshape(LANES, -1)
    # Lane by lane: the table itself is all that is ever held.
    blocks = partial(chacha.blocks, key, jnp.array([_TABLE, 0, 0], jnp.uint32))
    return lax.map(blocks, counters).reshape(LANES, 2, ROW // 4)


_digest = sum_over_parts(_added, _plainly_added)


def _factors(key: jax.Array, numbers: tuple[int, ...], cuts: list[Cut]) -> jax.Array:
    """Return the words of each row of each leaf, uint32 `[rows, LANES]`."""
    counts = [one.rows.shape[0] for one in cuts]
    ends = np.cumsum(counts)
    row = lax.iota(jnp.uint32, int(ends[-1]))
    leaf = jnp.searchsorted(
        jnp.asarray(ends.astype(np.uint32)), row, side="right", method="scan_unrolled"
    )
    own = jnp.asarray(np.array(numbers, np.uint32))[leaf]
    if all(one.number is None for one in cuts):
        number = Wide.of(row - jnp.asarray((ends - counts).astype(np.uint32))[leaf])
    else:
        each = [one.number or Wide.of(lax.iota(jnp.uint32, n)) for one, n in zip(cuts, counts)]
        number = Wide(*(jnp.concatenate(words) for words in zip(*each)))
    nonces = jnp.stack([own, number.high, jnp.zeros_like(own)])
    return chacha.blocks(key, nonces, number.low)[:, :LANES]


def _sum(lanes: jax.Array, factors: jax.Array) -> jax.Array:
    return (lanes * factors).sum(0, dtype=jnp.uint32)


def _lanes(rows: jax.Array, table: jax.Array) -> jax.Array:
    """Sum the lanes of rows, uint `[N, W]`.

    `table`: uint32 `[LANES, P, W]`, for the lower 16 bits of an entry and, if P is 2, the upper ones.
    """
    words = rows.astype(jnp.uint32)
    pieces = [words & 0xFFFF, words >> 16] if table.shape[1] == 2 else [words]
    # One pass over the rows for all lanes, and eight without it.
    products = tuple(
        sum(piece * table[lane, p][None] for p, piece in enumerate(pieces)) for lane in range(LANES)
    )
    zeros = (jnp.uint32(0),) * LANES
    lanes = lax.reduce(products, zeros, lambda a, b: tuple(map(jnp.add, a, b)), (1,))
    return jnp.stack(lanes, axis=1)
