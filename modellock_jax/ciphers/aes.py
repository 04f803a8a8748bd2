"""AES (FIPS-197) in-graph: S-box, key schedule and block encryption.

Not constant-time, but for the compiled call: table look-ups depend on secrets. It is here so that
locks can be studied and run inside a compiled program; protect files with a host library.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import UInt32

from modellock_jax.ciphers import native
from modellock_jax.ciphers._aes_tables import (
    INV_PAIRS,
    INV_SBOX,
    PAIRS,
    RCON,
    SBOX,
    sub_rotated_word,
    sub_word,
    xtime,
)

__all__ = [
    "INV_SBOX",
    "SBOX",
    "Schedule",
    "advance",
    "encrypt",
    "expand",
    "init_schedule",
    "key_schedule",
    "rcon",
    "rewind",
    "snapshots",
    "substitute_blocks",
    "substitute_blocks_in_jax",
]


_UNROLL = 2  # steps of a schedule in one iteration


class Schedule(NamedTuple):
    """Where a key schedule stands: the round keys to come and the round constant.

    `words`: 4 (AES-128) or 8 (AES-256) uint32 scalars; `rcon`: uint32; `middle`: bool, whether the
    next round key is the second of an AES-256 pair.
    """

    words: tuple[jax.Array, ...]
    rcon: jax.Array
    middle: jax.Array


def init_schedule(master: jax.Array) -> Schedule:
    """Begin the schedule of a master key, before its first round key.

    Args:
        master: uint32 `[4]` or `[8]`.

    Returns:
        The schedule.
    """
    words = tuple(master[i] for i in range(master.shape[0]))
    return Schedule(words, jnp.uint32(1), jnp.bool_(False))


def advance(at: Schedule) -> Schedule:
    """Go on by one round key.

    Args:
        at: Where the schedule stands.

    Returns:
        Where it stands one round key later.
    """
    rotated = sub_rotated_word(at.words[-1]) ^ at.rcon
    middle, rcon = at.middle, xtime(at.rcon)
    if len(at.words) == 8:
        # AES-256 rotates every other round key; the one between is substituted only.
        rotated = jnp.where(at.middle, sub_word(at.words[-1]), rotated)
        middle, rcon = ~at.middle, jnp.where(at.middle, at.rcon, rcon)
    new = [rotated ^ at.words[0]]
    for old in at.words[1:4]:
        new.append(new[-1] ^ old)
    return Schedule((*at.words[4:], *new), rcon, middle)


@functools.partial(jax.jit, static_argnames="rounds")
def expand(schedule: Schedule, rounds: int) -> tuple[Schedule, jax.Array]:
    """Make the next round keys.

    Args:
        schedule: Where the schedule stands.
        rounds: How many, at least 0.

    Returns:
        The schedule after them, and the round keys, uint32 `[rounds, 4]`.
    """

    def step(at: Schedule, _: None) -> tuple[Schedule, jax.Array]:
        return advance(at), jnp.stack(at.words[:4])

    return lax.scan(step, schedule, None, length=rounds, unroll=_UNROLL)


@functools.partial(jax.jit, static_argnames=("times", "rounds"))
def snapshots(schedule: Schedule, times: int, rounds: int) -> tuple[Schedule, Schedule]:
    """Go on by `times * rounds` round keys, and keep the schedule every `rounds`, from the start.

    Args:
        schedule: Where the schedule stands.
        times: How many are kept, at least 1.
        rounds: Round keys from one to the next, at least 1.

    Returns:
        The schedule after all, and those kept, leaves `[times, ...]`; each makes the round keys up
        to the next alone.
    """

    def step(at: Schedule, _: None) -> tuple[Schedule, Schedule]:
        return lax.fori_loop(0, rounds, lambda _, at: advance(at), at, unroll=_UNROLL), at

    return lax.scan(step, schedule, None, length=times)


@functools.partial(jax.jit, static_argnames=("inverse", "in_place"))
def substitute_blocks(
    schedule: Schedule, blocks: jax.Array, inverse: bool, in_place: bool = False
) -> tuple[Schedule, jax.Array]:
    """Pass each block through the S-box with its own round key.

    SBOX(block ^ key), or with `inverse` INV_SBOX(block) ^ key. On CPUs one compiled call, where it is
    installed.

    Args:
        schedule: Where the schedule stands.
        blocks: `[rounds, 4]` of 32 bits an entry.
        inverse: Whether to undo it.
        in_place: Whether the result takes the memory of `blocks`, which nothing else needs.

    Returns:
        The schedule after them, and the blocks, like `blocks`.
    """
    if not blocks.size:
        return schedule, blocks
    if not native.has_aes():
        return substitute_blocks_in_jax(schedule, blocks, inverse)
    tree = jax.tree.structure((schedule, blocks))

    def call(*args: jax.Array) -> list[jax.Array]:
        at, blocks = jax.tree.unflatten(tree, args)
        counts = jnp.stack([at.rcon, at.middle.astype(jnp.uint32)])
        words, (rcon, middle), blocks = native.aes_through(
            jnp.stack(at.words), counts, blocks, inverse, in_place
        )
        return jax.tree.leaves((Schedule(tuple(words), rcon, middle.astype(bool)), blocks))

    def loop(*args: jax.Array) -> list[jax.Array]:
        at, blocks = jax.tree.unflatten(tree, args)
        return jax.tree.leaves(substitute_blocks_in_jax(at, blocks, inverse))

    done = native.on_cpu(call, loop)(*jax.tree.leaves((schedule, blocks)))
    out: tuple[Schedule, jax.Array] = jax.tree.unflatten(tree, done)
    return out


def substitute_blocks_in_jax(
    schedule: Schedule, blocks: jax.Array, inverse: bool
) -> tuple[Schedule, jax.Array]:
    """Compute `substitute_blocks` by JAX alone: a block is looked up while the schedule waits.

    Args:
        schedule: Where the schedule stands.
        blocks: `[rounds, 4]` of 32 bits an entry.
        inverse: Whether to undo it.

    Returns:
        The schedule after them, and the blocks, like `blocks`.
    """
    pairs = jnp.asarray(INV_PAIRS if inverse else PAIRS)

    def sub(word: jax.Array) -> jax.Array:
        low, high = (
            pairs.at[half].get(mode="promise_in_bounds").astype(jnp.uint32)
            for half in (word & 0xFFFF, word >> 16)
        )
        return low | (high << 16)

    def step(i: jax.Array, state: tuple[Schedule, jax.Array]) -> tuple[Schedule, jax.Array]:
        at, blocks = state
        block = lax.dynamic_slice(blocks, (i, 0), (1, 4))
        block = lax.bitcast_convert_type(block, jnp.uint32)
        both = [(block[0, j], at.words[j]) for j in range(4)]
        new = jnp.stack([sub(x) ^ key if inverse else sub(x ^ key) for x, key in both])
        new = lax.bitcast_convert_type(new[None], blocks.dtype)
        return advance(at), lax.dynamic_update_slice(blocks, new, (i, 0))

    # In place: nothing is written but the blocks. Beyond a few steps at a time XLA gives each
    # operation a call of its own, which is some thirty times slower.
    return lax.fori_loop(0, blocks.shape[0], step, (schedule, blocks), unroll=_UNROLL)


def key_schedule(
    master: UInt32[jax.Array, " words"], rounds: int
) -> UInt32[jax.Array, "{rounds} 4"]:
    """Run the AES key schedule for as many round keys as asked.

    FIPS-197 defines 11 (15) round keys; beyond them the same recurrence runs on, its round constant
    doubling in GF(2^8), with a period of 51 constants.

    Args:
        master: uint32 `[4]` (AES-128) or `[8]` (AES-256).
        rounds: How many, at least 1.

    Returns:
        uint32 `[rounds, 4]`; round key 0 is the beginning of the master key itself.

    **Guarantees.** The first 11 (15) round keys are those of FIPS-197. The schedule can be
    inverted: any `[4]` (`[8]`) consecutive words give all the others.
    """
    return expand(init_schedule(master), rounds)[1]


def rcon(block: jax.Array) -> jax.Array:
    """Return the round constant that makes a block of the schedule.

    Args:
        block: Its number, an integer from 1 on.

    Returns:
        uint8, of the number's shape.
    """
    return jnp.asarray(RCON)[(block - 1) % len(RCON)]


def rewind(words: jax.Array, block: jax.Array) -> jax.Array:
    """Go back to the first block of a schedule.

    Args:
        words: A block, uint32 `[4]` or `[8]`.
        block: Its number, int32.

    Returns:
        The first block, of the same shape, which is the master key.
    """
    n = words.shape[0]

    def back(i: jax.Array, words: jax.Array) -> jax.Array:
        old = [words[c] ^ words[c - 1] for c in range(n)]
        if n == 8:
            old[4] = words[4] ^ sub_word(words[3])
        rotated = sub_rotated_word(old[-1])
        old[0] = words[0] ^ rotated ^ rcon(block - i).astype(jnp.uint32)
        return jnp.stack(old)

    return lax.fori_loop(0, block, back, words)


def encrypt(
    master: UInt32[jax.Array, " words"], blocks: UInt32[jax.Array, "*blocks 4"]
) -> UInt32[jax.Array, "*blocks 4"]:
    """Encrypt single blocks by AES-128 or AES-256 (ECB).

    Args:
        master: uint32 `[4]` or `[8]`.
        blocks: uint32 `[..., 4]`.

    Returns:
        uint32 `[..., 4]`.
    """
    rounds = master.shape[0] + 6
    keys = lax.bitcast_convert_type(key_schedule(master, rounds + 1), jnp.uint8)
    keys = keys.reshape(rounds + 1, 16)
    sbox = jnp.asarray(SBOX)
    shift = np.array([(i + 4 * (i % 4)) % 16 for i in range(16)])
    state = lax.bitcast_convert_type(blocks, jnp.uint8).reshape(*blocks.shape[:-1], 16)
    shape = (1,) * (state.ndim - 1) + (16,)

    state = state ^ keys[0].reshape(shape)
    for r in range(1, rounds + 1):
        state = sbox[state][..., shift]
        if r < rounds:
            state = _mix_columns(state)
        state = state ^ keys[r].reshape(shape)
    return lax.bitcast_convert_type(state.reshape(*blocks.shape, 4), jnp.uint32)


def _mix_columns(state: jax.Array) -> jax.Array:
    column = state.reshape(*state.shape[:-1], 4, 4)
    following = jnp.roll(column, -1, axis=-1)
    every = column[..., :1] ^ column[..., 1:2] ^ column[..., 2:3] ^ column[..., 3:]
    return (column ^ every ^ xtime(column ^ following)).reshape(state.shape)
