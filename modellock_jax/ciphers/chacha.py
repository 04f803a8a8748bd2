"""ChaCha20 (RFC 8439) in-graph: additions, rotations and XOR, so constant-time by construction."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import UInt32

__all__ = ["WIDE", "blocks", "match_varying", "prf", "words"]

_CONSTANTS = np.frombuffer(b"expand 32-byte k", "<u4")
_COLUMNS = [(i, i + 4, i + 8, i + 12) for i in range(4)]
_DIAGONALS = [(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4) for i in range(4)]
_COUNTER = 12  # the word of the state that counts; after it the nonce
_MANY = 4096  # blocks from which one loop over them is worth its compilation, about a second
WIDE = 16  # blocks for one counter, at most
_CHUNK = 32768  # blocks, about: 2 MiB at each step, which stay in a CPU's cache


@functools.partial(jax.jit, static_argnames="per_counter")
def blocks(
    key: jax.Array, nonces: jax.Array, counters: jax.Array, per_counter: int = 1
) -> jax.Array:
    """Make key stream blocks of ChaCha20, any number at once and in any order.

    On a CPU many blocks are one loop over them, each from its first step to its last in registers;
    elsewhere, and for few, each step is done on the rows of all blocks. Both give the same bits.

    Args:
        key: uint32 `[8]`.
        nonces: uint32 `[3]` for all, or `[3, N]`, one for each counter.
        counters: uint32 `[N]`, of the first block of each stretch.
        per_counter: Blocks in a stretch, a power of two up to `WIDE`.

    Returns:
        uint32 `[N * per_counter, 16]`, little-endian words as in RFC 8439.
    """
    if counters.shape[0] * per_counter < _MANY:
        return _by_rows(key, nonces, counters, per_counter)

    @custom_vmap
    def by_blocks(key: jax.Array, nonces: jax.Array, counters: jax.Array) -> jax.Array:
        return _by_blocks(key, nonces, counters, per_counter)

    @by_blocks.def_vmap
    def over_keys(size: int, batched: list[bool], *args: jax.Array) -> tuple[jax.Array, bool]:
        # One key after the other: each fills the machine.
        def one(given: list[jax.Array]) -> jax.Array:
            given, whole = list(given), []
            for arg, is_batched in zip(args, batched):
                whole.append(given.pop(0) if is_batched else arg)
            return by_blocks(*whole)

        return lax.map(one, [arg for arg, is_batched in zip(args, batched) if is_batched]), True

    by_rows = functools.partial(_by_rows, per_counter=per_counter)
    return lax.platform_dependent(key, nonces, counters, cpu=by_blocks, default=by_rows)


def prf(key: UInt32[jax.Array, "8"], words: UInt32[jax.Array, "4"]) -> UInt32[jax.Array, "8"]:
    """Derive eight words from a key and four words.

    The first half of ChaCha20's block whose counter and nonce are the four words.

    Args:
        key: uint32 `[8]`.
        words: uint32 `[4]`.

    Returns:
        uint32 `[8]`.
    """
    return blocks(key, words[1:], words[:1])[0, :8]


def match_varying(tree: Any, *others: Any) -> Any:
    """Make arrays vary over one set of axes of a `shard_map`, as what a loop carries must.

    Args:
        tree: A tree of arrays.
        *others: Arrays whose axes count too.

    Returns:
        A tree like it, varying over the axes of all of them and of `others`.
    """

    def axes_of(leaf: Any) -> frozenset[str]:
        aval = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
        kind = getattr(aval, "manual_axis_type", None)  # `vma` before JAX 0.10
        return frozenset(kind.varying if kind else getattr(aval, "vma", None) or ())

    axes = frozenset[str]().union(*map(axes_of, jax.tree.leaves((tree, others))))

    def to_varying(leaf: jax.Array) -> jax.Array:
        missing = axes - axes_of(leaf)
        return lax.pcast(leaf, tuple(missing), to="varying") if missing else leaf

    return jax.tree.map(to_varying, tree)


def words(
    key: UInt32[jax.Array, "8"], nonce: list[jax.Array], counters: UInt32[jax.Array, "*shape"]
) -> list[UInt32[jax.Array, "*shape"]]:
    """Make the sixteen words of the blocks of these counters.

    Args:
        key: uint32 `[8]`.
        nonce: Three words, each a uint32 scalar or like `counters`.
        counters: uint32 `[...]`.

    Returns:
        Sixteen arrays, each like `counters`.
    """
    first = [*(jnp.uint32(c) for c in _CONSTANTS), *key, counters, *nonce]
    start = match_varying(tuple(jnp.broadcast_to(word, counters.shape) for word in first))

    return list(_mixed(start))


@jax.jit  # traced once for all states of a shape
def _mixed(start: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    mixed = lax.fori_loop(0, 10, lambda _, state: _double_round(state), start)
    return tuple(lax.add(word, before) for word, before in zip(mixed, start))


def _double_round(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    mixed = list(state)
    for a, b, c, d in _COLUMNS + _DIAGONALS:
        mixed[a], mixed[b], mixed[c], mixed[d] = _quarter(mixed[a], mixed[b], mixed[c], mixed[d])
    return tuple(mixed)


def _own(nonces: jax.Array, counters: jax.Array, per_counter: int) -> list[jax.Array]:
    """Give counters and the three words of nonces, `[N * per_counter]` each; none of one for all."""
    steps = lax.broadcasted_iota(jnp.uint32, (counters.shape[0], per_counter), 1)
    own = [(counters[:, None] + steps).reshape(-1)]
    if nonces.ndim == 2:
        own += [jnp.broadcast_to(words[:, None], steps.shape).reshape(-1) for words in nonces]
    return own


def _by_rows(key: jax.Array, nonces: jax.Array, counters: jax.Array, per_counter: int) -> jax.Array:
    counters, *own = _own(nonces, counters, per_counter)
    n = counters.shape[0]
    nonces = jnp.stack(own) if own else jnp.broadcast_to(nonces[:, None], (3, n))
    columns = jnp.concatenate([jnp.asarray(_CONSTANTS), key])
    start = jnp.concatenate(
        [jnp.broadcast_to(columns[:, None], (12, n)), counters[None], nonces]
    ).reshape(4, 4, n)

    def double_round(_: int, rows: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        a, b, c, d = _quarter(*rows)
        # Turning the rows brings the diagonals under one another: the same code does both halves.
        b, c, d = jnp.roll(b, -1, 0), jnp.roll(c, -2, 0), jnp.roll(d, -3, 0)
        a, b, c, d = _quarter(a, b, c, d)
        return a, jnp.roll(b, 1, 0), jnp.roll(c, 2, 0), jnp.roll(d, 3, 0)

    rows = lax.fori_loop(0, 10, double_round, (start[0], start[1], start[2], start[3]))
    return (jnp.stack(rows) + start).reshape(16, n).T


def _by_blocks(
    key: jax.Array, nonces: jax.Array, counters: jax.Array, per_counter: int
) -> jax.Array:
    n = counters.shape[0] * per_counter
    # An odd multiple of 64 bytes between a block's words: powers of two share few lines of a cache.
    # WIDE blocks are a multiple of every `per_counter`.
    size = (-(-n // max(2, n // _CHUNK)) // WIDE | 1) * WIDE

    def step(i: jax.Array, done: jax.Array) -> jax.Array:
        # Slices move back into their array: the last chunk makes some blocks of the one before again.
        begin, count = i * (size // per_counter), size // per_counter
        some = lax.dynamic_slice(counters, (begin,), (count,))
        each = lax.dynamic_slice(nonces, (0, begin), (3, count)) if nonces.ndim == 2 else nonces
        stream = _stream(key, None if nonces.ndim == 2 else nonces, _own(each, some, per_counter))
        return lax.dynamic_update_slice(done, stream, (begin * per_counter, 0))

    return lax.fori_loop(0, -(-n // size), step, jnp.zeros((n, 16), jnp.uint32))


def _stream(key: jax.Array, nonce: jax.Array | None, own: list[jax.Array]) -> jax.Array:
    """Blocks `[n, 16]` of states with common words and words of their `own`, from the counter on."""
    common = [*(jnp.uint32(c) for c in _CONSTANTS), *key]
    zeros = [jnp.uint32(0)] * 4
    common += zeros if nonce is None else [jnp.uint32(0), *nonce]

    # XLA makes a chain of array operations into many passes over memory, and a window's reduction
    # into one loop. A window of one block is reduced by one call, of the first values and the block.
    def block(first: Any, one: Any) -> tuple[jax.Array, ...]:
        mine = range(_COUNTER, _COUNTER + len(own))
        return _block([one[i] if i in mine else first[i] for i in range(16)])

    operands = [own[0]] * 16
    operands[_COUNTER : _COUNTER + len(own)] = own
    out = lax.reduce_window(tuple(operands), tuple(common), block, (1,), (1,), "VALID")
    # Gathered first and transposed then, each in one pass; together XLA does it word by word.
    rows = lax.optimization_barrier(jnp.stack(out))
    return lax.optimization_barrier(rows.T)


def _block(start: list[jax.Array]) -> tuple[jax.Array, ...]:
    state = tuple(start)
    for _ in range(10):
        state = _double_round(state)
    return tuple(lax.add(word, first) for word, first in zip(state, start))


# Operations of jax.lax: they are traced in a fraction of the time that jax.numpy's take.
def _rotate(word: jax.Array, bits: int) -> jax.Array:
    left = lax.shift_left(word, lax.full_like(word, bits))
    return lax.bitwise_or(left, lax.shift_right_logical(word, lax.full_like(word, 32 - bits)))


def _quarter(
    a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    for right, left in ((16, 12), (8, 7)):
        a = lax.add(a, b)
        d = _rotate(lax.bitwise_xor(d, a), right)
        c = lax.add(c, d)
        b = _rotate(lax.bitwise_xor(b, c), left)
    return a, b, c, d
