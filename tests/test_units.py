"""Units of work: which are done, when, and that none of their rows is lost."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from helpers.toy_study import STUDY, Squares, lines, noted

from modellock_jax.study import runner
from modellock_jax.study.engine import Unit, compute, in_order


def test_what_is_needed_comes_first_and_once():
    a = Unit(len, ("a",), ())
    b = Unit(len, ("b",), (), (a,))
    c, d = Unit(len, ("c",), ("c",), (b, a)), Unit(len, ("d",), ("d",))
    found = in_order([c, d])
    assert sorted(found, key=repr) == sorted([a, b, c, d], key=repr)
    assert found.index(a) < found.index(b) < found.index(c)
    # What is wanted and needed too comes once.
    assert in_order([a, b, c]) == [a, b, c]


def test_no_unit_is_begun_before_what_it_needs_has_ended():
    ended = []

    def call(unit):
        time.sleep(0.2 if not unit.needs else 0)
        ended.append(unit.args)
        return []

    first = Unit(len, ("first",), ())
    units = [first, *(Unit(len, (i,), (), (first,)) for i in range(3))]
    for room in (None, 2):
        done = [unit for unit, _ in compute(units, call, partial(ThreadPoolExecutor, 2), room)]
        assert done[0] == first == Unit(len, ended[0], ())
        assert sorted(map(repr, done)) == sorted(map(repr, units))
        assert len(ended) == len(units)
        ended.clear()


def test_after_a_fault_the_rows_of_what_runs_are_handed_over():
    def call(unit):
        if unit.args == (0,):
            raise ValueError("no rows")
        time.sleep(0.2)
        return []

    units, found = [Unit(len, (i,), ()) for i in range(4)], []
    done = compute(units, call, partial(ThreadPoolExecutor, 2), 2)
    with pytest.raises(ValueError, match="no rows"):
        found.extend(unit for unit, _ in done)
    # And nothing else is begun.
    assert found == [units[1]]


def three_rows(context, i):
    noted(context, f"three {i}")
    return [{"id": f"{i}{n}", "kind": "square", "square": i, "took_s": 0} for n in "abc"]


def test_a_unit_of_which_a_row_is_missing_is_done_again(tmp_path):
    units = [Unit(three_rows, (i,), tuple(f"{i}{n}" for n in "abc")) for i in range(2)]
    study = STUDY._replace(units=lambda context: units)
    store = runner.run(study, Squares(), tmp_path)
    values = [row["square"] for row in store.rows.values()]
    assert values == [0, 0, 0, 1, 1, 1]
    rows = (store.folder / "rows.jsonl").read_text().splitlines(keepends=True)
    (store.folder / "rows.jsonl").write_text("".join(rows[:4]))
    again = runner.run(study, Squares(), tmp_path)
    assert again.rows == store.rows
    kept = (store.folder / "rows.jsonl").read_text().splitlines(keepends=True)
    assert sorted(kept) == sorted(rows)
    assert lines(store.folder) == ["three 0", "three 1", "three 1"]
