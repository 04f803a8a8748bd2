"""Bugs drawn at random over attacks, studies and tasks: which of them do the tests see?

    python benchmarks/drawn_bugs.py --draw 60 [--seed N] [--jobs N] --json PATH
    python benchmarks/drawn_bugs.py [--only WORD ...] [--jobs N] --json PATH

The first draws places where a comparison or an operator is exchanged, a constant changed, a condition
negated, what is returned replaced, or two arguments swapped, and tries each with the tests that
import its file and the examples of the file itself; the one that fails must pass without the bug. The
second goes on with those that have no verdict yet, or tries the named again, and keeps what the rows say
of survivors, `why`; where the lines of one are gone, another of its kind is drawn. Pictures, messages
and tables of names are left out.
"""

import argparse
import ast
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from bug_trials import ROOT, Bug, Tree, copied, over, trial
from command import command
from mutated import mutants
from planted_bugs import write

ROOMS = ("attacks", "study", "tasks")
LEFT_OUT = ("figures.py", "attack_figures.py", "terminal.py", "__init__.py", "table.py")


class Drawn(NamedTuple):
    """A place in a file, and the lines around it before and after."""

    file: str
    line: int
    kind: str
    old: str
    new: str

    @property
    def name(self) -> str:
        return f"{self.file.removeprefix('modellock_jax/')}:{self.line} {self.kind}"


def places(file: str) -> Iterator[Drawn]:
    """Yield every bug that a file has room for, each in as many lines as tell it from others."""
    text = (ROOT / file).read_text()
    lines = text.splitlines(keepends=True)
    for kind, first, last, new in mutants(text):
        begin = first
        while text.count("".join(lines[begin:last])) > 1:
            begin -= 1
        before = "".join(lines[begin:first])
        yield Drawn(file, first + 1, kind, "".join(lines[begin:last]), before + new)


def by_kind() -> dict[str, list[Drawn]]:
    """Return all places of the rooms."""
    files = [
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in sorted((ROOT / "modellock_jax" / room).rglob("*.py"))
        if path.name not in LEFT_OUT
    ]
    of_kinds: dict[str, list[Drawn]] = {}
    for place in (place for file in files for place in places(file)):
        of_kinds.setdefault(place.kind, []).append(place)
    return of_kinds


def draw(count: int, seed: int) -> list[Drawn]:
    """Draw so many places, as many of each kind."""
    of_kinds, rng, drawn = by_kind(), np.random.default_rng(seed), list[Drawn]()
    for number, kind in enumerate(sorted(of_kinds)):
        found, each = of_kinds[kind], len(range(number, count, len(of_kinds)))
        drawn += [found[i] for i in rng.choice(len(found), each, replace=False)]
    return sorted(drawn, key=lambda one: (one.file, one.line))


def renew(rows: list[dict[str, Any]], seed: int) -> None:
    """Draw another place of the same kind for each without a verdict whose lines are gone."""
    of_kinds = by_kind()
    for number, row in enumerate(rows):
        file = ROOT / row["file"]
        if "verdict" in row or (file.exists() and file.read_text().count(row["old"]) == 1):
            continue
        rng, places = np.random.default_rng([seed, number]), of_kinds[row["kind"]]
        one = places[rng.integers(len(places))]
        row |= {"bug": one.name} | one._asdict()


# Which tests


def imported(file: Path) -> set[str]:
    """Return the modules of this package that a file names in its imports."""
    found = set[str]()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            if node.module.startswith("modellock_jax"):
                module = importlib.import_module(node.module)
                given = (getattr(module, alias.name, None) for alias in node.names)
                found |= {getattr(one, "__module__", None) or "" for one in given}
    return found


def module_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def tests_of(file: str) -> list[str]:
    """Return the tests that import a file, or a file that imports it, and its own examples."""
    module = module_of(file)
    tests = {str(t.relative_to(ROOT)): imported(t) for t in sorted(ROOT.glob("tests/test_*.py"))}
    by = [name for name, names in tests.items() if module in names]
    if not by:
        sources = sorted((ROOT / "modellock_jax").rglob("*.py"))
        near = {module_of(str(s.relative_to(ROOT))) for s in sources if module in imported(s)}
        by = [name for name, names in tests.items() if near & names]
    if "/attacks/" in file:  # every record of an attack is run there
        by = [*dict.fromkeys([*by, "tests/test_cases.py"])]
    examples = [file] if ">>>" in (ROOT / file).read_text() else []
    return examples + sorted(by, key=lambda test: (ROOT / test).stat().st_size)


def main() -> None:
    """Draw or read bugs, try them, and write the rows where `--json` says."""
    parser = argparse.ArgumentParser(description="Bugs drawn at random.")
    parser.add_argument("--draw", type=int, help="draw so many anew")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="words of the bugs' names")
    parser.add_argument("--jobs", type=int, default=2, help="how many copies of the tree")
    parser.add_argument("--json", type=Path, required=True, help="the rows")
    given = parser.parse_args()
    if given.draw is not None:
        rows: list[dict[str, Any]] = [
            {"bug": one.name} | one._asdict() for one in draw(given.draw, given.seed)
        ]
    else:
        rows = json.loads(given.json.read_text())["rows"]
        renew(rows, given.seed)
    todo = [r for r in rows if "verdict" not in r and not given.only]
    todo += [r for r in rows if any(word in r["bug"] for word in given.only)]
    for row in todo:
        row["tests"] = tests_of(row["file"])
    with copied(given.jobs) as trees:

        def one(tree: Tree, row: dict[str, Any]) -> None:
            row |= trial(tree, Bug(*(row[n] for n in ("bug", "file", "old", "new", "tests"))))
            again = [row["by"]] if "::" in row["by"] else [*row["tests"], "--collect-only"]
            if row["by"] and (ran := tree.run(again)).ended:
                raise SystemExit(f"{row['by']} fails without any bug:\n{ran.ended}")
            print(f"{row['verdict']}: {row['bug']}, {row['seconds']} s {row['by']}", flush=True)
            write(given.json, command(), rows)

        over(trees, one, todo)
    verdicts = [row.get("verdict") for row in rows]
    told = sum(row.get("verdict") == "survived" and "why" in row for row in rows)
    print(
        f"of {len(rows)} drawn bugs {verdicts.count('killed')} killed, {verdicts.count('survived')} "
        f"survived, of which {told} are explained, {verdicts.count(None)} not tried yet"
    )


if __name__ == "__main__":
    main()
