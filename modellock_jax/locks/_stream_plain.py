"""stream_lock in operations that XLA splits by itself, for TPUs with several chips; of the same bits."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.ciphers import chacha
from modellock_jax.ciphers.nonces import leaf_nonce
from modellock_jax.ciphers.wide import Wide
from modellock_jax.core.bits import from_uint, to_uint
from modellock_jax.core.shards import Part
from modellock_jax.locks._places import place_of
from modellock_jax.locks._plain import entries_from, fill

# Bytes of the shortest lane: beside it, the blocks that are being made need little memory.
_LANE = 2048


def xor(
    names: tuple[str, ...], key: jax.Array, parts: list[Part], leaves: list[jax.Array]
) -> list[jax.Array]:
    """XOR leaves with their streams under the tree's key."""
    opened = []
    for name, part, leaf in zip(names, parts, leaves):
        nonce = jnp.asarray(leaf_nonce(name))
        static = part.shape, part.names
        opened.append(_one(*static, key, nonce, part.numbers, leaf) if leaf.size else leaf)
    return opened


def lanes_of(shape: tuple[int, ...], own: tuple[int, ...], size: int) -> int:
    """How many of the first axes number lanes: as many as leave `_LANE` bytes to each of them."""
    lanes = max(len(shape) - 1, 0)
    while lanes and math.prod(shape[lanes:]) * size < _LANE and own[lanes - 1] > 1:
        lanes -= 1
    return lanes


# Compiled once for all leaves of a shape.
@partial(jax.jit, static_argnums=(0, 1))
def _one(
    shape: Any, names: Any, key: jax.Array, nonce: jax.Array, numbers: Any, leaf: jax.Array
) -> jax.Array:
    bits = to_uint(leaf)
    size = bits.dtype.itemsize

    def block(number: Wide) -> jax.Array:
        words = chacha.words(key, [nonce[0], nonce[1], number.high], number.low)
        return entries_from(jnp.stack(words), size)

    mask = stream(Part(shape, numbers, names), leaf.shape, size, bits.dtype, block)
    return from_uint(bits ^ mask, leaf.dtype)


def stream(
    part: Part,
    own: tuple[int, ...],
    size: int,
    dtype: Any,
    block: Callable[[Wide], jax.Array],
    start: Wide | None = None,
    begins_within: bool = False,
) -> jax.Array:
    """Join what `block` makes of the blocks in which a part of shape `own` lies, `dtype` of that shape.

    `block(number) -> [64 // size, *shape of number]`; an entry takes `size` bytes of a block. `start`
    entries lie before the leaf, which then may begin within a block.
    """
    shape = part.shape
    lanes, count = lanes_of(shape, own, size), 64 // size
    span = jnp.zeros(own[:lanes], jnp.uint32)
    for k in range(lanes):
        span += np.uint32(math.prod(own[k + 1 : lanes])) * lax.broadcasted_iota(
            jnp.uint32, own[:lanes], k
        )
    # Where a lane begins, whatever part of it lies here.
    begin = part._replace(numbers=(*part.numbers[:lanes], *[0] * (len(shape) - lanes)))
    number, skip = place_of(begin, own, size, span, lanes, start)

    def aligned(number: Wide) -> tuple[Wide, jax.Array]:
        return number + Wide.of(1), block(number)

    def within(state: Any) -> tuple[Any, jax.Array]:
        number, before = state
        now = block(number)
        return (number + Wide.of(1), now), _from(jnp.concatenate([before, now]), skip, count)

    if not begins_within and (not lanes or math.prod(shape[lanes:]) % count == 0):
        return fill(part, own, dtype, lanes, number, aligned)[1]
    return fill(part, own, dtype, lanes, (number + Wide.of(1), block(number)), within)[1]


def _from(window: jax.Array, skip: jax.Array, count: int) -> jax.Array:
    """`count` entries of the window `[N, ...]`, a power of two, from entry `skip` of each lane on."""
    step = count // 2
    while step:
        window = jnp.where((skip & np.uint32(step)) != 0, window[step:], window[:-step])
        step //= 2
    return window[:count]
