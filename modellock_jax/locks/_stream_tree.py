"""What `stream_lock` does with a tree: its key, the nonces, and every leaf under its own."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modellock_jax.ciphers import chacha
from modellock_jax.ciphers.nonces import leaf_nonce
from modellock_jax.core.bits import check_leaves, non_differentiable
from modellock_jax.core.keys import check_key, redacted
from modellock_jax.core.lock import Key, Lock, Loss, Params
from modellock_jax.core.paths import paths
from modellock_jax.core.shards import by_leaves
from modellock_jax.core.source import Rng, random_words
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
        return redacted(self)


def xor_lock(compiled: bool) -> Lock:
    """Return the lock, by compiled calls on CPUs where they are installed, or by JAX alone."""
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

    @non_differentiable("stream_lock")
    def lock_bits(key: StreamKey, params: Params) -> tuple[Params, StreamKey]:
        key = key._replace(nonce=_finished_nonce(compiled, key, params))
        return xor(key, params), key

    unlock_bits = non_differentiable("stream_lock")(xor)

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
