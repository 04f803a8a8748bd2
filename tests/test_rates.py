"""How attacks that train begin, draw their batches, and choose: rates, restarts and keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modellock_jax as ml
from modellock_jax.attacks import ATTACKS, Attack, Case, run_shuffled
from modellock_jax.attacks._train import fit_best_rate
from modellock_jax.attacks.keys.relaxation import relaxed_signs
from modellock_jax.attacks.keys.relaxed_key import Relaxed, best_key
from modellock_jax.attacks.keys.search import Search, accept
from modellock_jax.attacks.weights.fine_tune import fine_tune
from modellock_jax.models import mlp

pytestmark = pytest.mark.optax
N = 20
X = jax.random.uniform(jax.random.key(0), (N, 2, 2, 1))


def case():
    """A locked model, and labelled inputs."""
    model, lock = mlp(3, (4,)), ml.sign_flip(8)
    params = model.init(jax.random.key(1), X[:1])
    locked, _ = lock.encrypt(lock.init(jax.random.key(2), params), params)
    return Case(lock, model, locked, jax.random.key(3), X[:1], labels=(X, jnp.arange(N) % 3))


def watching(rate, example):
    """An attack that notes which inputs it was trained on; it answers with that, and its rate."""

    def init(rng, start):
        return rate, jnp.zeros(N, bool)

    def step(state, batch):
        return (rate, state[1].at[batch[0]].set(True)), None

    def forward(state, x):
        return jnp.stack([jnp.broadcast_to(rate, x.shape), state[1][x].astype(jnp.float32)], 1)

    return Attack(init, step, forward)


def chosen(score):
    """The answers of the rate that is chosen of 1, 2 and 3, to all inputs."""
    given = case()
    given.task = given.task._replace(augment=lambda rng, x: x)
    inputs = jnp.arange(N)
    settings = {"rates": (1.0, 2.0, 3.0), "steps": 8, "batch_size": 8}
    found = fit_best_rate(given, watching, score, None, inputs, inputs, **settings)
    return np.asarray(found.forward(inputs)).T


def test_the_rate_is_chosen_on_inputs_that_are_held_out():
    """Rate 2 is best on what was not trained on, rate 1 on what was."""

    def score(out, y):
        rate, seen = out.T
        return jnp.where(seen > 0, -rate, -jnp.abs(rate - 2)).mean()

    rate, seen = chosen(score)
    assert set(rate) == {2.0}
    assert seen.tolist() == [0] * (N // 5) + [1] * (N - N // 5)


def test_a_rate_that_ends_in_no_number_is_not_chosen():
    rate, _ = chosen(lambda out, y: jnp.where(out[0, 0] == 2, jnp.nan, -out[0, 0]))
    assert set(rate) == {1.0}


def test_of_a_single_rate_nothing_is_held_out():
    given = case()
    given.task = given.task._replace(augment=lambda rng, x: x)
    settings = {"rates": (1.0,), "steps": 8, "batch_size": 8}
    found = fit_best_rate(given, watching, None, None, jnp.arange(N), jnp.arange(N), **settings)
    assert np.asarray(found.forward(jnp.arange(N)))[:, 1].tolist() == [1] * N


def test_the_same_attack_on_another_model_is_not_compiled_again():
    given, built = case(), []
    other = given.replace(labels=given.labels)
    other.locked, other.rng = jax.tree.map(lambda a: a + 1, given.locked), jax.random.key(9)
    settings = {"rates": (1e-3,), "steps": 1}
    ATTACKS["fine_tune"].attack(given, **settings)

    def count(event, seconds, **more):
        built.append(more.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        ATTACKS["fine_tune"].attack(other, **settings)
        assert "go" not in built
        ATTACKS["fine_tune"].attack(other, variant="last", **settings)
        assert "go" in built
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


def test_the_thief_begins_from_what_is_locked_and_the_control_from_nothing():
    given, answers = case(), {}
    for name in ("fine_tune", "scratch"):
        found = ATTACKS[name].attack(given, rates=(0.0,), steps=1)
        answers[name] = found.forward(X)
    locked = given.model.forward(given.locked, X)
    np.testing.assert_array_equal(answers["fine_tune"], locked)
    fresh = given.model.init(jax.random.fold_in(given.rng, 1), X[:1])
    np.testing.assert_array_equal(answers["scratch"], given.model.forward(fresh, X))
    assert not np.array_equal(answers["scratch"], locked)


def test_ciphertext_is_sanitised_before_training():
    given = case()
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), given.locked)
    start, _ = fine_tune(given.model, 1e-3, X[:1]).init(jax.random.key(4), broken)
    fresh = given.model.init(jax.random.key(4), X[:1])
    jax.tree.map(np.testing.assert_array_equal, start, fresh)


def test_inputs_are_augmented_anew_in_every_batch():
    attack = Attack(None, lambda state, batch: (state, batch), None)
    x, steps = jnp.zeros((N, 1)), 6

    def batches(augment):
        return run_shuffled(
            attack, 0, x, jnp.arange(N), jax.random.key(5), steps=steps, batch_size=4,
            augment=augment,
        )[1]  # fmt: skip

    moved, known = batches(lambda rng, x: x + jax.random.uniform(rng, x.shape))
    assert len(np.unique(np.asarray(moved))) == steps * 4
    # All inputs come once before any comes again, in no order of the data.
    assert sorted(known[:5].ravel().tolist()) == list(range(N))
    assert known[:5].ravel().tolist() != list(range(N))
    plain, same = batches(None)
    assert not plain.any()
    np.testing.assert_array_equal(same, known)


def test_the_restart_of_lowest_loss_is_the_answer():
    relaxation = relaxed_signs(ml.sign_mask(4), 4)
    theta = jnp.array([[1.0, 1, 1, 1], [-1, 1, -1, 1], [-1, -1, -1, -1]])
    state = Relaxed(theta, jnp.array([0.3, 0.1, 0.2]), None, jnp.int32(9), None, None)
    assert best_key(relaxation, state).signs.tolist() == [-1, 1, -1, 1]


def test_a_search_remembers_its_best_key():
    rng, none = jax.random.key(0), jnp.int32(0)
    state = Search(
        jnp.array([7]), jnp.array([0.1]), jnp.int32(7), jnp.float32(0.1), none, None, rng
    )
    worse, losses = accept(state, jnp.array([[5, 6]]), jnp.array([[0.5, 0.3]]), jnp.array([1]))
    assert (worse.keys.tolist(), int(worse.best), float(losses[0])) == ([6], 7, pytest.approx(0.3))
    better, _ = accept(worse, jnp.array([[5, 6]]), jnp.array([[0.05, 0.3]]), jnp.array([0]))
    assert (int(better.best), float(better.best_loss)) == (5, pytest.approx(0.05))
