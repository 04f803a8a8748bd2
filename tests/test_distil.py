"""The distilling thief: a good oracle is copied, a bad one is not, and no lock is in the way."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

import modellock_jax as ml
from modellock_jax import attacks, data, models, train
from modellock_jax.attacks.weights.distil import distil
from modellock_jax.tasks import classify, measure

pytestmark = pytest.mark.optax


@pytest.fixture(scope="module")
def thief():
    """`thief(key, locked, start)`: accuracy of the copy that the answers under `key` teach."""
    found, model, lock = data.load("digits"), models.mlp(10, (32,)), ml.stream_lock()
    fresh_x = jnp.zeros((1, 8, 8, 1))
    fresh = model.init(jax.random.key(0), fresh_x)
    params, _ = train.fit(
        model.train,
        fresh,
        found.train_x,
        found.train_y,
        rng=jax.random.key(1),
        epochs=8,
        learning_rate=5e-3,
    )
    key = lock.init(jax.random.key(2), params)
    locked, key = lock.encrypt(key, params)
    user, attack = ml.user_forward(lock, model.forward), distil(model, 5e-3, fresh_x)
    x, (test_x, test_y) = jnp.asarray(found.train_x), map(jnp.asarray, (found.test_x, found.test_y))
    index = train.batches(jax.random.key(3), len(x), 150, 64)

    @jax.jit
    def accuracy(answers, start):
        state = attack.init(jax.random.key(4), start)
        state, losses = attacks.run_batches(attack, state, (x[index], answers[index]))
        copy = partial(attack.forward, state)
        return measure(classify(), copy, test_x, test_y).value / 100, losses

    oracle = user(key, locked, x)
    wrong = user(lock.init(jax.random.key(5), params), locked, x)
    own = measure(classify(), partial(user, key, locked), test_x, test_y).value / 100
    return accuracy, oracle, wrong, fresh, locked, float(own)


def test_answers_are_enough(thief):
    accuracy, oracle, _, fresh, locked, own = thief
    assert own > 0.85
    for start in (fresh, locked):
        copy, losses = accuracy(oracle, start)
        assert float(copy) > own - 0.05
        assert float(losses[-1]) < 0.2 * float(losses[0])


def test_what_the_oracle_does_not_know_it_does_not_teach(thief):
    accuracy, oracle, wrong, fresh, _, _ = thief
    # Under another key the answers are not finite: nothing is learnt, and nothing breaks.
    copy, losses = accuracy(wrong, fresh)
    assert float(copy) < 0.3
    assert bool(jnp.isfinite(losses).all())
    # Right answers to other images.
    shuffled = jax.random.permutation(jax.random.key(6), oracle)
    assert float(accuracy(shuffled, fresh)[0]) < 0.3


def test_answers_not_finite_are_left_out(thief):
    accuracy, oracle, _, fresh, _, own = thief
    spoilt = oracle.at[::2, 3].set(jnp.nan)
    copy, losses = accuracy(spoilt, fresh)
    assert float(copy) > own - 0.1
    assert bool(jnp.isfinite(losses).all())
