"""The chains of the AES key schedule, and the search for what fits evidence on their bytes.

Seen from its last column the schedule falls apart into four chains of 32 bits (AES-128) or 64 bits
(AES-256) that never meet, the form that Leurent & Pernot (2021), eprint 2020/1253, give for AES-128.
A chain links one byte of each lane, a block earlier from one lane to the next.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.ciphers import aes

__all__ = ["Evidence", "Search", "links_of", "solve"]

_LAG = {3: 0, 0: 1, 1: 2, 2: 3}  # of a chain's lanes, in blocks


class Search(NamedTuple):
    """How to search: `choices`, values to try; `beam`, chains kept; `windows`, places to begin at."""

    choices: int
    beam: int
    windows: int


class Evidence(NamedTuple):
    """What locked weights say of the bytes of a schedule.

    `seen`: uint8 `[blocks, links]`, byte XOR noise, or its image under the S-box XOR noise if
    `through_sbox`; `kind`: `[blocks, links]`, which of the tables the noise is like, 0 where nothing was
    seen; `tables`: float32 `[kinds, links, 256]`, how much likelier than chance each noise is, in bits;
    `block`: number of the first block; `first`: the link that guesses are of; `of`: the kind that they
    are of.
    """

    seen: np.ndarray
    kind: np.ndarray
    tables: np.ndarray
    block: int
    first: int
    of: int
    through_sbox: bool


def links_of(words: int) -> list[tuple[int, int]]:
    """Return lane and column of a chain's links: the last column, of AES-256 of the first half too.

    Args:
        words: Of the master key, 4 or 8.

    Returns:
        As many pairs, in the order of the chain.
    """
    return [(lane, column) for lane in (3, 0, 1, 2) for column in (words - 1, 3)[: words // 4]]


def solve(evidence: Evidence, search: Search) -> tuple[jax.Array, np.ndarray]:
    """Find the master key that fits best.

    Args:
        evidence: What is seen of the schedule.
        search: How to search.

    Returns:
        The key, uint32 `[4]` or `[8]`, and for each chain its evidence in bits, `[4]`.
    """
    n, first = evidence.seen.shape[1], evidence.first
    steps = (evidence.seen.shape[0] - 3) // 4
    # The links in a circle, from the one that is guessed; those before it lie a step back.
    order = [(p + first) % n for p in range(n)]
    lags = np.array([_LAG[links_of(n)[p][0]] + 4 * (p < first) for p in order])
    at = 4 * np.arange(steps)[None, :, None] + np.arange(4)[:, None, None] + 3 - lags
    seen = evidence.seen[at, order]
    kind = np.where(at < 0, 0, evidence.kind[at, order])
    begin = _begin(kind[..., 0] == evidence.of, n, search.windows)
    tables = evidence.tables[:, order]
    likely = np.argsort(-tables[evidence.of, 0], kind="stable")[: search.choices].astype(np.uint8)
    constant = order.index(n // 2 - 1)
    made = evidence.block + at[:, :, constant]  # the block that takes that round constant
    how = _How(
        n,
        constant,
        tuple(bool(tables[:, p].any()) for p in range(n)),
        search.beam,
        evidence.through_sbox,
    )
    last, total = _search(seen, kind, made, tables, likely, begin, how)
    return _master(last, evidence.block, first, steps), np.asarray(total)


def _begin(there: np.ndarray, n: int, windows: int) -> np.ndarray:
    """Where to begin, `[4, windows]`: steps of which none is missing, and enough of them ahead."""
    starts = []
    for chain in there:
        size = int(chain.nonzero()[0].max(initial=0)) + 1
        whole = [k for k in range(max(1, (size - n - 16) // 2)) if chain[k : k + n].all()]
        some = np.array(whole or [0])
        starts.append(some[np.arange(windows) * some.size // windows])
    return np.stack(starts)


class _How(NamedTuple):
    """What a search is compiled for; `constant`: the link to which the round constant is added."""

    n: int
    constant: int
    informative: tuple[bool, ...]
    beam: int
    through_sbox: bool


@functools.partial(jax.jit, static_argnames="how")
def _search(
    seen: jax.Array,
    kind: jax.Array,
    made: jax.Array,
    tables: jax.Array,
    likely: jax.Array,
    begin: jax.Array,
    how: _How,
) -> tuple[jax.Array, jax.Array]:
    """Find of each chain the best last state, uint8 `[4, n]`, and its evidence, `[4]`."""
    n, steps, windows = how.n, seen.shape[1], begin.shape[1]
    inverse, k, constants = jnp.asarray(aes.INV_SBOX), jnp.arange(steps), aes.rcon(made)
    evidence = functools.partial(_evidence, tables, how)
    follow = functools.partial(_follow, tables, how)

    def from_window(chain: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array]:
        row, like = jnp.roll(seen[chain], -start, 0), jnp.roll(kind[chain], -start, 0)
        constant = jnp.roll(constants[chain], -start)
        rows = (row, like, constant, k < steps - start)
        state, total = [jnp.zeros(1, jnp.uint8)] * n, jnp.zeros(1, jnp.float32)
        for level in range(n):
            old = [jnp.repeat(s, likely.size) for s in state]
            guess = likely ^ row[level, 0]
            guess = _look_up(inverse, guess) if how.through_sbox else guess
            new = [jnp.tile(guess, state[0].size), *old[1:]]
            for p in range(level):
                change = new[p] ^ old[p]
                if p == how.constant:
                    change = change ^ constant[level]
                new[p + 1] = _look_up(inverse, change)
            more = evidence(row[level], like[level], new, level + 1)
            total = jnp.repeat(total, likely.size) + more
            # The last cut is the widest: the steps ahead tell the rest apart.
            room = 4 * how.beam if level == n - 1 else how.beam
            state, total = _best_of(new, total, room) if total.size > room else (new, total)
        state, total = follow(state, total, jax.tree.map(lambda a: a[n : n + 8], rows))
        state, total = _best_of(state, total, 32)
        state, total = follow(state, total, jax.tree.map(lambda a: a[n + 8 :], rows))
        state, total = _best_of(state, total, 1)
        return jnp.stack(state, -1)[0], total[0]

    pairs = jnp.repeat(jnp.arange(4), windows), begin.reshape(-1)
    last, total = lax.map(lambda pair: from_window(*pair), pairs)
    best = total.reshape(4, windows).argmax(1)
    return last.reshape(4, windows, n)[jnp.arange(4), best], total.reshape(4, windows).max(1)


def _look_up(places: jax.Array, x: jax.Array) -> jax.Array:
    return places.at[x].get(mode="promise_in_bounds")


def _evidence(
    tables: jax.Array,
    how: _How,
    row: jax.Array,
    kind: jax.Array,
    state: list[jax.Array],
    known: int,
) -> jax.Array:
    total, sbox = jnp.zeros(state[0].shape, jnp.float32), jnp.asarray(aes.SBOX)
    for p in range(known):
        if how.informative[p]:
            shown = _look_up(sbox, state[p]) if how.through_sbox else state[p]
            total = total + _look_up(tables[kind[p], p], row[p] ^ shown)
    return total


def _forward(how: _How, state: list[jax.Array], constant: jax.Array) -> list[jax.Array]:
    sbox, new = jnp.asarray(aes.SBOX), list(state)
    for p in reversed(range(how.n)):
        made_from = state[0] if p == how.n - 1 else new[p + 1]
        new[p] = state[p] ^ _look_up(sbox, made_from)
        if p == how.constant:
            new[p] = new[p] ^ constant
    return new


def _follow(tables: jax.Array, how: _How, state: Any, total: jax.Array, rows: Any) -> Any:
    """Take states and their evidence further along a chain; rows beyond its end change nothing."""

    def step(carry: Any, now: Any) -> tuple[Any, None]:
        state, total = carry
        row, kind, constant, there = now
        new = [jnp.where(there, a, b) for a, b in zip(_forward(how, state, constant), state)]
        more = _evidence(tables, how, row, kind, new, how.n)
        return (new, total + jnp.where(there, more, 0)), None

    return lax.scan(step, (state, total), rows)[0]


def _best_of(state: Any, total: jax.Array, count: int) -> Any:
    if total.size <= 2**18:
        total, best = lax.top_k(total, min(count, total.size))
        return [s[best] for s in state], total
    # Of very many about the best, which takes half the time: a sample says where they begin.
    sample = jnp.sort(total[:: (total.size >> 14) | 1])
    least = sample[-max(1, int(0.9 * sample.size * count / total.size))]
    rank = jnp.cumsum((total > least).astype(jnp.int32))
    best = jnp.searchsorted(rank, jnp.arange(1, count + 1, dtype=jnp.int32), method="scan")
    best = jnp.minimum(best, total.size - 1)
    return [s[best] for s in state], total[best]


@functools.partial(jax.jit, static_argnames=("first", "steps"))
def _master(last: jax.Array, block: jax.Array, first: int, steps: int) -> jax.Array:
    """Join the last states of the four chains, uint8 `[4, n]`, and go back to the master key."""
    n, sbox = last.shape[1], jnp.asarray(aes.SBOX)
    links = links_of(n)
    constant = aes.rcon(block + 4 * steps - 2 + jnp.arange(4))
    ends = [last[:, (p - first) % n] for p in range(n)]
    for p in reversed(range(first)):  # these lie a step back
        ends[p] = ends[p] ^ sbox[ends[p + 1]]
        if p == n // 2 - 1:
            ends[p] = ends[p] ^ constant
    # One step back, so that for every lane four blocks in a row, up to `newest`, are known.
    before = [ends[p] ^ sbox[ends[p + 1]] for p in range(n - 1)]
    before[n // 2 - 1] = before[n // 2 - 1] ^ constant
    before.append(ends[n - 1] ^ sbox[before[0]])
    states = jnp.stack([jnp.stack(before, -1), jnp.stack(ends, -1)])  # [2, chain, link]
    newest, words = 4 * steps - 1, []
    for half in sorted({column for _, column in links}):
        columns: list[list[jax.Array]] = [[], [], [], []]
        for p, (lane, column) in enumerate(links):
            if column == half:
                for back in range(4):
                    index = newest - back - 3 + _LAG[lane]
                    columns[lane].append(states[index // 4 - steps + 2, index % 4, p])
        a = [jnp.stack([columns[lane][back] for lane in range(4)]) for back in range(4)]
        # The other columns are differences of the last one.
        half_words = [a[0] ^ a[1] ^ a[2] ^ a[3], a[0] ^ a[2], a[0] ^ a[1], a[0]]
        words += [lax.bitcast_convert_type(c, jnp.uint32) for c in half_words]
    return aes.rewind(jnp.stack(words), block + newest)
