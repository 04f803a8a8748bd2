"""Key search: weak keys are found, right keys are kept, and there is no key where none fits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.ridge import HIDDEN, accuracy, digits, forward, images, opened, owner
from jax import lax

import modellock_jax as ml
from modellock_jax.attacks.keys import key_search as search
from modellock_jax.attacks.keys import permutation_search, sign_algebra, sign_search


@functools.cache
def program(attack, count, steps):
    """Compiled: a start, and `steps` steps on the first `count` images with the losses of each."""

    @jax.jit
    def go(locked, state):
        batch = images(count)
        return lax.scan(
            lambda s, _: attack.step(s, batch), state._replace(locked=locked), length=steps
        )

    return jax.jit(attack.init), go


def searched(attack, locked, count, steps):
    init, go = program(attack, count, steps)
    return go(locked, init(jax.random.key(0), locked))


def resumed(attack, state, keys, count, steps):
    """The state after more steps from other keys."""
    state = state._replace(keys=keys, best_loss=jnp.float32(jnp.inf), steps=jnp.int32(0))
    return program(attack, count, steps)[1](state.locked, state)[0]


def loss_of_each(lock, params, keys, x, y):
    user = ml.user_forward(lock, forward)
    return jax.jit(jax.vmap(lambda key: search.key_loss(user(key, params, x), y)))(keys)


def randomly(lock, locked, count, **settings):
    x, y = images(count)
    draw = functools.partial(search.random_keys, lock, forward, **settings)
    return jax.jit(draw)(locked, x, y, jax.random.key(3))


PLAIN = ml.Lock(lambda rng, params: ml.SignKey(jnp.ones(4, jnp.int8)))


FOUR, SIGNS = ml.sign_mask(4), ml.sign_mask(24)
FLIPS = sign_search.coordinate_flips(SIGNS, forward, restarts=3)
EVERY_FOUR = ml.SignKey(
    1 - 2 * (np.arange(16, dtype="i1")[:, None] >> np.arange(4, dtype="i1") & 1)
)


def test_random_keys_find_a_weak_key_and_reject_early():
    params, key = owner(FOUR)
    found = randomly(FOUR, params, 40, keys=120, first=8, survivors=10)
    np.testing.assert_array_equal(found.key.signs, key.signs)
    # What was rejected and what survived is what scoring every key by itself says.
    draw = jax.vmap(lambda rng: FOUR.init(rng, params))
    keys = jax.jit(draw)(jax.random.split(jax.random.key(3), 120))
    x, y = images(40)
    first = loss_of_each(FOUR, params, keys, x[:8], y[:8])
    np.testing.assert_allclose(found.first_losses, first, rtol=1e-4)
    np.testing.assert_array_equal(
        found.survivors, np.argsort(found.first_losses, kind="stable")[:10]
    )
    every = loss_of_each(FOUR, params, keys, x, y)
    np.testing.assert_allclose(found.losses, every[found.survivors], rtol=1e-4)
    assert found.loss == found.losses.min()


def test_random_keys_find_the_shuffle_of_small_blocks():
    lock = ml.pixel_shuffle(2, channels=1)
    params, key = owner(lock)
    found = randomly(lock, params, 40, keys=200, first=8, survivors=20)
    np.testing.assert_array_equal(found.key.permutation, key.permutation)


@pytest.mark.parametrize(
    "lock",
    [pytest.param(ml.deep_lock(), marks=pytest.mark.slow), ml.stream_lock()],
    ids=["deep_lock", "stream_lock"],
)
def test_random_keys_do_not_break_ciphers(lock):
    params, _ = owner(PLAIN)
    locked, key = jax.jit(lock.encrypt)(lock.init(jax.random.key(0), params), params)
    assert opened(lock, key, locked) > 0.9
    found = randomly(lock, locked, 40, keys=48, first=8, survivors=8)
    assert opened(lock, found.key, locked) < 0.3


def test_what_comes_before_the_first_mask_is_shared():
    """The matmul of the first layer has no axis of keys; that of the second has."""
    lock = ml.sign_mask(16)
    params, _ = owner(lock)
    x, y = images(12)
    draw = functools.partial(
        search.random_keys, lock, forward, keys=5, first=12, survivors=5, chunk=5
    )
    text = str(jax.make_jaxpr(draw)(params, x, y, jax.random.key(0)))
    matmuls = [line.split("=")[0] for line in text.splitlines() if "dot_general" in line]
    assert f"f32[12,{HIDDEN}]" in matmuls[0]
    assert "f32[5,12,10]" in matmuls[1]


@pytest.mark.parametrize("name", ["coordinate_flips", "genetic"])
def test_sign_keys_are_found_step_by_step(name):
    params, key = owner(SIGNS)
    breed = sign_search.genetic(SIGNS, forward, population=60)
    attack, steps = {"coordinate_flips": (FLIPS, 12), "genetic": (breed, 40)}[name]
    state, losses = searched(attack, params, 100, steps)
    assert (jnp.diff(losses.min(1)) <= 0).all()
    np.testing.assert_array_equal(state.best.signs, key.signs)
    assert accuracy(attack.forward(state, jnp.asarray(digits().test_x))) > 0.9
    # With the right key given nothing is gained.
    given = ml.SignKey(jnp.tile(key.signs, (losses.shape[1], 1)))
    again = resumed(attack, state, given, 100, steps)
    np.testing.assert_array_equal(again.best.signs, key.signs)


def answered(params, key, count):
    x = images(count)[0]
    return x, search.Answers(ml.user_forward(SIGNS, forward)(key, params, x))


def test_one_linear_system_gives_the_signs_of_the_last_hidden_layer():
    """All that are not the head's too, wrong at once: the answers tell, others tell nothing."""
    params, key = owner(SIGNS)
    wrong = ml.SignKey(key.signs.at[10:].multiply(-1)[None])
    attack = sign_algebra.linear_flips(SIGNS, forward, restarts=1)
    greedy = sign_search.coordinate_flips(SIGNS, forward, restarts=1)
    state = attack.init(jax.random.key(0), params)._replace(keys=wrong)
    batch = answered(params, key, 40)
    step = jax.jit(attack.step)
    moved, losses = step(state, batch)
    np.testing.assert_array_equal(moved.best.signs, key.signs)
    assert losses < 1e-9
    assert jax.jit(greedy.step)(state, batch)[1] > 1e-3
    # With the right key given nothing changes; answers to other images lead nowhere.
    np.testing.assert_array_equal(step(moved, batch)[0].keys.signs[0], key.signs)
    shuffled = batch[0], search.Answers(jax.random.permutation(jax.random.key(1), batch[1].logits))
    losses = step(state, shuffled)[1]
    assert losses > 1e-3
    assert losses <= search.key_loss(
        answered(params, ml.SignKey(wrong.signs[0]), 40)[1].logits, shuffled[1]
    )


