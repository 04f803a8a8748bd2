"""A lock, an attack and a task from files outside the package, a record each: the house takes them."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy

from modellock_jax import study
from modellock_jax.attacks import ATTACKS, Entry, Found
from modellock_jax.cli import main
from modellock_jax.explain import explain
from modellock_jax.locks import SCHEMES, register
from modellock_jax.models import Model
from modellock_jax.study import league

pytestmark = pytest.mark.optax
TASK = Path(__file__).parents[1] / "examples" / "task_of_your_own.py"
QUICK = {"seeds": 1, "epochs": 8, "batch_size": 32, "learning_rate": 1e-2, "budgets": (0.1,)}


def one_weight(case):
    """One known weight gives the word that all were XORed with."""
    seen, known = (
        jax.lax.bitcast_convert_type(jax.tree.leaves(tree)[0].ravel()[:1], jnp.uint32)
        for tree in (case.locked, case.known_weights)
    )
    key = type(case.lock.init(case.rng, case.locked))(seen ^ known)
    params = case.lock.decrypt(key, case.locked)
    return Found(lambda x: case.model.forward(params, x), key)


@pytest.fixture
def outside(monkeypatch):
    """All three, from sources that are not the package's; gone again afterwards."""
    for table in (SCHEMES, ATTACKS):
        monkeypatch.setattr(table, "_registered", {})
    space = {"__name__": "outside"}
    exec(toy.SOURCE, space)
    register(space["SCHEME"])
    ATTACKS.register(Entry("one_weight", one_weight, (toy.NAME,), ("known_weights",), "key"))
    spec = importlib.util.spec_from_file_location("task", TASK)
    spec.loader.exec_module(task := importlib.util.module_from_spec(spec))
    x = np.asarray(jax.random.normal(jax.random.key(0), (320, 4)))
    data = x[:256], x[:256, 0] * x[:256, 1], x[256:], x[256:, 0] * x[256:, 1]
    model = Model(task.init, task.forward, lambda p, x, tap=None: (task.forward(p, x), p))
    return model, task.GUESS, data


def test_study_and_league_take_all_three(outside):
    model, task, data = outside
    told = study.run(model, task, data, [toy.NAME], wrong_keys=2, thief_steps=4, **QUICK)
    (row,) = told.rows.of("lock")
    assert row["right_is_plain"]
    # Less is better in this task: the right key is far below who always says the mean.
    assert row["right"] < 0.5 < min(row["wrong"])
    record = league.of("one_weight")
    attacked = study.run(model, task, data, [toy.NAME], study=record, **QUICK)
    (row,) = attacked.rows.of("league")
    assert (row["attack"], row["key_right"]) == ("one_weight", 1)
    assert row["accuracy"] == row["right_key"] == pytest.approx(told.rows.of("lock")[0]["right"])


def test_the_command_lists_and_explains_them(outside, monkeypatch, capsys):
    assert "One known weight gives the word" in explain(toy.NAME)
    monkeypatch.setattr("sys.argv", ["modellock-jax", "attack", "--list"])
    with pytest.raises(SystemExit):
        main()
    assert "one_weight" in capsys.readouterr().out
