"""The tables of games and of the matrix against those of the studies, as in `test_two_reckonings`."""

import numpy as np
from helpers.reckoning import alike, grid, lines, mean, words

from modellock_jax.attacks import ATTACKS
from modellock_jax.study.report import interval


def test_what_was_won_in_the_games(run, docs):
    table = lines(docs["games"].games(run[1]))
    shown = {(line["lock"], line["rights"]): line for line in table}
    assert len(shown) == len(table)
    sets = docs["games"].SETS
    full = [grid(run, "league", data, 1) for data in sets]
    rows = [run[0]("league", data)[0].of("league") for data in sets]
    for line in table:
        if "not in the league" in line["attack"]:
            assert not any(row["lock"].startswith(line["lock"]) for of in rows for row in of)
            continue
        at, needs = (line["lock"], line["attack"]), set(ATTACKS[line["attack"]].needs)
        mine = [[r for r in of if (r["lock"], r["attack"]) == at] for of in rows]
        exact = [r["key_right"] == 1 for of in mine for r in of]
        if ATTACKS[line["attack"]].gives == "key":
            assert line["KEY won"] == f"{sum(exact)} of {len(exact)}"
        for data, of, all_rows, all_lines in zip(sets, mine, rows, full):
            cell = line[f"USE: {docs['games'].SETS[data]}"]
            (found,) = [t for t in all_lines if (t["lock"], t["attack"]) == at] or [None]
            if found is None or all(r["gave_up"] for r in of):
                assert cell == ("not run" if found is None else "gave up")
                continue
            alike(
                cell.split(", ")[-1], f"{found['recovered [95 %]'].split()[0]} {found['right key']}"
            )
            assert ("[" in cell) == (needs <= {"labels"})
            if "[" in cell:
                twins = [0.1] * len(of)
                if needs:
                    scratch = [
                        r for r in all_rows if (r["lock"], r["attack"]) == (at[0], "scratch")
                    ]
                    twins = [r["accuracy"] for r in sorted(scratch, key=lambda r: r["seed"])]
                mine_by_seed = [r["accuracy"] for r in sorted(of, key=lambda r: r["seed"])]
                more = interval(np.subtract(mine_by_seed, twins))
                alike(cell.rpartition(", ")[0], " ".join(f"{100 * v:+.1f}" for v in more))


def test_in_each_game_the_adversary_does_all_that_they_can(run, docs):
    table = lines(docs["games"].games(run[1]))
    rows = run[0]("league", "mnist5k")[0].of("league")
    for lock in dict.fromkeys(row["lock"] for row in rows):
        best = {
            frozenset(ATTACKS[line["attack"]].needs): line["attack"]
            for line in table if line["lock"] == lock
        }  # fmt: skip
        for row in rows:
            if row["lock"] == lock and row["attack"] != "scratch":
                needs = ATTACKS[row["attack"]].needs
                able = [name for has, name in best.items() if has <= set(needs)]
                assert mean(rows, lock, row["attack"]) <= max(
                    (mean(rows, lock, name) for name in able), default=-1
                )


def test_the_matrix(run, docs):
    tables = {
        name: iter(lines(docs["matrix"]._of_runs(run[1], name)))
        for name in ("brief", "cells", "control")
    }
    for data in run[1].runs("matrix"):
        for number, shown in zip((0, 2, 3), tables.values(), strict=True):
            ours = grid(run, "matrix", data, number)
            assert number < 3 or ours
            for mine in ours:
                line = next(shown)
                for name in line.keys() & mine.keys():
                    assert words(line[name]) == words(mine[name]), name
                    if name not in ("best attack", "p"):
                        alike(line[name], mine[name])
    assert not [line for shown in tables.values() for line in shown]


def test_a_line_a_lock_of_the_matrix(run, docs):
    table = lines(docs["matrix"].matrix_locks(run[1]))
    for data in run[1].runs("matrix"):
        settings = run[1].settings("matrix", data)
        shown = {line["lock"]: line[f"{settings['data']}, {settings['model']}"] for line in table}
        for mine in grid(run, "matrix", data, 1):
            cell = shown.pop(mine["lock"])
            fell, attack, *_ = (part for name, part in mine.items() if name != "lock")
            assert words(cell).startswith(words(f"{fell}, {attack}:"))
            alike(
                cell.rpartition(":")[2],
                f"{mine['reached']} {mine['right key']} {mine['advantage']}",
            )
            assert ("*" in cell) == ("*" in mine["advantage"])
        assert set(shown.values()) <= {"not run"}
