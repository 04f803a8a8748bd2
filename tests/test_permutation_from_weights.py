"""The key of a pixel shuffle from the weights alone: found after training, and none before."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modellock_jax as ml
from modellock_jax.attacks import Case, attempt
from modellock_jax.attacks.keys import _matching
from modellock_jax.attacks.keys._embedding import drawn
from modellock_jax.attacks.keys._matching import fit_of, matrix
from modellock_jax.attacks.keys._smooth_rows import alike, apart, checked, rows_of
from modellock_jax.attacks.keys.permutation_from_weights import (
    _mirror_images,
    _order,
    permutation_from_weights,
)
from modellock_jax.data import load
from modellock_jax.models import mlp
from modellock_jax.train import fit

pytestmark = pytest.mark.optax
SHAPE, BLOCK = (28, 28, 1), 4
LOCK = ml.pixel_shuffle(BLOCK, channels=1)


def images(count):
    """Digits and their labels."""
    data = load("mnist5k")
    return jnp.asarray(data.train_x[:count]), jnp.asarray(data.train_y[:count])


def trained_under(lock, model, x, y, epochs):
    """A network trained under a shuffle: its start, what became of it, and the key."""
    start, key = model.init(jax.random.key(0), x[:1]), lock.init(jax.random.key(1), None)
    under = partial(ml.owner_forward(lock, model.train), key)
    settings = {"rng": jax.random.key(2), "epochs": epochs, "learning_rate": 5e-3}
    return start, fit(under, start, np.asarray(x), np.asarray(y), **settings)[0], key


@pytest.fixture(scope="module")
def trained():
    """The start of a network trained under a shuffle, its key, and the case of who has the weights."""
    (x, y), model = images(2000), mlp(10, (64,))
    start, params, key = trained_under(LOCK, model, x, y, 6)
    about = {"scheme": "pixel_shuffle", "settings": {"block": BLOCK, "channels": 1}}
    return start, key, Case(LOCK, model, params, jax.random.key(3), x[:1], **about)


def value(forward):
    data = load("mnist5k")
    return float((forward(jnp.asarray(data.test_x)).argmax(-1) == data.test_y).mean())


def test_the_weights_alone_give_the_key(trained):
    start, key, case = trained
    found = attempt("permutation_from_weights", case)
    np.testing.assert_array_equal(found.key.permutation, key.permutation)
    assert value(found.forward) > value(partial(case.model.forward, case.locked)) + 0.05
    assert permutation_from_weights(rows_of(start, BLOCK, SHAPE), BLOCK, SHAPE) is None


def test_of_one_block_or_untrained_rows_nothing_is_read():
    drawn = jax.random.normal(jax.random.key(0), (60, 16, 4, 12))
    assert sum(permutation_from_weights(one, 4, (8, 8, 1)) is not None for one in drawn) <= 3
    assert permutation_from_weights(drawn[0, :, :1], 4, (8, 8, 1)) is None
    with pytest.raises(ValueError, match=r"needs rows \[16, blocks, units\] .* not \[16, 3, 12\]"):
        permutation_from_weights(drawn[0, :, :3], 4, (8, 8, 1))


def test_the_fit_is_a_sum_over_pairs_of_blocks():
    rng = np.random.default_rng(0)
    g, s = (a + a.transpose(2, 3, 0, 1) for a in rng.normal(size=(2, 4, 2, 4, 2)))
    order = rng.permutation(4)
    p = matrix(order)
    pairs = itertools.product(range(2), repeat=2)
    by_pairs = sum(np.trace(g[:, a, :, b].T @ p @ s[:, a, :, b] @ p.T) for a, b in pairs)
    assert fit_of(g, s, order) == pytest.approx(by_pairs)
    # Among four entries the descent from the middle ends near the best order of all.
    best = max(
        fit_of(s[order][:, :, order], s, np.array(o)) for o in itertools.permutations(range(4))
    )
    assert fit_of(s[order][:, :, order], s, order) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(6))
def test_a_descent_never_fits_worse(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    g, s = (a + a.transpose(2, 3, 0, 1) for a in rng.normal(size=(2, 6, 3, 6, 3)))
    start, fits = np.full((6, 6), 1 / 6), []
    for steps in range(6):
        monkeypatch.setattr(_matching, "ITERATIONS", steps)
        p = _matching.matched(g, s, start)
        np.testing.assert_allclose(p.sum(0), 1)
        np.testing.assert_allclose(p.sum(1), 1)
        fits.append(np.einsum("iajb,ik,jl,kalb", g, p, p, s))
    assert all(later >= before - 1e-9 for before, later in itertools.pairwise(fits))
    assert fits[-1] > fits[0]


def test_a_thief_trains_on_under_the_key_that_the_labels_gave():
    lock, model = ml.patch_shuffle(4, channels=1), mlp(3, (20,))
    x = jax.random.uniform(jax.random.key(0), (24, 4, 4, 1))
    params = model.init(jax.random.key(1), x[:1])
    locked, _ = lock.encrypt(lock.init(jax.random.key(2), params), params)
    about = {"scheme": "patch_shuffle", "settings": {"patch": 4, "channels": 1}}
    labels, search = (x, jnp.arange(24) % 3), {"steps": 3, "restarts": 2}
    case = Case(lock, model, locked, jax.random.key(3), x[:1], labels=labels, **about)
    under = attempt("relaxed_key", case, **search).forward(x)
    still = attempt("fine_tune_under_estimated_key", case, search=search, rates=(0.0,), steps=1)
    np.testing.assert_allclose(still.forward(x), under, atol=1e-6)
    assert np.abs(under - model.forward(locked, x)).max() > 0.01


def test_the_drawing_of_like_rows_lies_near_their_places():
    block, rng = 8, np.random.default_rng(0)
    squares = apart(np.zeros((block * block, 4, 1)), block, (16, 16, 1)) / 16**2
    secret = rng.permutation(block * block)
    products = np.exp(-squares / (2 * 0.15**2))[secret][:, :, secret]
    places = np.indices((block, block)).reshape(2, -1).T
    errors = [
        np.linalg.norm(places[image[order]] - places[secret], axis=1).mean()
        for order in drawn(products, block, 1)
        for image in _mirror_images(block, 1)
    ]
    assert min(errors) < 1.0
    assert np.median(errors) > 2.0


def test_blocks_of_many_entries_give_their_key():
    (x, y), shape = images(4000), (20, 20, 1)
    lock, model = ml.pixel_shuffle(10, channels=1), mlp(10, (64,))
    _, params, key = trained_under(lock, model, x[:, 4:24, 4:24], y, 8)
    rows = checked("rows", rows_of(params, 10, shape), 10, shape)
    found = _order(alike(rows), apart(rows, 10, shape) / 20**2, 10)
    assert (found == np.asarray(key.permutation)).mean() > 0.9
