"""stream_lock: XOR with ChaCha20, the hardened counterpart of Deep-Lock. Our own scheme."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.base import Key, Lock, Loss, Params, Rng, check_key, paths, random_words
from modellock_jax.bits import (
    bitwise,
    check_leaves,
    from_uint,
    keep_sharding,
    to_uint,
    words_in,
    words_like,
)
from modellock_jax.ciphers import chacha
from modellock_jax.ciphers.nonces import leaf_nonce


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

    Raises `TypeError` for leaves that are not whole bytes, and when differentiated.

    **Guarantees.** decrypt inverts encrypt on bits. Against someone who has the locked tree but not
    the key, its bits are as good as random if ChaCha20 is a pseudo-random function and no nonce is
    used twice; shapes, dtypes and names stay in the open. No integrity: who can write the file can
    flip chosen bits, and a wrong key gives other weights and no error. Whoever runs the model holds
    the plain parameters.

    Source: ours; the cipher is RFC 8439 (Nir & Langley 2018).

    >>> import jax, modellock_jax as ml
    >>> params = {"w": jax.numpy.array([1.0, -0.0, jax.numpy.nan])}
    >>> lock = ml.stream_lock()
    >>> locked, key = lock.encrypt(lock.init(jax.random.key(0), params), params)
    >>> lock.decrypt(key, locked)["w"].tolist()
    [1.0, -0.0, nan]
    """

    def init(rng: Rng, params: Params) -> StreamKey:
        check_leaves("stream_lock", params)
        words = random_words(rng, 11)
        return StreamKey(words[:8], words[8:])

    @bitwise("stream_lock")
    def xor(key: StreamKey, params: Params) -> Params:
        leaves, tree = jax.tree.flatten(params)
        counts = [-(-words_in(leaf) // 16) for leaf in leaves]
        nonces = np.stack([leaf_nonce(path) for path in jax.tree.leaves(paths(params))], axis=1)
        # All blocks of all leaves in one call: one program, however many leaves.
        stream = chacha.blocks(
            key.key,
            jnp.asarray(np.repeat(nonces, counts, axis=1)) ^ key.nonce[:, None],
            jnp.asarray(np.concatenate([np.arange(n, dtype=np.uint32) for n in counts])),
        ).reshape(-1)
        opened, start = [], 0
        for leaf, n in zip(leaves, counts):
            words = words_like(stream[start : start + 16 * n], leaf)
            opened.append(from_uint(to_uint(leaf) ^ words, leaf.dtype))
            start += 16 * n
        return jax.tree.unflatten(tree, opened)

    def decrypt(key: Key, locked: Params) -> Params:
        check_leaves("stream_lock", locked)
        check_key("stream_lock", key, StreamKey, (8,), (3,), dtype=jnp.uint32)
        return keep_sharding(xor(key, locked), locked)

    def encrypt(key: Key, params: Params, /, loss: Loss | None = None) -> tuple[Params, Key]:
        return decrypt(key, params), key

    return Lock(init, encrypt, decrypt)


def key_bits(params: Params, sites: Any) -> float:
    """Key space in bits."""
    return 256.0
