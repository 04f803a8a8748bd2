"""The matrix: every lock against every kind of attacker, each beside a twin without the weights.

Per lock and attacker all attacks that they have a right to are rehearsed on models of the attacker's
own, and judged on inputs that nobody trains on; the one that does best there is run on the models
under study. Test inputs choose nothing. The twin has the same rights, images and settings to try, and
weights that hold nothing in place of the locked ones; each draws their own random numbers.
"""

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

from modellock_jax.study import _matrix_cases as cases
from modellock_jax.study import _matrix_work as work
from modellock_jax.study._single import RECIPES, by_data
from modellock_jax.study.attackers import ATTACKERS, Attacker, exists
from modellock_jax.study.config import Settings, locks_and_variants
from modellock_jax.study.context import Context
from modellock_jax.study.context import prepare as prepare_all
from modellock_jax.study.engine import Unit, in_order
from modellock_jax.study.matrix_grids import grids
from modellock_jax.study.matrix_rows import CellRow, PilotRow, RehearsalRow, TwinRow
from modellock_jax.study.record import Study
from modellock_jax.study.training import PLAIN

__all__ = ["STUDY", "Config", "prepare", "units"]


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The settings of the matrix.

    Attributes:
        attackers: Names of `attackers.ATTACKERS`.
        rehearsals: Models of the attacker's own, at least 2.
        rehearsal_draws: Thefts of each, by attacks of which settings are tried, at least 2.
        control: The lock that gives nothing away, whose row says how far a number can be trusted.
        pilot_draws: Thefts of each model of the pilot, at least 2.
        half_width: What the intervals of that row shall reach, as a share.
        most_draws: Thefts of a model there, at most.
    """

    locks: tuple[str, ...] = dataclasses.field(
        default_factory=lambda: (*locks_and_variants(), "negative_positive", "ffx")
    )
    seeds: int = 5
    attackers: tuple[str, ...] = tuple(ATTACKERS)
    rehearsals: int = 3
    rehearsal_draws: int = 3
    control: str = "stream_lock"
    pilot_draws: int = 8
    half_width: float = 0.02
    most_draws: int = 64


_QUICK = {
    "model": "mlp",
    "seeds": 2,
    "epochs": 4,
    "locks": ("sign_flip", "stream_lock"),
    "attackers": ("weights", "labels-1%"),
    "rehearsals": 2,
    "rehearsal_draws": 2,
    "pilot_draws": 2,
    "most_draws": 2,
}
"""What `--quick` changes."""


def prepare(config: Config, folder: Path) -> Context:
    """Check the settings, and leave the owner the part of the data that is theirs.

    Args:
        config: The settings.
        folder: That of the run, which need not exist.

    Returns:
        What the units share.

    Raises:
        ValueError: For settings that do not fit.
    """
    if config.seeds < 2:
        raise ValueError(
            f"the matrix has intervals over models: it needs 2 seeds, not {config.seeds}"
        )
    if config.rehearsals < 2:
        raise ValueError(f"the matrix: rehearsals are on 2 models or more, not {config.rehearsals}")
    if unknown := [name for name in config.attackers if name not in ATTACKERS]:
        raise ValueError(
            f"there is no attacker {unknown[0]!r}; the attackers are {', '.join(ATTACKERS)}"
        )
    return prepare_all(config, folder, cases.split(config.data).owner)


def units(context: Context) -> list[Unit]:
    """Return the pilot, and for each lock and attacker a rehearsal and a row a seed, twins beside them.

    Args:
        context: The study.

    Returns:
        Units of one row each.
    """
    c, found = context.config, dict[Unit, None]()
    for text, name in itertools.product(context.subjects, c.attackers):
        attacker = ATTACKERS[name]
        if not exists(context.subjects[text], attacker):
            continue
        found |= dict.fromkeys(_thefts(context, work.cell_rows, "cell", text, attacker))
        if attacker.twin == "trains":
            under = cases.twin_of(context, text, attacker)
            found |= dict.fromkeys(_thefts(context, work.twin_rows, "twin", under, attacker))
    return [unit for unit in in_order(found) if unit.ids]


def _thefts(context: Context, do: Any, kind: str, text: str, attacker: Attacker) -> list[Unit]:
    """Return a unit for each seed, which needs the models, the rehearsal and the pilot."""
    c, name = context.config, attacker.name
    models = cases.trainings(context, text, range(c.seeds + c.rehearsals))
    needs = (*models, _rehearsal(context, text, attacker, kind == "twin"))
    if c.control in context.subjects and attacker.twin == "trains":
        rehearsal = _rehearsal(context, PLAIN, ATTACKERS[work.PILOT], True)
        before = (*cases.trainings(context, c.control, work.others(context)), rehearsal)
        needs += (Unit(work.pilot_rows, (), (f"pilot/{c.control}",), before),)
    return [
        Unit(do, (text, name, seed), (f"{kind}/{text}/{name}/{seed}",), needs)
        for seed in range(c.seeds)
    ]


def _rehearsal(context: Context, text: str, attacker: Attacker, twin: bool) -> Unit:
    """Return the unit that rehearses: a thief after the twin."""
    before = cases.trainings(context, text, work.others(context))
    if attacker.twin == "trains" and not twin:
        under = cases.twin_of(context, text, attacker)
        before += (_rehearsal(context, under, attacker, True),)
    place = work.rehearsal_id(text, attacker.name, twin)
    return Unit(work.rehearsal_rows, (text, attacker.name, twin), (place,), before)


STUDY = Study(
    name="matrix",
    about="every lock against every kind of attacker, beside a twin without the weights",
    config=functools.partial(by_data, Config, RECIPES),
    quick=_QUICK,
    prepare=prepare,
    units=units,
    kinds={"pilot": PilotRow, "rehearsal": RehearsalRow, "twin": TwinRow, "cell": CellRow},
    grids=grids,
    drawings={},
)
