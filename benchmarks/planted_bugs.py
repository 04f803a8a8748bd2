"""Bugs planted one by one into a copy of the tree: do the tests that should see them see them?

    python benchmarks/planted_bugs.py [--only WORD ...] [--jobs N] [--json PATH]

Each bug of `planted/*.toml` puts `new` in place of `old`, a stretch of a file; only its `tests` are
run, of which each must pass without it. `--only` takes bugs by words of their names, and keeps the rows
of the others in the file that `--json` names. Not of CI: it takes some minutes.
"""

import argparse
import datetime
import json
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bug_trials import ROOT, Bug, Tree, copied, green, over, trial
from command import command

from modellock_jax.study.report import machine


def bugs() -> list[Bug]:
    """Read all planted bugs, in the order of their files.

    Raises:
        ValueError: If two have one name.
    """
    found = []
    for file in sorted((ROOT / "benchmarks" / "planted").glob("*.toml")):
        for bug in tomllib.loads(file.read_text())["bug"]:
            found.append(Bug(**bug | {"tests": tuple(bug["tests"])}))
    names = [bug.name for bug in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two planted bugs are called {', '.join(sorted(twice))}")
    return found


def chosen(all_bugs: list[Bug], words: list[str]) -> list[Bug]:
    """Take the bugs whose names hold one of the words; all without words."""
    return [bug for bug in all_bugs if not words or any(word in bug.name for word in words)]


def write(path: Path, command: str, rows: list[dict[str, Any]]) -> None:
    """Write the rows, with what made them."""
    about = {"command": command, "date": datetime.date.today().isoformat(), "machine": machine()}
    versions = {name: version(name) for name in ("jax", "pytest")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about | {"versions": versions, "rows": rows}, indent=1) + "\n")


def kept(path: Path | None, names: list[str]) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return the command of an earlier run, and its rows by name, of bugs that are still there."""
    if path is None or not path.exists():
        return command(), {}
    file = json.loads(path.read_text())
    return file["command"], {row["bug"]: row for row in file["rows"] if row["bug"] in names}


def main() -> None:
    """Plant, print, and write the rows where `--json` says; fails if a bug survived."""
    parser = argparse.ArgumentParser(description="Bugs planted one by one.")
    parser.add_argument("--only", nargs="*", default=[], help="words of the bugs' names")
    parser.add_argument("--jobs", type=int, default=2, help="how many copies of the tree")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    given = parser.parse_args()
    everything = bugs()
    for bug in everything:
        bug.planted((ROOT / bug.file).read_text())
    todo, names = chosen(everything, given.only), [bug.name for bug in everything]
    made_by, rows = kept(given.json, names) if given.only else (command(), {})
    with copied(given.jobs) as trees:
        green(trees, [test for bug in todo for test in bug.tests])

        def one(tree: Tree, bug: Bug) -> None:
            row = rows[bug.name] = trial(tree, bug) | ({"again": command()} if given.only else {})
            print(f"{row['verdict']}: {bug.name}, {row['seconds']} s {row['by']}", flush=True)
            if given.json is not None:
                write(given.json, made_by, [rows[name] for name in names if name in rows])

        over(trees, one, todo)
    verdicts = [rows[bug.name]["verdict"] for bug in todo]
    print(f"{verdicts.count('killed')} of {len(verdicts)} planted bugs killed")
    sys.exit(verdicts.count("killed") < len(verdicts))


if __name__ == "__main__":
    main()
