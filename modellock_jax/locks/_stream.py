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
from modellock_jax.core.bits import from_uint, to_uint, words_to_uints
from modellock_jax.core.shards import Part
from modellock_jax.locks._places import place_of


class _Spans(NamedTuple):
    """Where a part of a leaf lies in the leaf's key stream: spans of `length` entries each.

    `first`: the block in which each span begins, `[spans]`; `skip`: uint32 `[spans]`, how many
    entries of that block lie before it, at most `most`; `blocks`: how many blocks a span touches.
    """

    first: Wide
    skip: jax.Array
    most: int
    blocks: int
    length: int
    in_place: bool


def _spans(part: Part, own: tuple[int, ...], size: int) -> _Spans:
    """Return the spans of a part of shape `own`, of entries of `size` bytes."""
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
    return _Spans(first, skip, most, -(-(most + length) // in_block), length, part.is_layer)


def _blocks(
    key: jax.Array, nonces: jax.Array, spans: list[_Spans], is_long: bool
) -> list[jax.Array]:
    """Return the key stream of the spans of each leaf, uint32 `[spans, words]`, and some words more."""
    counts = np.array([span.skip.size for span in spans], np.int64)
    blocks = np.array([span.blocks for span in spans], np.int64)
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
        joined = jnp.concatenate([getattr(span.first, word) for span in spans])
        return joined.at[span].get(mode="promise_in_bounds")

    block = block - of(ends - counts * blocks)
    span = of(np.cumsum(counts, dtype=np.int32) - counts) + block // of(blocks)
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
    is_long: bool,
    key: jax.Array,
    nonces: jax.Array,
    spans: list[_Spans],
    leaves: Sequence[jax.Array],
) -> list[jax.Array]:
    opened = []
    for leaf, span, words in zip(leaves, spans, _blocks(key, nonces, spans, is_long)):
        entries = words_to_uints(words.reshape(-1), leaf.dtype).reshape(words.shape[0], -1)
        if span.most:
            take = partial(lax.dynamic_slice_in_dim, slice_size=span.length)
            entries = jax.vmap(take)(entries, span.skip.astype(jnp.int32))
        bits = to_uint(leaf) ^ entries[:, : span.length].reshape(leaf.shape)
        opened.append(from_uint(bits, leaf.dtype))
    return opened


def _native(
    key: jax.Array, nonces: jax.Array, spans: list[_Spans], leaves: Sequence[jax.Array]
) -> list[jax.Array]:
    return [
        native.chacha20(
            key,
            jnp.pad(nonces[:, i], (0, 1)),
            span.first.low,
            span.skip * np.uint32(leaf.dtype.itemsize),
            leaf,
            span.in_place,
        )
        for i, (span, leaf) in enumerate(zip(spans, leaves))
    ]


def xor(
    compiled: bool,
    names: tuple[str, ...],
    key: jax.Array,
    parts: list[Part],
    leaves: list[jax.Array],
) -> list[jax.Array]:
    """XOR leaves with their streams under the tree's key."""
    full = [i for i, leaf in enumerate(leaves) if leaf.size]
    if not full:
        return list(leaves)
    given = [leaves[i] for i in full]
    nonces = jnp.asarray(np.stack([leaf_nonce(names[i]) for i in full], axis=1))
    spans = [_spans(parts[i], leaf.shape, leaf.dtype.itemsize) for i, leaf in zip(full, given)]
    is_long = any(
        math.prod(parts[i].shape) * leaf.dtype.itemsize > 2**38 for i, leaf in zip(full, given)
    )
    if compiled and native.has_chacha20() and not is_long:
        done = _choose(key, nonces, spans, given)
    else:
        done = _in_jax(is_long, key, nonces, spans, given)
    opened = list(leaves)
    for i, leaf in zip(full, done):
        opened[i] = leaf
    return opened


def _choose(
    key: jax.Array, nonces: jax.Array, spans: list[_Spans], leaves: list[jax.Array]
) -> list[jax.Array]:
    def with_places(body: Any) -> Any:
        def call(key: jax.Array, nonces: jax.Array, *rest: jax.Array) -> list[jax.Array]:
            n = len(spans)
            at = [
                span._replace(first=Wide(jnp.zeros_like(low), low), skip=skip)
                for span, low, skip in zip(spans, rest[:n], rest[n : 2 * n])
            ]
            return body(key, nonces, at, list(rest[2 * n :]))

        return call

    choice = native.on_cpu(with_places(_native), with_places(partial(_in_jax, False)))
    return choice(
        key, nonces, *(span.first.low for span in spans), *(span.skip for span in spans), *leaves
    )
