"""The small vision transformer: trained, locked by pixels, by patches and by signs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modellock_jax as ml
from modellock_jax import models, tasks, train
from modellock_jax.core.acts import acts_on
from modellock_jax.data import load

MODEL = models.vit(10, patch=4, width=8, depth=1, heads=2)
IMAGES = np.random.default_rng(1).random((3, 8, 8, 1), np.float32)


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(0), IMAGES)


forward = jax.jit(MODEL.forward)


def test_every_layer_is_a_site_and_signs_have_their_twin(params):
    block = [f"MultiHeadDotProductAttention_0/{name}" for name in ("query", "key", "value", "out")]
    names = [f"Block_0/{name}" for name in (*block, "Dense_0", "Dense_1")]
    assert [*ml.sites(MODEL.forward, params, IMAGES)] == ["Conv_0", *names, "Dense_0"]
    flip = ml.sign_flip(4)
    key = flip.init(jax.random.key(2), params)
    locked = forward(flip.encrypt(key, params)[0], IMAGES)
    owner = jax.jit(ml.owner_forward(ml.sign_mask(4), MODEL.forward))
    np.testing.assert_allclose(locked, owner(key, params, IMAGES), rtol=1e-5, atol=1e-6)
    assert not np.allclose(locked, forward(params, IMAGES), atol=1e-2)


def test_locks_of_pixels_and_patches_meet_the_patch_embedding(params):
    lock = ml.patch_shuffle(4, channels=1)
    assert [*acts_on(lock, params)] == ["params/Conv_0/kernel"]
    locked, key = lock.encrypt(lock.init(jax.random.key(3), params), params)
    shuffled = jax.jit(ml.user_forward(lock, MODEL.forward))(key, locked, IMAGES)
    np.testing.assert_allclose(shuffled, forward(params, IMAGES), rtol=1e-5, atol=1e-6)
    pixels = ml.pixel_shuffle(4, channels=1)
    moved = pixels.scramble(pixels.init(jax.random.key(4), params), IMAGES)
    assert not np.allclose(forward(params, moved), forward(params, IMAGES), atol=1e-3)


def test_places_of_patches_matter(params):
    swapped = IMAGES[:, ::-1]
    swapped = swapped.reshape(3, 2, 4, 8, 1)[:, :, ::-1].reshape(IMAGES.shape)  # rows of patches
    assert not np.allclose(forward(params, swapped), forward(params, IMAGES), atol=1e-3)


def test_bad_input():
    with pytest.raises(ValueError, match="multiple of heads, not 9 of 4"):
        models.vit(10, width=9)
    with pytest.raises(ValueError, match="patches of 4 do not tile images of 8 x 7"):
        MODEL.init(jax.random.key(0), jnp.zeros((1, 8, 7, 1)))


@pytest.mark.slow
@pytest.mark.optax
def test_it_learns_real_digits():
    data, task, model = load("mnist5k"), tasks.classify(10), models.MODELS["vit"](10)
    start = model.init(jax.random.key(0), data.train_x[:1])
    settings = {"epochs": 15, "batch_size": 128, "learning_rate": 4e-3, "augment": task.augment}
    x, y = data.train_x, data.train_y
    params, _ = train.fit(model.train, start, x, y, rng=jax.random.key(1), **settings)
    found = tasks.measure(task, partial(model.forward, params), data.test_x, data.test_y)
    assert found.value > 93
