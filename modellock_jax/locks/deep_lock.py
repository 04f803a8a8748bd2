"""Deep-Lock: every byte of every parameter through a keyed S-box.

Source: Alam, Saha, Mukhopadhyay & Kundu (2020), arXiv 2008.05966.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from modellock_jax.ciphers import aes, native
from modellock_jax.ciphers.sbox import substitute_bytes
from modellock_jax.core.bits import (
    check_leaves,
    from_uint,
    non_differentiable,
    substitute,
    to_blocks,
    to_uint,
    words_like,
)
from modellock_jax.core.keys import check_key, redacted
from modellock_jax.core.lock import Key, Lock, Loss, Params
from modellock_jax.core.shards import Part, by_parts, by_platform
from modellock_jax.core.source import Rng, random_words
from modellock_jax.core.stacked import Stacked
from modellock_jax.locks._plain import entries_from, fill
from modellock_jax.locks._schedules import (
    cut,
    leaf_keys,
    narrow,
    one_schedule,
    schedule_per_leaf,
    split,
    stretches,
    widen,
)
from modellock_jax.locks._scheme import Break, Files, Scheme, flip_one_bit

__all__ = ["SCHEME", "DeepLockKey", "deep_lock"]


class DeepLockKey(NamedTuple):
    """`master`: uint32 `[4]` or `[8]`, the AES key as little-endian words."""

    master: jax.Array

    def __repr__(self) -> str:
        return redacted(self)


def deep_lock(
    key_bits: int = 128,
    restart: Literal["never", "leaf"] = "never",
    packing: Literal["byte", "word"] = "byte",
) -> Lock:
    """Encrypt w' = Sbox(w ^ k_i) and decrypt w = InvSbox(w') ^ k_i with the AES key schedule.

    Leaves: floats and integers of 1, 2, 4 or 8 bytes, normalisation statistics and biases too. They
    pass in tree order, each in C order, as little-endian bytes: four float32 weights, or eight
    bfloat16 ones, meet one 16-byte round key. Each leaf begins with a fresh round key, the first
    leaf with the master key itself. The schedule runs on past the rounds of FIPS-197, its round
    constant doubling in GF(2^8).

    Under `jax_debug_nans` a `jit` of your own that returns locked floats raises, since JAX searches
    all that it returns for NaN, and a lock cannot prevent it: call `encrypt` outside, or return the
    bits.

    Args:
        key_bits: 128 or 256.
        restart: With "leaf" every leaf starts from its own master key, AES of the leaf's number
            under the key, so that the schedules run side by side, and knowing one leaf does not
            give the others.
        packing: With "word" every entry meets a round key of its own, as the paper's formula can be
            read: its bytes the first ones, and the rest of the round key goes unused. It takes as
            many times the work and the memory as a round key has bytes for one of the entry.

    Returns:
        A lock with `init`, `encrypt` and `decrypt`; its key is a `DeepLockKey`.

    Raises:
        ValueError: For other settings.
        TypeError: For leaves that are not whole bytes, and when differentiated (on bits the
            gradient would silently be zero).

    **Guarantees.** decrypt inverts encrypt on bits, NaN payloads included. No key check: a wrong key
    gives other weights and no error. **Broken**: the locked weights alone give the master key in a
    fraction of a second (`attacks.deep_lock_ciphertext_only`), and so do 16 known consecutive bytes
    (`attacks.deep_lock_known_plaintext`). For a lock with no such shortcut see `stream_lock`. With
    sharded leaves no device talks to another: each runs the whole schedule, which is sequential.

    Source: Alam et al. (2020); FIPS-197 for the schedule.

    >>> import jax, modellock_jax as ml
    >>> params = {"w": jax.numpy.array([1.0, -0.0, jax.numpy.nan])}
    >>> lock = ml.deep_lock()
    >>> locked, key = lock.encrypt(lock.init(jax.random.key(0), params), params)
    >>> lock.decrypt(key, locked)["w"].tolist()
    [1.0, -0.0, nan]
    """
    if key_bits not in (128, 256):
        raise ValueError(f"deep_lock: key_bits must be 128 or 256, not {key_bits}")
    if restart not in ("never", "leaf"):
        raise ValueError(f'deep_lock: restart must be "never" or "leaf", not {restart!r}')
    if packing not in ("byte", "word"):
        raise ValueError(f'deep_lock: packing must be "byte" or "word", not {packing!r}')
    n = key_bits // 32
    label = f"deep_lock(key_bits={key_bits}, restart={restart!r}"
    label += ")" if packing == "byte" else f", packing={packing!r})"

    def init(rng: Rng, params: Params) -> DeepLockKey:
        check_leaves("deep_lock", params)
        return DeepLockKey(random_words(rng, n, label))

    def through(key: DeepLockKey, params: Params, unlock: bool) -> Params:
        leaves, tree = jax.tree.flatten(params)
        if any(isinstance(leaf, Stacked) for leaf in leaves):
            new = _layer_by_layer((unlock, restart), packing == "word", key.master, leaves)
        elif packing == "word":
            wide = _through_sbox((unlock, restart), key.master, list(map(widen, leaves)))
            new = [narrow(words, leaf.dtype) for words, leaf in zip(wide, leaves)]
        else:
            new = _through_sbox((unlock, restart), key.master, leaves)
        return jax.tree.unflatten(tree, new)

    lock_bits = non_differentiable("deep_lock")(partial(through, unlock=False))
    unlock_bits = non_differentiable("deep_lock")(partial(through, unlock=True))

    def encrypt(key: Key, params: Params, /, loss: Loss | None = None) -> tuple[Params, Key]:
        check_leaves("deep_lock", params)
        check_key("deep_lock", key, DeepLockKey, (n,), dtype=jnp.uint32)
        return lock_bits(key, params), key

    def decrypt(key: Key, locked: Params) -> Params:
        check_leaves("deep_lock", locked)
        check_key("deep_lock", key, DeepLockKey, (n,), dtype=jnp.uint32)
        return unlock_bits(key, locked)

    return Lock(init, encrypt, decrypt)


def _body(
    how: tuple[bool, str], master: jax.Array, parts: list[Part], leaves: list[jax.Array]
) -> list[jax.Array]:
    unlock, restart = how
    if restart == "never" and not any(name for part in parts for name in part.names):
        return _in_one_pass(unlock, aes.init_schedule(master), leaves)[1]
    if not any(name for part in parts for name in part.names) and native.has_aes():
        by_leaf = native.on_cpu(partial(_leaf_by_leaf, unlock), partial(_masked, how, parts))
        return by_leaf(master, *leaves)
    return _masked(how, parts, master, *leaves)


def _plain(
    how: tuple[bool, str], master: jax.Array, parts: list[Part], leaves: list[jax.Array]
) -> list[jax.Array]:
    """Every device runs the whole schedule, and keeps of each leaf what its part needs."""
    unlock, restart = how
    masters = leaf_keys(master, len(leaves)) if restart == "leaf" else [master]
    at, new = aes.init_schedule(masters[0]), []
    for i, (part, leaf) in enumerate(zip(parts, leaves)):
        if restart == "leaf":
            at = aes.init_schedule(masters[i])
        at, opened = _plain_leaf(unlock, part.shape, part.names, part.numbers, at, leaf)
        new.append(opened)
    return new


# Compiled once for all leaves of a shape.
@partial(jax.jit, static_argnums=(0, 1, 2))
def _plain_leaf(
    unlock: bool, shape: Any, names: Any, numbers: Any, at: aes.Schedule, leaf: jax.Array
) -> tuple[aes.Schedule, jax.Array]:
    bits = to_uint(leaf)

    def words(at: aes.Schedule) -> tuple[aes.Schedule, jax.Array]:
        return aes.advance(at), entries_from(jnp.stack(at.words[:4]), bits.dtype.itemsize)

    at, mask = fill(Part(shape, numbers, names), leaf.shape, bits.dtype, 0, at, words)
    bits = substitute_bytes(bits, True) ^ mask if unlock else substitute_bytes(bits ^ mask)
    return at, from_uint(bits, leaf.dtype)


_through_sbox = by_parts(_body, _plain)


def _leaf_by_leaf(unlock: bool, master: jax.Array, *leaves: jax.Array) -> list[jax.Array]:
    masters = leaf_keys(master, len(leaves))
    return [
        _in_one_pass(unlock, aes.init_schedule(own), [leaf])[1][0]
        for own, leaf in zip(masters, leaves)
    ]


def _masked(
    how: tuple[bool, str], parts: list[Part], master: jax.Array, *leaves: jax.Array
) -> list[jax.Array]:
    unlock, restart = how
    # The schedule runs in sequence: every device has it whole, and takes what its part needs.
    wholes = [jax.ShapeDtypeStruct(part.shape, leaf.dtype) for part, leaf in zip(parts, leaves)]
    streams = (one_schedule if restart == "never" else schedule_per_leaf)(master, wholes)
    table, new = jnp.asarray(aes.INV_SBOX if unlock else aes.SBOX), []
    for words, whole, part, leaf in zip(streams, wholes, parts, leaves):
        mask, bits = cut(words_like(words, whole), part, leaf.shape), to_uint(leaf)
        bits = substitute(bits, table) ^ mask if unlock else substitute(bits ^ mask, table)
        new.append(from_uint(bits, leaf.dtype))
    return new


def _in_one_pass(
    unlock: bool, schedule: aes.Schedule, leaves: list[jax.Array], in_place: bool = False
) -> tuple[aes.Schedule, list[jax.Array]]:
    new: list[jax.Array] = []
    for some, rounds in stretches(leaves):
        blocks = [to_blocks(leaf, n) for leaf, n in zip(some, rounds)]
        joined = blocks[0] if len(some) == 1 else jnp.concatenate(list(map(to_uint, blocks)))
        schedule, through = aes.substitute_blocks(schedule, joined, unlock, in_place)
        new += map(_like, split(through, rounds), some)
    return schedule, new


def _layer_by_layer(
    how: tuple[bool, str], wide: bool, master: jax.Array, leaves: list[Any]
) -> list[Any]:
    """Where the round keys of each layer begin is found first, by one run of the whole schedule."""
    unlock, restart = how
    masters = leaf_keys(master, len(leaves)) if restart == "leaf" else [master]
    schedule, new = aes.init_schedule(masters[0]), list[Any]()

    def opened(
        start: aes.Schedule, leaf: jax.Array, in_place: bool = False
    ) -> tuple[aes.Schedule, jax.Array]:
        def usual(start: aes.Schedule, leaf: jax.Array) -> tuple[aes.Schedule, jax.Array]:
            after, (new,) = _in_one_pass(unlock, start, [leaf], in_place)
            return after, new

        given = widen(leaf) if wide else leaf
        shape, ndim = given.shape, given.ndim
        plain = partial(_plain_leaf, unlock, shape, (None,) * ndim, (0,) * ndim)
        after, new = by_platform(plain, usual, start, given)
        return after, narrow(new, leaf.dtype) if wide else new

    def open_layer(start: aes.Schedule, _: jax.Array, layer: jax.Array) -> jax.Array:
        return opened(start, layer, in_place=True)[1]

    for i, leaf in enumerate(leaves):
        if restart == "leaf":
            schedule = aes.init_schedule(masters[i])
        if not isinstance(leaf, Stacked):
            schedule, whole = opened(schedule, leaf)
            new.append(whole)
            continue
        count, size = leaf.shape[0], leaf.size * (16 if wide else leaf.dtype.itemsize)
        if size % (16 * count):
            raise TypeError(
                f"deep_lock: {count} layers of {list(leaf.shape[1:])} {leaf.dtype} are not whole "
                "blocks of 16 bytes each; leave that leaf out of `stacked` in user_forward"
            )
        schedule, starts = aes.snapshots(schedule, count, size // count // 16)
        new.append(leaf.then(open_layer, starts))
    return new


def _like(words: jax.Array, leaf: jax.Array) -> jax.Array:
    if words.dtype == leaf.dtype:
        return words[: leaf.size].reshape(leaf.shape)
    return from_uint(words_like(to_uint(words), leaf), leaf.dtype)


def _key_bits(params: Params, sites: Any, key_bits: int = 128, **_: Any) -> float:
    """Key space in bits."""
    return float(key_bits)


SCHEME = Scheme(
    name="deep_lock",
    factory=deep_lock,
    paper="Alam et al. (2020), arXiv 2008.05966",
    acts="weights: every byte, by the AES key schedule and S-box",
    trained_under=False,
    protects="Every byte passes the AES S-box and key schedule; a plain loader reads garbage.",
    lies_open="Names, shapes and dtypes lie open.",
    broken=(
        Break(
            attack="deep_lock_ciphertext_only", how="the locked weights alone give the master key"
        ),
        Break(attack="deep_lock_known_plaintext", how="so do a few known weights"),
    ),
    near=flip_one_bit,
    bits=_key_bits,
    study="deep_lock",
    files=Files(),
)
