"""stream_lock: XOR with ChaCha20, the hardened counterpart of Deep-Lock. Our own scheme."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.base import Key, Lock, Loss, Params, Rng, check_key, paths, random_words
from modellock_jax.bits import bitwise, check_leaves, entries_of, from_uint, to_uint
from modellock_jax.ciphers import chacha, native
from modellock_jax.ciphers.nonces import leaf_nonce
from modellock_jax.schemes.shards import Part, by_leaves


class StreamKey(NamedTuple):
    """`key`: uint32 `[8]`, secret; `nonce`: uint32 `[3]`, public, fresh for every encryption."""

    key: jax.Array
    nonce: jax.Array


def stream_lock() -> Lock:
    """XOR every leaf with ChaCha20 under a 256-bit key and a nonce of the leaf's own.

    Leaves: floats and integers of 1, 2, 4 or 8 bytes, as little-endian bytes in C order. The nonce
    of a leaf is the first 96 bits of SHA-256 of its path, XOR the key's `nonce`; the block counter
    starts at 0 (RFC 8439), so any part of any leaf can be decrypted alone.

    One `StreamKey` locks one tree once. Before locking again under the same 256 bits (a model that
    was trained on, another model), draw a fresh nonce, `key._replace(nonce=...)`: otherwise the two
    locked files XOR to the XOR of the plain ones.

    On CPUs one compiled call opens a leaf, where `native/` of a clone is installed; the bits are
    those of JAX alone, which serves accelerators, `vmap` over keys and `jax.export`.

    Raises `TypeError` for leaves that are not whole bytes, and when differentiated.

    **Guarantees.** decrypt inverts encrypt on bits. Against someone who has the locked tree but not
    the key, its bits are as good as random if ChaCha20 is a pseudo-random function and no nonce is
    used twice; shapes, dtypes and names stay in the open. No integrity: who can write the file can
    flip chosen bits, and a wrong key gives other weights and no error. Whoever runs the model holds
    the plain parameters. Of a sharded leaf each device makes its own part of the key stream, and no
    device talks to another.

    Source: ours; the cipher is RFC 8439 (Nir & Langley 2018).

    >>> import jax, modellock_jax as ml
    >>> params = {"w": jax.numpy.array([1.0, -0.0, jax.numpy.nan])}
    >>> lock = ml.stream_lock()
    >>> locked, key = lock.encrypt(lock.init(jax.random.key(0), params), params)
    >>> lock.decrypt(key, locked)["w"].tolist()
    [1.0, -0.0, nan]
    """

    return _lock(by_leaves(partial(_xor, True)))


def in_jax() -> Lock:
    """`stream_lock` by JAX alone, even where the compiled call is installed: its oracle."""
    return _lock(by_leaves(partial(_xor, False)))


def is_compiled() -> bool:
    """Whether `native/` is installed, so that a CPU opens leaves by a compiled call."""
    return native.has_chacha20()


def _lock(open_leaves: Callable[..., list[Any]]) -> Lock:
    def init(rng: Rng, params: Params) -> StreamKey:
        check_leaves("stream_lock", params)
        words = random_words(rng, 11)
        return StreamKey(words[:8], words[8:])

    @bitwise("stream_lock")
    def xor(key: StreamKey, params: Params) -> Params:
        leaves, tree = jax.tree.flatten(params)
        opened = open_leaves(jax.tree.leaves(paths(params)), key, leaves)
        return jax.tree.unflatten(tree, opened)

    def decrypt(key: Key, locked: Params) -> Params:
        check_leaves("stream_lock", locked)
        check_key("stream_lock", key, StreamKey, (8,), (3,), dtype=jnp.uint32)
        return xor(key, locked)

    def encrypt(key: Key, params: Params, /, loss: Loss | None = None) -> tuple[Params, Key]:
        return decrypt(key, params), key

    return Lock(init, encrypt, decrypt)


class _Runs(NamedTuple):
    """Where a part of a leaf lies in the leaf's key stream: runs of `length` entries each.

    `first`: uint32 `[runs]`, the block in which each run begins; `skip`: uint32 `[runs]`, how many
    entries of that block lie before it, at most `most`; `blocks`: how many blocks a run touches.
    """

    first: Any
    skip: Any
    most: int
    blocks: int
    length: int
    in_place: bool


def _runs(part: Part, own: tuple[int, ...], size: int) -> _Runs:
    """The runs of a part of shape `own`, of entries of `size` bytes."""
    in_block = 64 // size
    # Entries follow one another in the leaf from the last axis that is split to the end.
    split = max([k for k, names in enumerate(part.names) if names], default=0)
    first, skip, step = np.zeros((), np.uint32), np.zeros((), np.uint32), in_block
    for k, number in enumerate(part.numbers[: split + 1]):
        stride = math.prod(part.shape[k + 1 :])
        terms = [(jnp.uint32(number), stride * own[k])] if part.names[k] else []
        if k < split:
            terms.append((lax.broadcasted_iota(jnp.uint32, own[:split], k), stride))
        for times, entries in terms:
            # Blocks and entries apart: the number of an entry may not fit in 32 bits.
            first = first + times * jnp.uint32(entries // in_block)
            skip = skip + times * jnp.uint32(entries % in_block)
            step = math.gcd(step, entries)
    most, length = in_block - step, math.prod(own[split:])
    return _Runs(
        (first + skip // np.uint32(in_block)).reshape(-1),
        (skip % np.uint32(in_block)).reshape(-1),
        most,
        -(-(most + length) // in_block),
        length,
        part.is_layer,
    )


def _blocks(key: jax.Array, nonces: jax.Array, runs: list[_Runs]) -> list[jax.Array]:
    """The key stream of the runs of each leaf, uint32 `[runs, words]`, and some words more."""
    counts = np.array([run.first.size for run in runs], np.int32)
    blocks = np.array([run.blocks for run in runs], np.int32)
    # What a block needs is looked up once for several, where that adds few blocks.
    wide = -(-blocks // chacha.WIDE)
    step = (
        chacha.WIDE
        if 16 * np.sum(counts * wide * chacha.WIDE) < 17 * np.sum(counts * blocks)
        else 1
    )
    blocks = wide if step > 1 else blocks
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

    block = block - of(ends - counts * blocks)
    joined = (np if all(isinstance(run.first, np.ndarray) for run in runs) else jnp).concatenate(
        [run.first for run in runs]
    )
    run = of(np.cumsum(counts, dtype=np.int32) - counts) + block // of(blocks)
    first = jnp.asarray(joined).at[run].get(mode="promise_in_bounds")
    stream = chacha.blocks(
        key,
        nonces.at[:, leaf].get(mode="promise_in_bounds"),
        first + jnp.uint32(step) * (block % of(blocks)).astype(jnp.uint32),
        step,
    )
    return [
        stream[step * (end - n * k) : step * end].reshape(n, 16 * step * k)
        for n, k, end in zip(counts.tolist(), blocks.tolist(), ends.tolist())
    ]


def _in_jax(
    key: jax.Array, nonces: jax.Array, runs: list[_Runs], leaves: Sequence[jax.Array]
) -> list[jax.Array]:
    opened = []
    for leaf, run, words in zip(leaves, runs, _blocks(key, nonces, runs)):
        entries = entries_of(words.reshape(-1), leaf.dtype).reshape(words.shape[0], -1)
        if run.most:
            take = partial(lax.dynamic_slice_in_dim, slice_size=run.length)
            entries = jax.vmap(take)(entries, run.skip)
        bits = to_uint(leaf) ^ entries[:, : run.length].reshape(leaf.shape)
        opened.append(from_uint(bits, leaf.dtype))
    return opened


def _native(
    key: jax.Array, nonces: jax.Array, runs: list[_Runs], leaves: Sequence[jax.Array]
) -> list[jax.Array]:
    return [
        native.chacha20(
            key,
            nonces[:, i],
            jnp.asarray(run.first),
            jnp.asarray(run.skip) * np.uint32(leaf.dtype.itemsize),
            leaf,
            run.in_place,
        )
        for i, (run, leaf) in enumerate(zip(runs, leaves))
    ]


def _xor(
    compiled: bool,
    names: tuple[str, ...],
    key: StreamKey,
    parts: list[Part],
    leaves: list[jax.Array],
) -> list[jax.Array]:
    own = jnp.asarray(np.stack([leaf_nonce(name) for name in names], axis=1))
    nonces = own ^ key.nonce[:, None]
    runs = [_runs(part, leaf.shape, leaf.dtype.itemsize) for part, leaf in zip(parts, leaves)]
    full = [i for i, leaf in enumerate(leaves) if leaf.size]
    runs, nonces = [runs[i] for i in full], nonces[:, np.array(full, np.int32)]
    given = [leaves[i] for i in full]
    if compiled and given and is_compiled():
        done = _choose(key.key, nonces, runs, given)
    else:
        done = _in_jax(key.key, nonces, runs, given)
    opened = list(leaves)
    for i, leaf in zip(full, done):
        opened[i] = leaf
    return opened


def _choose(
    key: jax.Array, nonces: jax.Array, runs: list[_Runs], leaves: list[jax.Array]
) -> list[jax.Array]:
    # Places that are known while tracing stay constants; the others are arguments.
    traced = [i for i, run in enumerate(runs) if not isinstance(run.first, np.ndarray)]

    def with_places(body: Any) -> Any:
        def call(key: jax.Array, nonces: jax.Array, *rest: jax.Array) -> list[jax.Array]:
            at, places = list(runs), iter(rest)
            for i in traced:
                at[i] = at[i]._replace(first=next(places), skip=next(places))
            return body(key, nonces, at, list(places))

        return call

    places = [jnp.asarray(word) for i in traced for word in runs[i][:2]]
    choice = native.on_cpu(with_places(_native), with_places(_in_jax))
    return choice(key, nonces, *places, *leaves)


def key_bits(params: Params, sites: Any) -> float:
    """Key space in bits."""
    return 256.0
