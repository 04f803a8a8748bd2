"""The record of a study: all that the runner, the command line and the documents know of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from modellock_jax.study.engine import Unit
from modellock_jax.study.figures import Drawing
from modellock_jax.study.report import Grid
from modellock_jax.study.store import Rows

__all__ = ["Study"]


class Study(NamedTuple):
    """A study: settings, units of work, kinds of rows, tables and figures.

    Attributes:
        name: On the command line, and of the folder in `results/`.
        about: In a line, for lists.
        config: `config(**settings)` makes its configuration, a frozen dataclass.
        quick: What `--quick` changes of the settings.
        prepare: `prepare(config, folder)` checks the configuration, writes nothing, and gives the
            context that every unit's work takes.
        units: `units(context)` lists the units of work in the order of their rows.
        kinds: The fields of each kind of row.
        grids: `grids(rows, config)` makes the tables.
        drawings: The figures, by name.
    """

    name: str
    about: str
    config: Callable[..., Any]
    quick: dict[str, Any]
    prepare: Callable[[Any, Path], Any]
    units: Callable[[Any], list[Unit]]
    kinds: dict[str, type]
    grids: Callable[[Rows, Any], list[Grid]]
    drawings: dict[str, Drawing]
