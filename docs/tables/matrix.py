"""The tables of the matrix: every lock against every kind of attacker."""

from collections.abc import Iterator

import numpy as np
from rows import Results, Row, interval, markdown, of, percent, with_interval
from scipy import stats

from modellock_jax.study.attackers import ATTACKERS

STUDY = "matrix"
LEVEL = 0.05


def _gains(rows: list[Row], lock: str, name: str) -> np.ndarray:
    """Return the advantage of each thief over the twin of its model, by the same images."""
    found = []
    for cell in sorted(of(rows, kind="cell", lock=lock, attacker=name), key=lambda r: r["seed"]):
        at = {"kind": "twin", "attacker": name, "seed": cell["seed"]}
        twins = of(rows, lock=lock, **at) or of(rows, lock="plain", **at)
        beside = twins[0]["values"] if twins else [cell["idle"]] * len(cell["values"])
        found.append(np.mean([a - b for a, b in zip(cell["values"], beside)]))
    return np.array(found)


def _attacked(rows: list[Row]) -> Iterator[tuple[str, str]]:
    """Give locks and attackers for whom some attack did good in the rehearsal."""
    yield from dict.fromkeys(
        (r["lock"], r["attacker"]) for r in of(rows, kind="cell") if r["attack"]
    )


def _p_values(rows: list[Row]) -> dict[tuple[str, str], float]:
    """Test each cell, corrected for all of them after Holm (1979)."""
    raw = {}
    for at in _attacked(rows):
        gains = _gains(rows, *at)
        alike = np.ptp(gains) == 0
        raw[at] = float(not gains.any()) if alike else float(stats.ttest_1samp(gains, 0).pvalue)
    found, before = {}, 0.0
    for done, (at, p) in enumerate(sorted(raw.items(), key=lambda item: item[1])):
        found[at] = before = max(before, min(1.0, p * (len(raw) - done)))
    return found


def _cell(rows: list[Row], lock: str, name: str, verdicts: dict[tuple[str, str], float]) -> str:
    cells = of(rows, kind="cell", lock=lock, attacker=name)
    if not cells:
        return "no such attacker"
    if (lock, name) not in verdicts:
        (tried,) = of(rows, kind="rehearsal", lock=lock, attacker=name, twin=False)
        attacks = {one["attack"] for one in tried["tried"]}
        return f"none of {len(attacks)}" if attacks else "no attack"
    star = "\\*" if verdicts[lock, name] <= LEVEL else ""
    gain = 100 * _gains(rows, lock, name).mean()
    return f"{percent(np.mean(r['values']) for r in cells)} ({gain:+.1f}{star})"


def _of_runs(results: Results, text: str) -> str:
    """Write the same table of every run, each below its data and its model."""
    parts = []
    for run in results.runs(STUDY):
        settings, rows = results.settings(STUDY, run), results.run(STUDY, run)
        name = f"**{settings['data']}, {settings['model']}**, {settings['seeds']} models a cell:"
        table = {"brief": _brief, "cells": _whole, "control": _control}[text](rows, settings)
        parts += [name, table, results.made(STUDY, run)]
    return "\n\n".join(parts)


def _least(rows: list[Row], lock: str, verdicts: dict[tuple[str, str], float]) -> str:
    """Say who needs least, of those who come within a point of the right key; or who reaches most."""
    right = np.mean([r["right_key"] for r in of(rows, kind="cell", lock=lock)])
    reached = {
        name: np.mean(
            [np.mean(r["values"]) for r in of(rows, kind="cell", lock=lock, attacker=name)]
        )
        for at, name in verdicts
        if at == lock
    }
    if not reached:
        return "stands: no attack"
    fell = [name for name, value in reached.items() if 100 * (right - value) <= 1]
    name = fell[0] if fell else max(reached, key=reached.__getitem__)
    attack = of(rows, kind="cell", lock=lock, attacker=name)[0]["attack"]
    star = "\\*" if verdicts[lock, name] <= LEVEL else ""
    return (
        f"{'' if fell else 'stands: '}{ATTACKERS[name].has}, `{attack}`: {100 * reached[name]:.1f} of "
        f"{100 * right:.1f} ({100 * _gains(rows, lock, name).mean():+.1f}{star})"
    )


