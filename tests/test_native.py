"""The ciphers as compiled calls: the bits of `cryptography` and of JAX alone, at every place."""

import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from helpers.table import bytes_of, random_bits
from helpers.values import row
from jax import lax

import modellock_jax as ml
from modellock_jax.ciphers import aes, native
from modellock_jax.locks._digest import tree_digest
from modellock_jax.locks.stream_lock import in_jax

module = pytest.importorskip("modellock_jax_native")

CALL = "modellock_jax_chacha20"
AES_CALL = "modellock_jax_aes_through"
DIGEST_CALL = "modellock_jax_tree_digest"
needs_aes = pytest.mark.skipif(not native.has_aes(), reason="no AES instructions")
KEY = np.arange(3, 11, dtype=np.uint32) * np.uint32(0x1234567)
NONCE = np.array([7, 0xFFFFFFFF, 9], np.uint32)


def expected(data, first, skip):
    """One run by `cryptography`, whose nonce begins with the counter."""
    start = np.concatenate([np.array([first], np.uint32), NONCE]).astype("<u4").tobytes()
    cipher = Cipher(algorithms.ChaCha20(KEY.astype("<u4").tobytes(), start), None).encryptor()
    return cipher.update(bytes(skip) + data.tobytes())[skip:]


@pytest.fixture(autouse=True)
def installed():
    assert native.has_chacha20()


# Around a block, the 16 blocks made at once, and the 64 KiB that a thread takes.
@pytest.mark.parametrize("size", [1, 63, 64, 65, 1023, 1024, 1025, 65535, 65536, 65600, 200_003])
@pytest.mark.parametrize("skip", [0, 1, 63])
def test_one_run(size, skip):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    out = jax.jit(native.chacha20)(KEY, NONCE, np.uint32([5]), np.uint32([skip]), data)
    assert np.asarray(out).tobytes() == expected(data, 5, skip)


@pytest.mark.parametrize("length", [3, 100, 70_000])
def test_many_runs(length):
    rng = np.random.default_rng(length)
    data = rng.integers(0, 256, (6, length), np.uint8)
    first = rng.integers(0, 2**31, 6).astype(np.uint32)
    skip = rng.integers(0, 64, 6).astype(np.uint32)
    out = np.asarray(jax.jit(native.chacha20)(KEY, NONCE, first, skip, data))
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
            jax.jit(native.chacha20)(KEY, NONCE, np.uint32(first), np.uint32(skip), data)
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


def test_encrypt_finishes_its_key_as_jax_alone():
    params, lock, oracle = model(), ml.stream_lock(), in_jax()
    key = lock.init(jax.random.key(1), params)
    encrypt = jax.jit(lock.encrypt)
    assert DIGEST_CALL in encrypt.lower(key, params).as_text()
    assert DIGEST_CALL not in jax.jit(oracle.encrypt).lower(key, params).as_text()
    assert same(encrypt(key, params), oracle.encrypt(key, params))
    assert same(lock.encrypt(key, params), oracle.encrypt(key, params))


# Several tasks of 256 KiB; rows that end within a vector and within a word; a byte over.
LONG = [
    ((300, 4096), "float32"), ((257, 1025), "bfloat16"), ((300, 4099), "int8"),
    ((3, 100_001), "bfloat16"), ((700_001,), "int8"),
]  # fmt: skip


def test_the_digest_of_long_leaves():
    leaves = [random_bits(jax.random.key(5), *one) for one in LONG]
    digest = jax.jit(tree_digest, static_argnums=2)
    assert digest(KEY, leaves, True).tolist() == digest(KEY, leaves, False).tolist()


@pytest.mark.parametrize("way", ["decrypt", "encrypt"])
def test_an_exported_program_does_not_hold_it(way):
    params, lock = model(), ml.stream_lock()
    key = lock.init(jax.random.key(1), params)
    function = getattr(lock, way)
    exported = jax.export.export(jax.jit(function), platforms=("cpu", "cuda"))(key, params)
    assert CALL not in exported.mlir_module()
    assert DIGEST_CALL not in exported.mlir_module()
    assert same(exported.call(key, params), function(key, params))


