"""Which layers of other people's modules are sites, under Flax's transforms and in layers by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.table import same_bits

import modellock_jax as ml
from modellock_jax.core.paths import paths

MASK = ml.sign_mask(bits=4)
KEYS = [
    ml.SignKey(jax.device_put(np.array(signs, np.int8)))
    for signs in ([1, -1, -1, 1], [-1, 1, -1, -1])
]
X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
RNG = jax.random.key(0)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.tanh(nn.Dense(4, name="d")(x))


class JitMethod(nn.Module):
    @nn.jit
    @nn.compact
    def __call__(self, x):
        return nn.tanh(nn.Dense(4, name="d")(x))


class Step(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(4, name="d")(x)), None


class Net(nn.Module):
    """One layer type twice, of which the first may meet the other's trace, and a head."""

    block: type

    @nn.compact
    def __call__(self, x):
        for name in "ab":
            x = self.block(name=name)(x)
            x = x[0] if isinstance(x, tuple) else x
        return nn.Dense(4, name="head")(x)


def stacked(step):
    def scanned(name):
        lifted = nn.scan(step, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return lambda x: lifted(name=name)(x, None)

    return scanned


JITTED, JITTED_STEP = nn.jit(Block), nn.jit(Step)
LIFTED = {
    "jit": (JITTED, Block),
    "jit of a method": (JitMethod, Block),
    "jit in scan": (stacked(JITTED_STEP), stacked(Step)),
}


def as_nnx(call):
    class Of(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.a, self.b = (nnx.Linear(4, 4, rngs=rngs) for _ in range(2))
            self.head = nnx.Linear(4, 4, rngs=rngs)

        def __call__(self, x):
            return self.head(call(self.b, call(self.a, x)))

    return ml.from_nnx(Of()), ml.nnx_params(Of())


def of_nnx(layer, x):
    return nnx.tanh(layer(x))


@pytest.fixture(params=[*LIFTED, "nnx.jit"])
def pair(request):
    """(forward of a lifted module, parameters, forward of the same without)."""
    if request.param == "nnx.jit":
        return *as_nnx(nnx.jit(of_nnx)), as_nnx(of_nnx)[0]
    lifted, plain = LIFTED[request.param]
    return ml.from_linen(Net(lifted)), Net(plain).init(RNG, X), ml.from_linen(Net(plain))


def close(a, b):
    return jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-5), a, b))


def test_no_key_meets_the_mask_of_another(pair):
    lifted, params, plain = pair
    mine, theirs = (ml.owner_forward(MASK, forward) for forward in (lifted, plain))
    wanted = [jax.jit(theirs)(key, params, X) for key in KEYS]
    assert not close(*wanted)
    unmasked = jax.jit(plain)(params, X)
    for way in (lambda f: f, lambda f: jax.jit(lambda *a: f(*a))):
        assert close(way(lifted)(params, X), unmasked)
        for key, want in zip(KEYS, wanted):
            assert close(way(mine)(key, params, X), want)
        assert close(way(lifted)(params, X), unmasked)
    many = jax.tree.map(lambda *a: jnp.stack(a), *KEYS)
    assert close(jax.vmap(mine, (0, None, None))(many, params, X), jnp.stack(wanted))
    slopes = [
        jax.grad(lambda p, f=f: (jax.jit(f)(KEYS[1], p, X) ** 2).sum())(params)
        for f in (mine, theirs)
    ]
    assert close(*slopes)
    # Sites have names of their own, also where two modules could share a trace.
    found = ml.sites(lifted, params, X)
    assert found == ml.sites(plain, params, X)
    second = ml.only(MASK, lambda site: site.startswith("b"))
    assert close(*(ml.owner_forward(second, f)(KEYS[0], params, X) for f in (lifted, plain)))


def test_a_module_applied_inside_of_another_is_refused_with_any_trace_made_before():
    inner = Block()
    run = jax.jit(lambda params, x: inner.apply({"params": params}, x))

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            params = self.param("inner", lambda rng: inner.init(rng, x)["params"])
            return nn.Dense(4)(run(params, x))

    forward, params = ml.from_linen(Outer()), Outer().init(RNG, X)
    assert forward(params, X).shape == (2, 4)
    for _ in range(2):
        with pytest.raises(ValueError, match="the layer `d` lies in another module's `apply`"):
            ml.owner_forward(MASK, forward)(KEYS[0], params, X)


class Mine(nn.Module):
    """A dense layer by hand, with an adapter beside it that is no site."""

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], 4))
        return x @ kernel + nn.Dense(4, name="adapter")(nn.Dense(2, name="down")(x))


class MineToo(nnx.Module):
    def __init__(self, rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (4, 4)))

    def __call__(self, x):
        return x @ self.w


