"""Studies with stubs in place of training: little data, and a model that is not trained."""

import jax
import numpy as np

from modellock_jax.data import Data
from modellock_jax.models import mlp
from modellock_jax.study import training
from modellock_jax.study.config import Config
from modellock_jax.study.context import assemble
from modellock_jax.study.store import Rows
from modellock_jax.tasks import classify

FLIP = "sign_flip(bits=64)"
"""A lock that comes after training."""


def data(train=60, test=30):
    """Images at random; of training images most are of class 0, of test images every third."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(train + test, 2, 2, 1)).astype(np.float32)
    number = np.arange(train)
    y = np.concatenate([number * (number % 2) % 5, np.arange(test) % 3]).astype(np.int32)
    return Data(x[:train], y[:train], x[train:], y[train:], 5)


def untrained(monkeypatch, folder):
    """Two models that are not trained, under `FLIP`."""
    monkeypatch.setattr(training, "fit", lambda forward, params, x, y, **_: (params, None))
    config = Config(
        locks=(FLIP,), seeds=2, wrong_keys=3, budgets=(0.2,), thief_steps=4, thief_scores=2
    )
    return assemble(config, folder, mlp(5, (8,)), classify(5), data())


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def shown(grid):
    """The lines of a table, by its header."""
    return [dict(zip(grid.header, line)) for line in grid.rows]


def rows_of(*rows):
    return Rows({row["id"]: row for row in rows})
