"""Which unit a sign lock multiplies by which bit: the rule written out, for other people's names too."""

import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.sealed import ALICE
from safetensors.numpy import load, save

import modellock_jax as ml
from modellock_jax.attacks import sign_flip_known_plaintext
from modellock_jax.vault.locked import load_locked, lock_file

SHAPES = [(3, 5), (2, 3, 7), (2, 4, 4, 32), (1, 49, 192), (2, 7, 4, 48), (2, 0, 3), (2, 3, 0), (4,)]


@pytest.mark.parametrize("bits", [1, 48, 256])
@pytest.mark.parametrize("per", ["channel", "unit"])
def test_unit_j_has_bit_j_modulo_bits(per, bits):
    lock, rng = ml.sign_mask(bits, per), np.random.default_rng(0)
    key = lock.init(jax.random.key(bits), None)
    assert len(set(key.signs.tolist())) == min(bits, 2)
    outputs = {shape: rng.normal(size=shape).astype(np.float32) for shape in SHAPES}
    masked = jax.jit(lambda key, hs: {s: lock.mask(key, "site", h) for s, h in hs.items()})
    for shape, found in masked(key, outputs).items():
        units = shape[-1:] if per == "channel" else shape[1:]
        order = np.arange(math.prod(units)) % bits
        signs = np.asarray(key.signs, np.float32)[order].reshape(units)
        assert (np.asarray(found) == outputs[shape] * signs).all(), shape


def torch_model():
    """Names, axes and dtypes of a PyTorch model: convolution, norm, linear layers, an embedding."""
    rng = np.random.default_rng(0)
    shapes = {
        "layer1.0.conv1.weight": (12, 3, 2, 2), "layer1.0.bn1.weight": (12,),
        "layer1.0.bn1.bias": (12,), "layer1.0.bn1.running_mean": (12,),
        "layer1.0.bn1.running_var": (12,),
        "fc.weight": (5, 12), "fc.bias": (5,), "head.weight": (5, 5), "tok_embeddings.weight": (7, 5),
    }  # fmt: skip
    model = {
        name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in shapes.items()
    }
    model = {k: v * rng.choice([-1, 1], v.shape).astype(v.dtype) for k, v in model.items()}
    model["layer1.0.bn1.running_var"] = abs(model["layer1.0.bn1.running_var"])
    return model | {"layer1.0.bn1.num_batches_tracked": np.array(3)}


ACTED = ["fc.bias", "fc.weight", "head.weight", "layer1.0.conv1.weight"]


def as_torch_runs_it(model, x, signs=None):
    """PyTorch's meaning of that model in NumPy; `signs`, if given, multiply each pre-activation."""

    def masked(h, axis):
        if signs is None:
            return h
        unit = signs[np.arange(h.shape[axis]) % len(signs)].astype(h.dtype)
        return h * np.expand_dims(unit, [i for i in range(h.ndim) if i != axis % h.ndim])

    def norm(name):
        return model[f"layer1.0.bn1.{name}"][None, :, None, None]

    weight, height = model["layer1.0.conv1.weight"], x.shape[2] - 1
    h = sum(
        np.einsum("bchw,oc->bohw", x[:, :, i : i + height, j : j + height], weight[:, :, i, j])
        for i in range(2)
        for j in range(2)
    )
    h = (masked(h, 1) - norm("running_mean")) / np.sqrt(norm("running_var")) * norm("weight")
    h = np.maximum(h + norm("bias"), 0).mean((2, 3))
    h = np.tanh(masked(h @ model["fc.weight"].T + model["fc.bias"], -1))
    h = h + model["tok_embeddings.weight"][np.arange(len(h))]
    return masked(h @ model["head.weight"].T, -1)


X = np.random.default_rng(1).normal(size=(2, 3, 4, 4)).astype(np.float32)


def test_a_file_of_pytorch_is_locked_as_its_layers_would_be_masked():
    model = torch_model()
    target = Target()
    lock_file(save(model), target, ALICE, "sign_flip(bits=5)")
    locked = load(target.getvalue())
    signs = np.sign(locked["fc.bias"] / model["fc.bias"])
    with_mask = as_torch_runs_it(model, X, signs)
    np.testing.assert_array_equal(as_torch_runs_it(locked, X), with_mask)
    np.testing.assert_array_equal(abs(locked["head.weight"]), abs(model["head.weight"]))
    again = load_locked(target.getvalue(), ALICE)
    assert all((again[name] == model[name]).all() for name in model)


class Target(io.BytesIO):
    """A file that is kept when it is closed."""

    def close(self):
        pass


def small_model():
    return {name: leaf for name, leaf in torch_model().items() if leaf.dtype == np.float32}


def test_sign_flip_finds_other_peoples_layers_and_acts_on_no_other_leaf():
    model, lock = small_model(), ml.sign_flip(bits=5)
    key = ml.SignKey(jnp.array([-1, 1, 1, -1, -1], jnp.int8))
    assert ml.acts_on(lock, model) == ACTED
    locked, _ = lock.encrypt(key, model)
    changed = [name for name in sorted(model) if (np.asarray(locked[name]) != model[name]).any()]
    assert changed == ACTED
    want = as_torch_runs_it(model, X, np.asarray(key.signs))
    got = as_torch_runs_it({name: np.asarray(leaf) for name, leaf in locked.items()}, X)
    np.testing.assert_array_equal(got, want)
    # As a tree, the same leaves have the same axes.
    tree = {"layer1": [{"conv": {"weight": model["layer1.0.conv1.weight"]}}]}
    flipped, _ = lock.encrypt(key, tree)
    assert (flipped["layer1"][0]["conv"]["weight"] == locked["layer1.0.conv1.weight"]).all()
    found = sign_flip_known_plaintext(locked, model, bits=5)
    assert found is not None
    assert (found.signs == key.signs).all()


