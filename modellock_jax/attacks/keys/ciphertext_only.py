"""Deep-Lock's master key from the locked weights alone.

The key schedule is weak in itself: seen from its last column it falls apart into four chains of 32
bits (AES-128) or 64 bits (AES-256) that never meet, the form that Leurent & Pernot (2021), eprint
2020/1253, give for AES-128. Each chain is searched alone.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import ndtri

from modellock_jax.attacks.case import Case, Entry, Found
from modellock_jax.attacks.keys.known_plaintext import decrypt_as_deep_lock, leaf_bytes
from modellock_jax.ciphers import aes
from modellock_jax.core.lock import Params
from modellock_jax.locks._schedules import round_keys
from modellock_jax.locks.deep_lock import DeepLockKey

__all__ = ["ENTRIES", "SEARCHES", "deep_lock_ciphertext_only"]

_SURE = 40  # bits of evidence, beyond the size of a chain, before a key is believed


class _Search(NamedTuple):
    """How to search for weights of one kind.

    `scales`: guesses of their standard deviation, all at once if `blend`; `choices`: values of a top
    byte to try; `beam`: chains kept at a time, and `beam_256` for the longer chains of AES-256;
    `windows`: places in a leaf to begin at.
    """

    scales: tuple[float, ...]
    blend: bool
    choices: int
    beam: int
    beam_256: int
    windows: int


_WIDE = tuple(2.0**-i for i in range(10))
SEARCHES = {
    "float32": _Search(_WIDE, True, 18, 2**17, 2**10, 8),
    "bfloat16": _Search(_WIDE, True, 18, 2**17, 2**10, 8),
    "float16": _Search(_WIDE[1:7], False, 48, 2**14, 2**14, 4),
    "int8": _Search((32.0, 16.0, 64.0), False, 128, 2**15, 2**17, 24),
}


def deep_lock_ciphertext_only(locked: Params, key_bits: int = 128) -> DeepLockKey | None:
    """Return the master key from locked weights alone: no plain weight is needed.

    One leaf of float32, bfloat16, float16 or int8 weights is used, the largest first. Weights of a
    network are small and alike, so their top bytes take few values; guessing four (eight) of them in a
    chain of the schedule fixes the chain, and the rest of the leaf says whether the guess was right.

    Args:
        locked: A tree locked by `deep_lock(key_bits)`, or its first leaf.
        key_bits: 128 or 256.

    Returns:
        The key; None where no leaf gives one.

    Raises:
        ValueError: For other `key_bits`.

    Threat model: the attacker holds the locked weights and knows the scheme. Under
    `restart="leaf"` pass one leaf: the key that comes out opens that leaf and no other.

    **Guarantees.** A key is returned only on evidence that uniform bytes, such as `stream_lock`
    leaves, give with probability below 2**-100. `None` proves nothing: rates of success are in
    `results/deep_lock_keys/`, float16 and int8 weights take longer and fail more often.

    >>> import jax, modellock_jax as ml
    >>> lock, w = ml.deep_lock(), jax.random.normal(jax.random.key(1), (1024,)) / 10
    >>> locked, key = lock.encrypt(lock.init(jax.random.key(0), w), w)
    >>> bool((deep_lock_ciphertext_only(locked).master == key.master).all())
    True
    >>> deep_lock_ciphertext_only(w) is None
    True
    """
    if key_bits not in (128, 256):
        raise ValueError(f"deep_lock_ciphertext_only: key_bits must be 128 or 256, not {key_bits}")
    words = key_bits // 32
    rounds = round_keys(locked)
    starts = [sum(rounds[:i]) for i in range(len(rounds))]
    leaves = zip(jax.tree.leaves(locked), starts)
    for leaf, start in sorted(leaves, key=lambda pair: -pair[0].size)[:4]:
        search = SEARCHES.get(str(leaf.dtype))
        if search is None:
            continue
        # AES-256 has blocks of two round keys: begin at a whole one.
        skip = start % (words // 4)
        stream = leaf_bytes(leaf)[16 * skip :]
        blocks = min(stream.size // (4 * words), 515)
        if blocks < 4 * (words + 8) + 3:
            continue
        seen = stream[: blocks * 4 * words].reshape(blocks, words, 4)
        block = jnp.int32((start + skip) // (words // 4))
        guesses = [search.scales] if search.blend else [(scale,) for scale in search.scales]
        for scales in guesses:
            tables = _evidence_tables(str(leaf.dtype), scales)
            master, evidence = _solve(seen, block, tables, search)
            if bool((evidence > 8 * words + _SURE).all()):
                return DeepLockKey(master)
    return None


@functools.cache
def _evidence_tables(dtype: str, scales: tuple[float, ...]) -> np.ndarray:
    """How much likelier than chance each byte is, in bits, by place in a word: float32 `[4, 256]`.

    Bytes of weights drawn from normal and Laplace distributions of these standard deviations, with
    a hundredth of zeros of either sign, and a tenth of anything.
    """
    at = (np.arange(2**14) + 0.5) / 2**14
    normal = np.asarray(ndtri(at))
    laplace = -np.sign(at - 0.5) * np.log1p(-2 * np.abs(at - 0.5)) / math.sqrt(2)
    zeros = np.zeros(2**15 // 200)
    shape = np.concatenate([normal, laplace, zeros, -zeros])
    values = jnp.asarray(np.outer(scales, shape).ravel(), jnp.float32)
    if dtype == "int8":
        values = jnp.clip(jnp.round(values), -127, 127)
    drawn = np.asarray(leaf_bytes(values.astype(dtype), False)).reshape(values.size, -1)
    size = drawn.shape[1]
    counts = [np.bincount(drawn[:, lane % size], minlength=256) for lane in range(4)]
    share = 0.9 * np.array(counts) / values.size + 0.1 / 256
    bits = np.log2(256 * share).astype(np.float32)
    # What is nearly flat says nothing, and need not be looked up.
    flat = np.abs(bits).max(1, keepdims=True) < 0.3
    return np.where(flat, np.float32(0), bits)


def _solve(
    seen: jax.Array, block: jax.Array, tables: np.ndarray, search: "_Search"
) -> tuple[jax.Array, jax.Array]:
    """Find the best master key, and the evidence for each of its chains in bits, float32 `[4]`."""
    words = seen.shape[1]
    # The last column of each block, and for AES-256 also the last of its first half, by lane.
    # Along a chain: lane 3, then 0, 1, 2, each a block earlier than the one before.
    links = [(lane, column) for lane in (3, 0, 1, 2) for column in (words - 1, 3)[: words // 4]]
    informative = tuple(bool(tables[lane].any()) for lane, _ in links)
    table = jnp.asarray(np.stack([tables[lane] for lane, _ in links]))
    likely = jnp.asarray(np.argsort(-tables[3], kind="stable")[: search.choices].astype(np.uint8))
    beam = search.beam if words == 4 else search.beam_256
    return _search(seen, block, table, likely, tuple(links), informative, beam, search.windows)


@functools.partial(jax.jit, static_argnames=("links", "informative", "beam", "windows"))
def _search(
    seen: jax.Array,
    block: jax.Array,
    table: jax.Array,
    likely: jax.Array,
    links: tuple[tuple[int, int], ...],
    informative: tuple[bool, ...],
    beam: int,
    windows: int,
) -> tuple[jax.Array, jax.Array]:
    n, steps = len(links), (seen.shape[0] - 3) // 4
    inverse = jnp.asarray(aes.INV_SBOX)
    k = jnp.arange(steps)
    at = 4 * k[None] + jnp.arange(4)[:, None] + 3
    data = jnp.stack([seen[at - _LAG[lane], column, lane] for lane, column in links], -1)
    constants = aes.rcon(block + at - 1)  # of lane 0, which is one block behind
    evidence = functools.partial(_evidence, table, informative)
    follow = functools.partial(_follow, table, informative)

    def from_window(chain: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Find the best chain whose guesses begin at step `start`: its last state, its evidence."""
        row, constant = jnp.roll(data[chain], -start, 0), jnp.roll(constants[chain], -start)
        rows = (row, constant, k < steps - start)
        state, total = [jnp.zeros(1, jnp.uint8)] * n, jnp.zeros(1, jnp.float32)
        for level in range(n):
            old = [jnp.repeat(s, likely.size) for s in state]
            new = [jnp.tile(likely, state[0].size) ^ row[level, 0], *old[1:]]
            for p in range(level):
                change = new[p] ^ old[p]
                if p == n // 2 - 1:
                    change = change ^ constant[level]
                new[p + 1] = _look_up(inverse, change)
            total = jnp.repeat(total, likely.size) + evidence(row[level], new, level + 1)
            # The last cut is the widest: the steps ahead tell the rest apart.
            room = 4 * beam if level == n - 1 else beam
            state, total = _best_of(new, total, room) if total.size > room else (new, total)
        state, total = follow(state, total, jax.tree.map(lambda a: a[n : n + 8], rows))
        state, total = _best_of(state, total, 32)
        state, total = follow(state, total, jax.tree.map(lambda a: a[n + 8 :], rows))
        state, total = _best_of(state, total, 1)
        return jnp.stack(state, -1)[0], total[0]

    # Windows lie in the first half, so that enough rows are left to judge by.
    starts = jnp.arange(windows) * max(0, steps - n - 16) // (2 * windows)
    pairs = jnp.repeat(jnp.arange(4), windows), jnp.tile(starts, 4)
    last, total = lax.map(lambda pair: from_window(*pair), pairs)
    best = total.reshape(4, windows).argmax(1)
    total = total.reshape(4, windows).max(1)
    last = last.reshape(4, windows, n)[jnp.arange(4), best]
    return aes.rewind(
        _last_words(last, constants[:, -1], links, steps), block + 4 * steps - 1
    ), total