def test_labels_alone_correct_many_signs_at_once():
    params, key = owner(SIGNS)
    wrong = ml.SignKey(key.signs.at[12:].multiply(-1)[None])
    attack = sign_algebra.linear_flips(SIGNS, forward, restarts=1)
    state = attack.init(jax.random.key(0), params)._replace(keys=wrong)
    step, (x, y) = jax.jit(attack.step), images(160)
    right = float(loss_of_each(SIGNS, params, ml.SignKey(key.signs[None]), x, y)[0])
    assert loss_of_each(SIGNS, params, wrong, x, y)[0] > 2 * right
    moved, losses = step(state, (x, y))
    for _ in range(3):
        moved, later = step(moved, (x, y))
        assert later <= losses
        losses = later
    # No key explains the labels better, and the signs are those of the key, all but a few.
    assert losses <= right + 1e-6
    assert (moved.best.signs == key.signs).mean() >= 0.8
    # Labels of other images say nothing of the key.
    other = step(state, (x, jax.random.permutation(jax.random.key(1), y)))[0]
    assert loss_of_each(SIGNS, params, other.keys, x, y)[0] > 2 * right


@pytest.mark.parametrize("name", ["hill_climb", pytest.param("anneal", marks=pytest.mark.slow)])
def test_permutations_are_found_swap_by_swap(name):
    lock = ml.pixel_shuffle(4, channels=1)
    params, key = owner(lock)
    steps = {"hill_climb": 30, "anneal": 150}[name]
    if name == "hill_climb":
        attack = permutation_search.hill_climb(lock, forward, restarts=2, swaps=48)
    else:
        attack = permutation_search.anneal(lock, forward, steps, restarts=2, swaps=6, cold=2e-3)
    state, losses = searched(attack, params, 200, steps)
    start = lock.init(jax.random.key(8), params)
    # Three keys, one program.
    x = jnp.asarray(digits().test_x)
    user = jax.jit(jax.vmap(ml.user_forward(lock, forward), (0, None, None)))
    given = ml.PixelKey(jnp.tile(key.permutation, (2, 1)))
    again = resumed(attack, state, given, 200, steps)
    several = jnp.stack([k.permutation for k in (start, state.best, key, again.best)])
    before, after, right, still = map(accuracy, user(ml.PixelKey(several), params, x))
    assert before < 0.6
    assert right - 0.05 < after <= right + 0.02
    assert still <= right + 0.02
    assert sorted(state.best.permutation.tolist()) == list(range(16))
    assert (jnp.diff(losses, axis=0) <= 0).all() == (name == "hill_climb")
    assert state.best_loss == losses.min()


