"""Attacks on adv_params: a few changed weights are found and undone, and only where there are some."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modellock_jax as ml
from modellock_jax.attacks.weights import localise
from modellock_jax.attacks.weights.descent import adv_params_descent
from modellock_jax.attacks.weights.selective import (
    neutral_key,
    restore,
    selective,
)
from modellock_jax.attacks.weights.stale_channels import stale_channels
from modellock_jax.data import load
from modellock_jax.models import Model
from modellock_jax.tasks import margin_loss
from modellock_jax.train import fit

pytestmark = pytest.mark.optax
COUNT, THIEF = 16, 80


def forward(params, x):
    h = jax.nn.relu(x.reshape(len(x), -1) @ params["a"]["kernel"] + params["a"]["bias"][None])
    return h @ params["b"]["kernel"] + params["b"]["bias"][None]


@pytest.fixture(scope="module")
def data():
    return load("digits")


@pytest.fixture(scope="module")
def trained(data):
    a, b = jax.random.split(jax.random.key(0))
    start = {
        "a": {"kernel": jax.random.normal(a, (64, 64)) / 8, "bias": jnp.zeros(64)},
        "b": {"kernel": jax.random.normal(b, (64, 10)) / 8, "bias": jnp.zeros(10)},
    }
    options = {"rng": jax.random.key(1), "epochs": 15, "batch_size": 32}
    return fit(forward, start, data.train_x, data.train_y, **options)[0]


@pytest.fixture(scope="module")
def lock_with(data, trained):
    """What a lock with these settings makes of the trained model."""

    def locked(seed=0, **settings):
        lock = ml.adv_params(COUNT, **settings)
        key = lock.init(jax.random.key(seed), trained)
        x, y = data.train_x[:256], data.train_y[:256]
        return jax.jit(
            lambda key, p: lock.encrypt(key, p, lambda p: margin_loss(forward(p, x), y))
        )(key, trained)

    return locked


@pytest.fixture(scope="module")
def locked(lock_with):
    return lock_with()[0]


@pytest.fixture(scope="module")
def thief(data):
    mine = jax.random.permutation(jax.random.key(2), len(data.train_x))[:THIEF]
    return jnp.asarray(data.train_x)[mine], jnp.asarray(data.train_y)[mine]


@pytest.fixture(scope="module")
def accuracy(data):
    x, y = jnp.asarray(data.test_x), jnp.asarray(data.test_y)
    test = jax.jit(lambda p: (forward(p, x).argmax(-1) == y).mean(dtype=jnp.float32))
    return lambda params: float(test(params))


pursue = jax.jit(partial(selective, forward, count=COUNT))
refit = jax.jit(partial(restore, forward, count=COUNT))
descend = jax.jit(partial(adv_params_descent, forward, count=COUNT))
decrypt = jax.jit(ml.adv_params(COUNT).decrypt)


def opened(key, locked):
    return decrypt(key, locked)


@pytest.mark.parametrize("margin", [0.01, pytest.param(0.03, marks=pytest.mark.slow)])
def test_clamped_weights_are_found_without_data_and_settings(
    lock_with, trained, accuracy, margin, thief
):
    locked, _ = lock_with(margin=margin)
    truth = localise.changed_weights(locked, trained)
    found = localise.shared_margin(locked)
    np.testing.assert_allclose(found.margin, margin, atol=1e-6)
    suspects = localise.clamped(locked, found.margin) > -localise.TOLERANCE
    np.testing.assert_array_equal(suspects, truth)
    assert int(found.votes) == int(truth.sum()) == COUNT
    assert float(localise.roc(localise.clamped(locked, margin), truth).auc) == 1
    plain = accuracy(trained)
    assert accuracy(locked) < plain - 0.3
    assert accuracy(opened(neutral_key(locked, suspects, COUNT), locked)) > plain - 0.05
    assert accuracy(opened(refit(locked, suspects, *thief), locked)) > plain - 0.03


def test_no_margin_is_shared_without_the_lock_or_with_small_steps(lock_with, trained):
    assert int(localise.shared_margin(trained).votes) < COUNT // 2
    locked, _ = lock_with(step=0.1)
    assert int(localise.shared_margin(locked).votes) < COUNT // 2
    truth = localise.changed_weights(locked, trained)
    assert float((localise.clamped(locked) > -localise.TOLERANCE)[truth].mean()) < 0.5


@pytest.mark.parametrize("step", [1.0, pytest.param(0.25, marks=pytest.mark.slow)])
def test_selective_opens_the_lock_and_the_papers_attacker_less(
    lock_with, trained, accuracy, thief, step
):
    locked, _ = lock_with(step=step)
    plain = accuracy(trained)
    assert accuracy(locked) < plain - 0.15
    key = pursue(locked, *thief)
    params = opened(key, locked)
    assert accuracy(params) > plain - 0.03
    assert accuracy(params) > accuracy(descend(locked, *thief, jax.random.key(3))) - 0.01
    # A key of the lock's own shape, naming places that were changed, and touching no other weight.
    assert int((key.leaf >= 0).sum()) <= COUNT
    moved = localise.changed_weights(locked, params)
    assert int(moved.sum()) <= COUNT
    by_chance = localise.changed_weights(locked, trained).mean(dtype=jnp.float32)
    assert (
        float(localise.changed_weights(locked, trained)[moved].mean(dtype=jnp.float32))
        > 20 * by_chance
    )


def test_nothing_is_gained_without_a_lock_or_with_the_right_key(
    lock_with, trained, accuracy, thief
):
    plain = accuracy(trained)
    assert abs(accuracy(opened(pursue(trained, *thief), trained)) - plain) < 0.015
    locked, key = lock_with()
    right = opened(key, locked)
    jax.tree.map(np.testing.assert_array_equal, right, trained)
    np.testing.assert_array_equal(pursue(right, *thief).bits, pursue(trained, *thief).bits)


def test_no_recovery_where_there_must_be_none(trained, locked, accuracy, thief):
    stream = ml.stream_lock()
    other, _ = stream.encrypt(stream.init(jax.random.key(0), trained), trained)
    assert accuracy(opened(pursue(other, *thief), other)) < 0.3
    # Wrong labels still tell that loud logits are wrong, but open less than right ones; and weights
    # at random are not the changed ones.
    x, y = thief
    wrong = pursue(locked, x, jax.random.permutation(jax.random.key(4), y))
    plain = accuracy(trained)
    assert accuracy(opened(wrong, locked)) < accuracy(opened(pursue(locked, *thief), locked)) - 0.1
    truth = localise.changed_weights(locked, trained)
    others = jax.random.permutation(jax.random.key(5), truth) & ~truth
    assert accuracy(opened(refit(locked, others, *thief), locked)) < plain - 0.2


def test_inputs_that_are_held_out_decide():
    """The first three quarters say that a weight is to move, and the last quarter that it is not."""
    y = jnp.arange(64) % 2
    x = jnp.stack([4.0 * y - 2.0, jax.random.normal(jax.random.key(0), (64,))], 1)
    locked = {"w": jnp.array([[3.0, -3.0], [0.1, -0.1]])}
    go = jax.jit(lambda y: selective(lambda p, x: x @ p["w"], locked, x, y, count=1, new=1))
    assert go(y).position.tolist()[0] in (0, 1)
    assert go(jnp.where(jnp.arange(64) < 48, y, 1 - y)).position.tolist() == [-1]


def test_a_few_images_do_not_lead_restored_weights_astray():
    w = jax.random.normal(jax.random.key(1), (8, 8))
    suspects = jnp.zeros(64, bool).at[3].set(True)
    x, y = jnp.eye(8)[:1], jnp.array([3])
    key = restore(lambda p, x: x @ p["w"], {"w": w}, suspects, x, y, count=1, steps=300)
    value = float(jax.lax.bitcast_convert_type(key.bits, jnp.float32)[0])
    assert 0 < value - float(jnp.median(w)) < 2 * float(w.std())


def test_weights_that_are_not_finite_are_left_alone(trained, thief):
    broken = {**trained, "a": jax.tree.map(lambda v: v * jnp.nan, trained["a"])}
    assert (pursue(broken, *thief).leaf == -1).all()


def test_a_map_over_models_is_a_loop_over_models(lock_with, thief):
    models = [lock_with(seed)[0] for seed in range(2)]
    batch = jax.vmap(pursue, (0, None, None))(
        jax.tree.map(lambda *v: jnp.stack(v), *models), *thief
    )
    for i, model in enumerate(models):
        alone = pursue(model, *thief)
        assert len(set(alone.position.tolist()) & set(batch.position[i].tolist())) > COUNT // 2


def test_scores_of_planted_outliers():
    w = jax.random.normal(jax.random.key(6), (40, 8)) * jnp.linspace(1, 100, 8)[None]
    # Far out for its own filter, inside the range of the layer.
    params = {"w": w.at[7, 0].set(30.0), "vector": jnp.ones(3)}
    for score in (localise.filter_z, localise.robust_distance):
        assert int(jnp.argmax(score(params))) == 7 * 8
    assert int(jnp.argmax(localise.range_position(params))) != 7 * 8
    assert localise.changed_weights(params, {**params, "w": w}).sum() == 1


def test_roc_against_another_implementation():
    from sklearn.metrics import roc_auc_score, roc_curve

    scores = jax.random.randint(jax.random.key(7), (200,), 0, 20).astype(jnp.float32)
    truth = jax.random.bernoulli(jax.random.key(8), 0.1 + scores / 40)
    ours = localise.roc(scores, truth)
    np.testing.assert_allclose(ours.auc, roc_auc_score(truth, scores), rtol=1e-5)
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(np.unique(ours.fpr), np.unique(fpr), atol=1e-6)
    np.testing.assert_allclose(np.unique(ours.tpr), np.unique(tpr), atol=1e-6)
    assert np.isnan(localise.roc(scores, jnp.zeros(200, bool)).auc)


class Normed(nn.Module):
    """Two dense layers under BatchNorm."""

    @nn.compact
    def __call__(self, x, train=False):
        x = x.reshape(len(x), -1)
        for features in (24, 16):
            h = nn.Dense(features, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(h))
        return x


def test_stale_statistics_give_the_channel_away(data):
    net = Normed()
    train = partial(net.apply, train=True, mutable=["batch_stats"])
    model = Model(net.init, net.apply, train)
    x = jnp.asarray(data.train_x[:256])
    with jax.numpy_rank_promotion("allow"):  # Flax's own BatchNorm
        params = model.init(jax.random.key(9), x[:1])
        params |= jax.jit(lambda p: model.train(p, x)[1])(params)
        # What training leaves: averages over other batches of the same kind.
        rows = jax.random.choice(jax.random.key(10), len(data.train_x), (40, 128))
        images = jnp.asarray(data.train_x)[rows]
        params = jax.lax.scan(lambda p, x: (p | model.train(p, x)[1], None), params, images)[0]
        scores = jax.jit(partial(stale_channels, model))
        plain = scores(params, x)
        kernel = params["params"]["Dense_1"]["kernel"]
        raised = kernel.at[3, 5].add(2 * jnp.abs(kernel).max())
        layers = {**params["params"], "Dense_1": {"kernel": raised}}
        locked = scores({**params, "params": layers}, x)
    assert list(plain) == ["BatchNorm_0", "BatchNorm_1"]
    assert int(jnp.argmax(locked["BatchNorm_1"])) == 5
    # Louder than any channel of the clean network; the layer before sees nothing.
    loudest = max(float(plain[layer].max()) for layer in plain)
    assert float(locked["BatchNorm_1"][5]) > 2 * loudest
    np.testing.assert_allclose(locked["BatchNorm_0"], plain["BatchNorm_0"], rtol=1e-3)
    with pytest.raises(ValueError, match='no collection "batch_stats"'):
        stale_channels(model, params["params"], x)


def test_bad_input(trained, thief):
    x, y = thief
    with pytest.raises(ValueError, match=r"four inputs or more .* not 3 inputs"):
        selective(forward, trained, x[:3], y[:3])
    with pytest.raises(ValueError, match="iterations=0"):
        selective(forward, trained, x, y, iterations=0)