_LAG = {3: 0, 0: 1, 1: 2, 2: 3}  # of a chain's lanes, in blocks


def _look_up(places: jax.Array, x: jax.Array) -> jax.Array:
    return places.at[x].get(mode="promise_in_bounds")


def _evidence(
    table: jax.Array,
    informative: tuple[bool, ...],
    row: jax.Array,
    state: list[jax.Array],
    known: int,
) -> jax.Array:
    return sum(
        (_look_up(table[p], row[p] ^ state[p]) for p in range(known) if informative[p]),
        jnp.zeros(state[0].shape, jnp.float32),
    )


def _forward(state: list[jax.Array], constant: jax.Array) -> list[jax.Array]:
    n, sbox = len(state), jnp.asarray(aes.SBOX)
    new = list(state)
    new[n - 1] = state[n - 1] ^ _look_up(sbox, state[0])
    for p in reversed(range(n - 1)):
        new[p] = state[p] ^ _look_up(sbox, new[p + 1])
        if p == n // 2 - 1:
            new[p] = new[p] ^ constant
    return new


def _follow(
    table: jax.Array, informative: tuple[bool, ...], state: Any, total: jax.Array, rows: Any
) -> Any:
    """Take states and their evidence further along a chain; rows beyond its end change nothing."""

    def step(carry: Any, now: Any) -> tuple[Any, None]:
        state, total = carry
        row, constant, there = now
        new = [jnp.where(there, a, b) for a, b in zip(_forward(state, constant), state)]
        more = _evidence(table, informative, row, new, len(new))
        return (new, total + jnp.where(there, more, 0)), None

    return lax.scan(step, (state, total), rows)[0]