def test_a_model_without_a_lock_gives_nothing_away():
    params, _ = owner(PLAIN)
    state, _ = searched(FLIPS, params, 100, 12)
    np.testing.assert_array_equal(state.best.signs, 1)


def test_without_labels():
    params, key = owner(FOUR)
    losses = loss_of_each(FOUR, params, EVERY_FOUR, images(200)[0], None)
    np.testing.assert_array_equal(EVERY_FOUR.signs[losses.argmin()], key.signs)


def test_a_key_whose_logits_are_not_finite_never_wins():
    y = jnp.array([0, 1])
    logits = jnp.array([[9.0, 0.0], [0.0, jnp.nan]])
    assert search.key_loss(logits, y) == jnp.inf
    assert search.key_loss(logits, None) == jnp.inf
    assert search.key_loss(jnp.zeros((2, 2)), y) < jnp.inf


def test_without_labels_a_class_that_never_comes_leaves_a_gradient():
    """0 log 0 has none, and one that is no number ends a descent."""
    logits = jnp.float32([[0, 1, -200], [1, 0, -300]])
    gradient = jax.grad(lambda out: search.key_loss(out, None))(logits)
    assert jnp.isfinite(gradient).all()
    assert jnp.abs(gradient[:, :2]).min() > 0.01


def test_bad_input():
    sign, pixel = ml.sign_mask(4), ml.pixel_shuffle(2, channels=1)
    params, _ = owner(PLAIN)
    with pytest.raises(ValueError, match="random_keys: 20 survivors of 10 keys, the first 8 of 40"):
        randomly(sign, params, 40, keys=10, survivors=20)
    with pytest.raises(TypeError, match=r"hill_climb: searches a PixelKey.* key is a SignKey"):
        jax.eval_shape(permutation_search.hill_climb(sign, forward).init, jax.random.key(0), params)
    with pytest.raises(TypeError, match=r"genetic: searches a SignKey.* key is a PixelKey"):
        jax.eval_shape(sign_search.genetic(pixel, forward).init, jax.random.key(0), params)
    with pytest.raises(ValueError, match="anneal: needs steps >= 1, 0 < cold <= hot, not 0"):
        permutation_search.anneal(pixel, forward, 0)
    with pytest.raises(ValueError, match="genetic: elite must be in"):
        sign_search.genetic(sign, forward, population=4)
    with pytest.raises(ValueError, match="hill_climb: needs at least one swap a step, not 0"):
        permutation_search.hill_climb(pixel, forward, swaps=0)
    with pytest.raises(ValueError, match="chunks must hold at least 1 key, not 0"):
        sign_search.coordinate_flips(sign, forward, chunk=0)
    with pytest.raises(ValueError, match="coordinate_flips: needs at least one key"):
        sign_search.coordinate_flips(sign, forward, restarts=0)
    with pytest.raises(ValueError, match="linear_flips: needs at least 1 iteration, not 0"):
        sign_algebra.linear_flips(sign, forward, iterations=0)
