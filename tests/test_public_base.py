"""What a public base gives away: signs, orders of rows and changed weights, or nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import modellock_jax as ml
from modellock_jax.attacks import (
    Case,
    attempt,
    permutation_from_base,
    read_signs_from_base,
    signs_from_base,
    weights_from_base,
)
from modellock_jax.attacks.keys.permutation_from_base import block_rows
from modellock_jax.attacks.weights._layers import layer_values
from modellock_jax.attacks.weights.weights_from_base import base_distance
from modellock_jax.data import load
from modellock_jax.models import mlp
from modellock_jax.study import league
from modellock_jax.study._bases import moved
from modellock_jax.study.context import prepare
from modellock_jax.train import make_epoch

pytestmark = pytest.mark.optax
BITS = 32


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def net(seed, inputs=20, units=BITS):
    return {
        "first": {"kernel": draw(seed, inputs, units), "bias": draw(seed + 1, units)},
        "second": {"kernel": draw(seed + 2, units, units)},
    }


def noisy(params, level, seed):
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(
        tree,
        [a + level * np.std(a) * draw(seed + i, *np.shape(a)) for i, a in enumerate(leaves)],
    )


def flipped(params, seed, bits=BITS, **settings):
    lock = ml.sign_flip(bits, **settings)
    return lock.encrypt(lock.init(jax.random.key(seed), params), params)


@pytest.mark.parametrize("level", [0, 0.03, 1])
def test_signs_from_a_base_under_noise(level):
    params = net(1, units=256)
    locked, key = flipped(params, 2, 256)
    found = signs_from_base(locked, noisy(params, level, 3))
    assert found.signs.dtype == jnp.int8
    np.testing.assert_array_equal(found.signs, key.signs)


def test_log_odds_say_how_many_signs_are_wrong():
    odds, wrong = [], []
    for seed in range(8):
        params = net(seed, units=256)
        locked, key = flipped(params, seed, 256)
        reading = read_signs_from_base(locked, noisy(params, 25, 1000 * seed + 500))
        odds.append(reading.log_odds)
        wrong.append(reading.signs != key.signs)
    odds, wrong = np.concatenate(odds), np.concatenate(wrong)
    expected, sure = 1 / (1 + np.exp(odds)), odds > 3
    assert 0.9 < wrong.sum() / expected.sum() < 1.15
    assert sure.sum() > 100
    assert wrong[sure].sum() < 2 * expected[sure].sum() + 5


def false_signs(seed):
    return signs_from_base(flipped(net(seed), seed)[0], net(seed + 5000), BITS)


def false_permutation(seed):
    return permutation_from_base(draw(seed, 16, 20), draw(seed + 5000, 16, 20))


def false_weights(seed):
    return weights_from_base(net(seed), net(seed + 5000))


@pytest.mark.parametrize("attack", [false_signs, false_permutation, false_weights])
def test_an_unrelated_base_gives_none_at_its_level(attack):
    """Of 200 draws more than 8 would be a level above 1 % (p < 0.001)."""
    assert sum(attack(seed) is not None for seed in range(200)) <= 8


def test_what_unrelated_models_have_in_common_is_not_taken_for_descent():
    """One direction that all columns share, and all rows: as of models of the same data."""
    mean, seen = 3 * draw(0, 20, 1), 3 * draw(1, 1, BITS)
    for seed in range(20):
        one, other = (
            {"kernel": draw(seed + k, 20, BITS) + mean + np.roll(seen, k)} for k in (10, 5000)
        )
        assert signs_from_base(flipped(one, seed)[0], other, BITS) is None
        assert weights_from_base(one, other) is None
        assert permutation_from_base(one["kernel"], other["kernel"][:, ::-1]) is None


def test_a_layer_that_was_trained_anew_or_is_no_number_counts_nothing():
    params = net(1)
    locked, key = flipped(params, 2)
    base = noisy(params, 1, 3)
    for other in (100 * draw(9, BITS, BITS), np.full((BITS, BITS), np.nan), np.zeros((BITS, BITS))):
        found = signs_from_base(locked, base | {"second": {"kernel": other}}, BITS)
        np.testing.assert_array_equal(found.signs, key.signs)
    nothing = jax.tree.map(np.zeros_like, params)
    assert signs_from_base(nothing, base, BITS) is None
    stream = ml.stream_lock()
    cipher, _ = stream.encrypt(stream.init(jax.random.key(0), params), params)
    assert signs_from_base(cipher, base, BITS) is None
    assert weights_from_base(cipher, base) is None


def test_other_axes_and_dtypes_and_bits_that_no_column_has():
    params = {"w": draw(1, BITS, 40).astype(jnp.bfloat16), "table": draw(2, 50, 3)}
    settings = {"outputs": lambda path: 0 if path == "w" else None}
    locked, key = flipped(params, 2, BITS + 4, **settings)
    reading = read_signs_from_base(locked, noisy(params, 0.5, 3), BITS + 4, **settings)
    np.testing.assert_array_equal(reading.signs[:BITS], key.signs[:BITS])
    assert reading.signs[BITS:].tolist() == [1] * 4
    assert not reading.log_odds[BITS:].any()
    assert reading.log_odds.dtype == jnp.float32


def test_rows_in_another_order():
    rows = draw(1, 30, 2, 40)
    order = np.random.default_rng(0).permutation(30)
    for level in (0, 0.03, 1):
        base = noisy(rows, level, 2)
        np.testing.assert_array_equal(permutation_from_base(rows[order], base), order)
    assert permutation_from_base(rows[order], np.full_like(rows, np.nan)) is None
    assert permutation_from_base(np.zeros_like(rows), rows) is None


@pytest.mark.parametrize("name", ["patch_shuffle", "patch_shuffle, convolution", "pixel_shuffle"])
def test_the_order_of_a_first_layer_opens_the_model(name):
    model, x = mlp(3, (48,)), draw(0, 9, 8, 8, 1)
    params = model.init(jax.random.key(1), x[:1])
    base, settings = noisy(params, 0.3, 2), {"patch": 8, "channels": 1}
    lock = ml.patch_shuffle(**settings)
    if name == "pixel_shuffle":
        settings = {"block": 4, "channels": 1}
        lock = ml.pixel_shuffle(**settings)
        key = lock.init(jax.random.key(3), params)
        locked = moved(lock, key, params, (8, 8, 1))
        scrambled = model.forward(locked, lock.scramble(key, x))
        np.testing.assert_allclose(scrambled, model.forward(params, x), atol=1e-5)
    elif name == "patch_shuffle":
        locked, key = lock.encrypt(lock.init(jax.random.key(3), params), params)
    else:
        settings["patch"] = 2
        lock = ml.patch_shuffle(**settings)
        params = {"kernel": draw(4, 2, 2, 1, 50)}
        locked, key = lock.encrypt(lock.init(jax.random.key(3), params), params)
        base = noisy(params, 0.3, 2)
    scheme = name.split(",")[0]
    case = Case(
        lock, model, locked, jax.random.key(0), x[:1], scheme=scheme, settings=settings,
        public_base=base,
    )  # fmt: skip
    found = attempt("permutation_from_base", case)
    np.testing.assert_array_equal(found.key.permutation, key.permutation)
    no_relative = jax.tree.map(lambda a: draw(7, *a.shape), params)
    assert attempt("permutation_from_base", case.replace(public_base=no_relative)) is None


def test_a_shuffle_that_no_first_layer_can_take_gives_none():
    assert block_rows(np.ones((3, 3, 1, 8)), 7, (28, 28, 1)) is None
    assert block_rows(np.ones((64, 8)), 3, (8, 8, 1)) is None
    assert block_rows(np.ones((7, 7, 2, 8)), 7, (28, 28, 2)).shape == (98, 1, 8)
    assert block_rows(np.ones((784, 8)), 14, (28, 28, 1)).shape == (196, 4, 8)


def away(params, count=6):
    """Weights moved to the end of their layer's range, and where."""
    lock = ml.adv_params(count=count)
    return lock.encrypt(
        lock.init(jax.random.key(0), params), params, lambda p: (p["first"]["kernel"] ** 2).sum()
    )


