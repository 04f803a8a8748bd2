"""Where the entries of a part of a leaf lie in the leaf's key stream."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.ciphers.wide import Wide
from modellock_jax.core.shards import Part


def place_of(
    part: Part,
    own: tuple[int, ...],
    size: int,
    span: jax.Array,
    split: int,
    start: Wide | None = None,
) -> tuple[Wide, jax.Array]:
    """Return the block in which a span begins, and how many entries of it lie before.

    `span`: uint32 `[spans]`, numbers of spans of a part of shape `own`, in C order of the axes before
    `split`; `size`: bytes of an entry; `start`: how many entries lie before the leaf, by default none.
    """
    entry, rest = Wide.of(jnp.zeros_like(span)), span
    if start is not None:
        entry += start
    for k in range(split, -1, -1) if own else ():
        index = jnp.asarray(part.numbers[k]).astype(jnp.uint32) * np.uint32(own[k])
        if k < split:
            index += rest % np.uint32(max(own[k], 1))
            rest = rest // np.uint32(max(own[k], 1))
        entry += Wide.of(jnp.broadcast_to(index, span.shape)) * math.prod(part.shape[k + 1 :])
    in_block = 64 // size
    return entry >> (in_block.bit_length() - 1), entry.low & np.uint32(in_block - 1)
