"""A million values of every dtype, all bit patterns among them, come back bit for bit; ten, if slow."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.table import DTYPES, LOCKS, each
from helpers.values import SPECIAL, bits, row, same, tree, values

import modellock_jax as ml
from modellock_jax.core.bits import stack
from modellock_jax.core.paths import paths

BIG, SMALL = {1: (2500, 400), 10: (2500, 4000)}, (300, 250)
LAYER = {"kernel": np.linspace(-1.0, 2.0, 64, dtype=np.float32).reshape(8, 8)}
FLOATS = [dtype for dtype in DTYPES if "float" in dtype]

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_bit_lock = each(["deep_lock", "deep_lock-256", "deep_lock-leaf", "stream_lock", "sign_flip"])


@pytest.fixture(scope="module", params=[1, pytest.param(10, marks=pytest.mark.slow)])
def big(request: pytest.FixtureRequest) -> dict[str, Any]:
    return tree(BIG[request.param])


def draw(lock: ml.Lock, params: Any, n: int = 3) -> Any:
    keys = jax.random.split(jax.random.key(1), n)
    return jax.jit(jax.vmap(lambda rng: lock.init(rng, params)))(keys)


def check_changed(name: str, locked: Any, plain: Any) -> None:
    for dtype, leaf in plain.items():
        share = (bits(locked[dtype]["kernel"]) != bits(leaf["kernel"])).mean()
        assert share > (0.2 if name == "sign_flip" else 0.99), dtype


def test_the_values_are_all_there_are(big: dict[str, Any]) -> None:
    for dtype in DTYPES:
        leaf = big[dtype]["kernel"]
        assert leaf.size in (10**6, 10**7)
        if leaf.dtype.itemsize == 4:
            assert set(bits(leaf)[0].tolist()) >= set(SPECIAL)
        else:
            assert np.unique(bits(leaf)).size == 256**leaf.dtype.itemsize


@every_bit_lock
def test_millions_of_values_come_back(name: str, big: dict[str, Any]) -> None:
    lock = LOCKS[name]
    locked, key = jax.jit(lock.encrypt)(lock.init(jax.random.key(1), big), big)
    check_changed(name, locked, big)
    assert same(jax.jit(lock.decrypt)(key, locked), big)


@every_bit_lock
def test_values_come_back_under_vmap(name: str) -> None:
    lock, small = LOCKS[name], tree(SMALL, ["float32", "bfloat16", "float8_e5m2", "int8"])
    locked, keys = jax.jit(jax.vmap(lock.encrypt, (0, None)))(draw(lock, small), small)
    opened = jax.jit(jax.vmap(lock.decrypt))(keys, locked)
    assert not same(row(locked, 0), row(locked, 1))
    for i in range(3):
        check_changed(name, row(locked, i), small)
        assert same(row(opened, i), small)


@every_dtype
def test_patch_shuffle_moves_millions_of_values(dtype: str, big: dict[str, Any]) -> None:
    lock, plain = ml.patch_shuffle(50, channels=1), big[dtype]
    locked, key = jax.jit(lock.encrypt)(lock.init(jax.random.key(1), plain), plain)
    moved = bits(plain["kernel"])[np.asarray(key.permutation)]
    assert np.array_equal(bits(locked["kernel"]), moved)
    assert not same(locked, plain)
    assert same(jax.jit(lock.decrypt)(key, locked), plain)


def test_patch_shuffle_under_vmap() -> None:
    """One program that locks a tree of each dtype with the same three keys."""
    lock, plain = ml.patch_shuffle(10, channels=3), tree(SMALL)
    keys = draw(lock, plain["float32"])

    def each(function: Any, key: Any, trees: Any) -> Any:
        return {dtype: function(key, one) for dtype, one in trees.items()}

    encrypt = jax.vmap(
        lambda k, trees: each(lambda k, p: lock.encrypt(k, p)[0], k, trees), (0, None)
    )
    locked = jax.jit(encrypt)(keys, plain)
    opened = jax.jit(jax.vmap(lambda k, trees: each(lock.decrypt, k, trees)))(keys, locked)
    for i in range(3):
        order = np.asarray(keys.permutation)[i]
        for dtype in DTYPES:
            moved = bits(plain[dtype]["kernel"])[order]
            assert np.array_equal(bits(locked[dtype]["kernel"])[i], moved), dtype
            assert not np.array_equal(moved, bits(plain[dtype]["kernel"])), dtype
        assert same(row(opened, i), plain)


def loss(params: Any) -> jax.Array:
    return (params["layer"]["kernel"] ** 2).sum()


@pytest.mark.parametrize(
    "dtypes",
    [("float32", "int8"), ("float16", "float8_e4m3fn", "int32"), ("bfloat16", "float8_e5m2")],
    ids="-".join,
)
def test_adv_params_beside_millions_of_values(dtypes: tuple[str, ...], big: dict[str, Any]) -> None:
    lock = ml.adv_params(count=2, pool=1.0)
    params = {"layer": LAYER, **{dtype: big[dtype] for dtype in dtypes}}
    encrypt = jax.jit(lambda key, params: lock.encrypt(key, params, loss))
    locked, key = encrypt(lock.init(jax.random.key(1), params), params)
    assert 1 <= (bits(locked["layer"]["kernel"]) != bits(LAYER["kernel"])).sum() <= 2
    for dtype in dtypes:
        assert same(locked[dtype], params[dtype]), dtype
    assert same(jax.jit(lock.decrypt)(key, locked), params)


def true_bits(leaf: jax.Array, number: int, seed: int, count: int) -> ml.AdvParamsKey:
    """A finished key: the true bits of `count` entries of a leaf, the first and last among them."""
    inner = np.random.default_rng(seed).choice(leaf.size - 2, count - 2, replace=False) + 1
    places = np.concatenate([[0, leaf.size - 1], inner]).astype(np.int32)
    return ml.AdvParamsKey(
        jnp.zeros(8, jnp.uint32),
        jnp.full(count, number, jnp.int32),
        jnp.asarray(places),
        jnp.asarray(bits(leaf).ravel()[places].astype(np.uint32)),
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_adv_params_restores_entries_among_millions(dtype: str, big: dict[str, Any]) -> None:
    params = {"big": big[dtype]["kernel"], "layer": LAYER}
    key = true_bits(params["big"], 0, seed=2, count=1000)
    decrypt = jax.jit(ml.adv_params(count=1000).decrypt)
    changed = decrypt(key._replace(bits=~key.bits), params)
    expected = bits(params["big"]).ravel().copy()
    expected[np.asarray(key.position)] ^= np.array(-1).astype(expected.dtype)
    assert np.array_equal(bits(changed["big"]).ravel(), expected)
    assert same(changed["layer"], params["layer"])
    assert same(decrypt(key, changed), params)


def test_adv_params_searches_under_vmap() -> None:
    lock = ml.adv_params(count=9, pool=1.0)  # each turn opens the layer or not, at random
    params = {"layer": LAYER, **{d: values(d, SMALL) for d in ("bfloat16", "float8_e5m2", "int8")}}
    encrypt = jax.jit(jax.vmap(lambda k, p: lock.encrypt(k, p, loss), (0, None)))
    locked, keys = encrypt(draw(lock, params), params)
    opened = jax.jit(jax.vmap(lock.decrypt))(keys, locked)
    for i in range(3):
        assert not same(row(locked, i), params)
        assert same(row(opened, i), params)


def test_adv_params_restores_entries_under_vmap() -> None:
    params = tree(SMALL)
    names = [path.split("/")[0] for path in jax.tree.leaves(paths(params))]
    keys = stack([true_bits(params[d]["kernel"], names.index(d), 2, count=9) for d in FLOATS])
    decrypt = jax.jit(jax.vmap(ml.adv_params(count=9).decrypt))
    changed = decrypt(keys._replace(bits=~keys.bits), stack([params] * len(FLOATS)))
    opened = decrypt(keys, changed)
    for i, dtype in enumerate(FLOATS):
        wrong = {
            d: (bits(row(changed, i)[d]["kernel"]) != bits(params[d]["kernel"])).sum()
            for d in DTYPES
        }
        assert wrong == {d: 9 if d == dtype else 0 for d in DTYPES}
        assert same(row(opened, i), params)
