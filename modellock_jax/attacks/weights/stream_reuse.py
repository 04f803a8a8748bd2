"""Two checkpoints under one key stream: train, lock again with the same key, compare."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from modellock_jax.attacks.case import Case, Entry, Found, with_weights
from modellock_jax.ciphers import aes
from modellock_jax.core.bits import check_leaves, from_uint, substitute, to_uint
from modellock_jax.core.lock import Params

__all__ = ["ENTRIES", "stream_reuse"]


def stream_reuse(
    locked: Params,
    other_locked: Params,
    other: Params,
    scheme: Literal["deep_lock", "stream_lock"],
) -> Params:
    """One checkpoint's plain weights from another's, where one key stream locked both.

    The key stream cancels: what is left is how the two differ, bit by bit. With zeros for
    `other` the result is that difference, zero bits wherever a weight stayed the same. Composes
    with `jit` and `vmap`.

    Args:
        locked: A locked tree.
        other_locked: Another, of one structure.
        other: The plain weights of the other.
        scheme: The lock: "deep_lock" or "stream_lock".

    Returns:
        The plain weights of `locked`, a tree like it.

    Raises:
        ValueError: For another scheme, or trees that do not fit.

    Threat model: the owner trained on and locked again with the same key, under `stream_lock` with
    the same finished nonce as well, which its `encrypt` never gives twice; the attacker holds both
    files, and the plain weights of one, which was published or leaked. The key is not needed.

    **Guarantees.** Exact on bits under one key stream. Under what `stream_lock.encrypt` makes of two
    trees, the result is noise.

    >>> import jax, modellock_jax as ml
    >>> old, new = {"w": jax.numpy.ones(4)}, {"w": jax.numpy.array([1.0, 2.0, 3.0, 4.0])}
    >>> lock = ml.deep_lock()
    >>> key = lock.init(jax.random.key(0), old)
    >>> locked = [lock.encrypt(key, params)[0] for params in (new, old)]
    >>> stream_reuse(*locked, old, "deep_lock")["w"].tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    if scheme not in ("deep_lock", "stream_lock"):
        raise ValueError(
            f'stream_reuse: scheme must be "deep_lock" or "stream_lock", not {scheme!r}'
        )
    trees = (locked, other_locked, other)
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in trees]
    if shapes[0] != shapes[1] or shapes[0] != shapes[2]:
        raise ValueError("stream_reuse: the three trees differ in structure, shapes or dtypes")
    check_leaves("stream_reuse", locked)

    def undo(leaf: jax.Array) -> jax.Array:
        uint = to_uint(leaf)
        return substitute(uint, jnp.asarray(aes.INV_SBOX)) if scheme == "deep_lock" else uint

    def open_leaf(a: jax.Array, b: jax.Array, plain: jax.Array) -> jax.Array:
        return from_uint(undo(a) ^ undo(b) ^ to_uint(plain), a.dtype)

    return jax.tree.map(open_leaf, locked, other_locked, other)


def _stream_reuse(case: Case) -> Found:
    scheme: Any = case.scheme
    other_locked, other = case.reused_stream
    return with_weights(case, stream_reuse(case.locked, other_locked, other, scheme))


ENTRIES = (
    Entry(
        "stream_reuse", _stream_reuse, ("deep_lock", "stream_lock"), ("reused_stream",), "weights"
    ),
)
