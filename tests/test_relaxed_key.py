"""Gradients on the key: weak keys fall, right keys stay, and where no key fits none is found."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.ridge import accuracy, digits, forward, images, opened, owner
from scipy.special import log_softmax

import modellock_jax as ml
from modellock_jax.attacks import Case
from modellock_jax.attacks.attack import run_shuffled
from modellock_jax.attacks.keys import relaxed_key as relaxed
from modellock_jax.attacks.keys.key_search import Answers, key_loss
from modellock_jax.attacks.keys.oracle import sign_mask_oracle
from modellock_jax.attacks.keys.relaxation import relaxed_permutation, relaxed_signs
from modellock_jax.attacks.keys.relaxed_key import best_key, relaxed_key
from modellock_jax.attacks.keys.signs_from_weights import SignReading
from modellock_jax.models import mlp
from modellock_jax.train import fit

pytestmark = pytest.mark.optax
BITS, STEPS = 64, 150
SIGNS, SHUFFLE = ml.sign_mask(BITS), ml.pixel_shuffle(4, channels=1)
RELAXED = {
    "signs": relaxed_signs(SIGNS, BITS),
    "permutation": relaxed_permutation(4, channels=1),
}


MODEL = mlp(10, (64,))
FORWARDS = {"signs": MODEL.forward, "permutation": forward}


@functools.cache
def trained(seed=0, locked=True):
    """A network trained by gradient descent under a sign key, all +1 without a lock, and the key."""
    start = MODEL.init(jax.random.key(seed), jnp.zeros((1, 8, 8, 1)))
    key, data = SIGNS.init(jax.random.key(10 + seed), start), digits()
    key = key if locked else ml.SignKey(jnp.abs(key.signs))
    under = partial(ml.owner_forward(SIGNS, MODEL.train), key)
    settings = {"rng": jax.random.key(2), "epochs": 6, "learning_rate": 5e-3}
    return fit(under, start, data.train_x, data.train_y, **settings)[0], key


@jax.jit
def answers(key, params):
    return ml.user_forward(SIGNS, MODEL.forward)(key, params, jnp.asarray(digits().test_x))


def usable(key, params):
    """Accuracy with a sign key."""
    return accuracy(answers(key, params))


def test_what_the_weights_say_is_mended_without_labels():
    params, key = trained()
    wrong = np.arange(BITS) % 8 == 0
    signs = jnp.where(wrong, -key.signs, key.signs)
    reading = SignReading(signs, jnp.where(wrong, 0.1, 1.0), 0.9, 0.01)
    relaxation = relaxed_signs(SIGNS, BITS, reading)
    starts = jax.vmap(relaxation.init)(jax.random.split(jax.random.key(0), 8))
    agree = (np.sign(starts) == np.asarray(key.signs))[:, ~wrong].mean(1)
    assert set(agree.tolist()) == {1.0}
    attack = relaxed_key(relaxation, MODEL.forward, STEPS, restarts=4, learning_rate=0.02)
    x = jnp.asarray(digits().train_x[:500])
    state = attack.init(jax.random.key(1), params)
    state, _ = run_shuffled(attack, state, x, None, jax.random.key(2), steps=STEPS)
    assert usable(ml.SignKey(signs), params) < usable(key, params) - 0.1
    assert usable(best_key(relaxation, state), params) > usable(key, params) - 0.05


def test_few_labels_do_not_outweigh_what_the_weights_say():
    params, key = trained()
    reading = SignReading(key.signs, jnp.where(jnp.arange(BITS) % 8 == 0, 0.1, 1.0), 0.9, 0.01)
    x, y = images(5)
    wrong, kept = (y + 1) % 10, {}
    for inputs in (1, 100_000):
        relaxation = relaxed_signs(SIGNS, BITS, reading, inputs)
        attack = relaxed_key(relaxation, MODEL.forward, STEPS, restarts=2)
        state = attack.init(jax.random.key(1), params)
        state, _ = run_shuffled(attack, state, x, wrong, jax.random.key(2), steps=STEPS)
        kept[inputs] = float((best_key(relaxation, state).signs == key.signs)[1:8].mean())
    assert kept[1] == 1 > kept[100_000]
    # Signs as sure as the median cost 3 nats each, shared by the inputs.
    flipped = ml.SignKey(key.signs.at[1].multiply(-1).at[8].multiply(-1))
    assert relaxed_signs(SIGNS, BITS, reading, 5).penalty(key) == 0
    penalty = relaxed_signs(SIGNS, BITS, reading, 5).penalty(flipped)
    assert float(penalty) == pytest.approx(3 * (1 + 0.1) / 5)


def test_labels_choose_the_side_that_the_weights_leave_open(monkeypatch):
    params, key = trained()
    reading = SignReading(-key.signs, jnp.ones(BITS), 0.9, 0.01)
    monkeypatch.setattr(relaxed, "reading_of", lambda case: reading)
    about = {"scheme": "sign_mask", "settings": {"bits": BITS, "per": "channel"}}
    x, y = images(10)
    case = Case(SIGNS, MODEL, params, jax.random.key(0), x[:1], **about)
    np.testing.assert_array_equal(relaxed._reading(case, x, y).signs, key.signs)
    np.testing.assert_array_equal(relaxed._reading(case, x, None).signs, -key.signs)


@pytest.fixture(scope="module")
def recover():
    """`recover(name, params, x, y)`: the best key of two restarts, and the state."""
    attacks = {
        name: relaxed_key(r, FORWARDS[name], STEPS, restarts=2) for name, r in RELAXED.items()
    }

    @partial(jax.jit, static_argnums=0)
    def go(name, params, x, y):
        state = attacks[name].init(jax.random.key(0), params)
        return run_shuffled(attacks[name], state, x, y, jax.random.key(1), steps=STEPS)[0]

    def recovered(name, params, x, y):
        state = go(name, params, x, y)
        return best_key(RELAXED[name], state), state, attacks[name]

    return recovered


def test_signs_fall_to_labels(recover):
    params, key = trained()
    x, y = images(400)
    found, state, attack = recover("signs", params, x, y)
    assert usable(key, params) > 0.9
    start = SIGNS.init(jax.random.key(5), params)
    assert usable(start, params) < 0.5
    assert usable(found, params) > usable(key, params) - 0.05
    assert found.signs.dtype == jnp.int8
    # The attack's answer is that key's, and the restart is the one of lower loss on what was given.
    x = jnp.asarray(digits().test_x)
    assert accuracy(attack.forward(state, x)) == pytest.approx(usable(found, params))
    chosen = RELAXED["signs"].hard(state.theta[jnp.argmin(state.losses)])
    np.testing.assert_array_equal(found.signs, chosen.signs)


def test_permutations_fall_to_labels(recover):
    params, key = owner(SHUFFLE)
    found, _, _ = recover("permutation", params, *images(200))
    assert sorted(found.permutation.tolist()) == list(range(16))
    right = opened(SHUFFLE, key, params)
    assert opened(SHUFFLE, found, params) > right - 0.05
    assert opened(SHUFFLE, SHUFFLE.init(jax.random.key(8), params), params) < right - 0.3


def test_where_no_key_fits_none_is_found(recover):
    # Labels that say nothing, and weights under a cipher.
    params, key = trained()
    x, y = images(200)
    noise = recover("signs", params, x, jax.random.permutation(jax.random.key(3), y))[0]
    assert usable(noise, params) < 0.5
    stream = ml.stream_lock()
    locked, _ = stream.encrypt(stream.init(jax.random.key(0), params), params)
    assert usable(recover("signs", locked, x, y)[0], locked) < 0.4
    assert usable(key, params) > 0.9


def test_a_soft_matrix_is_the_shuffle_that_it_nearly_is():
    relaxation, x = RELAXED["permutation"], jnp.asarray(digits().test_x[:5])
    key = SHUFFLE.init(jax.random.key(2), None)
    theta = 30.0 * jax.nn.one_hot(key.permutation, 16)
    soft = jax.jit(relaxation.soft)(theta, jax.random.key(0), jnp.float32(1))
    np.testing.assert_allclose(soft.permutation.sum(0), 1, rtol=1e-4)
    np.testing.assert_allclose(soft.permutation.sum(1), 1, rtol=1e-3)
    mixed, moved = relaxation.lock.scramble(soft, x), SHUFFLE.scramble(key, x)
    np.testing.assert_allclose(mixed, moved, atol=1e-5)
    np.testing.assert_array_equal(relaxation.hard(theta).permutation, key.permutation)


def test_a_soft_matrix_is_sinkhorns_of_any_theta():
    theta = 60 * np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    soft = jax.jit(RELAXED["permutation"].soft)
    expected = theta.astype(np.float64) / 0.1
    for _ in range(20):
        expected = log_softmax(log_softmax(expected, 1), 0)
    found = soft(theta, jax.random.key(0), jnp.float32(1)).permutation
    np.testing.assert_allclose(found, np.exp(expected), atol=1e-4)
    gradient = jax.grad(lambda t: soft(t, jax.random.key(0), jnp.float32(1)).permutation[0, 0])
    assert np.isfinite(gradient(theta)).all()


def test_signs_count_as_signs_forwards_and_have_a_gradient():
    relaxation, theta = RELAXED["signs"], jnp.linspace(-2, 2, BITS)

    def total(theta):
        soft = relaxation.soft(theta, jax.random.key(0), jnp.float32(0))
        return soft.signs.sum(), soft.signs

    gradient, signs = jax.grad(total, has_aux=True)(theta)
    np.testing.assert_allclose(signs, jnp.sign(theta), atol=1e-6)
    np.testing.assert_allclose(gradient, 1 - jnp.tanh(theta) ** 2, atol=1e-6)


def test_logits_as_evidence():
    ours, y = jnp.array([[1.0, 0.0], [0.0, 3.0]]), jnp.array([[5.0, 4.0], [0.0, 3.0]])
    assert key_loss(ours, Answers(y)) == pytest.approx(
        0, abs=1e-12
    )  # a shift of all logits says nothing
    assert key_loss(ours, Answers(-y)) > 1


def asked(lock, params, device, queries):
    x = images(queries)[0]
    return sign_mask_oracle(
        device, lock, BITS, MODEL.forward, params, x, jax.random.key(4), steps=STEPS
    )


def test_the_oracle_gives_the_exact_key_and_counts_its_queries():
    params, key = trained()
    calls = []

    def device(x):
        calls.append(len(x))
        return ml.owner_forward(SIGNS, MODEL.forward)(key, params, x)

    found = asked(SIGNS, params, device, 60)
    np.testing.assert_array_equal(found.key.signs, key.signs)
    assert calls == [found.queries] == [60]
    assert found.misfit < 1e-6


def test_no_key_explains_another_model():
    params, key = trained()
    other, _ = trained(1)
    device = jax.tree_util.Partial(ml.owner_forward(SIGNS, MODEL.forward), key, other)
    assert asked(SIGNS, params, device, 60) is None


def test_of_an_unlocked_model_the_key_changes_nothing():
    params, _ = trained(locked=False)
    device = jax.tree_util.Partial(MODEL.forward, params)
    np.testing.assert_array_equal(asked(SIGNS, params, device, 60).key.signs, 1)


def test_bad_input():
    params, _ = trained()
    with pytest.raises(ValueError, match="steps and restarts must be at least 1, not 0, 8"):
        relaxed_key(RELAXED["signs"], MODEL.forward, 0)
    with pytest.raises(ValueError, match="needs inputs, max_steps and attempts, not 0 inputs"):
        asked(SIGNS, params, lambda x: x, 0)
