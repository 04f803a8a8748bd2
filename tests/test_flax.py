"""Other people's modules, Linen and NNX, unedited, against a hand-tapped twin."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers.table import same_bits

import modellock_jax as ml


class Linen(nn.Module):
    """Not ours: convolution, BatchNorm, attention, LayerNorm, a nested block, a head."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3), name="stem")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        x = x.reshape(x.shape[0], -1, 8)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attend")(x)
        x = nn.LayerNorm(name="layer_norm")(x)
        return nn.Dense(3, name="head")(nn.gelu(Block(name="block")(x)).mean(1))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, name="out")(nn.relu(nn.Dense(16, name="into")(x)))


class Nnx(nnx.Module):
    """The same in NNX, with a list of layers."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(num_heads=2, in_features=8, decode=False, rngs=rngs)
        self.layer_norm = nnx.LayerNorm(8, rngs=rngs)
        self.block = nnx.List([nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 8, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.stem(x))).reshape(x.shape[0], -1, 8)
        x = self.layer_norm(x + self.attend(x))
        x = self.block[1](nnx.relu(self.block[0](x)))
        return self.head(self.dropout(nnx.gelu(x).mean(1)))


LINEN = {
    "stem": "stem",
    "query": "attend/query",
    "key": "attend/key",
    "value": "attend/value",
    "attend_out": "attend/out",
    "into": "block/into",
    "out": "block/out",
    "head": "head",
}
NNX = {**LINEN, "into": "block/0", "out": "block/1"}


def twin(names, find, params, x, tap=ml.untapped):
    """The net once more, by hand in jnp, tapped at each linear layer. `find(path)` gives a leaf."""

    def leaf(path):
        return find(params, path)

    def linear(site, h, axes=1):
        kernel, bias = leaf(f"{names[site]}/kernel"), leaf(f"{names[site]}/bias")
        h = jax.lax.dot_general(
            h, kernel, ((tuple(range(h.ndim - axes, h.ndim)), tuple(range(axes))), ((), ()))
        )
        return tap(names[site], h + bias.reshape((1,) * (h.ndim - bias.ndim) + bias.shape))

    stem = jax.lax.conv_general_dilated(
        x, leaf("stem/kernel"), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    h = tap("stem", stem + leaf("stem/bias").reshape(1, 1, 1, 8))
    norm = {name: leaf(f"norm/{name}") for name in ("scale", "bias", "mean", "var")}
    h = nn.BatchNorm(use_running_average=True).apply(
        {
            "params": {"scale": norm["scale"], "bias": norm["bias"]},
            "batch_stats": {"mean": norm["mean"], "var": norm["var"]},
        },
        h,
    )
    h = jax.nn.relu(h).reshape(x.shape[0], -1, 8)
    q, k, v = (linear(site, h) for site in ("query", "key", "value"))
    h = h + linear("attend_out", nn.dot_product_attention(q, k, v), axes=2)
    norm = {name: leaf(f"layer_norm/{name}") for name in ("scale", "bias")}
    h = nn.LayerNorm().apply({"params": norm}, h)
    h = linear("out", jax.nn.relu(linear("into", h)))
    return linear("head", jax.nn.gelu(h).mean(1))


def find_linen(params, path):
    if path in ("norm/mean", "norm/var"):
        return params["batch_stats"]["norm"][path[5:]]
    return find_nnx(params["params"], path)


def find_nnx(params, path):
    for step in path.split("/"):
        params = params[int(step) if step.isdigit() else step]
    return params


@pytest.fixture(params=["linen", "nnx"])
def net(request):
    """(forward, training forward, parameters, hand-tapped twin) of a module that is not ours."""
    x = images(4)
    if request.param == "linen":
        module = Linen()
        forward = ml.from_linen(module)

        def train(params, x, tap=ml.untapped):
            return forward(params, x, tap, train=True, mutable=["batch_stats"])

        params = jax.jit(module.init)(jax.random.key(0), x)
        return forward, train, params, lambda *a: twin(LINEN, find_linen, *a)
    module = Nnx(nnx.Rngs(0))
    module.train()
    train = ml.from_nnx(module, mutable=True)
    params = ml.nnx_params(module)
    module.eval()
    return ml.from_nnx(module), train, params, lambda *a: twin(NNX, find_nnx, *a)


def images(n):
    return jax.random.uniform(jax.random.key(7), (n, 4, 4, 1))


LOCKS = {
    "sign_mask": ml.sign_mask(bits=16),
    "sign_mask-unit": ml.sign_mask(bits=16, per="unit"),
    "pixel_shuffle": ml.pixel_shuffle(4, channels=1),
    "both": ml.chain(ml.pixel_shuffle(4, channels=1), ml.sign_mask(bits=16)),
}


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS.keys())
def test_a_module_matches_its_hand_tapped_twin(net, lock):
    forward, _, params, by_hand = net
    key = lock.init(jax.random.key(1), params)
    mine = jax.jit(ml.owner_forward(lock, forward))(key, params, images(4))
    theirs = jax.jit(ml.owner_forward(lock, by_hand))(key, params, images(4))
    assert same_bits(mine, theirs)
    plain = jax.jit(forward)(params, images(4))
    assert float(jnp.abs(mine - plain).max()) > 1e-3


def test_every_site_is_seen_in_order_and_shape(net):
    forward, _, params, by_hand = net
    assert ml.sites(forward, params, images(4)) == ml.sites(by_hand, params, images(4))
    assert list(ml.sites(forward, params, images(4))) == list(ml.sites(by_hand, params, images(4)))


@pytest.mark.optax
@pytest.mark.parametrize("name", ["sign_mask", "pixel_shuffle"])
def test_a_module_trains_under_a_lock_in_an_ordinary_optax_loop(net, name):
    _, train, params, _ = net
    forward, lock = net[0], LOCKS[name]
    key = lock.init(jax.random.key(1), params)
    x, y = images(24), jnp.arange(24) % 3
    optimizer = optax.adam(2e-2)
    owner = ml.owner_forward(lock, train)

    def loss(params):
        logits, params = owner(key, params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), params

    @jax.jit
    def step(params, state):
        (value, params), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    before, state, values = params, jax.jit(optimizer.init)(params), []
    for _ in range(60):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < 0.6 * values[0]
    means = [p.get("batch_stats", p)["norm"]["mean"] for p in (before, params)]
    assert not same_bits(*means)  # statistics moved
    assert jax.tree.structure(params) == jax.tree.structure(before)
    # The user with the key computes what the owner trained; without it the net is another one.
    mine = jax.jit(ml.owner_forward(lock, forward))(key, params, x)
    assert same_bits(jax.jit(ml.user_forward(lock, forward))(key, params, x), mine)
    assert not same_bits(jax.jit(forward)(params, x), mine)


def test_sign_flip_is_the_exact_twin_of_sign_mask(net):
    forward, _, params, _ = net
    key = ml.sign_mask(bits=16).init(jax.random.key(1), params)
    locked, _ = ml.sign_flip(bits=16).encrypt(key, params)
    masked = jax.jit(ml.owner_forward(ml.sign_mask(bits=16), forward))(key, params, images(4))
    np.testing.assert_array_equal(jax.jit(forward)(locked, images(4)), masked)
    assert not same_bits(forward(params, images(4)), masked)


def test_the_module_is_not_edited():
    module = Nnx(nnx.Rngs(0))
    module.eval()
    before = module(images(4)), type(module.head), ml.nnx_params(module)
    seen = []
    forward = ml.from_nnx(module)
    forward(ml.nnx_params(module), images(4), lambda site, h: seen.append(site) or h * 0.0)
    assert len(seen) == 8
    assert type(module.head) is before[1]
    assert same_bits(module(images(4)), before[0])
    assert same_bits(ml.nnx_params(module), before[2])
    changed = jax.tree.map(lambda a: a * 0.0, ml.nnx_params(module))
    assert not same_bits(forward(changed, images(4)), before[0])  # it is the argument that counts


def test_dropout_of_an_nnx_module_follows_its_rng():
    module = Nnx(nnx.Rngs(0))
    module.train()
    forward = jax.jit(ml.from_nnx(module))
    params, x = ml.nnx_params(module), images(4)

    def draw(seed):
        return forward(params, x, rng=jax.random.key(seed))

    assert same_bits(draw(1), draw(1))
    assert not same_bits(draw(1), draw(2))


def test_a_shuffled_patch_embedding_opens_with_shuffled_images():
    """The other way to open patch_shuffle: locked weights, the key on the inputs."""

    class Patches(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(6, (2, 2), strides=2, name="embed")(x)
            x = x.reshape(x.shape[0], -1, 6)
            return nn.Dense(3)(nn.MultiHeadDotProductAttention(num_heads=2)(x).mean(1))

    forward = ml.from_linen(Patches())
    params = jax.jit(Patches().init)(jax.random.key(0), images(4))
    lock, inputs = ml.patch_shuffle(2, channels=1), ml.pixel_shuffle(2, channels=1)
    locked, key = lock.encrypt(lock.init(jax.random.key(2), params), params)
    plain, scrambled = forward(params, images(4)), inputs.scramble(key, images(4))
    np.testing.assert_allclose(forward(locked, scrambled), plain, rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(forward(locked, images(4)) - plain).max()) > 1e-3
    # Whole numbers sum exactly in any order: then the two are equal to the last bit.
    whole = jnp.round(images(4) * 255)
    kernel = jax.tree.map(lambda a: jnp.round(a * 8), params)["params"]["embed"]
    embed = ml.from_linen(nn.Conv(6, (2, 2), strides=2))
    locked, _ = lock.encrypt(key, {"params": kernel})
    np.testing.assert_array_equal(
        embed(locked, inputs.scramble(key, whole)), embed({"params": kernel}, whole)
    )
