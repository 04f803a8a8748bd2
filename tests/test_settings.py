"""JAX's settings, and input that no study may be made of: right, or refused in one sentence."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.table import CASES, forward, images, make_params, random_bits, same_bits

import modellock_jax as ml
from modellock_jax import attacks
from modellock_jax import attacks as evasion
from modellock_jax.attacks.keys.key_search import Answers
from modellock_jax.core.shards import as_on_tpus
from modellock_jax.locks.adv_params import target_leaves

RNG = jax.random.key(3)
X = np.random.default_rng(3).random((5, 4, 4, 1), np.float32)
Y = np.arange(5, dtype=np.int32) % 3
# Other settings of deep_lock: what it adds to the lock above is in the laws, quick.
LONG = "deep_lock-256-leaf"
LONG_KEY = pytest.param(LONG, marks=pytest.mark.slow)
ON_BITS = ["deep_lock", LONG_KEY, "stream_lock", "sign_flip", "patch_shuffle", "only"]
# The words of ChaCha20 one operation at a time; deep_lock is the quick cipher of this kind.
EAGER = [pytest.param(n, marks=pytest.mark.slow) if n == "stream_lock" else n for n in ON_BITS]


def here_and_on_tpus(*names):
    """Run a test with these as `name`, the TPUs' way or not: of that, the first is quick."""
    pairs = list(itertools.product(names, (False, True)))
    rare = [pair for pair in pairs if (pair[1] and pair[0] != names[0]) or pair[0] == LONG]
    marked = [pytest.param(*p, marks=pytest.mark.slow) if p in rare else p for p in pairs]
    return pytest.mark.parametrize(("name", "tpu"), marked)


# `only` hands on to the lock it is given, here and below.
@pytest.mark.parametrize("name", [*EAGER[:-1], "pixel_shuffle", "sign_mask", "ffx"])
def test_without_jit(name):
    # One small leaf: each operation is a call of its own.
    kernel = make_params()["dense" if name == "patch_shuffle" else "head"]["kernel"]
    lock, params, x = CASES[name].lock, {"kernel": kernel}, images()
    key = lock.init(RNG, params)
    with jax.disable_jit():
        locked, finished = lock.encrypt(key, params)
        assert same_bits(lock.decrypt(finished, locked), params)
        assert same_bits(lock.scramble(key, x), jax.jit(lock.scramble)(key, x))
    assert same_bits(jax.jit(lock.encrypt)(key, params), (locked, finished))


@pytest.mark.parametrize("name", ON_BITS)
@pytest.mark.parametrize("setting", [jax.debug_nans, jax.debug_infs])
def test_a_ciphertext_may_hold_nan_where_jax_searches_for_it(name, setting):
    lock, params = CASES[name].lock, {"dense": {"kernel": jnp.ones((16, 400))}}
    key = lock.init(RNG, params)
    with setting(True):
        locked, key = lock.encrypt(key, params)
        assert same_bits(lock.decrypt(key, locked), params)
        assert same_bits(jax.jit(lock.decrypt)(key, locked), params)
        with pytest.raises(FloatingPointError):  # it goes on for all else
            (1.0 if setting is jax.debug_infs else 0.0) / jnp.zeros(2)


SEARCHES = {
    "linear_flips": lambda lock: attacks.linear_flips(lock, forward, restarts=2, iterations=3),
    "coordinate_flips": lambda lock: attacks.coordinate_flips(lock, forward),
    "genetic": lambda lock: attacks.genetic(lock, forward),
    "hill_climb": lambda _: attacks.hill_climb(SHUFFLE, forward),
    "anneal": lambda _: attacks.anneal(SHUFFLE, forward, 3),
}
SHUFFLE = ml.pixel_shuffle(4, channels=1)


@pytest.mark.parametrize("labels", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("search", SEARCHES)
def test_key_searches_with_64_bits(search, labels):
    params = make_params(dtypes=[])
    attack, y = SEARCHES[search](ml.sign_mask(4)), Y if labels else Answers(forward(params, X))
    with jax.enable_x64(True):
        step = jax.jit(attack.step)
        state, losses = step(jax.jit(attack.init)(RNG, params), (X, y))
        again, _ = step(state, (X, y))
    assert losses.dtype == jnp.float32
    chex.assert_trees_all_equal_shapes_and_dtypes(state, again)


@here_and_on_tpus("deep_lock", LONG, "stream_lock", "sign_flip", "patch_shuffle")
def test_locks_with_64_bits(name, tpu):
    lock, params = CASES[name].lock, {"dense": make_params(dtypes=[])["dense"]}
    with jax.enable_x64(True), as_on_tpus(tpu):
        params |= {"long": jnp.arange(7, dtype=jnp.int64)}
        key = lock.init(RNG, params)
        locked, key = jax.jit(lock.encrypt)(key, params)
        assert same_bits(jax.jit(lock.decrypt)(key, locked), params)


def classifier(x):
    return jnp.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3)), x[:, 0, 0, 0]], 1)


