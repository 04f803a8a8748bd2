"""stream_lock: XOR with ChaCha20, the hardened counterpart of Deep-Lock. Our own scheme."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modellock_jax.ciphers import chacha, native
from modellock_jax.ciphers.nonces import leaf_nonce
from modellock_jax.core.bits import bitwise, check_leaves
from modellock_jax.core.lock import (
    Key,
    Lock,
    Loss,
    Params,
    Rng,
    check_key,
    hidden,
    paths,
    random_words,
)
from modellock_jax.core.shards import by_leaves
from modellock_jax.locks import _stream, _stream_plain
from modellock_jax.locks._digest import structure, tree_digest

NAME = "stream_lock()"
# The first of the four words for which the key's pseudo-random function is used, by use.
_TREE, _HASH, _FINISH = 0, 1, 2


class StreamKey(NamedTuple):
    """`key`: uint32 `[8]`, secret; `nonce`: uint32 `[3]`, public, which `encrypt` makes anew."""

    key: jax.Array
    nonce: jax.Array

    def __repr__(self) -> str:
        return hidden(self)


def stream_lock() -> Lock:
    """XOR every leaf with ChaCha20 under a 256-bit key and a nonce that depends on all that is locked.

    Leaves: floats and integers of 1, 2, 4 or 8 bytes, as little-endian bytes in C order. `encrypt`
    finishes the key: its new nonce is a keyed function of the old one and of path, shape, dtype, place
    and bits of every leaf. Key and nonce give the tree's key; a leaf's nonce is 64 bits of SHA-256 of
    its path and the upper half of the block's number, whose lower half is the counter, from 0 on (RFC
    8439). So any part of any leaf can be decrypted alone, with the finished key.

    On CPUs compiled calls sum what is locked and open leaves, where `native/` of a clone is installed;
    the bits are those of JAX alone, which serves accelerators, `vmap` over keys and `jax.export`.

    Under `jax_debug_nans` a `jit` of your own that returns locked floats raises, since JAX searches all
    that it returns for NaN, and a lock cannot prevent it: call `encrypt` outside, or return the bits.

    Raises `TypeError` for leaves that are not whole bytes, and when differentiated; `ValueError` where
    two places in the tree read alike.

    **Guarantees.** decrypt inverts encrypt on bits. Against someone who has locked trees but not the
    key, their bits are as good as random if ChaCha20 is a pseudo-random function, but that equal trees
    under one unfinished key are equal bits. Two other trees, or the same from another nonce, share a
    stream with probability at most 2^-95: a model may be trained on and locked again under the same
    key. Shapes, dtypes and names stay in the open. No integrity: who can write the file can flip
    chosen bits, and a wrong key gives other weights and no error. Whoever runs the model holds the
    plain parameters. Of a sharded leaf each device makes its own part of the key stream; in decrypt no
    device talks to another, in encrypt they add up 32 bytes, once. (On TPUs with automatic axes XLA
    sends words of the sums leaf by leaf, eight at a time.) Inside a `shard_map` a device's part is a
    tree of its own: its key is finished there, and opens it there.

    Source: ours; the cipher is RFC 8439 (Nir & Langley 2018), and a nonce that depends on the plain
    text is the idea of SIV (Rogaway & Shrimpton 2006).

    >>> import jax, modellock_jax as ml
    >>> params = {"w": jax.numpy.array([1.0, -0.0, jax.numpy.nan])}
    >>> lock = ml.stream_lock()
    >>> locked, key = lock.encrypt(lock.init(jax.random.key(0), params), params)
    >>> lock.decrypt(key, locked)["w"].tolist()
    [1.0, -0.0, nan]
    """

    return _lock(compiled=True)


def in_jax() -> Lock:
    """`stream_lock` by JAX alone, even where the compiled calls are installed: its oracle."""
    return _lock(compiled=False)


def is_compiled() -> bool:
    """Whether `native/` is installed, so that a CPU opens leaves by a compiled call."""
    return native.has_chacha20()


def _lock(compiled: bool) -> Lock:
    open_leaves = by_leaves(partial(_stream.xor, compiled), _stream_plain.xor)

    def init(rng: Rng, params: Params) -> StreamKey:
        check_leaves("stream_lock", params)
        words = random_words(rng, 11, NAME)
        return StreamKey(words[:8], words[8:])

    def xor(key: StreamKey, params: Params) -> Params:
        leaves, tree = jax.tree.flatten(params)
        names = jax.tree.leaves(paths(params))
        _check_nonces(names)
        stream = chacha.prf(key.key, _for(_TREE, *key.nonce))
        return jax.tree.unflatten(tree, open_leaves(names, stream, leaves))

    def check(key: Key, params: Params) -> None:
        check_leaves("stream_lock", params)
        check_key("stream_lock", key, StreamKey, (8,), (3,), dtype=jnp.uint32)

    @bitwise("stream_lock")
    def lock_bits(key: StreamKey, params: Params) -> tuple[Params, StreamKey]:
        key = key._replace(nonce=_finished_nonce(compiled, key, params))
        return xor(key, params), key

    unlock_bits = bitwise("stream_lock")(xor)

    def encrypt(key: Key, params: Params, /, loss: Loss | None = None) -> tuple[Params, Key]:
        check(key, params)
        return lock_bits(key, params)

    def decrypt(key: Key, locked: Params) -> Params:
        check(key, locked)
        return unlock_bits(key, locked)

    return Lock(init, encrypt, decrypt)


def _for(use: int, *words: Any) -> jax.Array:
    return jnp.stack([jnp.uint32(use), *words])


@partial(jax.jit, static_argnums=0)
def _finished_nonce(compiled: bool, key: StreamKey, params: Params) -> jax.Array:
    """Three words, a pseudo-random function of the nonce before, the tree's structure and its digest."""
    zero = jnp.uint32(0)
    hashing = chacha.prf(key.key, _for(_HASH, zero, zero, zero))
    digest = tree_digest(hashing, jax.tree.leaves(params), compiled)
    state = chacha.prf(key.key, _for(_FINISH, *key.nonce))
    # Each step takes four words and gives the key of the next.
    for words in (*jnp.asarray(structure(params)).reshape(2, 4), *digest.reshape(2, 4)):
        state = chacha.prf(state, words)
    return state[:3]


def _check_nonces(names: Sequence[str]) -> None:
    seen: dict[bytes, str] = {}
    for name in names:
        if (other := seen.setdefault(leaf_nonce(name).tobytes(), name)) != name:
            raise ValueError(
                f"stream_lock: the leaves `{other}` and `{name}` would share a key stream, since "
                "the hashes of their names begin alike; rename one"
            )


def key_bits(params: Params, sites: Any) -> float:
    """Key space in bits."""
    return 256.0
