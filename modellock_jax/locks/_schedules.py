"""The key schedules of Deep-Lock: which round keys each leaf takes, and where they come from."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax.ciphers import aes
from modellock_jax.core.bits import from_uint, to_uint, word_count
from modellock_jax.core.lock import Params
from modellock_jax.core.shards import Part

_STRETCH = 2**16  # round keys, 1 MiB


def round_keys(params: Params, packing: str = "byte") -> list[int]:
    """How many round keys each leaf takes."""
    leaves = jax.tree.leaves(params)
    return [leaf.size if packing == "word" else -(-word_count(leaf) // 4) for leaf in leaves]


def widen(leaf: jax.Array) -> jax.Array:
    """Give every entry a block of its own: uint32 `[..., 4]`, its bytes first, then zeros."""
    uint = to_uint(leaf)
    if uint.dtype.itemsize == 8:
        words = lax.bitcast_convert_type(uint, jnp.uint32)
    else:
        words = uint.astype(jnp.uint32)[..., None]
    return jnp.pad(words, [(0, 0)] * leaf.ndim + [(0, 4 - words.shape[-1])])


def narrow(wide: jax.Array, dtype: Any) -> jax.Array:
    """Invert `widen`."""
    uint = jnp.dtype(f"uint{8 * jnp.dtype(dtype).itemsize}")
    if uint.itemsize == 8:
        return from_uint(lax.bitcast_convert_type(wide[..., :2], uint), dtype)
    return from_uint(wide[..., 0].astype(uint), dtype)


def stretches(leaves: Params) -> Iterator[tuple[list[Any], list[int]]]:
    """Give leaves and their numbers of round keys, a stretch at a time.

    Small ones share one scan, and what a scan leaves behind is used while it lies in the cache.
    """
    some: tuple[list[Any], list[int]] = ([], [])
    for leaf, rounds in zip(leaves, round_keys(leaves)):
        some[0].append(leaf)
        some[1].append(rounds)
        if sum(some[1]) >= _STRETCH:
            yield some
            some = ([], [])
    if some[0]:
        yield some


def one_schedule(master: jax.Array, leaves: list[Any]) -> list[jax.Array]:
    schedule, streams = aes.init_schedule(master), []
    for _, rounds in stretches(leaves):
        schedule, words = aes.expand(schedule, sum(rounds))
        streams += split(words, rounds)
    return streams


def split(words: jax.Array, rounds: list[int]) -> list[jax.Array]:
    ends = itertools.accumulate(rounds)
    return [words[end - n : end].reshape(-1) for n, end in zip(rounds, ends)]


def schedule_per_leaf(master: jax.Array, leaves: list[Any]) -> list[jax.Array]:
    # Small leaves are rounded up to a power of two, so that few lengths, and few scans, remain.
    rounds = [n if n > 1024 else 1 << max(0, n - 1).bit_length() for n in round_keys(leaves)]
    masters = leaf_keys(master, len(leaves))
    streams: list[Any] = [None] * len(leaves)
    for n in set(rounds):
        # Leaves of one length go through one scan, as parallel lanes.
        members = [i for i, r in enumerate(rounds) if r == n]
        lanes = jax.vmap(lambda m, n=n: aes.key_schedule(m, n))(masters[jnp.array(members)])
        for i, lane in zip(members, lanes.reshape(len(members), -1)):
            streams[i] = lane[: word_count(leaves[i])]
    return streams


def leaf_keys(master: jax.Array, leaves: int) -> jax.Array:
    # Block (leaf, half): a 256-bit leaf key takes two blocks.
    number = jnp.arange(leaves * (master.shape[0] // 4), dtype=jnp.uint32)
    return aes.encrypt(master, jnp.pad(number[:, None], ((0, 0), (0, 3)))).reshape(leaves, -1)


def cut(whole: jax.Array, part: Part, shape: tuple[int, ...]) -> jax.Array:
    """Return the part, of that shape, of an array that every device holds whole."""
    if shape == whole.shape:
        return whole
    ends = [-n % max(own, 1) for n, own in zip(part.shape, shape)]
    padded = jnp.pad(whole, [(0, end) for end in ends])
    starts = [number * own for number, own in zip(part.numbers, shape)]
    return lax.dynamic_slice(padded, starts, shape)