def test_changed_weights_are_found_and_put_back_nearly():
    params = net(1)
    locked, _ = away(params)
    flat = functools.partial(lambda tree: np.concatenate([v.ravel() for v in layer_values(tree)]))
    changed = np.flatnonzero(flat(locked) != flat(params))
    assert len(changed) >= 4
    base = noisy(params, 0.03, 2)
    found = weights_from_base(locked, base, count=len(changed))
    np.testing.assert_array_equal(flat(found) != flat(locked), flat(locked) != flat(params))
    np.testing.assert_array_equal(flat(found)[changed], flat(base)[changed])
    np.testing.assert_array_equal(found["first"]["bias"], locked["first"]["bias"])
    equal = weights_from_base(locked, params, count=6)
    jax.tree.map(np.testing.assert_array_equal, equal, jax.tree.map(jnp.asarray, params))


def test_the_distance_is_in_deviations_of_the_layer():
    params = net(1)
    for level in (0.1, 10):
        base = noisy(params, level, 2)
        base["first"]["kernel"][0, 0] = params["first"]["kernel"][0, 0] + 20 * level
        distance = base_distance(params, base)
        assert 17 < distance[0] < 23
        assert 0.95 < (distance[20 * BITS :] ** 2).mean() < 1.05


def test_bad_input():
    params = net(1)
    for attack in (signs_from_base, weights_from_base):
        with pytest.raises(ValueError, match=f"{attack.__name__}: .* differ in structure or shape"):
            attack(params, {"kernel": params["first"]["kernel"]})
        with pytest.raises(ValueError, match=f"{attack.__name__}: .* must be at least 1, not 0"):
            attack(params, params, 0)
    with pytest.raises(ValueError, match=r"of one shape, not \[3, 4\] and \[4, 4\]"):
        permutation_from_base(draw(1, 3, 4), draw(1, 4, 4))
    with pytest.raises(ValueError, match=r"2 leaves have the shape .* \[20, units\]"):
        moved(ml.pixel_shuffle(2, 1), None, [np.ones((20, 3)), np.ones((20, 4))], (5, 4, 1))
    with pytest.raises(ValueError, match=r"of one shape, not \[3\] and \[3\]"):
        permutation_from_base(draw(1, 3), draw(1, 3))


