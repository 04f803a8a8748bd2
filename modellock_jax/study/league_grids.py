"""The tables of the league."""

from typing import Any

from modellock_jax.attacks.table import ATTACKS
from modellock_jax.study.config import Config
from modellock_jax.study.report import Grid, interval
from modellock_jax.study.scale import Scale, scale_of
from modellock_jax.study.store import Rows

__all__ = ["attack_grid", "grid", "strongest"]


def attack_grid() -> Grid:
    """Every attack: what it is against, and what the attacker has.

    Returns:
        The table.
    """
    rows = [
        [name, ", ".join(entry.against), entry.has, entry.gives] for name, entry in ATTACKS.items()
    ]
    return Grid("The attacks", ["attack", "against", "the attacker has", "it gives"], rows, [])


def grid(rows: Rows, config: Config, names: tuple[str, ...] = tuple(ATTACKS)) -> Grid:
    """One row per lock and attack, over all seeds.

    Args:
        rows: Of a league.
        config: Its settings.
        names: The attacks that are shown.

    Returns:
        The table.
    """
    budget = f"{100 * config.budgets[0]:g} % of the training images"
    title = (
        f"The league: {config.data}, {config.model}, seeds: {config.seeds}, attackers with {budget}"
    )
    header = ["lock", "attack", "no key", "recovered [95 %]", "right key", "key found, %"]
    table = Grid(
        title, [*header, "images", "queries", "seconds", "GFLOP", "the attacker has"], [], []
    )
    for same in _together(rows, names):
        table.rows.append(_line(same, scale_of(rows)))
        gave_up = sum(row["gave_up"] for row in same)
        if 0 < gave_up < len(same):
            about = f"{same[0]['attack']} gave up on {gave_up} of {len(same)} models"
            table.notes.append(f"{about} under {same[0]['lock']}.")
    table.notes.append(
        "GFLOP: what the attacker's own passes of images through the model take, a backward pass "
        "counted as two forward ones; 0 where the work is not the model's. Seconds hold compilation."
    )
    return table


def strongest(rows: Rows, config: Config) -> Grid:
    """One row per lock: of the attacks within a point of the best one the quickest, beside scratch.

    Args:
        rows: Of a league.
        config: Its settings.

    Returns:
        The table.
    """
    full, scale = grid(rows, config), scale_of(rows)
    table = Grid("Which lock fell, to what, at what cost", [*full.header, "scratch"], [], [])
    groups = _together(rows, tuple(ATTACKS))
    for lock in config.locks:
        mine = {same[0]["attack"]: same for same in groups if same[0]["lock"] == lock}
        scratch = mine.pop("scratch", [])
        if not mine:
            continue
        reached = {
            name: scale.sign * sum(row["accuracy"] for row in same) for name, same in mine.items()
        }
        point = 0.01 * (1 if scale.factor == 100 else abs(scale.best - scale.chance))
        near = [
            same
            for name, same in mine.items()
            if reached[name] > max(reached.values()) - point * len(same)
        ]
        quickest = min(near, key=lambda same: sum(row["seconds"] for row in same))
        table.rows.append([*_line(quickest, scale), _value(scratch, "accuracy", scale)])
    table.notes.append("scratch: training from nothing on the same images, with the same settings.")
    return table


def _together(rows: Rows, names: tuple[str, ...]) -> list[list[dict[str, Any]]]:
    """Return the rows of all seeds together, by lock and attack."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in (row for row in rows.of("league") if row["attack"] in names):
        found.setdefault((row["lock"], row["attack"]), []).append(row)
    return list(found.values())


def _line(rows: list[dict[str, Any]], scale: Scale) -> list[str]:
    mean, low, high = interval([row["accuracy"] for row in rows])
    low = max(low, 0)
    spread = f" [{scale.text(low)}, {scale.text(scale.bounded(high))}]" if len(rows) > 1 else ""
    keys = [row["key_right"] for row in rows if row["key_right"] is not None]
    return [
        rows[0]["lock"],
        rows[0]["attack"],
        _value(rows, "no_key", scale),
        "gave up" if all(row["gave_up"] for row in rows) else f"{scale.text(mean)}{spread}",
        _value(rows, "right_key", scale),
        f"{100 * sum(keys) / len(keys):.1f}" if keys else "",
        str(max(row["images"] for row in rows)),
        str(max(row["queries"] for row in rows)),
        f"{sum(row['seconds'] for row in rows) / len(rows):.1f}",
        _gflop(rows),
        ATTACKS[rows[0]["attack"]].has,
    ]


def _gflop(rows: list[dict[str, Any]]) -> str:
    counts = [row["flops"] / 1e9 for row in rows if row["flops"] is not None]
    return f"{sum(counts) / len(counts):.3g}" if counts else ""


def _value(rows: list[dict[str, Any]], field: str, scale: Scale) -> str:
    return scale.text(sum(row[field] for row in rows) / len(rows)) if rows else ""
