"""The fine-tuning thief: what each variant trains, what chooses, and a sweep beside its twin."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modellock_jax as ml
from modellock_jax.attacks.weights import localise
from modellock_jax.attacks.weights.fine_tune import VARIANTS, fine_tune, in_last_layer
from modellock_jax.attacks.weights.sweep import best_so_far, trial
from modellock_jax.models import mlp, resnet
from modellock_jax.study import runner, sweep, training
from modellock_jax.study.config import Config

pytestmark = pytest.mark.optax
SHAPE = (4, 4, 1)
EXAMPLE = np.zeros((1, *SHAPE), np.float32)


@pytest.fixture(scope="module")
def setup():
    model = mlp(3, (64, 64))
    x = jax.random.uniform(jax.random.key(0), (60, *SHAPE))
    params = model.init(jax.random.key(1), x[:1])
    y = jnp.arange(60) % 3
    lock = ml.adv_params(count=24)
    locked, _ = jax.jit(
        lambda key: lock.encrypt(key, params, lambda p: (model.forward(p, x) ** 2).mean())
    )(lock.init(jax.random.key(2), params))
    return SimpleNamespace(model=model, x=x, y=y, params=params, locked=locked)


def same(a, b):
    return jax.tree.map(lambda a, b: bool((a == b).all()), a, b)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_each_variant_starts_from_and_trains(setup, variant):
    attack = fine_tune(setup.model, 1e-2, EXAMPLE, variant)
    start = attack.init(jax.random.key(3), setup.locked)
    last = in_last_layer(setup.model, setup.params, EXAMPLE)
    kept = same(start[0], setup.locked)
    if variant == "new_last":
        assert not kept["params"]["Dense_2"]["kernel"]
        assert all(jax.tree.leaves(jax.tree.map(lambda k, la: k or la, kept, last)))
    elif variant == "healed":
        assert int(localise.changed_weights(start[0], setup.locked).sum()) == 24
    else:
        assert all(jax.tree.leaves(kept))
    end = jax.jit(attack.step)(start, (setup.x, setup.y))[0]
    moved = jax.tree.map(lambda k: not k, same(start[0], end[0]))
    assert moved == (last if variant == "last" else jax.tree.map(lambda _: True, last))


def test_nothing_is_healed_without_a_lock_and_the_last_layer_is_found(setup):
    # Many layers have many ends of ranges, which have nothing to do with a clamp.
    many = list(jax.random.normal(jax.random.key(5), (12, 6, 6)))
    for params in (setup.params, many):
        jax.tree.map(np.testing.assert_array_equal, jax.jit(localise.heal)(params), params)
    net = resnet(3, depth=8, width=8)
    params = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    last = in_last_layer(net, params, jnp.zeros((1, 8, 8, 1)))["params"]
    assert [name for name, leaves in last.items() if any(leaves.values())] == ["Dense_0"]


def test_held_out_images_choose_and_never_train(setup):
    one = jax.jit(trial(setup.model, EXAMPLE, optimizer="sgd", steps=20, stops=2))
    x, size, held = setup.x, 30, 6

    def run(x):
        return one(jax.random.key(4), setup.params, jnp.float32(0.05), x, setup.y, jnp.int32(size))

    clean = run(x)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), clean.params, setup.params)
    logits = jax.vmap(setup.model.forward, (0, None))(clean.params, x[:held])
    right = (logits.argmax(-1) == setup.y[None, :held]).mean(1, dtype=jnp.float32)
    np.testing.assert_allclose(clean.value, 100 * right, rtol=1e-6)
    # Neither what is held out nor what the thief does not own reaches the parameters; the rest does.
    poisoned = run(x.at[:held].set(jnp.nan).at[size:].set(jnp.nan))
    jax.tree.map(np.testing.assert_array_equal, poisoned.params, clean.params)
    assert (poisoned.value == 0).all()
    trained_on = run(x.at[held:size].set(jnp.nan))
    assert not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(trained_on.params))


def test_best_so_far_is_what_a_loop_would_keep():
    rng = np.random.default_rng(0)
    for _ in range(20):
        accuracy = rng.integers(0, 4, (5, 4)).astype(np.float32)
        loss = rng.integers(0, 3, (5, 4)).astype(np.float32)
        loss[rng.random((5, 4)) < 0.1] = np.nan
        found, best = [], (-1.0, 0.0)
        for stop in range(4):
            for setting in range(5):
                at = setting, stop
                worth = accuracy[at], -np.nan_to_num(loss[at], nan=np.inf)
                if worth > best:
                    best, where = worth, at
            found.append(where)
        setting, stop = best_so_far(jnp.asarray(accuracy), jnp.asarray(loss))
        assert list(zip(setting.tolist(), stop.tolist())) == found


CONFIG = Config(
    **{**sweep.SETTINGS, "budgets": (0.1,), "thief_steps": 30, "thief_scores": 2},
    data="digits",
    model="mlp",
    seeds=2,
    epochs=8,
    batch_size=32,
)


@pytest.mark.parametrize(
    "name", ["adv_params", pytest.param("stream_lock", marks=pytest.mark.slow)]
)
def test_a_weak_lock_is_worth_stealing_and_a_cipher_is_not(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "PROGRAMS", (("all", "adam"), ("healed", "adam")))
    config = CONFIG.__class__(**{**vars(CONFIG), "locks": (name,)})
    store = runner.run(sweep.STUDY, config, tmp_path)
    rows = {(r["lock"], r["seed"]): r for r in store.rows.of("sweep")}
    assert len(rows) == 2 * 2
    for (lock, seed), row in rows.items():
        assert row["images"] == round(0.1 * 1437)
        for choice in ("held_out", "rehearsed"):
            found, twin = row[choice], rows["scratch", seed][choice]
            assert len(found["curve"]) == 3
            assert found["curve"][-1] == found["accuracy"]
            gain = found["accuracy"] - twin["accuracy"]
            if lock == "adv_params":
                assert row["no_key"] < 0.5 < 0.7 < found["accuracy"] <= row["right_key"] + 0.03
                assert gain > 0.15
                assert abs(found["curve"][0] - row["no_key"]) < 0.01 or "healed" in found["setting"]
            elif lock == "stream_lock":
                assert abs(gain) < 0.2
    for grid in sweep.grids(store.rows, config):
        assert [line[0] for line in grid.rows] == ["scratch", name]
        assert all(len(line) == len(grid.header) for line in grid.rows)
    # Started again, it computes nothing.
    monkeypatch.setattr(training, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert runner.run(sweep.STUDY, config, tmp_path).rows == store.rows


def test_bad_input(setup, tmp_path):
    with pytest.raises(ValueError, match="variant is one of all, last, new_last, healed, not 'x'"):
        fine_tune(setup.model, 1e-2, EXAMPLE, "x")
    with pytest.raises(ValueError, match="one of adam, sgd and steps that are a multiple of stops"):
        trial(setup.model, EXAMPLE, optimizer="lion")
    config = CONFIG.__class__(**{**vars(CONFIG), "budgets": (0.001,)})
    with pytest.raises(ValueError, match=r"two images or more, .* not 1 to 1 of 1438"):
        runner.run(sweep.STUDY, config, tmp_path)
    assert not list(tmp_path.iterdir())
