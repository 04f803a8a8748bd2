"""The tables of the matrix."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from modellock_jax.study.attackers import ATTACKERS
from modellock_jax.study.family import LEVEL, holm, p_value, simultaneous
from modellock_jax.study.report import Grid, interval
from modellock_jax.study.scale import Scale, scale_of
from modellock_jax.study.store import Rows
from modellock_jax.study.training import PLAIN

__all__ = ["Cell", "cells", "grids"]

_WITHIN = 1.0
"""Points below the right key from which a lock counts as fallen."""


class Cell(NamedTuple):
    """What one attacker came to under one lock, over all models.

    Attributes:
        rows: One a seed.
        reached: The mean over draws of each.
        gains: What that is above the twin of the same model.
    """

    rows: list[dict[str, Any]]
    reached: list[float]
    gains: list[float]

    @property
    def attacked(self) -> bool:
        """Whether any attack is against this lock with these rights."""
        return bool(self.reached)


def cells(rows: Rows) -> dict[tuple[str, str], Cell]:
    """Put the rows of all seeds together, each thief beside the twin of the same model and draw.

    Args:
        rows: Of a matrix.

    Returns:
        By lock and attacker, in the order of the rows.
    """
    twins = {(r["lock"], r["attacker"], r["seed"]): r["values"] for r in rows.of("twin")}
    found: dict[tuple[str, str], Cell] = {}
    for row in rows.of("cell"):
        cell = found.setdefault((row["lock"], row["attacker"]), Cell([], [], []))
        cell.rows.append(row)
        if not row["attack"]:
            continue
        own, shared = ((name, row["attacker"], row["seed"]) for name in (row["lock"], PLAIN))
        twin = twins.get(own, twins.get(shared, [row["idle"]] * len(row["values"])))
        cell.reached.append(float(np.mean(row["values"])))
        cell.gains.append(float(np.mean(np.subtract(row["values"], twin[: len(row["values"])]))))
    return found


def grids(rows: Rows, config: Any) -> list[Grid]:
    """Give the matrix in brief, every cell at length, and how far the control's row can be trusted.

    Args:
        rows: Of the matrix.
        config: Its settings.

    Returns:
        The tables.
    """
    found, scale = cells(rows), scale_of(rows)
    tables = [_brief(rows, found, scale, config), _least(found, scale, config)]
    tables.append(_whole(found, scale, config))
    if rows.of("pilot"):
        tables.append(_control(rows, found, scale, config))
    return tables


def _about(config: Any) -> str:
    return f"{config.data}, {config.model}, {config.seeds} models a cell"


def _tried(rows: Rows) -> dict[tuple[str, str], int]:
    """Return how many attacks each attacker tried under each lock."""
    thieves = (row for row in rows.of("rehearsal") if not row["twin"])
    return {
        (row["lock"], row["attacker"]): len({one["attack"] for one in row["tried"]})
        for row in thieves
    }


def _brief(rows: Rows, found: dict[tuple[str, str], Cell], scale: Scale, config: Any) -> Grid:
    names = [name for name in config.attackers if any(at[1] == name for at in found)]
    table = Grid(
        f"Lock by attacker: test {scale.unit} and the advantage over the twin, {_about(config)}",
        ["lock", "right key", *(ATTACKERS[name].has for name in names)], [], [],
    )  # fmt: skip
    verdicts, tried = dict(_verdicts(found)), _tried(rows)
    for lock in dict.fromkeys(at[0] for at in found):
        mine = {name: found.get((lock, name)) for name in names}
        right = [row["right_key"] for cell in mine.values() if cell for row in cell.rows]
        line = [lock, scale.text(float(np.mean(right)))]
        for name, cell in mine.items():
            if cell is None:
                line.append("no such attacker")
            elif not cell.attacked:
                many = tried[lock, name]
                line.append(f"none of {many}" if many else "no attack")
            else:
                gain = scale.factor * scale.sign * float(np.mean(cell.gains))
                star = "\\*" if verdicts[lock, name] <= LEVEL else ""
                line.append(f"{scale.text(float(np.mean(cell.reached)))} ({gain:+.1f}{star})")
        table.rows.append(line)
    table.notes.append(
        "In brackets the advantage over the twin, who has the same and no locked weights; \\*: it is "
        f"not zero, all cells tested together (Holm, {100 * LEVEL:g} %). `none of n`: n "
        "attacks have these rights, and none did any good in the rehearsal. `no attack`: none of the "
        "package's is against this lock with these rights; nobody tried. `no such attacker`: a model "
        "trained under its key has one user, and no base."
    )
    return table


def _verdicts(found: dict[tuple[str, str], Cell]) -> Iterator[tuple[tuple[str, str], float]]:
    """Return the adjusted p-value of each cell that somebody attacked."""
    attacked = [at for at, cell in found.items() if cell.attacked and len(cell.gains) > 1]
    yield from zip(attacked, holm([p_value(found[at].gains) for at in attacked]))


def _least(found: dict[tuple[str, str], Cell], scale: Scale, config: Any) -> Grid:
    table = Grid(
        f"What each lock falls to: {_about(config)}",
        ["lock", "falls to", "best attack", "reached", "right key", "advantage"], [],
        [
            "The attacker who needs least, in the order of the table above, of those who come within "
            "a point of the right key. A lock *stands* where none does: the line is then of the one "
            "who reaches most."
        ],
    )  # fmt: skip
    points, verdicts = scale.factor * scale.sign, dict(_verdicts(found))
    for lock in dict.fromkeys(at[0] for at in found):
        mine = [(name, cell) for (of, name), cell in found.items() if of == lock]
        attacked = [(name, cell) for name, cell in mine if cell.attacked]
        right = float(np.mean([row["right_key"] for _, cell in mine for row in cell.rows]))
        if not attacked:
            table.rows.append([lock, "stands: no attack", "", "", scale.text(right), ""])
            continue
        short = [points * (right - float(np.mean(cell.reached))) for _, cell in attacked]
        fell = min(short) <= _WITHIN
        first = next(i for i, s in enumerate(short) if s <= (_WITHIN if fell else min(short)))
        name, cell = attacked[first]
        star = "\\*" if verdicts.get((lock, name), 1) <= LEVEL else ""
        table.rows.append(
            [
                lock,
                ("" if fell else "stands: ") + ATTACKERS[name].has,
                cell.rows[0]["attack"],
                scale.text(float(np.mean(cell.reached))),
                scale.text(right),
                f"{points * float(np.mean(cell.gains)):+.1f}{star}",
            ]
        )
    return table


def _whole(found: dict[tuple[str, str], Cell], scale: Scale, config: Any) -> Grid:
    table = Grid(
        f"Every cell: {_about(config)}",
        [
            "lock", "the attacker has", "best attack", "no key", "reached [95 %]", "right key",
            "advantage [95 %]", "p", "gave up", "inputs", "seconds",
        ], [], [],
    )  # fmt: skip
    verdicts = dict(_verdicts(found))
    for (lock, name), cell in found.items():
        if not cell.attacked:
            continue
        rows, points = cell.rows, scale.factor * scale.sign
        mean, low, high = interval(cell.reached)
        gain, *ends = (points * value for value in interval(cell.gains))
        attack = rows[0]["attack"] + (f" {rows[0]['setting']}" if rows[0]["setting"] else "")
        draws = [len(row["values"]) for row in rows]
        table.rows.append(
            [
                lock,
                ATTACKERS[name].has,
                attack,
                scale.text(float(np.mean([row["no_key"] for row in rows]))),
                f"{scale.text(mean)} [{scale.text(max(low, 0))}, {scale.text(scale.bounded(high))}]",
                scale.text(float(np.mean([row["right_key"] for row in rows]))),
                f"{gain:+.1f} [{min(ends):+.1f}, {max(ends):+.1f}]",
                f"{verdicts[lock, name]:.2g}" if (lock, name) in verdicts else "",
                f"{sum(row['gave_up'] for row in rows)} of {sum(draws)}",
                str(rows[0]["images"]),
                f"{np.mean([row['seconds'] for row in rows]):.1f}",
            ]
        )
    table.notes.append(
        f"The attack of a cell did best on {config.rehearsals} other models, judged on inputs that "
        "nobody trains on; test inputs choose nothing. Intervals are over models; p is adjusted "
        "over all cells (Holm). Seconds: the first theft of a model, compilation included."
    )
    return table


def _control(rows: Rows, found: dict[tuple[str, str], Cell], scale: Scale, config: Any) -> Grid:
    pilot = rows.of("pilot")[0]
    learned = [
        name
        for name in config.attackers
        if ATTACKERS[name].twin == "trains" and (config.control, name) in found
    ]
    table = Grid(
        f"The control: {config.control} gives nothing away, so its advantage must cover 0; "
        f"{_about(config)}",
        ["the attacker has", "thefts a model", "advantage [all four at once, 95 %]", "half-width"],
        [],
        [
            f"{pilot['draws']} thefts of a model were fixed beforehand: by the pilot's "
            f"{sum(map(len, pilot['thief']))} thefts under {ATTACKERS[pilot['attacker']].has} "
            f"they take the simultaneous interval to {100 * pilot['half_width']:g} points.",
        ],
    )
    for name in learned:
        cell = found[config.control, name]
        mean, low, high = (scale.factor * value for value in simultaneous(cell.gains, len(learned)))
        draws = len(cell.rows[0]["values"])
        half = (high - low) / 2
        line = [ATTACKERS[name].has, str(draws), f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"]
        table.rows.append([*line, f"{half:.1f}"])
    return table
