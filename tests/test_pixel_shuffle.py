"""The block transforms of images against loops over blocks, entry by entry."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modellock_jax as ml

SHAPES = {(6, 9, 2): 3, (2, 4, 8, 1): 2, (3, 2, 4, 4, 3): 4, (5, 3, 2): 1}
# Every shape as floats and as integers, and every dtype.
PAIRS = [
    *itertools.product(SHAPES, ["float32", "uint8"]),
    ((6, 9, 2), "bfloat16"),
    ((6, 9, 2), "int32"),
]


def by_block(x: np.ndarray, block: int, f: Any) -> np.ndarray:
    """Every flattened block of every image through f, one at a time."""
    out = x.copy()
    height, width = x.shape[-3:-1]
    for image in np.ndindex(x.shape[:-3]):
        for i, j in itertools.product(range(0, height, block), range(0, width, block)):
            cut = (*image, slice(i, i + block), slice(j, j + block))
            out[cut] = f(x[cut].reshape(-1)).reshape(x[cut].shape)
    return out


def images(shape: tuple[int, ...], dtype: str) -> jax.Array:
    x = np.random.default_rng(0).random(shape, np.float32)
    return jax.device_put((255 * x if dtype in ("uint8", "int32") else x).astype(dtype))


@pytest.mark.parametrize(("shape", "dtype"), PAIRS)
def test_every_block_as_in_a_loop(shape: tuple[int, ...], dtype: str) -> None:
    block, channels, x = SHAPES[shape], shape[-1], images(shape, dtype)
    plain = np.asarray(x)
    top = x.dtype.type(1 if jnp.issubdtype(dtype, jnp.floating) else np.iinfo(dtype).max)

    lock = ml.pixel_shuffle(block, channels)
    shuffle = jax.jit(lock.init)(jax.random.key(1), None)
    expected = by_block(plain, block, lambda b: b[np.asarray(shuffle.permutation)])
    np.testing.assert_array_equal(jax.jit(lock.scramble)(shuffle, x), expected)

    lock = ml.negative_positive(block, channels)
    negative = jax.jit(lock.init)(jax.random.key(1), None)
    expected = by_block(plain, block, lambda b: np.where(negative.negative, top - b, b))
    np.testing.assert_array_equal(jax.jit(lock.scramble)(negative, x), expected)

    if dtype == "uint8":
        lock = ml.ffx(block, channels)
        coded = jax.jit(lock.init)(jax.random.key(1), None)
        table = np.asarray(coded.table)
        expected = by_block(plain, block, lambda b: np.where(coded.chosen, table[b], b))
        np.testing.assert_array_equal(jax.jit(lock.scramble)(coded, x), expected)


def test_shuffle_over_keys_and_its_gradient() -> None:
    x = images((4, 4, 6, 1), "float32")
    lock = ml.pixel_shuffle(2, channels=1)
    keys = jax.vmap(lambda rng: lock.init(rng, None))(jax.random.split(jax.random.key(1), 7))
    together = jax.jit(jax.vmap(lock.scramble, (0, None)))(keys, x)
    for i in range(7):
        key = jax.tree.map(lambda leaf, i=i: leaf[i], keys)
        np.testing.assert_array_equal(together[i], lock.scramble(key, x))
        # The gradient of a weighted sum is the weights, put back in their places.
        weights = images(x.shape, "float32") + 1
        gradient = jax.grad(lambda x, k=key, w=weights: (lock.scramble(k, x) * w).sum())(x)
        np.testing.assert_array_equal(lock.scramble(key, gradient), weights)


@pytest.mark.parametrize("channels", [2, 3])
def test_no_order_is_drawn_that_leaves_all_in_place_and_every_other_is(channels: int) -> None:
    params = {"kernel": jnp.ones((channels, 1))}
    for lock in (ml.pixel_shuffle(1, channels), ml.patch_shuffle(1, channels)):
        rngs = jax.random.split(jax.random.key(0), 64)
        keys = jax.vmap(lambda rng, lock=lock: lock.init(rng, params))(rngs)
        drawn = {tuple(order) for order in keys.permutation.tolist()}
        assert drawn == set(itertools.permutations(range(channels))) - {tuple(range(channels))}


@pytest.mark.parametrize("lock", [ml.pixel_shuffle, ml.patch_shuffle, ml.negative_positive, ml.ffx])
def test_a_block_of_one_entry_is_refused(lock: Any) -> None:
    with pytest.raises(ValueError, match="a block of one entry has nothing to lock"):
        lock(1, channels=1)
