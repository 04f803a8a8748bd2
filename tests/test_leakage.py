"""Several users' copies: what they give away to each other, and what they do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.ridge import accuracy, digits, forward, owner

import modellock_jax as ml
from modellock_jax.attacks.attack import sanitise
from modellock_jax.attacks.weights.leakage import (
    average_copies,
    compare_copies,
    fine_tune_under_key,
    sign_flip_known_plaintext,
    vote_copies,
)
from modellock_jax.models import mlp
from modellock_jax.tasks import margin_loss

pytestmark = pytest.mark.optax
compare, vote, average = map(jax.jit, (compare_copies, vote_copies, average_copies))
PLAIN = ml.Lock(lambda rng, params: ml.SignKey(jnp.ones(1, jnp.int8)))


@pytest.fixture(scope="module")
def plain():
    return owner(PLAIN)[0]


@pytest.fixture(scope="module")
def copies(plain):
    """Three users' copies under keys of their own, and the keys, by lock."""
    x, y = jnp.asarray(digits().train_x[:256]), digits().train_y[:256]

    def of(lock, params):
        encrypt = jax.jit(
            lambda key, params: lock.encrypt(key, params, lambda p: margin_loss(forward(p, x), y))
        )
        keys = [lock.init(jax.random.key(seed), params) for seed in range(3)]
        return list(zip(*(encrypt(key, params) for key in keys)))

    return of


@jax.jit
def logits(params):
    return forward(params, jnp.asarray(digits().test_x))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_a_vote_heals_adv_params_where_one_key_chose_and_a_mean_does_not(plain, copies):
    locked, _ = copies(ml.adv_params(count=8), plain)
    whole = accuracy(logits(plain))
    assert whole > 0.9
    assert max(accuracy(logits(copy)) for copy in locked) < whole - 0.1
    differs = compare(locked)
    truth = [compare([copy, plain]) for copy in locked]

    def marked(found, *changed):
        by = sum(part.astype(int) for part in changed)
        # What all three keys drove to the same bound looks alike in all copies.
        np.testing.assert_array_equal(found[by < 3], by[by < 3] > 0)

    jax.tree.map(marked, differs, *truth)
    # The vote is wrong only where two keys or more chose a weight.
    wrong = compare([vote(locked), plain])

    def outvoted(found, *changed):
        assert not found[sum(part.astype(int) for part in changed) < 2].any()

    jax.tree.map(outvoted, wrong, *truth)
    left = sum(int(leaf.sum()) for leaf in jax.tree.leaves(wrong))
    assert left < 8
    # A mean heals no weight.
    averaged = compare([average(locked), plain])
    assert sum(int(leaf.sum()) for leaf in jax.tree.leaves(averaged)) > left


@pytest.mark.parametrize(
    "lock",
    [ml.stream_lock(), pytest.param(ml.deep_lock(), marks=pytest.mark.slow)],
    ids=["stream", "deep"],
)
def test_of_ciphertexts_no_vote_and_no_mean_is_a_model(lock, plain, copies):
    locked, _ = copies(lock, plain)
    fresh = jax.tree.map(jnp.zeros_like, plain)
    for combined in (vote(locked), average(locked)):
        assert not same(combined, plain)
        assert accuracy(logits(sanitise(combined, fresh))) < 0.3


def test_signs_follow_from_one_key_and_two_copies():
    lock = ml.sign_flip(bits=8)
    model = mlp(3, (8,))
    params = model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))
    keys = [lock.init(jax.random.key(seed), params) for seed in range(2)]
    first, second = (lock.encrypt(key, params)[0] for key in keys)
    found = sign_flip_known_plaintext(first, params, bits=8)
    np.testing.assert_array_equal(found.signs, keys[0].signs)
    between = sign_flip_known_plaintext(second, first, bits=8)
    np.testing.assert_array_equal(between.signs, keys[0].signs * keys[1].signs)
    changed = jax.tree.map(lambda leaf: leaf * 2, first)
    assert sign_flip_known_plaintext(changed, params, bits=8) is None


def test_a_key_of_ones_own_opens_ones_own_copy_alone():
    lock, model = ml.sign_flip(bits=8), mlp(3, (8,))
    x = jax.random.normal(jax.random.key(1), (5, 2, 2, 1))
    params = model.init(jax.random.key(0), x)
    keys = [lock.init(jax.random.key(seed), params) for seed in range(2)]
    locked, _ = lock.encrypt(keys[0], params)
    answers = []
    for key in keys:
        attack = fine_tune_under_key(lock, model, key, 1e-3, jnp.zeros((1, 2, 2, 1)))
        answers.append(attack.forward(attack.init(jax.random.key(2), locked), x))
    right = ml.user_forward(lock, model.forward)(keys[0], locked, x)
    np.testing.assert_array_equal(answers[0], right)
    assert jnp.abs(answers[1] - right).max() > 0.1


def test_bad_input(plain):
    for function, least in ((compare_copies, 2), (average_copies, 2), (vote_copies, 3)):
        with pytest.raises(ValueError, match=f"needs at least {least} copies, not 1"):
            function([plain])
    with pytest.raises(ValueError, match="the copies differ in structure, shapes or dtypes"):
        compare_copies([plain, {"w": jnp.ones(3)}])