def matrix_locks(results: Results) -> str:
    """Write a line a lock: what it falls to on each data set and model."""
    columns = {}
    for run in results.runs(STUDY):
        rows = results.run(STUDY, run)
        found = _p_values(rows)
        verdicts = {at: found[at] for at in _attacked(rows)}
        columns[run] = {lock: _least(rows, lock, verdicts) for lock in _locks(rows)}
    locks = dict.fromkeys(lock for column in columns.values() for lock in column)
    lines = [
        [f"`{lock}`", *(column.get(lock, "not run") for column in columns.values())]
        for lock in locks
    ]
    settings = [results.settings(STUDY, run) for run in columns]
    header = ["lock", *(f"{s['data']}, {s['model']}" for s in settings)]
    made = "\n".join(dict.fromkeys(results.made(STUDY, run) for run in columns))
    return f"{markdown(header, lines, len(header))}\n\n{made}"


def matrix(results: Results) -> str:
    return _of_runs(results, "brief")


def matrix_cells(results: Results) -> str:
    return _of_runs(results, "cells")


def matrix_control(results: Results) -> str:
    return _of_runs(results, "control")


def _locks(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["lock"] for row in of(rows, kind="cell")))


def _brief(rows: list[Row], settings: Row) -> str:
    verdicts, names = _p_values(rows), settings["attackers"]
    lines = [
        [
            f"`{lock}`",
            percent(r["right_key"] for r in of(rows, kind="cell", lock=lock)),
            *(_cell(rows, lock, name, verdicts) for name in names),
        ]
        for lock in _locks(rows)
    ]
    return markdown(["lock", "right key", *(ATTACKERS[name].has for name in names)], lines)


def _whole(rows: list[Row], settings: Row) -> str:
    verdicts, lines = _p_values(rows), []
    for lock, name in verdicts and _attacked(rows):
        cells = of(rows, kind="cell", lock=lock, attacker=name)
        gain, low, high = interval(_gains(rows, lock, name))
        lines.append(
            [
                f"`{lock}`",
                ATTACKERS[name].has,
                f"`{cells[0]['attack']}`"
                + (f" {cells[0]['setting']}" if cells[0]["setting"] else ""),
                percent(r["no_key"] for r in cells),
                with_interval(np.mean(r["values"]) for r in cells),
                f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]",
                f"{verdicts[lock, name]:.2g}",
                str(cells[0]["images"]),
                f"{np.mean([r['seconds'] for r in cells]):.1f}",
            ]
        )
    header = ["lock", "the attacker has", "best attack", "no key", "reached [95 %]"]
    return markdown([*header, "advantage [95 %]", "p", "inputs", "seconds"], lines, 3)


def _control(rows: list[Row], settings: Row) -> str:
    lock, lines = settings["control"], []
    names = [n for n in settings["attackers"] if of(rows, kind="twin", attacker=n, lock="plain")]
    for name in names:
        gains = 100 * _gains(rows, lock, name)
        t = stats.t.ppf(1 - LEVEL / (2 * len(names)), len(gains) - 1)
        half = t * gains.std(ddof=1) / np.sqrt(len(gains))
        draws = len(of(rows, kind="cell", lock=lock, attacker=name)[0]["values"])
        cell = f"{gains.mean():+.1f} [{gains.mean() - half:+.1f}, {gains.mean() + half:+.1f}]"
        lines.append([ATTACKERS[name].has, str(draws), cell, f"{half:.1f}"])
    header = ["the attacker has", "thefts a model", "advantage [all at once, 95 %]", "half-width"]
    return markdown(header, lines)
