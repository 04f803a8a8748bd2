"""A bug planted into a copy of the tree: do the tests that should see it see it?"""

import importlib.util
import json
import os
import queue
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
LIMIT = 600
"""Seconds after which tests that hang have seen the bug."""
# As a worker's of the whole suite, which does not ask again what XLA knows.
SETTINGS = {"PYTEST_XDIST_WORKER": "planted", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


class Bug(NamedTuple):
    """`old`, which `file` holds once, is replaced by `new`; one of `tests` must then fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def planted(self, text: str) -> str:
        """Return the text of the file with the bug in it.

        Raises:
            ValueError: If the file does not hold `old` exactly once, or `new` is the same.
        """
        if (times := text.count(self.old)) != 1 or self.old == self.new:
            raise ValueError(f"{self.name} is stale: {self.file} holds its text {times} times")
        return text.replace(self.old, self.new)


class Ran(NamedTuple):
    """Of a run of tests: those that passed, those that did not, and the seconds that it took."""

    passed: list[str]
    failed: list[str]
    seconds: float
    ended: str


class Tree:
    """A copy of the tree, and a process that runs tests in it (see `warm`); to be closed."""

    def __init__(self, path: Path):
        self.path = path
        # What `conftest.py` finds out about XLA, once for all runs.
        settings = runpy.run_path(str(ROOT / "conftest.py"))
        flags = f"{os.environ.get('XLA_FLAGS', '')} {settings['QUICK']}".strip()
        known = {"XLA_FLAGS": flags} if settings["knows"](flags) else {}
        paths = os.pathsep.join([str(path), str(path / "tests")])
        self._warm = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("warm.py")],
            env=os.environ | known | SETTINGS | {"PYTHONPATH": paths}, cwd=path,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def close(self) -> None:
        self._warm.communicate()

    def run(self, tests: Sequence[str], *options: str) -> Ran:
        """Run tests of the copy, in one process."""
        report, output = (self.path.with_name(f"{self.path.name}.{end}") for end in ("xml", "txt"))
        report.unlink(missing_ok=True)
        words = ["-n", "0", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        # What was imported before the fork has no asserts of ours.
        words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        assert self._warm.stdin is not None
        assert self._warm.stdout is not None
        begin = time.perf_counter()
        self._warm.stdin.write(json.dumps([str(output), LIMIT, [*words, *options, *tests]]) + "\n")
        self._warm.stdin.flush()
        code = int(self._warm.stdout.readline())
        passed, failed = _outcomes(report)
        if code and not failed:
            failed = ["no end" if code == -1 else "the process ended"]
        ended = output.read_text(errors="replace")[-2000:] if code else ""
        return Ran(passed, failed, time.perf_counter() - begin, ended)


@contextmanager
def copied(count: int) -> Iterator[list[Tree]]:
    """Copy all that git keeps, or would, `count` times into temporary folders."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    with tempfile.TemporaryDirectory(prefix="planted-") as folder, ExitStack() as stack:
        trees = []
        for path in (Path(folder) / str(number) for number in range(count)):
            for name in names:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, path / name)
            # Some tests ask git which files there are.
            subprocess.run(["git", "init", "-q"], cwd=path, check=True)
            trees.append(stack.enter_context(closing(Tree(path))))
        yield trees


def _outcomes(report: Path) -> tuple[list[str], list[str]]:
    passed, failed = list[str](), list[str]()
    if report.exists():
        for case in ElementTree.parse(report).iter("testcase"):
            name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
            name = name if case.get("classname") else "on import"
            kinds = {child.tag for child in case} - {"properties", "system-out", "system-err"}
            (failed if kinds else passed).append(name)
    return passed, failed


def green(trees: list[Tree], tests: Sequence[str]) -> dict[str, float]:
    """Check that every test passes without a bug, and is not skipped; the seconds of each file's.

    Raises:
        SystemExit: If one does not.
    """
    of_files: dict[str, list[str]] = {}
    for test in dict.fromkeys(tests):
        of_files.setdefault(test.split("::")[0], []).append(test)
    seconds: dict[str, float] = {}

    def check(tree: Tree, file: str) -> str:
        ran = tree.run(of_files[file])
        seconds[file] = ran.seconds
        return f"{file}: {', '.join(ran.failed)}\n{ran.ended}" if ran.failed or ran.ended else ""

    wrong = [said for said in over(trees, check, list(of_files)) if said]
    if wrong:
        raise SystemExit("these do not pass without any bug:\n" + "\n".join(wrong))
    return seconds


def trial(tree: Tree, bug: Bug) -> dict[str, Any]:
    """Plant a bug into a copy, run its tests, and mend the copy."""
    file = tree.path / bug.file
    plain = file.read_bytes()
    try:
        _write(file, bug.planted(plain.decode()).encode())
        ran = tree.run(bug.tests, "-x")
    finally:
        _write(file, plain)
    row: dict[str, Any] = {"bug": bug.name, "file": bug.file}
    row |= {"verdict": "killed" if ran.failed else "survived"}
    return row | {"by": ran.failed[0] if ran.failed else "", "seconds": round(ran.seconds, 1)}


def _write(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    # Python compares seconds and sizes alone.
    Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)


def over(trees: list[Tree], work: Callable[[Tree, Any], Any], items: Sequence[Any]) -> list[Any]:
    """Do `work(tree, item)` for each item, as many at a time as there are trees."""
    free: queue.SimpleQueue[Tree] = queue.SimpleQueue()
    for tree in trees:
        free.put(tree)

    def one(item: Any) -> Any:
        tree = free.get()
        try:
            return work(tree, item)
        finally:
            free.put(tree)

    with ThreadPoolExecutor(len(trees)) as pool:
        return list(pool.map(one, items))
