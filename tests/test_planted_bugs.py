"""Planted bugs fit their files; `benchmarks/planted_bugs.py` runs the tests that should see them."""

import ast
from contextlib import closing
from pathlib import Path

import bug_trials
import drawn_bugs
import mutated
import planted_bugs
import pytest
from bug_trials import Bug

ROOT = Path(__file__).parents[1]
BUGS = planted_bugs.bugs()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_fits_its_file_and_its_tests_are_there(bug):
    planted = bug.planted((ROOT / bug.file).read_text())
    if bug.file.endswith(".py"):
        ast.parse(planted)
    assert bug.tests
    for test in bug.tests:
        file, _, name = test.partition("::")
        assert (ROOT / file).is_file(), test
        if file.startswith("tests/") and name:
            assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), test


def test_there_are_many_and_no_two_of_one_name():
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 60


def test_a_bug_whose_text_is_gone_is_an_error():
    for text in ("b = 1\n", "a = 1\na = 1\n"):
        with pytest.raises(ValueError, match=r"here is stale: x\.py holds its text [02] times"):
            Bug("here", "x.py", "a = 1", "a = 2", ("t",)).planted(text)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("copy")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f.py").write_text("def f():\n    return 1\n")
    (tmp_path / "tree" / "test_f.py").write_text(
        "import pytest\nfrom f import f\ndef test_one():\n    assert f() == 1\n"
        "def test_two():\n    assert f() > 0\n@pytest.mark.skip\ndef test_none():\n    assert f()\n"
    )
    with closing(bug_trials.Tree(tmp_path / "tree")) as made:
        yield made


def test_a_bug_is_killed_by_a_test_that_looks_and_survives_one_that_does_not(tree):
    def verdict(new, *names):
        tests = tuple(f"test_f.py::test_{name}" for name in names)
        row = bug_trials.trial(tree, Bug("f", "f.py", "return 1", new, tests))
        assert (tree.path / "f.py").read_text() == "def f():\n    return 1\n"
        return row["verdict"], row["by"]

    assert verdict("return 2", "two", "one") == ("killed", "test_f.py::test_one")
    assert verdict("return 2", "two") == ("survived", "")


def test_what_is_skipped_is_no_test(tree):
    with pytest.raises(SystemExit, match=r"not pass without any bug:\n.*::test_none"):
        bug_trials.green([tree], ["test_f.py::test_none"])


PROGRAM = """
def f(a: int = 2):
    "Not this."
    if a < 3 and not g(a, "x"):
        raise ValueError(f"nor {a + 1} this")
    return a - 1, a
"""


def test_what_is_drawn_is_another_program_each_time_and_no_message():
    found = list(mutated.mutants(PROGRAM))
    lines = PROGRAM.splitlines(keepends=True)
    texts = ["".join([*lines[: one.first], one.new, *lines[one.last :]]) for one in found]
    programs = {ast.dump(ast.parse(text)) for text in texts}
    assert len(programs) == len(found) == 8
    assert ast.dump(ast.parse(PROGRAM)) not in programs
    kinds = sorted(one.kind for one in found)
    assert kinds == ["arguments", "comparison", *["constant"] * 3, *["operator"] * 2, "returned"]
    assert all("Not this" in text and "nor {a + 1} this" in text for text in texts)


def test_a_place_whose_lines_are_gone_is_drawn_anew(monkeypatch, tmp_path):
    (tmp_path / "f.py").write_text("a = 1\n")
    there = drawn_bugs.Drawn("f.py", 1, "constant", "a = 1\n", "a = 2\n")
    gone = {"bug": "g", "file": "g.py", "kind": "constant", "old": "b", "new": "c"}
    tried = gone | {"verdict": "killed"}
    kept = there._asdict() | {"bug": there.name, "new": "a = 3\n"}
    monkeypatch.setattr(drawn_bugs, "ROOT", tmp_path)
    monkeypatch.setattr(drawn_bugs, "by_kind", lambda: {"constant": [there]})
    rows = [dict(gone), dict(tried), dict(kept)]
    drawn_bugs.renew(rows, 1)
    assert rows == [{"bug": there.name} | there._asdict(), tried, kept]
