"""The short proofs of the page of games, each run once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modellock_jax as ml
from modellock_jax import models, train
from modellock_jax.attacks import deep_lock_known_plaintext
from modellock_jax.locks._digest import structure

RNG = jax.random.key(3)


def trained(model, forward, start, x, y):
    return train.fit(
        forward, start, x, y, rng=RNG, epochs=2, batch_size=16, learning_rate=1e-2,
        loss=lambda out, y: -jax.nn.log_softmax(out)[jnp.arange(len(y)), y],
    )[0]  # fmt: skip


@pytest.mark.optax
def test_training_under_a_mask_is_plain_training_from_negated_rows():
    """So that one who reads the key of trained weights reads that of `sign_flip`: one game."""
    model, (mask, flip) = models.mlp(3, (8, 8)), (ml.sign_mask(bits=8), ml.sign_flip(bits=8))
    x = jax.random.normal(RNG, (64, 5))
    y = jnp.arange(64) % 3
    start = model.init(jax.random.key(0), x[:1])
    key = mask.init(jax.random.key(1), start)
    assert (key.signs < 0).any()
    masked = trained(model, partial(ml.owner_forward(mask, model.train), key), start, x, y)
    plain = trained(model, model.train, flip.encrypt(key, start)[0], x, y)
    found = flip.decrypt(key, plain)
    assert not jax.tree.all(jax.tree.map(np.array_equal, masked, start))
    for a, b in zip(*map(jax.tree.leaves, (masked, found)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [128, 256])
def test_a_tree_of_zeros_shows_the_key_of_deep_lock(bits):
    lock, params = ml.deep_lock(key_bits=bits), {"w": jnp.zeros(64)}
    locked, key = lock.encrypt(lock.init(RNG, params), params)
    found = deep_lock_known_plaintext(locked["w"], params["w"], 0, bits)
    assert jnp.array_equal(found.master, key.master)


def test_what_a_stream_hides_depends_on_no_choice_of_trees():
    """Trees that differ have other nonces, structures that differ have other hashes; equal ones show."""
    lock, (zeros, ones) = ml.stream_lock(), ({"w": jnp.zeros(99)}, {"w": jnp.ones(99)})
    key = lock.init(RNG, zeros)
    nonces = {}
    for name, tree in (("zeros", zeros), ("ones", ones), ("again", {"w": jnp.zeros(99)})):
        locked, finished = lock.encrypt(key, tree)
        nonces[name] = finished.nonce.tolist()
        assert jnp.array_equal(finished.key, key.key)
        assert not jnp.array_equal(locked["w"], tree["w"])
    assert nonces["zeros"] == nonces["again"] != nonces["ones"]
    trees = [zeros, {"v": zeros["w"]}, {"w": jnp.zeros((9, 11))}, {"w": jnp.zeros(99, jnp.int32)}]
    assert len({structure(tree).tobytes() for tree in trees}) == 4
