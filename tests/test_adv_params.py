"""The search of adv_params against a dense one, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.table import random_bits, same_bits

import modellock_jax as ml
from modellock_jax.ciphers import chacha
from modellock_jax.core.bits import to_uint
from modellock_jax.locks.adv_params import target_leaves

SETTINGS = {"count": 12, "step": 1.0, "margin": 0.01, "budget": 1, "pool": 0.5, "stop": np.inf}
X = np.random.default_rng(9).normal(size=(16, 20)).astype(np.float32)
Y = np.arange(16) % 7
SHAPES = {
    "a": ((20, 30), "float32"), "b": ((30, 7), "float32"), "c": ((3, 3, 10, 5), "bfloat16"),
    "d": ((15, 30), "float16"), "e": ((15, 30), "float8_e4m3fn"),
}  # fmt: skip


def make(seed=0):
    rngs = jax.random.split(jax.random.key(seed), len(SHAPES))
    tree = {
        name: jax.random.normal(rng, shape).astype(dtype)
        for rng, (name, (shape, dtype)) in zip(rngs, SHAPES.items())
    }
    return tree | {"bias": jnp.zeros(30), "nan": random_bits(rngs[0], (5, 3), "bfloat16")}


def loss(params):
    wide = {name: leaf.astype(jnp.float32) for name, leaf in params.items()}
    h = jnp.tanh(X @ wide["a"] + wide["bias"][None])
    for name in "cde":
        h += 0.3 * jnp.tanh(wide[name].reshape(15, 30)).sum(0)[None]
    return -jax.nn.log_softmax(h @ wide["b"])[jnp.arange(16), Y].mean()


def dense(seed, params, loss, count, step, margin, budget, pool, stop):
    """The same search on one vector of all weights: (locked, leaf, position, bits)."""
    leaves, tree = jax.tree.flatten(params)
    layers = target_leaves(params)
    ends = np.cumsum([leaves[i].size for i in layers])

    def with_flat(flat):
        new = list(leaves)
        for i, piece in zip(layers, jnp.split(flat, ends[:-1])):
            new[i] = piece.reshape(leaves[i].shape).astype(leaves[i].dtype)
        return jax.tree.unflatten(tree, new)

    def each(f):
        values = [leaves[i].astype(jnp.float32) for i in layers]
        return jnp.concatenate([jnp.broadcast_to(f(v), v.shape).ravel() for v in values])

    def draw(stream, n):
        counters = jnp.arange(-(-n // 16), dtype=jnp.uint32)
        return chacha.blocks(seed, jnp.array([stream, 0, 0], jnp.uint32), counters).ravel()[:n]

    flat, low, high = each(lambda v: v), each(jnp.min), each(jnp.max)
    layer = jnp.concatenate([jnp.full(leaves[i].size, n) for n, i in enumerate(layers)])
    in_pool = draw(0, flat.size) < jnp.uint32(min(int(pool * 2**32), 2**32 - 1))
    draws = draw(1, count * len(layers)).reshape(count, len(layers))
    is_open = draws <= jnp.maximum(jnp.uint32(2**31), draws.min(1, keepdims=True))
    inset = margin * (high - low)

    def iterate(state):
        flat, uses, picks, t, _ = state
        gradient = jax.grad(lambda flat: loss(with_flat(flat)))(flat)
        moved = flat + step * (high - low) * jnp.sign(gradient)
        moved = jnp.clip(moved, low + inset, high - inset)
        gain = gradient * (moved - flat)
        free = in_pool & is_open[t][layer] & (uses < budget) & (flat > low) & (flat < high)
        free &= gain > 0
        pick = jnp.argmax(jnp.where(free, gain, -1.0)).astype(jnp.int32)
        picks = picks.at[t].set(jnp.where(free[pick] & (uses[pick] == 0), pick, -1))
        flat = flat.at[pick].set(jnp.where(free[pick], moved[pick], flat[pick]))
        uses = uses.at[pick].add(free[pick].astype(jnp.int32))
        return flat, uses, picks, t + 1, loss(with_flat(flat))

    state = flat, jnp.zeros(flat.size, jnp.int32), jnp.full(count, -1), jnp.int32(0), loss(params)
    flat, _, picks, *_ = jax.lax.while_loop(
        lambda s: (s[3] < count) & (s[4] <= stop), iterate, state
    )
    return flat, picks


def check(params, loss, seed=3, **settings):
    """The number of weights that both searches change, after a comparison of every bit."""
    settings = SETTINGS | settings
    lock = ml.adv_params(**settings)
    key = lock.init(jax.random.key(seed), params)
    locked, finished = jax.jit(lambda k, p: lock.encrypt(k, p, loss))(key, params)
    flat, picks = jax.jit(lambda k, p: dense(k, p, loss, **settings))(key.seed, params)
    finished, picks, flat = jax.device_get((finished, picks, flat))
    right = [np.array(to_uint(leaf)) for leaf in jax.tree.leaves(params)]
    layers, dtypes = target_leaves(params), [leaf.dtype for leaf in jax.tree.leaves(params)]
    ends = np.cumsum([right[i].size for i in layers])
    for t, pick in enumerate(picks):
        if pick < 0:
            assert finished.leaf[t] == finished.position[t] == -1
            continue
        i = layers[n := int(np.searchsorted(ends, pick, side="right"))]
        at = int(pick - ends[n] + right[i].size)
        assert (finished.leaf[t], finished.position[t]) == (i, at), t
        assert int(finished.bits[t]) == int(right[i].ravel()[at])
        right[i].ravel()[at] = np.asarray(to_uint(jnp.asarray(flat[pick]).astype(dtypes[i])))
    for new, old in zip(jax.tree.leaves(locked), right):
        assert np.array_equal(np.asarray(to_uint(new)), old)
    assert same_bits(lock.decrypt(finished, locked), params)
    return int((picks >= 0).sum())


@pytest.mark.parametrize(
    ("settings", "is_full"),
    [
        ({}, True),
        ({"budget": 3, "step": 0.1, "count": 20, "pool": 0.02}, False),
        pytest.param(
            {"margin": 0.0, "budget": 2, "pool": 1.0, "stop": 30.0}, False, marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_it_finds_what_a_dense_search_finds(settings, is_full):
    found = check(make(), loss, **settings)
    assert found == SETTINGS["count"] if is_full else 1 <= found < (SETTINGS | settings)["count"]


def test_among_equals_the_first_is_changed():
    few = jax.random.randint(jax.random.key(0), (2, 12, 10), -2, 3).astype(jnp.float32)
    params = {"a": few[0], "b": few[1].astype("bfloat16")}

    # Every weight within its layer's bounds has the same gain, in both layers.
    def total(p):
        return p["a"].sum() + p["b"].astype(jnp.float32).sum()

    assert check(params, total, step=0.1, pool=0.9) == 12


def test_nothing_changes_where_nothing_gains():
    params = {"a": jnp.arange(12.0).reshape(3, 4)}
    assert check(params, lambda p: 0.0 * p["a"].sum()) == 0
    # Compiled it cannot be seen; else it is an error, since nothing would be locked.
    lock = ml.adv_params(count=2)
    with pytest.raises(ValueError, match="no weight of the key's pool can be moved"):
        lock.encrypt(lock.init(jax.random.key(0), params), params, lambda p: 0.0 * p["a"].sum())


OTHER_DTYPES = [pytest.param(dtype, marks=pytest.mark.slow) for dtype in ("float32", "float16")]


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e5m2", *OTHER_DTYPES])
def test_a_layer_that_it_does_not_touch_keeps_every_bit(dtype):
    """The search carries layers through a loop, where XLA may quiet NaNs."""
    params = make() | {"any": random_bits(jax.random.key(5), (64, 32), dtype)}
    assert jnp.isnan(params["any"]).any()
    lock = ml.adv_params(count=4)
    locked, _ = jax.jit(lambda k, p: lock.encrypt(k, p, loss))(
        lock.init(jax.random.key(1), params), params
    )
    assert same_bits(locked["any"], params["any"])
    assert not same_bits(locked, params)
