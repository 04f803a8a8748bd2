"""A bug planted into a copy of the tree: do the tests that should see it see it?"""

import importlib.util
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
LIMIT = 600
"""Seconds after which tests that hang have seen the bug."""


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


@contextmanager
def copied(count: int) -> Iterator[list[Path]]:
    """Copy all that git keeps, or would, `count` times into temporary folders."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        copies = [Path(folder) / str(number) for number in range(count)]
        for copy in copies:
            for name in names:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, copy / name)
            # Some tests ask git which files there are.
            subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
        yield copies


def run(copy: Path, tests: Sequence[str], *options: str) -> Ran:
    """Run tests of a copy, in one process."""
    report = copy.parent / f"{copy.name}.xml"
    report.unlink(missing_ok=True)
    paths = os.pathsep.join([str(copy), str(copy / "tests")])
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", f"--junitxml={report}"]
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", *options, *tests],
            cwd=copy, env=os.environ | {"PYTHONPATH": paths}, timeout=LIMIT,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        ended = "" if done.returncode == 0 else (done.stdout + done.stderr)[-2000:]
    except subprocess.TimeoutExpired:
        return Ran([], ["no end"], LIMIT, "no end")
    passed, failed = _outcomes(report)
    if ended and not failed:
        failed = ["on import" if done.returncode in (2, 4) else "the process ended"]
    return Ran(passed, failed, time.perf_counter() - begin, ended)


def _outcomes(report: Path) -> tuple[list[str], list[str]]:
    passed, failed = list[str](), list[str]()
    if report.exists():
        for case in ElementTree.parse(report).iter("testcase"):
            name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
            name = name if case.get("classname") else "on import"
            kinds = {child.tag for child in case} - {"properties", "system-out", "system-err"}
            (failed if kinds else passed).append(name)
    return passed, failed


def green(copies: list[Path], tests: Sequence[str]) -> dict[str, float]:
    """Check that every test passes without a bug, and is not skipped; the seconds of each file's.

    Raises:
        SystemExit: If one does not.
    """
    of_files: dict[str, list[str]] = {}
    for test in dict.fromkeys(tests):
        of_files.setdefault(test.split("::")[0], []).append(test)
    seconds: dict[str, float] = {}

    def check(copy: Path, file: str) -> str:
        ran = run(copy, of_files[file])
        seconds[file] = ran.seconds
        return f"{file}: {', '.join(ran.failed)}\n{ran.ended}" if ran.failed or ran.ended else ""

    wrong = [said for said in over(copies, check, list(of_files)) if said]
    if wrong:
        raise SystemExit("these do not pass without any bug:\n" + "\n".join(wrong))
    return seconds


def trial(copy: Path, bug: Bug) -> dict[str, Any]:
    """Plant a bug into a copy, run its tests, and mend the copy."""
    file = copy / bug.file
    plain = file.read_bytes()
    try:
        _write(file, bug.planted(plain.decode()).encode())
        ran = run(copy, bug.tests, "-x")
    finally:
        _write(file, plain)
    row: dict[str, Any] = {"bug": bug.name, "file": bug.file}
    row |= {"verdict": "killed" if ran.failed else "survived"}
    return row | {"by": ran.failed[0] if ran.failed else "", "seconds": round(ran.seconds, 1)}


def _write(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    # Python compares seconds and sizes alone.
    Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)


def over(copies: list[Path], work: Callable[[Path, Any], Any], items: Sequence[Any]) -> list[Any]:
    """Do `work(copy, item)` for each item, as many at a time as there are copies."""
    free: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    def one(item: Any) -> Any:
        copy = free.get()
        try:
            return work(copy, item)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        return list(pool.map(one, items))
