"""The league: every lock against every attack on it, on real images."""

import functools
from typing import Annotated, Any

from modellock_jax.attacks.case import Entry
from modellock_jax.attacks.table import ATTACKS
from modellock_jax.study import attack_figures
from modellock_jax.study.cases import attacked, case_of
from modellock_jax.study.config import QUICK, Config, locks_and_variants
from modellock_jax.study.context import Context, Subject, prepare
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.league_grids import grid, strongest
from modellock_jax.study.measures import MEASURES, Measure
from modellock_jax.study.record import Study
from modellock_jax.study.rows import Valued
from modellock_jax.study.training import locked_models, trainings

__all__ = [
    "LOCKS",
    "NAMES",
    "SETTINGS",
    "STUDY",
    "DistanceRow",
    "LeagueRow",
    "RocRow",
    "league_rows",
    "of",
    "units",
]

LOCKS = locks_and_variants()
NAMES = tuple(name for name, entry in ATTACKS.items() if entry.gives != "inputs")
"""The attacks of a whole league: those on the lock, not those on what the user's model answers."""

SETTINGS: dict[str, Any] = {"locks": LOCKS, "budgets": (0.01,)}
"""What the league changes in a configuration: variants of the locks, and one budget."""


class LeagueRow(Valued):
    """One attack on the locked model of one seed."""

    lock: Annotated[str, "the lock's text"]
    seed: Annotated[int, "the seed of the model, the key and the attacker's draws, from 0"]
    no_key: Annotated[float, "test value without a key"]
    right_key: Annotated[float, "with the right key"]
    attack: Annotated[str, "the attack"]
    needs: Annotated[list[str], "what the attacker has beside the weights"]
    seconds: Annotated[float, "how long the attack took, compilation included"]
    gave_up: Annotated[bool, "whether it found nothing; then `accuracy` is that without a key"]
    accuracy: Annotated[float, "what the attacker ends with"]
    images: Annotated[int, "inputs of its own that it had"]
    queries: Annotated[int, "inputs that it asked an unlocked device"]
    flops: Annotated[
        float | None, "floating-point operations of its own passes, if XLA counts them"
    ]
    key_right: Annotated[float | None, "share of the key that is right, if it found one"]


class DistanceRow(Valued):
    """Keys at growing distances from the right one, of one lock and seed."""

    lock: Annotated[str, "the lock's text"]
    seed: Annotated[int, "the seed of the model and the key, from 0"]
    no_key: Annotated[float, "test value without a key"]
    right_key: Annotated[float, "with the right key"]
    changes: Annotated[list[int], "random changes of the key, each of one bit or swap"]
    share: Annotated[list[float], "share of the key that is then right, mean over draws"]
    accuracy: Annotated[list[list[float]], "test value on 2,000 inputs, for each draw"]


class RocRow(Valued):
    """Whether changed weights can be found without data, for one lock and seed."""

    lock: Annotated[str, "the lock's text"]
    seed: Annotated[int, "the seed of the model and the key, from 0"]
    no_key: Annotated[float, "test value without a key"]
    right_key: Annotated[float, "test value with the right key"]
    changed: Annotated[int, "weights that encryption changed"]
    auc: Annotated[dict[str, float], "area under the curve, by score"]
    fpr: Annotated[list[float], "false positive rates"]
    tpr: Annotated[dict[str, list[float]], "true positive rates there, by score"]


def units(context: Context, names: tuple[str, ...] = NAMES) -> list[Unit]:
    """Return a row for each lock, seed and attack that is against the lock.

    A league of all attacks measures the locks too.

    Args:
        context: The study.
        names: Names of `attacks.ATTACKS`.

    Returns:
        Units of one row each.

    Raises:
        ValueError: For an unknown attack, or if none is against any lock.
    """
    for name in names:
        if name not in ATTACKS:
            raise ValueError(f"there is no attack {name!r}; the attacks are {', '.join(ATTACKS)}")
    table = {name: ATTACKS[name] for name in names} | (MEASURES if names == NAMES else {})
    found = [
        Unit(
            league_rows,
            (text, seed, name),
            (_row_id(text, seed, name),),
            trainings(context, text),
        )
        for text, subject in context.subjects.items()
        for seed in range(context.config.seeds)
        for name, entry in table.items()
        if entry.fits(subject.scheme) and _given(subject, entry)
    ]
    if not found:
        against = "; ".join(f"{name}: {', '.join(ATTACKS[name].against)}" for name in names)
        fits = [e for s in context.subjects.values() for e in table.values() if e.fits(s.scheme)]
        why = (
            "; a model trained under its key from the start has one user, and no base"
            if fits
            else ""
        )
        raise ValueError(f"no attack named is against a lock given; {against}{why}")
    return found


def _row_id(text: str, seed: int, name: str) -> str:
    return f"{name if name in MEASURES else 'league'}/{text}/{seed}/{name}"


def league_rows(context: Context, text: str, seed: int, name: str) -> list[Row]:
    """Attack the model of one seed, or measure its lock.

    Args:
        context: The study.
        text: The lock's text.
        seed: Of the model, the key and the attacker, from 0 on.
        name: An attack or a measure.

    Returns:
        One row.
    """
    about, kind = case_of(context, text, seed)[1], "league"
    if name in MEASURES:
        kind, owned = name, locked_models(context, text)[seed]
        found = MEASURES[name].measure(context, context.subjects[text], seed, owned)
    else:
        found = attacked(context, text, seed, name)
    return [{"id": _row_id(text, seed, name), "kind": kind, **about, **found}]


def _given(subject: Subject, entry: Entry | Measure) -> bool:
    """Whether such an attacker exists: a model trained under its key has one user, and no base."""
    needs = entry.needs if isinstance(entry, Entry) else ()
    return not (subject.trained_under and {"other_copy", "more_copies", "public_base"} & set(needs))


STUDY = Study(
    name="league",
    about="every attack on each lock",
    config=functools.partial(Config, **SETTINGS),
    quick=QUICK,
    prepare=prepare,
    units=units,
    kinds={"league": LeagueRow, "distance": DistanceRow, "roc": RocRow},
    grids=lambda rows, config: [strongest(rows, config), grid(rows, config)],
    drawings=attack_figures.LEAGUE,
)


def of(*names: str) -> Study:
    """Return the league of some attacks alone.

    Args:
        *names: Names of `attacks.ATTACKS`.

    Returns:
        A study of their rows.
    """
    return STUDY._replace(
        units=functools.partial(units, names=names),
        grids=lambda rows, config: [grid(rows, config, names)],
        drawings={},
    )