def test_many_keys():
    params, lock = model(), ml.stream_lock()
    keys = jax.vmap(lambda rng: lock.init(rng, params))(jax.random.split(jax.random.key(2), 3))
    many = jax.jit(jax.vmap(lock.encrypt, (0, None)))(keys, params)
    for i in range(3):
        key = jax.tree.map(lambda a, i=i: a[i], keys)
        assert same(row(many, i), lock.encrypt(key, params))


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
    monkeypatch.setattr(native, "has_chacha20", lambda: False)
    monkeypatch.setattr(native, "has_digest", lambda: False)
    params = {"never seen before": jnp.arange(99.0)}
    lock = ml.stream_lock()
    key = lock.init(jax.random.key(1), params)
    program = jax.jit(lock.encrypt).lower(key, params).as_text()
    assert CALL not in program
    assert DIGEST_CALL not in program


@pytest.mark.parametrize(
    "wrong",
    [{"numbers": (0, 1)}, {"shapes": ((3,),)}, {"stretches": ((2, 1),)}, {"stretches": ((1, 5000),)},
     {"leaves": [np.zeros((0, 4), np.int8)]}, {"table": np.zeros((8, 2, 20), np.uint32)}],
)  # fmt: skip
def test_leaves_that_cannot_be_are_refused(wrong):
    right = {
        "table": np.zeros((8, 2, 1024), np.uint32), "starts": np.zeros(2, np.uint32),
        "leaves": [np.ones((3, 4), np.int8)],
        "numbers": (0,), "shapes": ((3, 4),), "stretches": ((0, 3),),
    }  # fmt: skip
    assert jax.jit(lambda: native.tree_digest(KEY, **right))().shape == (1, 8)
    with pytest.raises(Exception, match="Digest: takes"):
        jax.block_until_ready(jax.jit(lambda: native.tree_digest(KEY, **right | wrong))())


@needs_aes
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("words", [4, 8])
def test_blocks_through_the_s_box(words, inverse):
    """Twice, the second time from where the schedule stands; 52 rounds are past a period of rcon."""
    schedule = aes.init_schedule(jnp.asarray(KEY[:words]))
    blocks = jax.random.bits(jax.random.key(words), (53, 4), jnp.uint32)
    for _ in range(2):
        ours = aes.substitute_blocks(schedule, blocks, inverse)
        alone = aes.substitute_blocks_in_jax(schedule, blocks, inverse)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(alone), strict=True):
            assert a.dtype == b.dtype
            assert (a == b).all()
        schedule, blocks = ours
    compiled = jax.jit(aes.substitute_blocks, static_argnums=2).lower(schedule, blocks, inverse)
    assert AES_CALL in compiled.as_text()


@needs_aes
@pytest.mark.parametrize(("key_bits", "restart"), [(128, "never"), (256, "leaf")])
def test_deep_lock_has_the_bits_of_an_exported_program(key_bits, restart):
    params, lock = model(), ml.deep_lock(key_bits, restart)
    key = lock.init(jax.random.key(1), params)
    decrypt = jax.jit(lock.decrypt)
    exported = jax.export.export(decrypt)(key, params)
    assert AES_CALL in decrypt.lower(key, params).as_text()
    assert AES_CALL not in exported.mlir_module()
    assert same(decrypt(key, params), exported.call(key, params))
    assert same(lock.decrypt(key, lock.encrypt(key, params)[0]), params)


@needs_aes
@pytest.mark.parametrize("restart", ["never", "leaf"])
def test_deep_lock_under_many_keys(restart):
    params, lock = model(), ml.deep_lock(restart=restart)
    keys = jax.vmap(lambda rng: lock.init(rng, params))(jax.random.split(jax.random.key(2), 2))
    many = jax.jit(jax.vmap(lock.decrypt, (0, None)))(keys, params)
    for i in range(2):
        key = jax.tree.map(lambda a, i=i: a[i], keys)
        assert same(row(many, i), lock.decrypt(key, params))


@needs_aes
def test_blocks_that_cannot_be_are_refused():
    words, counts = np.zeros(4, np.uint32), np.zeros(2, np.uint32)
    with pytest.raises(Exception, match="blocks of 16 bytes"):
        jax.block_until_ready(
            jax.jit(native.aes_through, static_argnums=3)(
                words, counts, np.zeros(17, np.uint8), True
            )
        )


def test_calls_compiled_for_a_newer_interface_are_left_out(monkeypatch):
    # Registered, they would end all work of JAX on CPUs.
    major, minor = module.API
    assert native._api() >= module.API
    newer = SimpleNamespace(API=(major, minor + 1), chacha20=module.chacha20)
    monkeypatch.setitem(sys.modules, "modellock_jax_native", newer)
    with pytest.warns(
        UserWarning, match="compiled for a newer jaxlib and is left out; from a clone"
    ):
        assert native._registered.__wrapped__() == frozenset()
