"""Attacks on Deep-Lock: the key where it must come out, and none where it must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.vectors import EXPANSION_128, EXPANSION_256

import modellock_jax as ml
from modellock_jax import attacks
from modellock_jax.attacks.keys import _deep_lock_evidence as shown_by
from modellock_jax.attacks.keys._known_words import fill_in


def weights(seed: int, n: int, dtype: str = "float32") -> jax.Array:
    """Weights of a layer, some of them zero."""
    w = np.random.default_rng(seed).normal(0, 1 / 20, n)
    w[::97] = 0
    return jax.device_put(w.astype(jnp.dtype(dtype)))


def locked_tree(bits: int, seed: int = 0, **settings):
    """A tree whose large leaf is the second, at an odd round, what locked it, and the plain tree."""
    params = {"a": weights(1, 5), "b": weights(2, 1024).reshape(32, 32), "c": weights(3, 40)}
    lock = ml.deep_lock(bits, **settings)
    locked, key = jax.jit(lock.encrypt)(lock.init(jax.random.key(seed), params), params)
    return locked, key, params


both_sizes = pytest.mark.parametrize("bits", [128, pytest.param(256, marks=pytest.mark.slow)])


@both_sizes
def test_known_bytes_anywhere_give_the_key(bits):
    plain = jnp.arange(200, dtype=jnp.uint8)
    lock = ml.deep_lock(bits)
    locked, key = lock.encrypt(lock.init(jax.random.key(0), plain), plain)
    size = bits // 8

    def found(offset):
        cut = [jax.lax.dynamic_slice(a, (offset,), (size,)) for a in (locked, plain)]
        return attacks.deep_lock_known_plaintext(*cut, offset, bits).master

    offsets = jnp.arange(200 - size)
    np.testing.assert_array_equal(jax.vmap(found)(offsets), jnp.tile(key.master, (offsets.size, 1)))
    wrong = attacks.deep_lock_known_plaintext(locked, plain ^ 1, 0, bits)
    assert (wrong.master != key.master).any()
    with pytest.raises(
        ValueError, match=f"need {size} consecutive known entries of 1 bytes, not 8"
    ):
        attacks.deep_lock_known_plaintext(locked[:8], plain[:8], 0, bits)


@both_sizes
def test_known_entries_give_the_key_of_a_round_key_each(bits):
    lock, dtypes = ml.deep_lock(bits, packing="word"), ("float32", "bfloat16", "int8")
    plain = [weights(i, 70, dtype) for i, dtype in enumerate(dtypes)]
    locked, key = lock.encrypt(lock.init(jax.random.key(0), plain), plain)
    for i, (a, b) in enumerate(zip(locked, plain)):
        for first in (0, 1, 3):
            # JAX may change the bits of a NaN where it cuts floats.
            cut = [jnp.asarray(np.asarray(c)[first:]) for c in (a, b)]
            offset = 16 * (70 * i + first)
            found = attacks.deep_lock_known_plaintext(*cut, offset, bits, "word")
            np.testing.assert_array_equal(found.master, key.master)
    base = [plain[0] + 1, plain[1], plain[2] + 1]
    found = attacks.deep_lock_base_model(locked, base, bits, "word")
    np.testing.assert_array_equal(found.master, key.master)
    assert attacks.deep_lock_base_model(locked, [w + 1 for w in plain], bits, "word") is None
    with pytest.raises(ValueError, match=r"need \d+ consecutive known entries of 4 bytes, not 3"):
        attacks.deep_lock_known_plaintext(locked[0][:3], plain[0][:3], 0, bits, "word")


@both_sizes
def test_a_base_model_that_shares_one_leaf(bits):
    locked, key, params = locked_tree(bits)
    base = {**jax.tree.map(lambda w: w + 1, params), "c": params["c"]}
    found = attacks.deep_lock_base_model(locked, base, bits)
    np.testing.assert_array_equal(found.master, key.master)
    for other in (params["c"] + 1, base["a"]):
        assert attacks.deep_lock_base_model(locked, {**base, "c": other}, bits) is None


@pytest.mark.parametrize("bits", [128, 256])
@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_locked_weights_alone_give_the_key(bits, seed):
    locked, key, params = locked_tree(bits, seed)
    found = attacks.deep_lock_ciphertext_only(locked, bits)
    np.testing.assert_array_equal(found.master, key.master)
    opened = ml.deep_lock(bits).decrypt(found, locked)
    np.testing.assert_array_equal(opened["b"], params["b"])


@both_sizes
@pytest.mark.parametrize("packing", ["byte", "word"])
def test_small_leaves_add_up(bits, packing):
    # None of them is enough alone; others lie between them, and what is not weights.
    small = [weights(i, 128 if packing == "byte" else 48) for i in range(12)]
    params = {f"{i:02}": w for i, w in enumerate(small)}
    params |= {
        "05 count": jnp.arange(3),
        "07 bias": jnp.zeros(5),
        "09 gain": jnp.ones(6, "bfloat16"),
    }
    lock = ml.deep_lock(bits, packing=packing)
    locked, key = lock.encrypt(lock.init(jax.random.key(5), params), params)
    found = attacks.deep_lock_ciphertext_only(locked, bits, packing)
    np.testing.assert_array_equal(found.master, key.master)
    assert attacks.deep_lock_ciphertext_only({"00": locked["00"]}, bits, packing) is None
    # Those of one leaf each have no key in common.
    lock = ml.deep_lock(bits, "leaf", packing)
    assert attacks.deep_lock_ciphertext_only(lock.encrypt(key, params)[0], bits, packing) is None


@both_sizes
def test_a_round_key_for_each_weight_is_found_too(bits):
    params = {"a": weights(1, 5), "b": weights(2, 512).reshape(32, 16)}
    lock = ml.deep_lock(bits, packing="word")
    locked, key = lock.encrypt(lock.init(jax.random.key(3), params), params)
    found = attacks.deep_lock_ciphertext_only(locked, bits, "word")
    np.testing.assert_array_equal(found.master, key.master)
    for other in (params, ml.deep_lock(bits).encrypt(key, params)[0]):
        assert attacks.deep_lock_ciphertext_only(other, bits, "word") is None
    assert attacks.deep_lock_ciphertext_only(locked, bits) is None


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_half_precision_too(dtype):
    w = weights(4, 2048, dtype)
    lock = ml.deep_lock()
    locked, key = lock.encrypt(lock.init(jax.random.key(5), w), w)
    found = attacks.deep_lock_ciphertext_only(locked)
    np.testing.assert_array_equal(found.master, key.master)


def test_the_key_of_one_leaf_opens_that_leaf():
    locked, key, params = locked_tree(128, restart="leaf")
    found = attacks.deep_lock_ciphertext_only(locked["b"])
    np.testing.assert_array_equal(ml.deep_lock().decrypt(found, locked["b"]), params["b"])
    assert (found.master != key.master).any()


@both_sizes
def test_no_key_where_there_is_none(bits):
    params = locked_tree(bits)[2]
    assert attacks.deep_lock_ciphertext_only(params, bits) is None
    lock = ml.stream_lock()
    locked, _ = lock.encrypt(lock.init(jax.random.key(0), params), params)
    assert attacks.deep_lock_ciphertext_only(locked, bits) is None
    assert attacks.deep_lock_base_model(locked, params, bits) is None
    # The other key length, and too few weights to be sure.
    assert attacks.deep_lock_ciphertext_only(locked_tree(bits)[0], 384 - bits) is None
    assert attacks.deep_lock_ciphertext_only(locked_tree(bits)[0]["a"], bits) is None


@pytest.mark.parametrize("dtype", shown_by.KINDS)
def test_evidence_is_a_likelihood_ratio(dtype):
    # Bytes at random have mean exp(evidence) 1, on which the bound on false keys rests.
    for scales in shown_by.KINDS[dtype].guesses:
        tables = shown_by.byte_tables(dtype, scales)
        assert tables.shape == (4, 256)
        assert tables[3].max() > 1
        pair = shown_by.pair_table(dtype, scales)
        np.testing.assert_allclose((2.0 ** np.vstack([tables, pair])).mean(1), 1, atol=1e-3)


@pytest.mark.parametrize("name", ["deep_lock", "stream_lock"])
def test_one_key_stream_for_two_checkpoints(name):
    old = {"w": weights(6, 300), "b": weights(7, 5, "bfloat16")}
    new = {"w": old["w"].at[::2].multiply(1.01), "b": old["b"]}
    lock = getattr(ml, name)()
    key = lock.init(jax.random.key(0), old)
    locked_old, finished = lock.encrypt(key, old)
    # What locks under a finished key is what opens: stream_lock never gives one stream twice itself.
    locked_new = lock.decrypt(finished, new) if name == "stream_lock" else lock.encrypt(key, new)[0]
    found = jax.jit(attacks.stream_reuse, static_argnums=3)(locked_new, locked_old, old, name)
    jax.tree.map(np.testing.assert_array_equal, found, new)
    # Without plain weights it still shows which weights stayed the same.
    zeros = jax.tree.map(jnp.zeros_like, old)
    difference = attacks.stream_reuse(locked_new, locked_old, zeros, name)["w"]
    # On bits: the difference of close weights is denormal, and compares as zero.
    same = jax.lax.bitcast_convert_type(difference, jnp.uint32) == 0
    np.testing.assert_array_equal(same, new["w"] == old["w"])

    # What stops it: stream_lock's own encrypt, and for deep_lock only another key.
    fresh = key if name == "stream_lock" else lock.init(jax.random.key(1), old)
    again = lock.encrypt(fresh, new)[0]
    noise = attacks.stream_reuse(again, locked_old, old, name)
    assert float((noise["w"] == new["w"]).mean()) < 0.01
    differ = jax.lax.bitcast_convert_type(noise["w"], jnp.uint32)
    differ = differ ^ jax.lax.bitcast_convert_type(new["w"], jnp.uint32)
    assert 0.45 < float(jax.lax.population_count(differ).mean(dtype=jnp.float32)) / 32 < 0.55


@pytest.mark.parametrize(("n", "expansion"), [(4, EXPANSION_128), (8, EXPANSION_256)])
def test_bytes_here_and_there_fill_in_a_schedule(n, expansion):
    """Those of FIPS-197, of which half is hidden, from wherever one begins."""
    words = np.frombuffer(bytes.fromhex(expansion), np.uint8).reshape(-1, 4)
    for first in range(0, 24, 3):
        there = np.random.default_rng(first).random(words[first:].shape) < 1 / 2
        block, number = fill_in(np.where(there, words[first:], 0), there, first, n)
        np.testing.assert_array_equal(block, words[n * number : n * number + n])
    assert fill_in(words, np.zeros(words.shape, bool), 0, n) is None


def test_bad_input_to_the_attacks():
    locked, _, params = locked_tree(128)
    with pytest.raises(ValueError, match="key_bits must be 128 or 256, not 192"):
        attacks.deep_lock_ciphertext_only(locked, 192)
    with pytest.raises(ValueError, match='packing must be "byte" or "word", not \'bit\''):
        attacks.deep_lock_ciphertext_only(locked, 128, "bit")
    with pytest.raises(ValueError, match="key_bits must be 128 or 256, not 192"):
        attacks.deep_lock_known_plaintext(locked["c"], params["c"], 0, 192)
    with pytest.raises(ValueError, match='must be "deep_lock" or "stream_lock", not \'hpnn\''):
        attacks.stream_reuse(locked, locked, params, "hpnn")
    with pytest.raises(ValueError, match="differ in structure, shapes or dtypes"):
        attacks.stream_reuse(locked, locked, {**params, "a": params["c"]}, "deep_lock")
