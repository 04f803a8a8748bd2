"""The secret pool of `adv_params`: the weights whose words of a key stream are small enough."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax.ciphers import chacha
from modellock_jax.ciphers.wide import Wide
from modellock_jax.core.shards import Part, by_parts
from modellock_jax.locks import _stream_plain
from modellock_jax.locks._places import place_of

_WORDS = 16  # in a block
_CHUNKS = 2**8, 2**15  # blocks made at a time, at least and at most: 2 MiB


def pool_of(seed: jax.Array, share: float, layers: Sequence[jax.Array]) -> list[jax.Array]:
    """Which weights lie in the pool, a random `share` of all: uint8, 1 or 0, each shaped as its layer.

    `seed`: uint32 `[8]`. A weight's word is that of ChaCha20's stream at its place among the weights of
    all layers. The pool is sharded as the layers are; no device talks to another.
    """
    if share == 1:
        return [jnp.full_like(layer, 1, jnp.uint8) for layer in layers]
    ends = [0]
    for layer in layers:
        ends.append(ends[-1] + layer.size)
    return _pool((int(share * 2**32), *ends), seed, list(layers))


class _Spans(NamedTuple):
    """A part of a layer as spans of `length` weights that follow one another.

    `number`: the blocks that a span touches, `[spans, blocks]`; `skip`: uint32 `[spans]`, the words
    before its first.
    """

    number: Wide
    skip: jax.Array
    length: int


def _spans(start: int, part: Part, own: tuple[int, ...]) -> _Spans:
    split = max([k for k, names in enumerate(part.names) if names], default=0)
    count, length = math.prod(own[:split]), math.prod(own[split:])
    first, skip = place_of(part, own, 4, lax.iota(jnp.uint32, count), split, Wide.of_int(start))
    blocks = -(-(_WORDS - 1 + length) // _WORDS)
    step = Wide.of(lax.broadcasted_iota(jnp.uint32, (count, blocks), 1))
    return _Spans(Wide(first.high[:, None], first.low[:, None]) + step, skip, length)


def _drawn(
    static: Any, seed: jax.Array, parts: list[Part], layers: list[jax.Array]
) -> list[jax.Array]:
    limit, *starts, total = static
    spans = [_spans(start, part, own.shape) for start, part, own in zip(starts, parts, layers)]
    # All layers in one call: a program that XLA compiles soon.
    low = jnp.concatenate([span.number.low.reshape(-1) for span in spans])
    nonces = jnp.zeros((3, 1), jnp.uint32)
    if total > 2**36:
        high = jnp.concatenate([span.number.high.reshape(-1) for span in spans])
        nonces = jnp.stack([jnp.zeros_like(high), jnp.zeros_like(high), high])
    below = _below(limit, seed, nonces, low)
    pool, begin = list[jax.Array](), 0
    for span, layer in zip(spans, layers):
        count, blocks = span.number.low.shape
        rows = below[begin : begin + count * blocks].reshape(count, -1)
        take = partial(lax.dynamic_slice_in_dim, slice_size=span.length)
        pool.append(jax.vmap(take)(rows, span.skip.astype(jnp.int32)).reshape(layer.shape))
        begin += count * blocks
    return pool


def _below(limit: int, seed: jax.Array, nonces: jax.Array, counters: jax.Array) -> jax.Array:
    """Which words of these blocks `[N]` are below the limit, uint8 `[N, 16]`, a few blocks at a time."""
    total = counters.size
    # A sixteenth of them: what is being made needs little memory beside the layers.
    each = min(max(total // 16, _CHUNKS[0]), _CHUNKS[1], total)
    chunks = -(-total // each)

    def chunk(given: tuple[jax.Array, jax.Array]) -> jax.Array:
        nonces, counters = given
        nonces = nonces[:, 0] if nonces.shape[1] == 1 else nonces
        return (chacha.blocks(seed, nonces, counters) < jnp.uint32(limit)).astype(jnp.uint8)

    counters = jnp.pad(counters, (0, chunks * each - total)).reshape(chunks, each)
    if nonces.shape[1] == 1:
        nonces = jnp.broadcast_to(nonces[None], (chunks, 3, 1))
    else:
        nonces = jnp.pad(nonces, ((0, 0), (0, chunks * each - total)))
        nonces = nonces.reshape(3, chunks, each).swapaxes(0, 1)
    return lax.map(chunk, (nonces, counters)).reshape(-1, _WORDS)[:total]


def _plainly_drawn(
    static: Any, seed: jax.Array, parts: list[Part], layers: list[jax.Array]
) -> list[jax.Array]:
    limit, *starts, _ = static
    pool = []
    for start, part, layer in zip(starts, parts, layers):
        fixed = limit, part.shape, part.names, start % _WORDS
        pool.append(_one(*fixed, seed, Wide.of_int(start), part.numbers, layer))
    return pool


# Compiled once for all layers of a shape.
@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _one(
    limit: int,
    shape: Any,
    names: Any,
    skip: int,
    seed: jax.Array,
    start: Wide,
    numbers: Any,
    layer: jax.Array,
) -> jax.Array:
    def block(number: Wide) -> jax.Array:
        zero = jnp.uint32(0)
        words = jnp.stack(chacha.words(seed, [zero, zero, number.high], number.low))
        return (words < jnp.uint32(limit)).astype(jnp.uint8)

    part = Part(shape, numbers, names)
    return _stream_plain.stream(part, layer.shape, 4, jnp.uint8, block, start, bool(skip))


_pool = by_parts(_drawn, _plainly_drawn)