RULES = {
    "in, out": ("c_attn.weight", (4, 6), (6,)),
    "a transposed convolution": ("up.weight", (4, 6, 3, 3), (6,)),
    "layers in a stack": ("mlp.weight", (6, 6, 6), (6, 6)),
}


@pytest.mark.parametrize(("name", "shape", "bias"), RULES.values(), ids=RULES.keys())
def test_a_weight_whose_bias_shows_another_axis_is_refused_until_it_is_named(name, shape, bias):
    model = {name: jnp.ones(shape), name.replace("weight", "bias"): jnp.ones(bias)}
    with pytest.raises(ValueError, match=r"is no bias of the weight beside it.*outputs=\.\.\."):
        ml.sign_flip(4).init(jax.random.key(0), model)

    def outputs(path):
        return {"weight": 1, "bias": -1}[path.split(".")[-1]]

    signs = jnp.array([1, -1, -1, 1], jnp.int8)
    locked, _ = ml.sign_flip(4, outputs).encrypt(ml.SignKey(signs), model)
    unit = signs[jnp.arange(6) % 4].astype(jnp.float32)
    for path, leaf in locked.items():
        axis = outputs(path) % leaf.ndim
        want = unit.reshape([-1 if i == axis else 1 for i in range(leaf.ndim)])
        assert (leaf == jnp.broadcast_to(want, leaf.shape)).all()


WRONG_RULES = {
    "no axis": ("gives 2 for the leaf `w`", lambda path: 2),
    "no number": ("gives '0' for the leaf `w`", lambda path: "0"),
    "none": ("gives None for every leaf", lambda path: None),
}


@pytest.mark.parametrize(("message", "outputs"), WRONG_RULES.values(), ids=WRONG_RULES.keys())
def test_a_rule_that_names_no_axis_is_refused(message, outputs):
    with pytest.raises(ValueError, match=message):
        ml.sign_flip(4, outputs).init(jax.random.key(0), {"w": jnp.ones((2, 3))})


def test_names_that_are_no_layers_are_left_alone():
    with pytest.raises(
        ValueError, match="no leaf is named `kernel` or, with several axes, `weight`"
    ):
        ml.sign_flip(4).init(
            jax.random.key(0), {"norm.weight": jnp.ones(4), "norm.bias": jnp.ones(4)}
        )
    with pytest.raises(TypeError, match="outputs must be a function"):
        ml.sign_flip(4, "kernel")
    tree = {
        "a": {"kernel": jnp.ones((2, 3)), "lora_b": jnp.ones((2, 3)), "lora_a": jnp.ones((2, 2))}
    }
    assert ml.acts_on(ml.sign_flip(4), tree) == ["a/kernel", "a/lora_b"]


ONLY_B = ml.only(ml.deep_lock(), lambda path: path == "b")
LOCKS = {
    "stream_lock": (ml.stream_lock(), ["a/bias", "a/kernel", "b"]),
    "only": (ONLY_B, ["b"]),
    "chain": (ml.chain(ml.sign_flip(4), ONLY_B), ["a/bias", "a/kernel", "b"]),
    "adv_params": (ml.adv_params(count=2), ["a/kernel"]),
    "patch_shuffle": (ml.patch_shuffle(2, channels=1), ["a/kernel"]),
    "sign_mask": (ml.sign_mask(4), []),
}  # fmt: skip


@pytest.mark.parametrize(("lock", "leaves"), LOCKS.values(), ids=LOCKS.keys())
def test_every_lock_tells_on_which_leaves_it_acts(lock, leaves):
    params = {"a": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}, "b": jnp.ones(16)}
    assert ml.acts_on(lock, params) == leaves
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    assert ml.acts_on(lock, shapes) == leaves


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_no_key_of_plus_alone_is_drawn_and_every_other_is(bits):
    for lock in (ml.sign_mask(bits), ml.sign_flip(bits)):
        params = {"kernel": jnp.ones((2, bits))}
        keys = jax.vmap(lambda rng: lock.init(rng, params))(jax.random.split(jax.random.key(0), 64))  # noqa: B023
        drawn = {tuple(signs) for signs in keys.signs.tolist()}
        assert len(drawn) == 2**bits - 1
        assert (1,) * bits not in drawn


def test_a_key_that_negates_no_channel_is_refused():
    lock, params = ml.sign_flip(4), {"a/kernel": jnp.ones((2, 3)), "b/kernel": jnp.ones((3, 2))}
    fourth, third = (ml.SignKey(jnp.array(s, jnp.int8)) for s in ([1, 1, 1, -1], [1, 1, -1, 1]))
    with pytest.raises(ValueError, match="negates none of the layers' channels, 3 at most"):
        lock.encrypt(fourth, params)
    assert (lock.encrypt(third, params)[0]["a/kernel"] < 0).sum() == 2
    # What is compiled cannot see its key; opening is no locking.
    assert (jax.jit(lock.encrypt)(fourth, params)[0]["a/kernel"] > 0).all()
    assert (lock.decrypt(fourth, params)["a/kernel"] > 0).all()
