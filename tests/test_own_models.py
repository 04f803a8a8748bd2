"""`study.run` on models of one's own, each in ten lines: a Linen module, an NNX module, Equinox."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import modellock_jax as ml
from modellock_jax import models, study
from modellock_jax.data import load
from modellock_jax.models import Model
from modellock_jax.tasks import Task

pytestmark = pytest.mark.optax
QUICK = {
    "seeds": 1, "epochs": 12, "batch_size": 32, "learning_rate": 1e-2, "wrong_keys": 3,
    "budgets": (0.1,), "thief_rates": (1e-3,), "thief_steps": 4, "thief_scores": 2,
}  # fmt: skip


def linen():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.Dense(64)(x.reshape(len(x), -1))
            x = nn.Dropout(0.1, deterministic=not train)(nn.relu(x))
            return nn.Dense(10)(x)

    return models.linen(Net())


def of_nnx():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.last = nnx.Linear(64, 64, rngs=rngs), nnx.Linear(64, 10, rngs=rngs)
            self.norm = nnx.BatchNorm(64, rngs=rngs)

        def __call__(self, x):
            return self.last(nnx.relu(self.norm(self.first(x.reshape(len(x), -1)))))

    return models.nnx(lambda rngs: Net(rngs))


def equinox():
    def init(rng, x):
        return eqx.filter(eqx.nn.MLP(64, 10, 64, 1, key=rng), eqx.is_array)

    def forward(params, x, tap=ml.untapped):
        net = eqx.combine(params, eqx.nn.MLP(64, 10, 64, 1, key=jax.random.key(0)))
        h = jax.nn.relu(tap("layers/0", jax.vmap(net.layers[0])(x.reshape(len(x), -1))))
        return tap("layers/1", jax.vmap(net.layers[1])(h))

    return Model(init, forward, lambda p, x, tap=ml.untapped: (forward(p, x, tap), p))


OTHERS = [pytest.param(make, marks=pytest.mark.slow) for make in (of_nnx, equinox)]


@pytest.mark.parametrize("make", [linen, *OTHERS])
def test_a_model_in_ten_lines(make):
    found = study.run(
        make(), "classify", load("digits"), ["sign_mask(bits=64)", "stream_lock"], **QUICK
    )
    mask, stream = found.rows.of("lock")
    assert mask["right"] > 0.5 > 2 * np.mean(mask["wrong"])
    assert stream["right"] == stream["plain"] > 0.5
    assert stream["right_is_plain"]
    assert stream["none_non_finite"] > 0.9
    assert len(found.rows.of("thief")) == 3
    assert "| stream_lock |" in str(found)


def ridge():
    """A task that no table has: numbers, and an error of which less is better."""

    def error(out, y):
        return jnp.nan_to_num(jnp.square(out[:, 0] - y), nan=100.0, posinf=100.0)

    return Task(
        name="regress",
        unit="mean squared error",
        loss=error,
        harm=lambda out, y: error(out, y).mean(),
        tally=lambda out, y: (error(out, y).sum(), jnp.float32(len(y))),
        value=lambda tally: tally[0] / tally[1],
        chance=1.0,
        best=0.0,
    )


def numbers():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 4)).astype(np.float32)
    y = (x @ np.array([1, -1, 0.5, 0], np.float32)) / 1.5
    return x[:192], y[:192], x[192:], y[192:]


class Line(nn.Module):
    width: int = 16

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(self.width)(x)))


def test_a_task_of_ones_own_in_its_own_unit(monkeypatch):
    settings = {**QUICK, "epochs": 30}
    found = study.run(models.linen(Line()), ridge(), numbers(), ["sign_flip(bits=64)"], **settings)
    (row,) = found.rows.of("lock")
    assert row["right"] == row["plain"] < 0.2 < row["none"]
    assert row["task"] == {
        "name": "regress", "unit": "mean squared error", "chance": 1.0, "best": 0.0,
    }  # fmt: skip
    for theft in found.rows.of("thief"):
        assert theft["best"] == min(theft["curve"])
    assert found.tables[0].title.startswith("Who opens what: test mean squared error on own ")
    monkeypatch.setattr("modellock_jax.study.sweep.PROGRAMS", (("all", "adam"),))
    settings |= {"study": "sweep", "thief_steps": 2}
    swept = study.run(models.linen(Line()), ridge(), numbers(), ["sign_flip(bits=64)"], **settings)
    assert {row["lock"] for row in swept.rows.of("sweep")} == {"scratch", "sign_flip(bits=64)"}
    assert "mean squared error" in swept.tables[0].notes[0]


def test_rows_are_those_of_the_same_model_and_data(tmp_path, monkeypatch):
    x, y, *test = numbers()
    settings = {**QUICK, "locks": ["sign_flip(bits=64)"], "out": tmp_path}

    def folders():
        return {folder.name for folder in tmp_path.iterdir()}

    first = study.run(models.linen(Line()), ridge(), (x, y, *test), **settings)
    assert len(folders()) == 1
    with monkeypatch.context() as patch:
        patch.setattr("modellock_jax.study.training.fit", lambda *a, **k: pytest.fail("again"))
        again = study.run(models.linen(Line()), ridge(), (x, y, *test), **settings)
    assert again.rows == first.rows
    # A folder is named before any work, so what follows need not learn.
    monkeypatch.setattr(
        "modellock_jax.study.training.fit", lambda forward, params, *a, **k: (params, None)
    )
    study.run(models.linen(Line(17)), ridge(), (x, y, *test), **settings)
    assert len(folders()) == 2
    study.run(models.linen(Line()), ridge(), (x, y + 1, *test), **settings)
    assert len(folders()) == 3
    study.run(models.linen(Line()), ridge()._replace(best=-1.0), (x, y, *test), **settings)
    assert len(folders()) == 4


def test_bad_input(tmp_path):
    model, data = models.linen(Line()), numbers()
    faults = {
        "there is no study 'leage'": {"study": "leage"},
        "there is no task 'regress'; the tasks are classify": {"task": "regress"},
        "four arrays": {"data": data[:3]},
        "192 training inputs, and 100 truths": {"data": (data[0], data[1][:100], *data[2:])},
        "the study main has no setting epoch; its settings are": {"epoch": 3},
        "there is no lock 'sign'": {"locks": ["sign"]},
        "at least one seed": {"seeds": 0},
    }
    for message, change in faults.items():
        given = {"model": model, "task": ridge(), "data": data, "locks": ["sign_flip"], **change}
        with pytest.raises(ValueError, match=message):
            study.run(**given, out=tmp_path)
    assert not list(tmp_path.iterdir())
