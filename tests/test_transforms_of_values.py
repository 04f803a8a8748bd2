"""The keys of `negative_positive` and `ffx`: from chosen images, from labels, from the weights alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.ridge import digits, forward, images, opened, owner

import modellock_jax as ml
from modellock_jax.attacks import Case, attempt
from modellock_jax.attacks.attack import run_shuffled
from modellock_jax.attacks.keys._smooth_rows import apart, rows_of
from modellock_jax.attacks.keys.chosen_levels import (
    ffx_chosen_images,
    negative_positive_chosen_image,
)
from modellock_jax.attacks.keys.negative_from_weights import negative_from_weights
from modellock_jax.attacks.keys.relaxed_key import best_key, relaxed_key
from modellock_jax.attacks.keys.relaxed_values import relaxed_ffx, relaxed_negative
from modellock_jax.data import load
from modellock_jax.models import mlp
from modellock_jax.train import fit

pytestmark = pytest.mark.optax
SHAPES = [(2, (4, 6, 3)), (4, (28, 28, 1)), (3, (3, 3, 1)), (14, (28, 28, 1))]
NEGATIVE, FFX = ml.negative_positive(4, channels=1), ml.ffx(4, channels=1)


@pytest.mark.parametrize(("block", "shape"), SHAPES)
def test_chosen_images_give_the_key(block, shape):
    lock = ml.negative_positive(block, shape[-1])
    negative = jax.jit(lock.init)(jax.random.key(0), None)
    black = np.zeros((1, *shape), np.uint8)
    found = negative_positive_chosen_image(jax.jit(lock.scramble)(negative, black), block)
    np.testing.assert_array_equal(found.negative, negative.negative)
    lock, asked = ml.ffx(block, shape[-1]), []
    key, device = jax.jit(lock.init)(jax.random.key(1), None), jax.jit(lock.scramble)

    def scramble(x):
        asked.append(len(x))
        return device(key, x)

    coded = ffx_chosen_images(scramble, block, shape)
    np.testing.assert_array_equal(coded.chosen, key.chosen)
    np.testing.assert_array_equal(coded.table, key.table)
    encrypted = np.prod(shape) // key.chosen.size * int(key.chosen.sum())
    assert sum(asked) == 1 + -(-256 // encrypted)


def test_a_table_that_leaves_levels_alone_is_found_by_the_next():
    table = jnp.asarray(np.r_[0, 1, np.random.default_rng(0).permutation(254) + 2], "uint8")
    key = ml.FfxKey(FFX.init(jax.random.key(0), None).chosen, table)
    found = ffx_chosen_images(partial(FFX.scramble, key), 4, (28, 28, 1))
    np.testing.assert_array_equal(found.table, table)
    np.testing.assert_array_equal(found.chosen, key.chosen)


def test_no_key_from_what_is_no_such_transform():
    rng, shape = np.random.default_rng(0), (28, 28, 1)
    black = jnp.zeros((1, *shape), jnp.uint8)
    shuffled = ml.pixel_shuffle(4, channels=1)
    order = shuffled.init(jax.random.key(0), None)
    coded = FFX.scramble(FFX.init(jax.random.key(0), None), black)
    by_block = black.at[:, :4, :2].set(255)
    for scrambled in (black, black + 255, coded, by_block):
        assert negative_positive_chosen_image(scrambled, 4) is None
    noise = jnp.asarray(rng.integers(0, 256, (9, *shape)), jnp.uint8)
    half = FFX.init(jax.random.key(0), None)._replace(table=jnp.zeros(256, jnp.uint8) + 7)
    for scramble in (
        lambda x: x,
        lambda x: noise[: len(x)],
        partial(shuffled.scramble, order),
        partial(FFX.scramble, half),
    ):
        assert ffx_chosen_images(scramble, 4, shape) is None


@pytest.fixture(scope="module")
def trained():
    """A network trained under a key of `negative_positive`, and the case of who has its weights."""
    data, lock = load("mnist5k"), ml.negative_positive(7, channels=1)
    x = data.train_x[:2000].reshape(-1, 14, 2, 14, 2, 1).mean((2, 4))
    model, example, about = mlp(10, (32,)), jnp.zeros((1, 14, 14, 1)), {"block": 7, "channels": 1}
    start, key = model.init(jax.random.key(0), example), lock.init(jax.random.key(1), None)
    under = partial(ml.owner_forward(lock, model.train), key)
    settings = {"rng": jax.random.key(2), "epochs": 5, "learning_rate": 5e-3}
    params, _ = fit(under, start, x, data.train_y[:2000], **settings)
    named = {"scheme": "negative_positive", "settings": about}
    return start, key, Case(lock, model, params, jax.random.key(3), example, **named)


def test_the_weights_alone_give_the_key(trained):
    start, key, case = trained
    found = attempt("negative_from_weights", case)
    np.testing.assert_array_equal(found.key.negative, key.negative)
    assert found.inputs == found.queries == 0
    read, rows = (
        partial(negative_from_weights, block=7, shape=(14, 14, 1)),
        rows_of(case.locked, 7, (14, 14, 1)),
    )
    # Rows that lie elsewhere say nothing, nor do those of before training.
    assert read(jax.random.permutation(jax.random.key(0), rows)) is None
    assert read(rows_of(start, 7, (14, 14, 1))) is None
    # Without a lock all entries are on one side.
    signs = jnp.where(key.negative, -1, 1)[:, None, None]
    assert read(signs * (rows - rows.mean((0, 1), keepdims=True))) is None


def test_untrained_rows_hold_the_level():
    drawn = jax.random.normal(jax.random.key(0), (60, 16, 4, 24))
    assert sum(negative_from_weights(one, 4, (8, 8, 1)) is not None for one in drawn) <= 3
    assert negative_from_weights(drawn[0].at[0].set(jnp.nan), 4, (8, 8, 1)) is None
    with pytest.raises(ValueError, match=r"needs rows \[9, blocks, units\] .* not \[16, 4, 24\]"):
        negative_from_weights(drawn[0], 3, (8, 8, 1))


def test_which_layer_reads_blocks():
    shape, kernel = (8, 8, 1), jnp.arange(64.0 * 3).reshape(64, 3)
    rows = rows_of({"a": {"kernel": kernel, "bias": jnp.ones(3)}}, 4, shape)
    # Entry 5 of block 1 lies at row 1, column 4 + 1.
    np.testing.assert_array_equal(rows[5, 1], kernel[1 * 8 + 5])
    assert apart(rows, 4, shape)[5, 1, 0, 0] == 1 + 25
    assert rows_of({"a": {"kernel": kernel}, "b": {"kernel": kernel}}, 4, shape) is None
    assert rows_of({"a": {"kernel": kernel[:9]}}, 4, shape) is None
    patch = rows_of({"a": {"kernel": jnp.ones((4, 4, 1, 3))}}, 4, shape)
    assert patch.shape == (16, 1, 3)
    assert apart(patch, 4, shape).max() == 9 + 9


@pytest.mark.parametrize(
    ("lock", "relaxation", "wrong"),
    [(NEGATIVE, relaxed_negative(4, channels=1), 0.3), (FFX, relaxed_ffx(4, channels=1), 0.1)],
)
def test_keys_fall_to_labels(lock, relaxation, wrong):
    params, key = owner(lock)
    x, y = images(200)
    attack = relaxed_key(relaxation, forward, 150, restarts=2)

    @jax.jit
    def go(params, x, y):
        state = attack.init(jax.random.key(0), params)
        return run_shuffled(attack, state, x, y, jax.random.key(1), steps=150)[0]

    found, right = best_key(relaxation, go(params, x, y)), opened(lock, key, params)
    assert opened(lock, found, params) > right - 0.08
    other = lock.init(jax.random.key(8), None)
    assert opened(lock, other, params) < right - wrong
    assert jax.tree.map(lambda a: (a.shape, a.dtype), found) == jax.tree.map(
        lambda a: (a.shape, a.dtype), other
    )


@pytest.mark.parametrize("lock", [NEGATIVE, FFX])
def test_a_relaxed_key_counts_as_the_key_that_it_is_rounded_to(lock):
    relaxation = relaxed_ffx(4, channels=1) if lock is FFX else relaxed_negative(4, channels=1)
    x = jnp.asarray(digits().test_x[:5])
    theta = relaxation.init(jax.random.key(0))
    scramble = relaxation.lock.scramble

    def total(theta):
        soft = relaxation.soft(theta, jax.random.key(0), jnp.float32(0))
        return (scramble(soft, x) * x).sum()

    key = relaxation.hard(theta)
    soft = relaxation.soft(theta, jax.random.key(0), jnp.float32(0))
    np.testing.assert_allclose(scramble(soft, x), lock.scramble(key, x), atol=1e-5)
    assert int(key[0].sum()) == 8
    assert all((np.asarray(g) != 0).any() for g in jax.tree.leaves(jax.grad(total)(theta)))
