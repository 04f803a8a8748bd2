"""Deep-Lock's master key from a few known weights: the key schedule can be inverted."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.attacks.case import Case, Entry, Found, with_weights
from modellock_jax.attacks.keys._known_words import fill_in
from modellock_jax.ciphers import aes
from modellock_jax.core.bits import substitute, to_uint
from modellock_jax.core.lock import Params
from modellock_jax.locks._schedules import round_keys
from modellock_jax.locks.deep_lock import DeepLockKey, deep_lock

__all__ = [
    "ENTRIES",
    "decrypt_as_deep_lock",
    "deep_lock_base_model",
    "deep_lock_known_plaintext",
    "deep_lock_settings",
    "leaf_bytes",
]


def deep_lock_known_plaintext(
    locked: jax.Array,
    known: jax.Array,
    offset: Any = 0,
    key_bits: int = 128,
    packing: str = "byte",
) -> DeepLockKey:
    """Return the master key from 16 (or 32) consecutive known bytes anywhere: four float32 weights.

    Jitted; `vmap` over keys and places. Under `packing="word"` on the host, from the first bytes of
    consecutive round keys: 4 float32 weights, 12 of 2 bytes, 16 of 1 byte (8, 40, 56 for 256 bits).

    Args:
        locked: Consecutive locked entries in C order, 16 bytes for 128 bits of the key, 32 for 256;
            more are ignored.
        known: The same entries plain, of the same dtype.
        offset: Bytes of key stream before them, int32: leaves before, each rounded up to 16 bytes,
            and entries of the same leaf; under `packing="word"` 16 for each entry before them.
        key_bits: 128 or 256.
        packing: As of the lock.

    Returns:
        The key that the bytes imply, whether or not the lock was `deep_lock`.

    Raises:
        ValueError: For too few bytes or other `key_bits`.

    Threat model: the attacker holds the locked weights and knows a few plain ones, for example
    those of a frozen layer of a public base model. See `deep_lock_base_model`.

    **Guarantees.** Exact: if the known bytes are right, so is the key. Wrong ones give a wrong key
    and no warning.

    >>> import jax, modellock_jax as ml
    >>> lock, w = ml.deep_lock(), jax.numpy.array([0.1, -0.2, 0.3, 0.4, 0.5])
    >>> locked, key = lock.encrypt(lock.init(jax.random.key(0), w), w)
    >>> found = deep_lock_known_plaintext(locked[1:], w[1:], offset=4)
    >>> bool((found.master == key.master).all())
    True
    """
    if key_bits not in (128, 256):
        raise ValueError(f"deep_lock_known_plaintext: key_bits must be 128 or 256, not {key_bits}")
    size, needed = known.dtype.itemsize, _entries_needed(known.dtype.itemsize, key_bits, packing)
    entries = min(locked.size, known.size)
    if entries < needed:
        raise ValueError(
            f"deep_lock_known_plaintext: {key_bits} key bits need {needed} consecutive known entries "
            f"of {size} bytes, not {entries}"
        )
    if packing == "word":
        return _known_first_words(locked, known, int(offset) // 16, key_bits // 32)
    size = key_bits // 8
    parts = [lax.bitcast_convert_type(to_uint(a.reshape(-1)), jnp.uint8) for a in (locked, known)]
    return _known_bytes(*(part.reshape(-1)[:size] for part in parts), jnp.int32(offset))


def _entries_needed(size: int, key_bits: int, packing: str) -> int:
    """How many known entries of `size` bytes in a row give the key, wherever they lie."""
    if packing == "byte":
        return -(-key_bits // 8 // size)
    return {128: {1: 16, 2: 12, 4: 4, 8: 3}, 256: {1: 56, 2: 40, 4: 8, 8: 6}}[key_bits][size]


def _known_first_words(locked: jax.Array, known: jax.Array, first: int, words: int) -> DeepLockKey:
    size = known.dtype.itemsize
    count = _entries_needed(size, 32 * words, "word")
    # As integers, since cutting floats may change the bits of a NaN.
    seen, plain = (to_uint(a).reshape(-1)[:count] for a in (locked, known))
    stream = np.zeros((count, 16), np.uint8)
    stream[:, :size] = np.asarray(leaf_bytes(seen) ^ leaf_bytes(plain, False)).reshape(count, size)
    there = np.broadcast_to(np.arange(16) < size, stream.shape)
    found = fill_in(stream.reshape(-1, 4), there.reshape(-1, 4), 4 * first, words)
    assert found is not None
    block, number = found
    return DeepLockKey(aes.rewind(jnp.asarray(block.view("<u4")[:, 0]), jnp.int32(number)))


def deep_lock_base_model(
    locked: Params, base: Params, key_bits: int = 128, packing: str = "byte"
) -> DeepLockKey | None:
    """Find the master key by a public base model that shares a leaf, no matter which, with the locked.

    Each leaf of more than 16 (32) bytes, whose shape and dtype agree, is tried in turn.

    Args:
        locked: The locked parameters, a tree of arrays.
        base: Plain parameters of the same structure.
        key_bits: 128 or 256.
        packing: As of the lock.

    Returns:
        The key that opens its whole leaf to the base model's bits; None if no leaf gives one.

    Threat model: the locked model was fine-tuned from a public one, and some layer was frozen.
    """
    first = 0
    for leaf, plain, rounds in zip(
        jax.tree.leaves(locked), jax.tree.leaves(base), round_keys(locked, packing)
    ):
        size, alike = leaf.dtype.itemsize, (leaf.shape, leaf.dtype) == (plain.shape, plain.dtype)
        if alike and leaf.size > _entries_needed(size, key_bits, packing):
            key = deep_lock_known_plaintext(leaf, plain, 16 * first, key_bits, packing)
            stream = aes.key_schedule(key.master, first + rounds)[first:]
            own = lax.bitcast_convert_type(stream, jnp.uint8)
            own = own[:, 0, :size] if packing == "word" else own
            seen = leaf_bytes(leaf)
            if bool((seen ^ own.reshape(-1)[: seen.size] == leaf_bytes(plain, False)).all()):
                return key
        first += rounds
    return None


def leaf_bytes(leaf: jax.Array, locked: bool = True) -> jax.Array:
    """Return the bytes of a leaf, the S-box undone if it is locked: uint8, weights XOR key stream.

    Args:
        leaf: A leaf `[...]`, locked or plain.
        locked: Whether it is locked.

    Returns:
        uint8 `[bytes of the leaf]`.
    """
    uint = to_uint(leaf)
    if locked:
        uint = substitute(uint, jnp.asarray(aes.INV_SBOX))
    return lax.bitcast_convert_type(uint, jnp.uint8).reshape(-1)


@jax.jit
def _known_bytes(locked: jax.Array, known: jax.Array, offset: jax.Array) -> DeepLockKey:
    size = known.shape[0]
    sbox = jnp.asarray(aes.SBOX)

    def back(i: Any, window: jax.Array) -> jax.Array:
        # The last byte of the window and the ones that made it give the byte before the window.
        last = offset - i + size - 1
        place = last % size
        plain = window[-5]
        rotated = jnp.where(place == 3, window[-8], window[-4])
        made = jnp.where(place < 4, sbox[rotated], plain)
        made = made ^ jnp.where(place == 0, aes.rcon(last // size), jnp.uint8(0))
        if size == 32:
            made = jnp.where((place >= 16) & (place < 20), sbox[plain], made)
        return jnp.concatenate([(window[-1] ^ made)[None], window[:-1]])

    window = jnp.asarray(aes.INV_SBOX)[locked] ^ known
    window = lax.fori_loop(0, offset % size, back, window)
    words = lax.bitcast_convert_type(window.reshape(-1, 4), jnp.uint32)
    return DeepLockKey(aes.rewind(words, offset // size))


def decrypt_as_deep_lock(case: Case, key: DeepLockKey | None) -> Found | None:
    """Return the weights opened as `deep_lock` would with this key, whatever lock they are under.

    Args:
        case: What the attacker has.
        key: The key found; None where the attack gave up.

    Returns:
        The opened weights and the plain forward on them; None without a key.
    """
    if key is None:
        return None
    return with_weights(case, _opened(case, key))._replace(key=key)


def _opened(case: Case, key: DeepLockKey) -> Params:
    return jax.jit(deep_lock(**deep_lock_settings(case)).decrypt)(key, case.locked)


def deep_lock_settings(case: Case) -> dict[str, Any]:
    """Return what an attack on the key must know of the lock's settings.

    Args:
        case: What the attacker has.

    Returns:
        Keyword arguments of the attacks here; those of `deep_lock` too.
    """
    return {name: case.settings[name] for name in ("key_bits", "packing") if name in case.settings}


def _known_plaintext(case: Case) -> Found | None:
    known, seen = (jax.tree.leaves(tree)[0] for tree in (case.known_weights, case.locked))
    key = deep_lock_known_plaintext(seen, known, **deep_lock_settings(case))
    params = _opened(case, key)
    # Any four words have a key. That of another lock opens these and no more.
    opened = jax.tree.leaves(params)[0]
    right = bool((to_uint(opened) == to_uint(known)).all())
    return with_weights(case, params)._replace(key=key) if right else None


def _base_model(case: Case) -> Found | None:
    key = deep_lock_base_model(case.locked, case.public_base, **deep_lock_settings(case))
    return decrypt_as_deep_lock(case, key)


_CIPHERS = ("deep_lock", "stream_lock")
ENTRIES = (
    Entry("deep_lock_known_plaintext", _known_plaintext, _CIPHERS, ("known_weights",), "key"),
    Entry("deep_lock_base_model", _base_model, _CIPHERS, ("public_base",), "key"),
)