class Two(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.lora = nnx.LoRALinear(
            4, 4, lora_rank=2, b_initializer=nnx.initializers.ones, rngs=rngs
        )
        base = nnx.Linear(4, 4, rngs=rngs)
        self.over = nnx.LoRA(4, 2, 4, base_module=base, rngs=rngs)
        self.mine = MineToo(rngs)

    def __call__(self, x):
        return self.mine(jnp.tanh(self.over(jnp.tanh(self.lora(x)))))


def test_layers_by_hand_are_sites_once_named_and_what_lies_in_them_is_none():
    net = nn.Sequential([Mine(), nn.tanh, nn.Dense(4)])
    params = net.init(RNG, X)
    assert list(ml.sites(ml.from_linen(net), params, X)) == [
        "layers_0/down", "layers_0/adapter", "layers_2",
    ]  # fmt: skip
    forward = ml.from_linen(net, layer_types=(Mine,))
    assert ml.sites(forward, params, X) == {"layers_0": (2, 4), "layers_2": (2, 4)}
    signs, p = KEYS[0].signs.astype(jnp.float32)[None], params["params"]
    h = nn.tanh(Mine().apply({"params": p["layers_0"]}, X) * signs)
    want = nn.Dense(4).apply({"params": p["layers_2"]}, h) * signs
    assert close(ml.owner_forward(MASK, forward)(KEYS[0], params, X), want)


def test_loras_of_nnx_are_sites_as_a_whole():
    net = Two()
    params = ml.nnx_params(net)
    assert list(ml.sites(ml.from_nnx(net), params, X)) == ["lora", "over"]
    forward = ml.from_nnx(net, layer_types=(MineToo,))
    assert list(ml.sites(forward, params, X)) == ["lora", "over", "mine"]
    signs = KEYS[0].signs.astype(jnp.float32)[None]
    h = jnp.tanh(net.over(jnp.tanh(net.lora(X) * signs)) * signs)
    masked = ml.owner_forward(MASK, forward)(KEYS[0], params, X)
    assert close(masked, net.mine(h) * signs)
    # Its twin, for weights that are trained already.
    locked, _ = ml.sign_flip(4).encrypt(KEYS[0], params)
    twin = ml.owner_forward(ml.only(MASK, lambda site: site != "mine"), forward)
    assert close(forward(locked, X), twin(KEYS[0], params, X))


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x), x


WRONG = {
    "no tuple": (TypeError, "must be a tuple of module types", lambda: ml.from_linen(Block(), nn.Dense)),
    "no type": (TypeError, "must be a tuple", lambda: ml.from_nnx(Two(), layer_types=(Two(),))),
    "another's": (TypeError, "must be a tuple", lambda: ml.from_linen(Block(), (nnx.Linear,))),
    "not there": (ValueError, "has no Conv", lambda: ml.from_nnx(Two(), layer_types=(nnx.Conv,))),
    "not called": (
        ValueError, "calls no Mine",
        lambda: ml.sites(ml.from_linen(Block(), (Mine,)), Block().init(RNG, X), X),
    ),
    "two outputs": (
        TypeError, "the layer `layers_0` returns a tuple, not one array; take Pair out of",
        lambda: ml.sites(
            ml.from_linen(nn.Sequential([Pair()]), (Pair,)), nn.Sequential([Pair()]).init(RNG, X), X
        ),
    ),
    "fewer leaves": (
        ValueError, "they lack mine/w, and have nothing that it has not",
        lambda: ml.from_nnx(Two())({k: v for k, v in ml.nnx_params(Two()).items() if k != "mine"}, X),
    ),
    "others": (
        ValueError, "they lack nothing, and have extra/k that",
        lambda: ml.from_nnx(Two())(ml.nnx_params(Two()) | {"extra": {"k": X}}, X),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "message", "call"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_fit_is_refused(kind, message, call):
    with pytest.raises(kind, match=message):
        call()


def test_a_forward_of_nnx_follows_train_and_eval():
    net = nnx.Sequential(
        nnx.Linear(4, 4, rngs=nnx.Rngs(0)),
        nnx.BatchNorm(4, rngs=nnx.Rngs(1)),
        nnx.Dropout(0.5, rngs=nnx.Rngs(2)),
    )
    forward, params = ml.from_nnx(net, mutable=True), ml.nnx_params(net)
    owner = ml.owner_forward(MASK, forward)
    for _ in range(2):
        net.train()
        y, new = owner(KEYS[0], params, X, rng=RNG)
        assert (y == 0).any()
        assert not same_bits(new["layers"][1]["mean"], params["layers"][1]["mean"])
        assert not same_bits(y, owner(KEYS[0], params, X, rng=jax.random.key(1))[0])
        net.eval()
        y, new = owner(KEYS[0], params, X, rng=RNG)
        assert same_bits(new, params)
        assert same_bits(forward(params, X)[0], net(X))
    # A clone has a mode of its own.
    other = nnx.clone(net)
    other.train()
    assert (ml.from_nnx(other)(params, X, rng=RNG) == 0).any()
    assert same_bits(forward(params, X)[0], net(X))


def test_boxed_parameters_have_the_paths_of_their_boxes():
    def boxed(rng, shape, dtype):
        return nn.Partitioned(jnp.ones(shape, dtype), names=(None, "model"))

    net = nn.Sequential(
        [nn.Dense(4, kernel_init=boxed), nn.Dense(
            4, bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("out",)))]
    )  # fmt: skip
    variables = net.init(RNG, X)
    assert jax.tree.leaves(paths(variables)) == [
        f"params/layers_{i}/{name}" for i in range(2) for name in ("bias", "kernel")
    ]
    module = Two()
    state = nnx.state(module)
    names = jax.tree.leaves(paths(state))
    assert names == jax.tree.leaves(paths(ml.nnx_params(module)))
    assert "lora/kernel" in names
    odd = {"value": {"value": nnx.Param({"value": X, "b": X})}}
    assert jax.tree.leaves(paths(odd)) == ["value/value/b", "value/value/value"]
    assert close(ml.from_nnx(module)(state, X), module(X))