def _best_of(state: Any, total: jax.Array, count: int) -> Any:
    total, best = lax.top_k(total, min(count, total.size))
    return [s[best] for s in state], total


def _last_words(
    last: jax.Array, constant: jax.Array, links: tuple[tuple[int, int], ...], steps: int
) -> jax.Array:
    """Join the last states of the four chains, uint8 `[4, links]`, to the words of a block."""
    n, sbox = len(links), jnp.asarray(aes.SBOX)
    # One step back, so that for every lane four blocks in a row, up to `newest`, are known.
    before = [last[:, p] ^ sbox[last[:, p + 1]] for p in range(n - 1)]
    before[n // 2 - 1] = before[n // 2 - 1] ^ constant
    before.append(last[:, n - 1] ^ sbox[before[0]])
    states = jnp.stack([jnp.stack(before, -1), last])  # [2, chain, link]
    newest = 4 * steps - 1
    words = []
    for half in sorted({column for _, column in links}):
        ends: list[list[jax.Array]] = [[], [], [], []]
        for p, (lane, column) in enumerate(links):
            if column == half:
                for back in range(4):
                    index = newest - back - 3 + _LAG[lane]
                    ends[lane].append(states[index // 4 - steps + 2, index % 4, p])
        a = [jnp.stack([ends[lane][back] for lane in range(4)]) for back in range(4)]
        # The other columns are differences of the last one.
        columns = [a[0] ^ a[1] ^ a[2] ^ a[3], a[0] ^ a[2], a[0] ^ a[1], a[0]]
        words += [lax.bitcast_convert_type(c, jnp.uint32) for c in columns]
    return jnp.stack(words)


def _ciphertext_only(case: Case) -> Found | None:
    key_bits = case.settings.get("key_bits", 128)
    return decrypt_as_deep_lock(case, deep_lock_ciphertext_only(case.locked, key_bits))


ENTRIES = (
    Entry("deep_lock_ciphertext_only", _ciphertext_only, ("deep_lock", "stream_lock"), (), "key"),
)
