"""A study of one's own model, from Python."""

import dataclasses
import hashlib
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.attacks.attack import blank
from modellock_jax.data import Data
from modellock_jax.models import Model
from modellock_jax.study import report, runner
from modellock_jax.study.context import assemble
from modellock_jax.study.record import Study
from modellock_jax.study.report import Grid
from modellock_jax.study.store import Rows
from modellock_jax.study.table import STUDIES
from modellock_jax.tasks import TASKS, Task

__all__ = ["Result", "run"]


class Result(NamedTuple):
    """What a study found: its `rows` by id, and its `tables`, which `str` gives as Markdown."""

    rows: Rows
    tables: list[Grid]

    def __str__(self) -> str:
        return "\n".join(map(report.markdown, self.tables))


def run(
    model: Model,
    task: Task | str,
    data: Data | Sequence[Any],
    locks: Sequence[str] | None = None,
    *,
    study: str | Study = "main",
    out: Path | str | None = None,
    **settings: Any,
) -> Result:
    """Run a study on a model of one's own.

    Args:
        model: `Model(init, forward, train)`, of a Flax module by `models.linen` or `models.nnx`.
        task: what it is for: a `Task`, or the name of one in `tasks.TASKS`.
        data: `Data`, or four arrays: training inputs `[N, ...]`, training truths `[N, ...]`, test
            inputs and test truths.
        locks: texts such as `"sign_flip(bits=64)"`; the study's own by default.
        study: a name in `study.table.STUDIES`, or a record, as `league.of("fine_tune")`.
        out: a folder, in which a run folder keeps the rows, the trained models and the tables, so
            that running again skips what is finished; nothing is kept without it.
        **settings: of the study's configuration, such as `seeds=1` and `epochs=3`.

    Returns:
        `Result(rows, tables)`.

    Raises:
        ValueError: for an unknown study, task, lock or setting, and for a model, data, task and locks
            that do not fit each other, before anything is written.

    **Guarantees.** Rows are skipped only if the same programs of model and task, on the same data and
    with the same settings, have made them: the run folder is named by a hash of all these.

    >>> import flax.linen as nn
    >>> from modellock_jax import models
    >>> from modellock_jax.data import load
    >>> class Net(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return nn.Dense(10)(nn.relu(nn.Dense(32)(x.reshape(len(x), -1))))
    >>> found = run(models.linen(Net()), "classify", load("digits"), ["sign_flip(bits=64)"],
    ...             seeds=1, epochs=2, wrong_keys=2, budgets=(0.1,), thief_steps=4)
    >>> [row["lock"] for row in found.rows.of("lock")], found.tables[1].rows[0][0]
    (['sign_flip(bits=64)'], 'scratch')
    """
    if isinstance(study, str):
        if study not in STUDIES:
            raise ValueError(f"there is no study {study!r}; the studies are {', '.join(STUDIES)}")
        study = STUDIES[study]
    given = _data(data)
    if isinstance(task, str):
        if task not in TASKS:
            raise ValueError(f"there is no task {task!r}; the tasks are {', '.join(TASKS)}")
        task = TASKS[task](given.classes)
    chosen: Task = task
    if locks is not None:
        settings["locks"] = tuple(locks)
    names = {"data": f"own {_digest(given[:4])}", "model": f"own {_program(model, chosen, given)}"}
    try:
        config = study.config(**settings, **names)
    except TypeError:
        known = {field.name for field in dataclasses.fields(study.config())} - names.keys()
        raise ValueError(
            f"the study {study.name} has no setting {', '.join(sorted(settings.keys() - known))}; its "
            f"settings are {', '.join(sorted(known))}"
        ) from None
    record = study._replace(prepare=lambda c, folder: assemble(c, folder, model, chosen, given))
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            rows = runner.run(record, config, Path(folder)).rows
        return Result(rows, record.grids(rows, config))
    store = runner.run(record, config, Path(out))
    grids = record.grids(store.rows, config)
    report.save_tables(store.folder, config, f"study.run(..., study={study.name!r})", grids)
    return Result(store.rows, grids)


def _data(data: Data | Sequence[Any]) -> Data:
    """Arrays of NumPy, with the number of classes where y counts them."""
    if len(data) < 4:
        raise ValueError(
            f"study.run: data are four arrays, train_x, train_y, test_x and test_y, not {len(data)}"
        )
    train_x, train_y, test_x, test_y = (np.asarray(array) for array in data[:4])
    for name, x, y in (("training", train_x, train_y), ("test", test_x, test_y)):
        if len(x) != len(y) or len(x) == 0:
            raise ValueError(f"study.run: {len(x)} {name} inputs, and {len(y)} truths of them")
    if isinstance(data, Data):
        return Data(train_x, train_y, test_x, test_y, *data[4:])
    whole = np.issubdtype(train_y.dtype, np.integer)
    return Data(train_x, train_y, test_x, test_y, 1 + int(train_y.max()) if whole else 0)


def _program(model: Model, task: Task, data: Data) -> str:
    """Return a hash of what model and task compute: their programs, and the arrays that these hold."""
    example, truth = blank(data.train_x), jnp.asarray(data.train_y[:1])
    rng = jax.random.key(0)
    params = jax.eval_shape(model.init, rng, example)
    out = jax.eval_shape(model.forward, params, example)
    programs = [
        jax.make_jaxpr(model.init)(rng, example),
        jax.make_jaxpr(model.forward)(params, example),
        jax.make_jaxpr(model.train)(params, example),
        jax.make_jaxpr(task.augment)(rng, example),
        *(jax.make_jaxpr(f)(out, truth) for f in (task.loss, task.harm, task.tally)),
        jax.make_jaxpr(task.value)(jax.eval_shape(task.tally, out, truth)),
    ]
    # Where a function lies in memory says nothing of it.
    texts = [re.sub(r" at 0x[0-9a-f]+", "", str(program)) for program in programs]
    held = [np.asarray(const) for program in programs for const in _arrays(program.consts)]
    return _digest([texts, (task.unit, task.chance, task.best), *held])


def _arrays(consts: Sequence[Any]) -> list[Any]:
    """Constants as arrays; a generator as its words."""
    return [
        jax.random.key_data(c)
        if isinstance(c, jax.Array) and jnp.issubdtype(c.dtype, jax.dtypes.prng_key)
        else c
        for c in consts
    ]


def _digest(parts: Sequence[Any]) -> str:
    """8 hexadecimal characters of SHA-256 over arrays and texts."""
    digest = hashlib.sha256()
    for part in parts:
        array = isinstance(part, np.ndarray)
        digest.update(f"{part.dtype}{part.shape}".encode() if array else repr(part).encode())
        digest.update(part.tobytes() if array else b"")
    return digest.hexdigest()[:8]
