"""Models, training, scores and the first attack."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.table import same_bits
from jax import lax

import modellock_jax as ml
from modellock_jax import models, train
from modellock_jax.attacks.attack import run_batches, sanitise
from modellock_jax.attacks.weights.fine_tune import fine_tune
from modellock_jax.core.over_keys import over_keys
from modellock_jax.core.paths import paths
from modellock_jax.tasks import classify, margin_loss, measure, random_shift


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [1, 2, 3])
def test_the_matmul_convolution_is_the_plain_one(stride, side):
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 3))
    kernel = jax.random.normal(jax.random.key(1), (side, side, 3, 5))
    numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    settings = {"window_strides": (stride, stride), "padding": "SAME", "dimension_numbers": numbers}

    @functools.partial(jax.jit, static_argnums=0)
    def with_gradients(conv, x, kernel):
        y, pull = jax.vjp(lambda x, k: conv(x, k, **settings), x, kernel)
        return y, pull(jnp.cos(y))

    mine, plain = (with_gradients(c, x, kernel) for c in (models.conv, lax.conv_general_dilated))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), mine, plain)


@pytest.mark.optax
def test_weights_decay_by_the_rate_of_each_step():
    """A loss without slope leaves the decay alone: the rate falls to 0 as a cosine over 6 steps."""
    start, x, y = jnp.full((2, 3), 4.0), jnp.ones((6, 2)), jnp.zeros(6, jnp.int32)
    options = {"rng": jax.random.key(0), "epochs": 3, "batch_size": 3, "learning_rate": 0.1}
    flat = lambda p, x: jnp.zeros((len(x), 3)) * p.sum()  # noqa: E731
    for decay in (0.0, 2.0):
        rates = 0.05 * (1 + np.cos(np.pi * np.arange(6) / 6))
        want = 4 * np.prod(1 - decay * rates)
        found, _ = train.fit(flat, start, x, y, decay=decay, **options)
        np.testing.assert_allclose(found, np.full((2, 3), want), rtol=1e-5)


MODELS = {
    "mlp": lambda: models.mlp(10, (32,)),
    "cnn": lambda: models.cnn(10, patch=4, width=8, dense=32),
    "resnet": lambda: models.resnet(10, depth=8, width=8, norm="batch"),
}


@pytest.mark.optax
@pytest.mark.parametrize("name", ["mlp", "cnn", pytest.param("resnet", marks=pytest.mark.slow)])
def test_every_model_learns_and_updates_all_its_leaves(name):
    model = MODELS[name]()
    y = jnp.arange(32) % 2
    noise = jax.random.uniform(jax.random.key(0), (32, 8, 8, 1))
    x = (noise + y.astype(jnp.float32).reshape(-1, 1, 1, 1)) / 2
    start = jax.jit(model.init)(jax.random.key(1), x[:1])
    params, losses = train.fit(
        model.train,
        start,
        x,
        y,
        rng=jax.random.key(2),
        epochs=60,
        batch_size=16,
        learning_rate=5e-3,
    )
    assert float(losses[-1]) < 0.5 * float(losses[0])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), start, params)
    assert all(jax.tree.leaves(moved)), moved
    assert jax.eval_shape(model.forward, params, x).shape == (32, 10)


def test_a_resnet_without_batch_statistics_has_none():
    x = jnp.ones((2, 8, 8, 1))
    model = models.resnet(10, depth=8, width=8)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    assert list(params) == ["params"]
    assert jax.eval_shape(model.forward, params, x).shape == (2, 10)


def test_resnet_depth_counts_its_layers():
    model = models.resnet(10, depth=20, width=16)
    sites = jax.eval_shape(lambda r: model.init(r, jnp.zeros((1, 32, 32, 3))), jax.random.key(0))
    kernels = [p for p in jax.tree.leaves(paths(sites)) if p.endswith("kernel")]
    shortcuts = 2
    assert len(kernels) - shortcuts == 20


@pytest.mark.optax
def test_fit_is_reproducible_and_bakes_the_key_in():
    model = models.mlp(3, (16,))
    x, y = jax.random.uniform(jax.random.key(0), (48, 4, 4, 1)), jnp.arange(48) % 3
    lock = ml.sign_mask(bits=16)
    start = model.init(jax.random.key(1), x[:1])
    key = lock.init(jax.random.key(2), start)
    owner = functools.partial(ml.owner_forward(lock, model.train), key)
    fit = functools.partial(
        train.fit, owner, start, x, y, epochs=40, learning_rate=1e-2, augment=random_shift
    )
    params, losses = fit(rng=jax.random.key(3))
    again, _ = fit(rng=jax.random.key(3))
    other, _ = fit(rng=jax.random.key(4))
    assert same_bits(params, again)
    assert not same_bits(params, other)
    assert losses.shape == (40,)


@pytest.mark.optax
def test_epochs_take_the_memory_of_their_arguments_and_fit_leaves_the_callers_alone():
    forward, optimizer = (lambda w, x: x @ w["w"]), optax.adam(0.1)
    x, y, start = jnp.eye(4), jnp.arange(4), {"w": jnp.ones((4, 4))}
    given = jax.tree.map(jnp.array, (start, optimizer.init(start)))
    train.make_epoch(forward, optimizer, 2, 2)(*given, jax.random.key(0), x, y)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    train.fit(forward, start, x, y, rng=jax.random.key(0), epochs=2)
    assert float(start["w"].sum()) == 16


def test_batches_pass_through_everything_before_repeating():
    index = np.asarray(train.batches(jax.random.key(0), 10, steps=5, batch_size=4)).ravel()
    assert sorted(index[:10]) == sorted(index[10:]) == list(range(10))
    assert list(index[:10]) != list(index[10:])


def test_random_shift_moves_each_image_by_itself_and_brings_zeros_in():
    x = jnp.zeros((64, 5, 5, 1)).at[:, 2, 2].set(1.0)
    moved = np.asarray(random_shift(jax.random.key(0), x))
    assert (moved.sum((1, 2, 3)) == 1).all()
    places = {tuple(np.argwhere(image)[0][:2]) for image in moved}
    assert len(places) > 15
    gone = random_shift(jax.random.key(0), jnp.ones((64, 5, 5, 1)))
    assert gone.sum((1, 2, 3)).min() == 9


def test_a_nan_counts_as_wrong_even_where_argmax_says_class_0():
    logits = jnp.full((4, 3), jnp.nan)
    found = measure(classify(3), lambda x: logits, jnp.zeros(4), jnp.zeros(4, jnp.int32))
    assert float(found.value) == 0
    assert float(found.non_finite) == 1


def test_over_keys_is_a_loop_whatever_the_chunk():
    keys = jnp.arange(7.0)
    for chunk in (1, 3, 7, 20):
        assert over_keys(lambda k: k**2, keys, chunk=chunk).tolist() == (keys**2).tolist()


def test_sanitise_leaves_a_trained_net_alone_and_replaces_ciphertext():
    model = models.mlp(10, (32,))
    x = jnp.zeros((1, 8, 8, 1))
    init, mend = jax.jit(model.init), jax.jit(sanitise)
    params, fresh = (init(jax.random.key(s), x) for s in (0, 1))
    assert same_bits(mend(params, fresh), params)
    for lock in (ml.deep_lock(), ml.stream_lock()):
        locked, _ = lock.encrypt(lock.init(jax.random.key(2), params), params)
        healed = mend(locked, fresh)
        kernels = [leaf for leaf in jax.tree.leaves(healed) if leaf.ndim == 2]
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(healed))
        assert all(float(jnp.abs(leaf).max()) <= 10 for leaf in kernels)
        assert same_bits(kernels, [leaf for leaf in jax.tree.leaves(fresh) if leaf.ndim == 2])


def test_sanitise_mends_single_entries_and_keeps_integers():
    locked = {"w": jnp.array([1.0, jnp.inf, 1e-30, 0.0, -2.0, 3.0]), "n": jnp.array([10**6])}
    fresh = {"w": jnp.full(6, 0.5), "n": jnp.array([1])}
    healed = sanitise(locked, fresh)
    assert healed["w"].tolist() == [1.0, 0.5, 0.5, 0.0, -2.0, 3.0]
    assert healed["n"].tolist() == [10**6]


@pytest.mark.optax
def test_the_thief_learns_and_runs_over_seeds_and_models_at_once():
    model = models.mlp(2, (16,))
    x = jax.random.uniform(jax.random.key(0), (64, 4, 4, 1))
    y = (x[:, 0, 0, 0] > 0.5).astype(jnp.int32)
    attack = fine_tune(model, 1e-2, x)
    locked = [model.init(jax.random.key(s), x[:1]) for s in range(2)]
    index = jax.random.randint(jax.random.key(1), (150, 32), 0, 64)

    def steal(rng, locked):
        state, losses = run_batches(attack, attack.init(rng, locked), (x[index], y[index]))
        return measure(classify(), lambda x: attack.forward(state, x), x, y).value / 100, losses

    stacked = jax.tree.map(lambda *a: jnp.stack(a), *locked)
    accuracy, losses = jax.jit(jax.vmap(steal))(jax.random.split(jax.random.key(2), 2), stacked)
    assert losses.shape == (2, 150)
    assert float(accuracy.min()) > 0.9
    assert float(losses[:, -1].max()) < float(losses[:, 0].min())


def test_margin_in_units_of_the_mean_margin():
    logits, y = jnp.array([[2.0, 0.0, 1.0], [0.0, 6.0, 0.0]]), jnp.array([0, 0])
    expected = np.mean(1 / (1 + np.exp(-np.array([-1.0, 6.0]) / 3.5)))
    np.testing.assert_allclose(margin_loss(logits, y), expected, rtol=1e-6)
    np.testing.assert_allclose(margin_loss(100 * logits, y), expected, rtol=1e-6)
    gradient = jax.grad(margin_loss)(logits, y)
    # The unit is a constant of the gradient, so that every image pulls.
    assert float(gradient[0, 0]) < 0 < float(gradient[0, 2])
    assert bool(jnp.isfinite(jax.grad(margin_loss)(jnp.zeros((2, 3)), y)).all())


@pytest.mark.optax
def test_fit_takes_trees_and_refuses_what_does_not_fit():
    x = {"a": jnp.arange(8.0), "b": jnp.ones(8)}

    def forward(w, x):
        return {"sum": w * x["a"] + x["b"]}

    def loss(out, y):
        return (out["sum"] - y) ** 2

    w, _ = train.fit(
        forward,
        jnp.float32(0),
        x,
        3 * x["a"] + 1,
        rng=jax.random.key(0),
        epochs=200,
        learning_rate=0.2,
        loss=loss,
    )
    np.testing.assert_allclose(w, 3, atol=0.1)
    with pytest.raises(ValueError, match=r"as many truths as inputs, not \[7, 8\]"):
        train.fit(forward, jnp.float32(0), x, jnp.ones(7), rng=jax.random.key(0), loss=loss)
