"""Which kernels read which: through flattening, norms, residual sums, and in both kinds of modules."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from modellock_jax.attacks.keys.sign_pairs import sign_pairs
from modellock_jax.models import linen, mlp, resnet
from modellock_jax.models import nnx as nnx_model

X = np.ones((1, 8, 8, 2), np.float32)


def layers_of(model, params=None, x=X):
    params = model.init(jax.random.key(0), x) if params is None else params
    return sign_pairs(model.forward, params, x), params


def module_of(call):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return call(x)

    return linen(Net())


def test_dense_layers():
    (first, second, head), params = layers_of(mlp(3, (7, 5)))
    kernels = [params["params"][f"Dense_{i}"]["kernel"] for i in range(3)]
    for layer, kernel in zip((first, second, head), kernels):
        np.testing.assert_array_equal(layer.kernel, kernel)
    for layer, kernel in zip((first, second), kernels[1:]):
        np.testing.assert_allclose(layer.reader, kernel / np.linalg.norm(kernel), rtol=1e-5)
    assert head.reader is None
    assert [layer.positions for layer in (first, second, head)] == [1, 1, 1]


def test_a_reader_behind_flattening_and_transposition_has_the_channels_rows():
    """Each order of axes gives the rows that change when a channel is negated."""
    orders = [(0, 1, 2, 3), (0, 3, 1, 2), (0, 1, 3, 2)]
    for order in orders:

        def call(x, order=order):
            x = nn.relu(nn.Conv(6, (3, 3))(x)).transpose(order)
            return nn.Dense(4)(x.reshape(1, -1))

        (conv, _), params = layers_of(module_of(call))
        kernel = params["params"]["Dense_0"]["kernel"]
        entries = np.arange(8 * 8 * 6).reshape(8, 8, 6).transpose([a - 1 for a in order[1:]])
        for channel in range(6):
            rows = np.flatnonzero(entries.reshape(-1) % 6 == channel)
            found = np.sort(np.ravel(conv.reader[channel]) * np.linalg.norm(kernel))
            np.testing.assert_allclose(found, np.sort(np.ravel(kernel[rows])), rtol=1e-4)


def test_gains_of_norms_are_in_the_readers_rows():
    for norm in (nn.LayerNorm, nn.RMSNorm, lambda: nn.GroupNorm(2), lambda: nn.BatchNorm(True)):

        def call(x, norm=norm):
            x = nn.max_pool(norm()(nn.Conv(6, (3, 3))(x)), (2, 2), (2, 2))
            return nn.Dense(4)(nn.gelu(x).mean((1, 2)))

        model = module_of(call)
        params = model.init(jax.random.key(0), X)
        (name,) = [name for name in params["params"] if "Norm" in name]
        gain = jnp.arange(1.0, 7.0) * jnp.array([1.0, -1, 1, 1, -1, 1])
        params["params"][name]["scale"] = gain
        (conv, _), _ = layers_of(model, params)
        rows = np.asarray(params["params"]["Dense_0"]["kernel"] * gain.reshape(6, 1))
        np.testing.assert_allclose(conv.reader, rows / np.linalg.norm(rows), rtol=1e-4)


def test_what_a_norm_and_a_bias_add_before_an_activation():
    def call(x):
        h = nn.relu(nn.Dense(5)(nn.LayerNorm()(x)))
        h = nn.gelu(nn.Dense(6)(h))
        h = nn.relu(nn.GroupNorm(2)(nn.Dense(8)(nn.RMSNorm()(nn.LayerNorm()(h)))))
        return nn.Dense(3)(h)

    model = module_of(call)
    params = jax.tree.map(
        lambda p: p + jnp.arange(float(p.size)).reshape(p.shape), model.init(jax.random.key(0), X)
    )
    layers, _ = layers_of(model, params)
    inner = params["params"]
    shift = inner["LayerNorm_0"]["bias"] @ inner["Dense_0"]["kernel"] + inner["Dense_0"]["bias"]
    np.testing.assert_allclose(layers[0].shift, shift, rtol=1e-5)
    # No norm before it, a norm without a shift before it, and a head.
    assert [bool(np.any(layer.shift)) for layer in layers] == [True, False, False, False]


def test_beside_a_residual_sum_nothing_is_added():
    def call(x):
        x = nn.Dense(6)(x)
        return nn.Dense(3)(nn.relu(x + nn.Dense(6)(nn.LayerNorm()(x))))

    model = module_of(call)
    params = jax.tree.map(lambda p: p + 1, model.init(jax.random.key(0), X))
    assert not any(np.any(layer.shift) for layer in layers_of(model, params)[0])


def test_residual_sums_are_followed_twice():
    def call(x):
        x = nn.Dense(6)(x)
        for width in (11, 12, 13, 14):
            x = x + nn.Dense(6)(nn.relu(nn.Dense(width)(nn.LayerNorm()(x))))
        return x

    layers, _ = layers_of(module_of(call))
    outs = {i: layer.reader.shape[1] for i, layer in enumerate(layers) if layer.reader is not None}
    # The stem is read at once and after one sum and two; a block, after one sum and two.
    assert outs == {0: 11 + 12 + 13, 1: 6, 2: 12 + 13, 3: 6, 4: 13 + 14, 5: 6, 6: 14, 7: 6}
    norms = np.linalg.norm(layers[2].kernel, axis=0)
    np.testing.assert_allclose(norms, np.ones(6), rtol=1e-5)


def test_a_resnet_of_ours():
    x = jnp.ones((1, 28, 28, 1))
    layers, _ = layers_of(resnet(10, 8, 8), x=x)
    assert len(layers) == 10
    assert [layer.reader is None for layer in layers] == [False] * 9 + [True]
    assert layers[0].reader.shape == (8, 9 * 8 + 9 * 16 + 16)


def test_depthwise_convolutions_are_writers_and_their_inputs_have_no_reader():
    """Both of a channel's kernels are negated by one bit, so that no product of them shows it."""

    def call(x):
        x = nn.relu(nn.LayerNorm()(nn.Conv(6, (1, 1))(x)))
        x = nn.relu(nn.LayerNorm()(nn.Conv(6, (3, 3), 2, feature_group_count=6)(x)))
        return nn.Dense(4)(nn.Conv(5, (1, 1))(x).mean((1, 2)))

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.Conv(2, 6, (1, 1), rngs=rngs)
            self.b = nnx.Conv(6, 6, (3, 3), 2, feature_group_count=6, rngs=rngs)
            self.c = nnx.Conv(6, 5, (1, 1), rngs=rngs)
            self.d = nnx.Linear(5, 4, rngs=rngs)

        def __call__(self, x):
            return self.d(self.c(nnx.relu(self.b(nnx.relu(self.a(x))))).mean((1, 2)))

    for model in (module_of(call), nnx_model(Net)):
        (expand, depthwise, project, head), _ = layers_of(model)
        assert expand.reader is None
        assert depthwise.kernel.shape == (9, 6)
        rows = project.kernel / np.linalg.norm(project.kernel)
        np.testing.assert_allclose(depthwise.reader, rows, rtol=1e-5)
        assert head.reader is None
        assert project.reader.shape == (5, 4)


