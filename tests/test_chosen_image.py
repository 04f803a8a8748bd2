"""The key of a pixel shuffle from images: exact where it must be, none where there is none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modellock_jax as ml
from modellock_jax.attacks.keys import chosen_image as attack
from modellock_jax.attacks.keys import logit_oracle

SHAPE = (8, 8, 1)


def forward(params, x, tap=ml.untapped):
    h = tap("dense", x.reshape(len(x), -1) @ params["w"] + params["b"][None])
    return tap("head", jax.nn.relu(h) @ params["v"])


def make_params():
    rngs = jax.random.split(jax.random.key(5), 3)
    return {
        "w": jax.random.normal(rngs[0], (64, 48)) / 4,
        "b": jax.random.normal(rngs[1], (48,)),
        "v": jax.random.normal(rngs[2], (48, 10)) / 4,
    }


def natural(count, shape, seed=0):
    """Smooth images of 16 grey levels, with a border that is black in all of them."""
    noise = np.random.default_rng(seed).random((count, *shape))
    smooth = sum(np.roll(noise, shift, axis) for shift in range(3) for axis in (1, 2)) / 6
    smooth[:, 0] = smooth[:, :, 0] = 0
    return jnp.asarray((smooth * 16).astype(np.uint8) * 15)


@pytest.mark.parametrize(
    ("block", "shape", "images"),
    [
        (2, (4, 4, 1), 1),
        (4, (28, 28, 1), 1),
        (4, (32, 32, 3), 1),
        (14, (28, 28, 1), 1),
        (16, (32, 32, 3), 1),  # 768 entries: their second digit lies in the next block
        (16, (16, 16, 1), 1),  # 256 entries, one block
        (32, (32, 32, 3), 2),
    ],
)
def test_chosen_images_give_the_key(block, shape, images):
    chosen = attack.chosen_images(block, shape)
    assert chosen.shape == (images, *shape)
    assert chosen.dtype == jnp.uint8
    lock = ml.pixel_shuffle(block, shape[-1])
    key = ml.PixelKey(jnp.asarray(np.random.default_rng(0).permutation(block**2 * shape[-1]), "i4"))
    found = attack.pixel_shuffle_chosen_image(jax.jit(lock.scramble)(key, chosen), block)
    assert found.permutation.dtype == jnp.int32
    np.testing.assert_array_equal(found.permutation, key.permutation)


@pytest.mark.parametrize("scheme", [ml.ffx, ml.negative_positive])
def test_no_key_where_nothing_was_shuffled_or_more_was_done(scheme):
    chosen = attack.chosen_images(4, (28, 28, 1))
    lock = scheme(4, channels=1)
    scrambled = jax.jit(lock.scramble)(lock.init(jax.random.key(0), None), chosen)
    assert attack.pixel_shuffle_chosen_image(scrambled, 4) is None
    # Left alone, an image gives the identity: nothing to gain.
    same = attack.pixel_shuffle_chosen_image(chosen, 4)
    np.testing.assert_array_equal(same.permutation, np.arange(16))


@pytest.mark.parametrize(("block", "channels"), [(4, 3), (8, 1)])
def test_known_pairs(block, channels):
    lock = ml.pixel_shuffle(block, channels)
    key, scramble = jax.jit(lock.init)(jax.random.key(1), None), jax.jit(lock.scramble)
    plain = natural(6, (16, 16, channels))
    scrambled = np.asarray(scramble(key, plain))
    right, known = [], []
    for count in (1, 6):
        found, sure = attack.pixel_shuffle_known_pairs(plain[:count], scrambled[:count], block)
        truth = np.asarray(found.permutation == key.permutation)
        assert truth[sure].all()
        assert (np.sort(found.permutation) == np.arange(len(truth))).all()
        np.testing.assert_array_equal(scramble(found, plain)[:count], scrambled[:count])
        right.append(truth.mean())
        known.append(sure.mean())
    assert known[1] >= known[0]
    assert right[1] == 1


def test_known_pairs_tell_what_they_cannot_tell():
    """Entries that are black in every block stay open, and all others are right."""
    lock = ml.pixel_shuffle(4, channels=1)
    init, scramble = jax.jit(lock.init), jax.jit(lock.scramble)
    key = init(jax.random.key(2), None)
    plain = np.array(natural(4, (16, 16, 1)))
    plain[:, ::4, :2] = plain[:, ::4, ::2] = 0
    mine = np.asarray(scramble(key, plain))
    found, sure = attack.pixel_shuffle_known_pairs(plain, mine, 4)
    never_differ = np.isin(key.permutation, [0, 2])
    np.testing.assert_array_equal(sure, ~never_differ)
    assert np.asarray(found.permutation == key.permutation)[sure].all()
    # Pairs of two keys, or another block's, fit no permutation.
    other = np.asarray(scramble(init(jax.random.key(3), None), plain))
    mixed = np.concatenate([mine[:2], other[2:]])
    assert attack.pixel_shuffle_known_pairs(plain, mixed, 4) is None
    assert attack.pixel_shuffle_known_pairs(plain, other, 2) is None


@pytest.mark.parametrize(("block", "entries", "queries"), [(4, 16, 1), (4, 6, 3)])
def test_logits_of_one_image_give_the_key(block, entries, queries):
    lock, params = ml.pixel_shuffle(block, channels=1), make_params()
    key = lock.init(jax.random.key(block), params)
    device, asked = jax.jit(ml.owner_forward(lock, forward)), []

    def oracle(x):
        asked.append(len(x))
        assert float(x.min()) >= 0
        assert float(x.max()) <= 1
        # Probabilities will do: the attack looks at log-probabilities.
        return jax.nn.log_softmax(device(key, params, x))

    found = logit_oracle.pixel_shuffle_logit_oracle(
        oracle, forward, params, block, SHAPE, jax.random.key(0), entries=entries
    )
    assert sum(asked) == found.queries == queries
    np.testing.assert_array_equal(found.key.permutation, key.permutation)


def test_no_key_from_an_oracle_that_hides_another():
    params, rng = make_params(), jax.random.key(0)
    search = functools.partial(logit_oracle.pixel_shuffle_logit_oracle, block=4, shape=SHAPE)
    plain = search(lambda x: forward(params, x), forward, params, rng=rng)
    np.testing.assert_array_equal(plain.key.permutation, np.arange(16))
    sign = ml.sign_mask(8)
    key = sign.init(rng, params)
    masked = functools.partial(ml.owner_forward(sign, forward), key, params)
    assert search(masked, forward, params, rng=rng) is None
    broken = search(lambda x: jnp.full((1, 10), jnp.nan), forward, params, rng=rng)
    assert broken is None


def test_bad_input():
    images = jnp.zeros((1, 6, 6, 1))
    with pytest.raises(ValueError, match="chosen_images: block 4 does not divide images of 6 x 6"):
        attack.pixel_shuffle_chosen_image(images, 4)
    with pytest.raises(ValueError, match="must both be \\[B, H, W, C\\], not \\[6, 6, 1\\]"):
        attack.pixel_shuffle_known_pairs(images[0], images, 2)
    with pytest.raises(ValueError, match="block 5 does not divide"):
        attack.pixel_shuffle_known_pairs(images, images, 5)
    with pytest.raises(ValueError, match="at least 1, not 0, 1, 64"):
        logit_oracle.pixel_shuffle_logit_oracle(
            forward, forward, {}, 2, SHAPE, jax.random.key(0), entries=0
        )
