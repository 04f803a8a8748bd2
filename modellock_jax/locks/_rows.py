"""How the keyed digest of a tree cuts a leaf into rows."""

import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from modellock_jax.ciphers.wide import Wide

LANES = 8
ROW = 4096  # bytes of the longest row


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
    """The number of each row among those of the whole leaf, in C order, flat."""
    axis = len(counts) - 1
    whole = (*shape[:axis], -(-shape[axis] // length))
    number = Wide.of(jnp.zeros(counts, jnp.uint32))
    for k in range(axis + 1):
        start = starts[k] // length if k == axis else starts[k]
        index = start + lax.broadcasted_iota(jnp.uint32, counts, k)
        number += Wide.of(index) * math.prod(whole[k + 1 :])
    return Wide(number.high.reshape(-1), number.low.reshape(-1))
