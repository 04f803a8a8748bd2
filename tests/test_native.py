"""ChaCha20 as a compiled call: the bits of `cryptography` and of JAX alone, at every place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from jax import lax
from table import bytes_of, random_bits

import modellock_jax as ml
from modellock_jax.ciphers import native
from modellock_jax.schemes.stream_lock import in_jax

pytest.importorskip("modellock_jax_native")

CALL = "modellock_jax_chacha20"
KEY = np.arange(3, 11, dtype=np.uint32) * np.uint32(0x1234567)
NONCE = np.array([7, 0xFFFFFFFF, 9], np.uint32)


def expected(data, first, skip):
    """One run by `cryptography`, whose nonce begins with the counter."""
    start = np.concatenate([np.array([first], np.uint32), NONCE]).astype("<u4").tobytes()
    cipher = Cipher(algorithms.ChaCha20(KEY.astype("<u4").tobytes(), start), None).encryptor()
    return cipher.update(bytes(skip) + data.tobytes())[skip:]


@pytest.fixture(autouse=True)
def installed():
    assert native.is_installed()


# Around a block, the 16 blocks made at once, and the 64 KiB that a thread takes.
@pytest.mark.parametrize("size", [1, 63, 64, 65, 1023, 1024, 1025, 65535, 65536, 65600, 200_003])
@pytest.mark.parametrize("skip", [0, 1, 63])
def test_one_run(size, skip):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    out = jax.jit(native.xor)(KEY, NONCE, np.uint32([5]), np.uint32([skip]), data)
    assert np.asarray(out).tobytes() == expected(data, 5, skip)


@pytest.mark.parametrize("length", [3, 100, 70_000])
def test_many_runs(length):
    rng = np.random.default_rng(length)
    data = rng.integers(0, 256, (6, length), np.uint8)
    first = rng.integers(0, 2**31, 6).astype(np.uint32)
    skip = rng.integers(0, 64, 6).astype(np.uint32)
    out = np.asarray(jax.jit(native.xor)(KEY, NONCE, first, skip, data))
    for i in range(6):
        assert out[i].tobytes() == expected(data[i], first[i], skip[i])


@pytest.mark.parametrize(
    ("first", "skip", "wrong"),
    [([0], [64], "under 64 bytes"), ([0, 1], [0], "first"), ([0, 1, 2], [0, 0, 0], "data of runs")],
)
def test_places_that_cannot_be_are_refused(first, skip, wrong):
    data = np.zeros(100, np.uint8)
    with pytest.raises(Exception, match=wrong):
        jax.block_until_ready(
            jax.jit(native.xor)(KEY, NONCE, np.uint32(first), np.uint32(skip), data)
        )


def model():
    shapes = {
        "w": ((70, 513), "float32"), "b": ((77,), "bfloat16"), "n": ((), "int32"),
        "q": ((3, 5, 7), "int8"), "none": ((0, 4), "float32"), "half": ((1025,), "float16"),
    }  # fmt: skip
    return {
        name: random_bits(jax.random.key(i), shape, dtype)
        for i, (name, (shape, dtype)) in enumerate(shapes.items())
    }


def same(a, b):
    return all(bytes_of(x) == bytes_of(y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def test_the_lock_uses_it_and_has_the_bits_of_jax_alone():
    params, lock, oracle = model(), ml.stream_lock(), in_jax()
    key = lock.init(jax.random.key(1), params)
    decrypt = jax.jit(lock.decrypt)
    assert CALL in decrypt.lower(key, params).as_text()
    assert CALL not in jax.jit(oracle.decrypt).lower(key, params).as_text()
    assert same(decrypt(key, params), oracle.decrypt(key, params))
    assert same(lock.decrypt(key, params), oracle.decrypt(key, params))


def test_an_exported_program_does_not_hold_it():
    params, lock = model(), ml.stream_lock()
    key = lock.init(jax.random.key(1), params)
    exported = jax.export.export(jax.jit(lock.decrypt), platforms=("cpu", "cuda"))(key, params)
    assert CALL not in exported.mlir_module()
    assert same(exported.call(key, params), lock.decrypt(key, params))


def test_many_keys():
    params, lock = model(), ml.stream_lock()
    keys = jax.vmap(lambda rng: lock.init(rng, params))(jax.random.split(jax.random.key(2), 3))
    many = jax.jit(jax.vmap(lock.decrypt, (0, None)))(keys, params)
    for i in range(3):
        key = jax.tree.map(lambda a, i=i: a[i], keys)
        assert same(jax.tree.map(lambda a, i=i: a[i], many), lock.decrypt(key, params))


def test_in_a_loop_and_under_a_branch():
    params, lock = model(), ml.stream_lock()
    key = lock.init(jax.random.key(1), params)

    @jax.jit
    def thrice(key, params):
        shut = lax.fori_loop(0, 2, lambda i, p: lock.decrypt(key, p), params)
        return lax.cond(key.nonce[0] >= 0, lambda p: lock.decrypt(key, p), lambda p: p, shut)

    assert CALL in thrice.lower(key, params).as_text()
    assert same(thrice(key, params), in_jax().decrypt(key, params))


def test_more_calls_at_once_than_threads():
    """Every thread of XLA's pool may be in a call, and none waits for one in the queue."""
    params = {f"layer{i}": jnp.full((300, 256), i, jnp.float32) for i in range(64)}
    lock = ml.stream_lock()
    key = lock.init(jax.random.key(1), params)
    decrypt = jax.jit(lock.decrypt)
    locked = decrypt(key, params)
    for _ in range(20):
        locked = decrypt(key, decrypt(key, locked))
    assert same(decrypt(key, locked), params)


def test_without_it_jax_does_it_alone(monkeypatch):
    monkeypatch.setattr(native, "is_installed", lambda: False)
    params = {"never seen before": jnp.arange(99.0)}
    lock = ml.stream_lock()
    key = lock.init(jax.random.key(1), params)
    assert CALL not in jax.jit(lock.decrypt).lower(key, params).as_text()
