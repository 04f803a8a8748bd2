"""What the studies of single attacks share: settings by data, models, and means over seeds."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from modellock_jax.core.lock import Key, Params, user_forward
from modellock_jax.study.config import Settings
from modellock_jax.study.context import Context, Subject
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.report import Grid
from modellock_jax.study.store import Rows
from modellock_jax.study.training import Draws, Owned, owned

__all__ = ["RECIPES", "by_data", "grid_of", "key_value", "model_of", "models_of", "only", "train"]

RECIPES: dict[str, dict[str, Any]] = {"fashion_mnist": {"epochs": 10, "learning_rate": 2e-3}}
"""By data set: how a model is trained where not as on mnist5k."""


def by_data(
    config: type[Settings], recipes: dict[str, dict[str, Any]], data: str = "mnist5k", **given: Any
) -> Any:
    """Return a configuration with the settings that fit a data set, but for those that are given."""
    return config(data=data, **recipes.get(data, {}) | given)


def only(subjects: dict[str, Subject], study: str, *schemes: str) -> None:
    """Raise `ValueError` for a lock that a study is not of."""
    for text, subject in subjects.items():
        if subject.scheme not in schemes:
            raise ValueError(f"the study {study} is of {' and '.join(schemes)}, not of {text}")


def model_of(context: Context, text: str, seed: int) -> Owned:
    """Train the model of one seed under a lock, or `PLAIN`; or read it from the run folder."""
    return owned(
        context, text, seed, Draws(*(jax.random.key(n + seed) for n in (1000, 2000, 3000)))
    )


def train(context: Context, text: str, seed: int) -> list[Row]:
    """Train a model for other units; no rows."""
    model_of(context, text, seed)
    return []


def models_of(text: str, seed: int) -> tuple[Unit, ...]:
    """Return the unit that trains a model for others."""
    return (Unit(train, (text, seed), ()),)


@functools.lru_cache(maxsize=2)
def key_value(context: Context, text: str) -> Callable[[Key, Params], float]:
    """Return what gives the test value of the user's model with a key, compiled once for all keys."""
    user = user_forward(context.subjects[text].lock, context.model.forward)
    x, y = jnp.asarray(context.data.test_x), jnp.asarray(context.data.test_y)

    @jax.jit
    def value(key: Key, params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
        return context.measure(partial(user, key, params), x, y).value

    return lambda key, params: float(value(key, params, x, y))


def grid_of(
    title: str,
    rows: Rows,
    kind: str,
    names: tuple[str, ...],
    cells: dict[str, Callable[[list[Row]], str]],
) -> Grid:
    """Return a table: one line for rows of a kind alike in the fields `names`, of all seeds together."""
    together: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows.of(kind):
        together.setdefault(tuple(row[name] for name in names), []).append(row)
    lines = [[*map(str, at), *(cell(of) for cell in cells.values())] for at, of in together.items()]
    return Grid(title, [*names, *cells], lines, [])
