"""A thousand keys in one compiled program: bounded memory, the same bits as a loop."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import table
from helpers.table import DTYPES, LOCKS
from helpers.values import bits, same, values

import modellock_jax as ml
from modellock_jax.core.bits import to_uint
from modellock_jax.core.over_keys import over_keys
from modellock_jax.locks import SCHEMES

KEYS = 1000


def temporary(compiled: Any) -> int:
    """Bytes that a compiled program needs beside its arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes


def draw_keys(name: str, lock: ml.Lock, locked: Any) -> Any:
    def draw(rng: jax.Array) -> Any:
        # A search for each key is no part of this; a thief's guess is a finished key.
        if name == "adv_params":
            return SCHEMES[name].guess(lock, rng, locked)
        return lock.init(rng, locked)

    return jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(3), KEYS))


def forward(params: Any, x: jax.Array, tap: ml.Tap) -> Any:
    """Outputs, and a checksum of each leaf's bits: each times an odd number of its own, mod 2^32.

    The net reads bits as numbers in [-1, 1), so that any key gives finite outputs of a usual size.
    """
    words = jax.tree.map(lambda leaf: jax.lax.bitcast_convert_type(leaf, jnp.int32), params)
    numbers = jax.tree.map(lambda word: word.astype(jnp.float32) / 2.0**31, words)
    sums = [
        (w.ravel() * (2 * np.arange(w.size, dtype="i4") + 1)).sum() for w in jax.tree.leaves(words)
    ]
    return table.forward(numbers, x, tap), jnp.stack(sums)


def host_checksums(params: Any) -> list[int]:
    leaves = [bits(leaf).ravel().view("i4") for leaf in jax.tree.leaves(params)]
    return [int((w * (2 * np.arange(w.size, dtype="i4") + 1)).sum(dtype="i4")) for w in leaves]


@table.each(LOCKS)
def test_a_thousand_keys_in_one_program_are_the_loop(name: str) -> None:
    lock = LOCKS[name]
    locked = {part: table.make_params()[part] for part in ("dense", "head")}
    keys, user = draw_keys(name, lock, locked), ml.user_forward(lock, forward)
    x = table.images()

    def together(keys: Any, locked: Any) -> Any:
        return over_keys(lambda key: user(key, locked, x), keys, chunk=16)

    compiled = jax.jit(together).lower(keys, locked).compile()
    # The decrypted trees of all keys, or their scrambled images, would take more than this.
    assert temporary(compiled) < KEYS * x.nbytes
    outputs, sums = jax.device_get(compiled(keys, locked))
    keys, alone, decrypt = jax.device_get(keys), jax.jit(user), jax.jit(lock.decrypt)
    cheap = lock.decrypt is ml.Lock._field_defaults["decrypt"]
    for i in range(KEYS) if cheap else [*range(0, KEYS, 40), KEYS - 1]:
        key = jax.tree.map(lambda leaf, i=i: leaf[i], keys)
        assert sums[i].tolist() == host_checksums(decrypt(key, locked))
        # A batched matmul may sum in another order; the weights and inputs it sums are the same.
        np.testing.assert_allclose(outputs[i], alone(key, locked, x)[0], rtol=2e-6, atol=2e-6)
    assert len(np.unique(outputs, axis=0)) > 100


@pytest.mark.parametrize("name", ["deep_lock", "stream_lock"])
def test_chunks_bound_the_memory(name: str, optimised: None) -> None:
    lock, params = LOCKS[name], {"kernel": jnp.ones((64, 64))}
    keys = jax.eval_shape(lambda: draw_keys(name, lock, params))

    def one(key: Any, params: Any) -> jax.Array:
        return jnp.ones((1, 64)) @ lock.decrypt(key, params)["kernel"]

    at_once = jax.jit(jax.vmap(one, (0, None))).lower(keys, params).compile()
    in_chunks = jax.jit(lambda k, p: over_keys(lambda key: one(key, p), k, chunk=16))
    assert temporary(at_once) > KEYS * params["kernel"].nbytes
    assert temporary(in_chunks.lower(keys, params).compile()) < temporary(at_once) / 10


@pytest.mark.parametrize("count", [32, 35])
def test_over_keys_passes_every_bit_in_and_out(count: int) -> None:
    """A scan on CPU quiets signalling NaNs; 32 is two chunks, 35 leaves a part of one."""
    held = {dtype: values(dtype, (count, 2500)) for dtype in DTYPES}
    out, seen = over_keys(lambda one: (one, {d: view(leaf) for d, leaf in one.items()}), held)
    for dtype in DTYPES:
        assert same(out[dtype], held[dtype]), dtype
        assert np.array_equal(np.asarray(seen[dtype]), bits(held[dtype])), dtype


def view(leaf: jax.Array) -> jax.Array:
    """What the function itself sees of the bits."""
    return to_uint(leaf)


def test_over_keys_takes_leaves_without_entries() -> None:
    held = {"w": jnp.arange(35), "empty": jnp.zeros((35, 0, 2))}
    out = over_keys(lambda one: one, held)
    assert out["empty"].shape == (35, 0, 2)
    assert out["w"].tolist() == list(range(35))