def test_a_model_trained_under_its_key_from_scratch_has_no_base(tmp_path):
    locks = ("pixel_shuffle", "sign_flip")
    config = league.STUDY.config(data="digits", model="mlp", locks=locks, seeds=1)
    needs = {
        (unit.args[0], need)
        for unit in league.STUDY.units(prepare(config, tmp_path))
        for need in league.ATTACKS.get(unit.args[2], league.ATTACKS["scratch"]).needs
    }
    assert ("sign_flip", "public_base") in needs
    assert ("pixel_shuffle", "chosen_input") in needs
    assert ("pixel_shuffle", "public_base") not in needs
    alone = league.of("permutation_from_base")
    context = prepare(league.STUDY.config(data="digits", model="mlp", locks=locks[:1]), tmp_path)
    with pytest.raises(ValueError, match=r"trained under its key from the start has .* no base$"):
        alone.units(context)


@functools.cache
def tuned():
    """A base, its fine-tuned model, both again under a mask from two starts, and another model."""
    data, model, lock = load("digits"), mlp(10, (32, 32)), ml.sign_mask(BITS)
    x, y = jnp.asarray(data.train_x), jnp.asarray(data.train_y)
    key, adam = lock.init(jax.random.key(3), None), optax.adam(5e-3)

    def train(forward):
        epoch = make_epoch(forward, adam, 100, 64)

        def once(params, seed):
            params = jax.tree.map(jnp.copy, params)
            return epoch(params, adam.init(params), jax.random.key(seed), x, y)[0]

        return once

    plain = train(model.forward)
    masked = train(functools.partial(ml.owner_forward(lock, model.forward), key))
    base, unrelated = (plain(model.init(jax.random.key(seed), x[:1]), 1) for seed in (0, 9))
    turned, _ = ml.sign_flip(BITS).encrypt(key, base)
    return base, key, plain(base, 2), masked(turned, 2), masked(base, 2), unrelated


def test_a_mask_trained_from_a_flipped_base_is_the_flip_of_the_tuned_one():
    base, key, plain, turned, as_it_is, _ = tuned()
    locked, _ = ml.sign_flip(BITS).encrypt(key, plain)
    jax.tree.map(np.testing.assert_array_equal, locked, turned)
    np.testing.assert_array_equal(signs_from_base(turned, base, BITS).signs, key.signs)
    # From the base as it is, training keeps the directions, and they say nothing of the key.
    assert (signs_from_base(as_it_is, base, BITS).signs == 1).all()


def test_models_that_were_trained_apart_are_no_relatives():
    _, _, plain, turned, _, unrelated = tuned()
    assert signs_from_base(turned, unrelated, BITS) is None
    assert weights_from_base(plain, unrelated) is None
    assert signs_from_base(turned, plain, BITS) is not None
