"""A part of a leaf XOR its part of the leaf's key stream."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.ciphers import chacha, native
from modellock_jax.ciphers.nonces import leaf_nonce
from modellock_jax.ciphers.wide import Wide
from modellock_jax.core.bits import entries_of, from_uint, to_uint
from modellock_jax.core.shards import Part
from modellock_jax.locks._places import place_of


class _Runs(NamedTuple):
    """Where a part of a leaf lies in the leaf's key stream: runs of `length` entries each.

    `first`: the block in which each run begins, `[runs]`; `skip`: uint32 `[runs]`, how many entries of
    that block lie before it, at most `most`; `blocks`: how many blocks a run touches.
    """

    first: Wide
    skip: jax.Array
    most: int
    blocks: int
    length: int
    in_place: bool


def _runs(part: Part, own: tuple[int, ...], size: int) -> _Runs:
    """The runs of a part of shape `own`, of entries of `size` bytes."""
    # Entries follow one another in the leaf from the last axis that is split to the end.
    split = max([k for k, names in enumerate(part.names) if names], default=0)
    count, length = math.prod(own[:split]), math.prod(own[split:])
    if max((count, *own)) >= 2**32:
        raise ValueError(f"stream_lock: a part of shape {list(own)} is too large for one device")
    first, skip = place_of(part, own, size, lax.iota(jnp.uint32, count), split)
    in_block = 64 // size
    steps = [math.prod(part.shape[k + 1 :]) for k in range(split)]
    steps += [math.prod(part.shape[split + 1 :]) * own[split]] if any(part.names) else []
    most = in_block - math.gcd(in_block, *steps)
    return _Runs(first, skip, most, -(-(most + length) // in_block), length, part.is_layer)


def _blocks(key: jax.Array, nonces: jax.Array, runs: list[_Runs], is_long: bool) -> list[jax.Array]:
    """The key stream of the runs of each leaf, uint32 `[runs, words]`, and some words more."""
    counts = np.array([run.skip.size for run in runs], np.int64)
    blocks = np.array([run.blocks for run in runs], np.int64)
    if np.sum(counts * blocks) >= 2**31:
        raise ValueError("stream_lock: one device holds more than 128 GiB of leaves; shard them")
    # What a block needs is looked up once for several, where that adds few blocks, and where their
    # numbers have the same upper half.
    wide = -(-blocks // chacha.WIDE)
    adds_few = 16 * np.sum(counts * wide * chacha.WIDE) < 17 * np.sum(counts * blocks)
    step = chacha.WIDE if adds_few and not is_long else 1
    blocks = wide if step > 1 else blocks
    counts, blocks = counts.astype(np.int32), blocks.astype(np.int32)
    ends = np.cumsum(counts * blocks, dtype=np.int32)
    if not ends[-1]:
        return [jnp.zeros((count, 0), jnp.uint32) for count in counts]
    # All blocks of all leaves in one call, and their leaves looked up, not joined from one constant
    # a leaf: a program that XLA compiles soon, however many leaves.
    # Behind a barrier, since XLA works out what follows from constants while it compiles.
    block = lax.optimization_barrier(lax.iota(jnp.int32, int(ends[-1])))
    leaf = jnp.searchsorted(jnp.asarray(ends), block, side="right", method="scan_unrolled")

    def of(table: np.ndarray) -> jax.Array:
        return jnp.asarray(table).at[leaf].get(mode="promise_in_bounds")

    def first(word: str) -> jax.Array:
        joined = jnp.concatenate([getattr(run.first, word) for run in runs])
        return joined.at[run].get(mode="promise_in_bounds")

    block = block - of(ends - counts * blocks)
    run = of(np.cumsum(counts, dtype=np.int32) - counts) + block // of(blocks)
    offset = jnp.uint32(step) * (block % of(blocks)).astype(jnp.uint32)
    if is_long:
        number = Wide(first("high"), first("low")) + Wide.of(offset)
    else:
        number = Wide.of(first("low") + offset)
    own = lax.optimization_barrier(nonces).at[:, leaf].get(mode="promise_in_bounds")
    stream = chacha.blocks(key, jnp.concatenate([own, number.high[None]]), number.low, step)
    return [
        stream[step * (end - n * k) : step * end].reshape(n, 16 * step * k)
        for n, k, end in zip(counts.tolist(), blocks.tolist(), ends.tolist())
    ]


def _in_jax(
    is_long: bool, key: jax.Array, nonces: jax.Array, runs: list[_Runs], leaves: Sequence[jax.Array]
) -> list[jax.Array]:
    opened = []
    for leaf, run, words in zip(leaves, runs, _blocks(key, nonces, runs, is_long)):
        entries = entries_of(words.reshape(-1), leaf.dtype).reshape(words.shape[0], -1)
        if run.most:
            take = partial(lax.dynamic_slice_in_dim, slice_size=run.length)
            entries = jax.vmap(take)(entries, run.skip.astype(jnp.int32))
        bits = to_uint(leaf) ^ entries[:, : run.length].reshape(leaf.shape)
        opened.append(from_uint(bits, leaf.dtype))
    return opened


def _native(
    key: jax.Array, nonces: jax.Array, runs: list[_Runs], leaves: Sequence[jax.Array]
) -> list[jax.Array]:
    return [
        native.chacha20(
            key,
            jnp.pad(nonces[:, i], (0, 1)),
            run.first.low,
            run.skip * np.uint32(leaf.dtype.itemsize),
            leaf,
            run.in_place,
        )
        for i, (run, leaf) in enumerate(zip(runs, leaves))
    ]


def xor(
    compiled: bool,
    names: tuple[str, ...],
    key: jax.Array,
    parts: list[Part],
    leaves: list[jax.Array],
) -> list[jax.Array]:
    """Leaves XOR their streams under the tree's key."""
    full = [i for i, leaf in enumerate(leaves) if leaf.size]
    if not full:
        return list(leaves)
    given = [leaves[i] for i in full]
    nonces = jnp.asarray(np.stack([leaf_nonce(names[i]) for i in full], axis=1))
    runs = [_runs(parts[i], leaf.shape, leaf.dtype.itemsize) for i, leaf in zip(full, given)]
    is_long = any(
        math.prod(parts[i].shape) * leaf.dtype.itemsize > 2**38 for i, leaf in zip(full, given)
    )
    if compiled and native.has_chacha20() and not is_long:
        done = _choose(key, nonces, runs, given)
    else:
        done = _in_jax(is_long, key, nonces, runs, given)
    opened = list(leaves)
    for i, leaf in zip(full, done):
        opened[i] = leaf
    return opened


def _choose(
    key: jax.Array, nonces: jax.Array, runs: list[_Runs], leaves: list[jax.Array]
) -> list[jax.Array]:
    def with_places(body: Any) -> Any:
        def call(key: jax.Array, nonces: jax.Array, *rest: jax.Array) -> list[jax.Array]:
            n = len(runs)
            at = [
                run._replace(first=Wide(jnp.zeros_like(low), low), skip=skip)
                for run, low, skip in zip(runs, rest[:n], rest[n : 2 * n])
            ]
            return body(key, nonces, at, list(rest[2 * n :]))

        return call

    choice = native.on_cpu(with_places(_native), with_places(partial(_in_jax, False)))
    return choice(
        key, nonces, *(run.first.low for run in runs), *(run.skip for run in runs), *leaves
    )
