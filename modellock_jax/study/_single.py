"""What the studies of single attacks share: settings by data, models, and means over seeds."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.core.lock import Key, Params, user_forward
from modellock_jax.study.config import Settings
from modellock_jax.study.context import Context, Subject
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.report import Grid
from modellock_jax.study.scale import Scale
from modellock_jax.study.store import Rows
from modellock_jax.study.training import Draws, Owned, owned

__all__ = [
    "RECIPES",
    "by_data",
    "grid_of",
    "key_value",
    "listed",
    "mean",
    "model_of",
    "models_of",
    "only",
    "train",
]

RECIPES: dict[str, dict[str, Any]] = {"fashion_mnist": {"epochs": 10, "learning_rate": 2e-3}}
"""By data set: how a model is trained where not as on mnist5k."""


def by_data(
    config: type[Settings], recipes: dict[str, dict[str, Any]], data: str = "mnist5k", **given: Any
) -> Any:
    """Make a configuration with the settings that fit a data set, but for those that are given.

    Args:
        config: The study's configuration.
        recipes: By data set, the settings that differ from the configuration's own.
        data: The data set.
        **given: Settings that go before both.

    Returns:
        An instance of `config`.
    """
    return config(data=data, **recipes.get(data, {}) | given)


def only(subjects: dict[str, Subject], study: str, *schemes: str) -> None:
    """Refuse a lock that a study is not of.

    Args:
        subjects: The locks under study, by text.
        study: Its name, for the message.
        *schemes: Names of the schemes that it is of.

    Raises:
        ValueError: For a lock of another scheme.
    """
    for text, subject in subjects.items():
        if subject.scheme not in schemes:
            raise ValueError(f"the study {study} is of {' and '.join(schemes)}, not of {text}")


def model_of(context: Context, text: str, seed: int) -> Owned:
    """Train the model of one seed, or read it from the run folder.

    Args:
        context: Of the study.
        text: The lock that it is trained under, or `PLAIN`.
        seed: From 0.

    Returns:
        Its parameters before and after, and its key.
    """
    return owned(
        context, text, seed, Draws(*(jax.random.key(n + seed) for n in (1000, 2000, 3000)))
    )


def train(context: Context, text: str, seed: int) -> list[Row]:
    """Train a model for other units, as `model_of`.

    Args:
        context: Of the study.
        text: The lock that it is trained under, or `PLAIN`.
        seed: From 0.

    Returns:
        No rows.
    """
    model_of(context, text, seed)
    return []


def models_of(text: str, seed: int) -> tuple[Unit, ...]:
    """Name the unit that trains a model, for the `needs` of others.

    Args:
        text: The lock that it is trained under, or `PLAIN`.
        seed: From 0.

    Returns:
        That unit.
    """
    return (Unit(train, (text, seed), ()),)


@functools.lru_cache(maxsize=2)
def key_value(context: Context, text: str) -> Callable[[Key, Params], float]:
    """Compile the test value of the user's model, once for all keys.

    Args:
        context: Of the study.
        text: The lock.

    Returns:
        `value(key, params)`, in the task's unit.
    """
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
    """Make a table with one line for all rows of a kind that are alike in some fields.

    Args:
        title: The table's.
        rows: Of the run.
        kind: The kind of the rows that are shown.
        names: Fields in which the rows of a line are alike; the first columns.
        cells: The other columns: by name, what makes a cell of a line's rows, of all seeds.

    Returns:
        The table; lines in the order of the rows.
    """
    together: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows.of(kind):
        together.setdefault(tuple(row[name] for name in names), []).append(row)
    lines = [[*map(str, at), *(cell(of) for cell in cells.values())] for at, of in together.items()]
    return Grid(title, [*names, *cells], lines, [])


def listed(field: str) -> Callable[[list[Row]], str]:
    """Make the cells of a table that list a field.

    Args:
        field: Of rows; those without it are passed over.

    Returns:
        What writes a cell of the rows of its line.
    """
    return lambda of: ", ".join(str(row[field]) for row in of if field in row)


def mean(
    scale: Scale, field: str, name: str = "", counts: Callable[[Row], bool] = lambda row: True
) -> Callable[[list[Row]], str]:
    """Make the cells of a table that hold a mean.

    Args:
        scale: Of the values.
        field: Of rows; those without it, or with None, are passed over.
        name: Which value of the field, if it holds several by name.
        counts: Which rows count.

    Returns:
        What writes a cell of the rows of its line; an empty one if none counts.
    """

    def text(of: list[Row]) -> str:
        found = [row.get(field) for row in of if counts(row)]
        known = [value[name] if name else value for value in found if value is not None]
        return scale.text(float(np.mean(known))) if known else ""

    return text