def test_groups_of_a_convolution_neither_write_nor_read_beyond_themselves():
    def call(x):
        x = nn.relu(nn.Conv(6, (1, 1))(x))
        return nn.Dense(3)(nn.relu(nn.Conv(4, (3, 3), feature_group_count=2)(x)).mean((1, 2)))

    (first, grouped, _), params = layers_of(module_of(call))
    kernel = np.asarray(params["params"]["Conv_1"]["kernel"])  # [3, 3, 3, 4]
    whole = np.zeros((3, 3, 6, 4), np.float32)
    whole[:, :, :3, :2], whole[:, :, 3:, 2:] = kernel[..., :2], kernel[..., 2:]
    np.testing.assert_array_equal(grouped.kernel, whole.reshape(-1, 4))
    rows = np.moveaxis(whole, 2, 0).reshape(6, -1)
    np.testing.assert_allclose(first.reader, rows / np.linalg.norm(rows), rtol=1e-5)


def test_a_head_that_is_the_embedding_reads_and_does_not_write():
    class Tied(nn.Module):
        tied: bool

        @nn.compact
        def __call__(self, tokens):
            embed = nn.Embed(9, 6)
            x = nn.Dense(6)(embed(tokens))
            return embed.attend(x) if self.tied else nn.Dense(9, use_bias=False)(x)

    tokens = np.zeros((1, 3), np.int32)
    for tied, count in ((True, 1), (False, 2)):
        layers, params = layers_of(linen(Tied(tied)), x=tokens)
        assert len(layers) == count
        head = params["params"]["Embed_0"]["embedding"].T
        head = head if tied else params["params"]["Dense_1"]["kernel"]
        np.testing.assert_allclose(layers[0].reader, head / np.linalg.norm(head), rtol=1e-5)


def test_modules_of_nnx_under_jit():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.Linear(2, 6, rngs=rngs)
            self.b = nnx.Linear(6, 3, rngs=rngs)

        @nnx.jit
        def __call__(self, x):
            return self.b(nnx.silu(self.a(x)))

    layers, _ = layers_of(nnx_model(Net))
    assert [layer.kernel.shape for layer in layers] == [(2, 6), (6, 3)]
    assert layers[0].reader.shape == (6, 3)


def test_what_cannot_be_followed_has_no_reader():
    def call(x):
        x = jnp.concatenate([nn.Dense(3)(x), nn.Dense(4)(x)], -1)
        return nn.Dense(2)(x)

    layers, _ = layers_of(module_of(call))
    assert [layer.reader for layer in layers] == [None] * 3
