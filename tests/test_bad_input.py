"""Bad input ends in one clear sentence, raised by the package and not inside JAX."""

import re
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.table import make_params

import modellock_jax as ml
from modellock_jax import models, train

RNG = jax.random.key(0)
TREE = {"kernel": np.ones((4, 4), np.float32), "bias": np.ones(4, np.float32)}
IMAGE = np.ones((1, 6, 6, 3), np.float32)
ON_LEAVES = {
    "deep_lock": ml.deep_lock(),
    "stream_lock": ml.stream_lock(),
    "sign_flip": ml.sign_flip(),
    "adv_params": ml.adv_params(count=2),
    "patch_shuffle": ml.patch_shuffle(2, channels=1),
}
DEEP = ml.DeepLockKey(np.zeros(4, np.uint32))


def refuses(kind, message, call):
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert re.search(message, text), text
    assert "\n" not in text
    # The deepest frame is ours: nobody has to read a traceback of somebody else's insides.
    assert "modellock_jax" in traceback.extract_tb(caught.value.__traceback__)[-1].filename


FAULTS = {
    "block": (ValueError, "block 4 does not divide images of 6 x 6; blocks that do: 2, 3, 6",
              lambda: ml.pixel_shuffle(4).scramble(ml.PixelKey(jnp.arange(48)), IMAGE)),
    "block early": (ValueError, "block 4 does not divide",
                    lambda: ml.ffx(4, image_shape=(6, 6, 3))),
    "channels": (ValueError, r"images must be \[..., H, W, 1\]",
                 lambda: ml.negative_positive(2, 1).scramble(ml.NegativeKey(jnp.ones(4, bool)), IMAGE)),
    "no block": (ValueError, "must be at least 1", lambda: ml.pixel_shuffle(0)),
    "another lock's key": (TypeError, "stream_lock: the key must be a StreamKey, not a DeepLockKey",
                           lambda: ml.stream_lock().decrypt(DEEP, TREE)),
    "a bare array": (TypeError, "must be a DeepLockKey",
                     lambda: ml.deep_lock().decrypt(jnp.zeros(4), TREE)),
    "other settings": (ValueError, r"`master` has shape \[4\], not \[8\]",
                       lambda: ml.deep_lock(256).decrypt(DEEP, TREE)),
    "another dtype": (TypeError, "`master` has dtype float32, not uint32",
                      lambda: ml.deep_lock().decrypt(ml.DeepLockKey(jnp.zeros(4)), TREE)),
    "chain, too few": (TypeError, "tuple of 2 keys, one per lock in order, not a tuple of 1",
                       lambda: ml.chain(ml.deep_lock(), ml.deep_lock()).decrypt((DEEP,), TREE)),
    "chain, one key": (TypeError, "tuple of 1 keys",
                       lambda: ml.chain(ml.deep_lock()).decrypt(DEEP, TREE)),
    "chain of nothing": (ValueError, "at least one lock", lambda: ml.chain()),
    "only nothing": (ValueError, "no leaf's path satisfies `where`; the paths begin bias, kernel",
                     lambda: ml.only(ml.deep_lock(), lambda path: False).init(RNG, TREE)),
    "no loss": (ValueError, "needs the owner's loss",
                lambda: ON_LEAVES["adv_params"].encrypt(ON_LEAVES["adv_params"].init(RNG, TREE), TREE)),
    "loss not finite": (ValueError, "the loss of the parameters is nan",
                        lambda: ON_LEAVES["adv_params"].encrypt(
                            ON_LEAVES["adv_params"].init(RNG, TREE), TREE,
                            lambda p: p["kernel"].sum() * jnp.nan)),
    "no layers": (ValueError, "no leaf is a layer",
                  lambda: ON_LEAVES["adv_params"].init(RNG, {"bias": jnp.ones(3)})),
    "another model's key": (ValueError, "points at entry 99 of leaf 1",
                            lambda: ON_LEAVES["adv_params"].decrypt(
                                ml.AdvParamsKey(jnp.zeros(8, jnp.uint32), jnp.array([1, -1]),
                                                jnp.array([99, -1]), jnp.zeros(2, jnp.uint32)), TREE)),
    "adv settings": (ValueError, "count=0", lambda: ml.adv_params(count=0)),
    "no kernel": (ValueError, "no leaf is named `kernel`",
                  lambda: ml.sign_flip().init(RNG, {"w": jnp.ones((2, 2))})),
    "no embedding": (ValueError, "but no leaf fits",
                     lambda: ml.patch_shuffle(3, 1).init(RNG, TREE)),
    "two embeddings": (ValueError, "2 leaves fit: a/kernel, b/kernel",
                       lambda: ON_LEAVES["patch_shuffle"].init(RNG, {"a": TREE, "b": TREE})),
    "key bits": (ValueError, "must be 128 or 256, not 192", lambda: ml.deep_lock(192)),
    "packing": (ValueError, 'must be "byte" or "word"', lambda: ml.deep_lock(packing="bit")),
    "restart": (ValueError, 'must be "never" or "leaf"', lambda: ml.deep_lock(restart="block")),
    "per": (ValueError, 'must be "channel" or "unit"', lambda: ml.sign_mask(per="layer")),
    "no bits": (ValueError, "bits must be at least 1", lambda: ml.sign_flip(0)),
    "no data": (ValueError, "not 0 inputs",
                lambda: train.fit(lambda p, x: x, {}, jnp.ones((0, 2)), jnp.ones(0), rng=RNG)),
    "depth": (ValueError, "depth must be 6n \\+ 2", lambda: models.resnet(10, depth=18)),
    "width": (ValueError, "multiple of 8", lambda: models.resnet(10, width=12)),
    "norm": (ValueError, 'must be "group" or "batch"', lambda: models.resnet(10, norm="layer")),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "message", "call"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_one_clear_sentence(kind, message, call):
    refuses(kind, message, call)


@pytest.mark.parametrize("lock", ON_LEAVES.values(), ids=ON_LEAVES.keys())
def test_an_empty_tree_is_refused(lock):
    for empty in ({}, [], {"a": {}}):
        refuses(
            ValueError, "empty pytree: there is nothing to lock", lambda e=empty: lock.init(RNG, e)
        )


LEAVES = {
    "bool": np.ones((4, 4), bool),
    "int4": np.ones((4, 4), jnp.int4),
    "complex64": np.ones((4, 4), np.complex64),
    "key<fry>": jax.random.wrap_key_data(np.zeros((4, 4, 2), np.uint32)),
    "float64": np.ones((4, 4)),
    "int64": np.ones((4, 4), np.int64),
    "float, not an array": 1.0,
}


@pytest.mark.parametrize("lock", ON_LEAVES.values(), ids=ON_LEAVES.keys())
@pytest.mark.parametrize("dtype", LEAVES)
def test_a_leaf_of_unsupported_dtype_is_named(lock, dtype):
    tree = {**TREE, "odd": LEAVES[dtype]}
    refuses(TypeError, f"the leaf `odd` .*{re.escape(dtype)}", lambda: lock.init(RNG, tree))


def test_a_compiled_program_says_the_same():
    with pytest.raises(TypeError, match="must be a StreamKey"):
        jax.jit(ml.stream_lock().decrypt)(DEEP, make_params())
    with pytest.raises(ValueError, match="block 4 does not divide"):
        jax.jit(ml.pixel_shuffle(4).scramble)(ml.PixelKey(jnp.arange(48)), IMAGE)