ATTACKS = {
    "fgsm": evasion.fgsm,
    "pgd": lambda f, x, y, eps: evasion.pgd(f, x, y, eps, steps=2),
    "apgd": lambda f, x, y, eps: evasion.apgd(f, x, y, eps, steps=2),
    "square": lambda f, x, y, eps: evasion.square(f, x, y, eps, RNG, queries=2),
    "transfer": lambda f, x, y, eps: evasion.transfer(f, x, y, jnp.clip(x, 0, 1)),
}


def first_is(value):
    """The images, and all of the first is one value."""
    return np.concatenate([np.full_like(X[:1], value), X[1:]])


FAULTS = {
    "range": ((2 * X - 1, Y, 0.1), ValueError, r"inputs must lie in \[0, 1\]"),
    "above": ((first_is(1.5), Y, 0.1), ValueError, r"inputs must lie in \[0, 1\]"),
    "nan": ((first_is(np.nan), Y, 0.1), ValueError, r"inputs must lie in \[0, 1\]"),
    "8 bits": (((255 * X).astype("uint8"), Y, 0.1), TypeError, "not uint8 and int32; divide 8-bit"),
    "no eps": ((X, Y, 0.0), ValueError, "eps must be above 0 and at most 1"),
    "eps below": ((X, Y, -0.1), ValueError, "eps must be above 0"),
    "eps above": ((X, Y, 8.0), ValueError, "at most 1"),
    "eps nan": ((X, Y, np.nan), ValueError, "at most 1"),
    "class": ((X, Y + 1, 0.1), ValueError, "labels must lie in 0 to 2"),
    "below": ((X, Y - 1, 0.1), ValueError, "labels must lie in 0 to 2"),
    "float labels": ((X, Y.astype("float32"), 0.1), TypeError, "labels integers"),
    "one-hot": ((X, np.eye(3, dtype=np.float32)[Y], 0.1), ValueError, r"labels \[B\]"),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("fault", FAULTS)
def test_evasion_refuses_what_would_overstate_robustness(attack, fault):
    (x, y, eps), kind, message = FAULTS[fault]
    if attack == "transfer" and "eps" in fault:
        return
    with pytest.raises(kind, match=message):
        ATTACKS[attack](classifier, x, y, eps)


@pytest.mark.parametrize("attack", ATTACKS)
def test_evasion_with_64_bits(attack):
    with jax.enable_x64(True):
        found = ATTACKS[attack](classifier, X, Y, 0.1)
    assert found.inputs.dtype == jnp.float32
    assert 0 <= found.share <= 1


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_compiled_evasion_gives_nan_for_it(attack):
    run = jax.jit(lambda x, y, eps: ATTACKS[attack](classifier, x, y, eps).share)
    assert 0 <= run(X, Y, 0.1) <= 1
    for x, y, eps in [(2 * X - 1, Y, 0.1), (X, Y + 1, 0.1), (X, Y, -0.1), (X, Y, 2.0)]:
        if attack != "transfer" or eps == 0.1:
            assert np.isnan(run(x, y, eps)), (attack, eps)


def test_adv_params_refuses_a_layer_with_more_weights_than_it_can_number():
    lock, many = ml.adv_params(4), jax.ShapeDtypeStruct((2**16, 2**15), jnp.float32)
    just = {
        "a": jax.ShapeDtypeStruct((2**31 - 1, 1), jnp.float32),
        "b": random_bits(RNG, (3,), "int8"),
    }
    assert target_leaves(just) == [0]
    key = lock.init(RNG, {"kernel": jnp.ones((4, 4))})
    for tree in ({"a": many}, {"a": just["a"], "c": many}):
        for call in (
            lambda tree: lock.init(RNG, tree),
            lambda tree: lock.decrypt(key, tree),
            lambda tree: lock.encrypt(key, tree, lambda p: p["a"].sum()),
        ):
            with pytest.raises(ValueError, match=r"weights, and at most 2\*\*31 - 1"):
                jax.eval_shape(call, tree)


@here_and_on_tpus("deep_lock", "sign_flip", "stream_lock")
def test_a_shard_map_over_models_is_a_loop_over_models(name, tpu):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    lock, params = CASES[name].lock, {"kernel": random_bits(RNG, (4, 48, 10), "float32")}
    keys = jax.vmap(lambda rng: lock.init(rng, {"kernel": jnp.ones((48, 10))}))(
        jax.random.split(RNG, 4)
    )

    def each(key, own):
        own, key = jax.tree.map(lambda leaf: leaf[0], (own, key))
        return jax.tree.map(lambda leaf: leaf[None], lock.decrypt(key, own))

    spread = jax.shard_map(each, mesh=mesh, in_specs=jax.P("x"), out_specs=jax.P("x"))
    with as_on_tpus(tpu):
        found = jax.device_get(jax.jit(spread)(keys, params))
    for i in range(4):
        key, own = jax.tree.map(lambda leaf, i=i: leaf[i], (keys, params))
        assert same_bits(jax.tree.map(lambda leaf, i=i: leaf[i], found), lock.decrypt(key, own))
