"""A study of squares, without JAX: some units need others, some are slow, some kill their process."""

import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

from modellock_jax.study.config import Settings
from modellock_jax.study.engine import Unit
from modellock_jax.study.record import Study
from modellock_jax.study.rows import Kind


@dataclasses.dataclass(frozen=True)
class Squares(Settings):
    """How many squares; each takes `seconds`; unit `fatal` kills its process, `deaths` times."""

    data: str = "numbers"
    count: int = 6
    seconds: float = 0
    fatal: int = -1
    deaths: int = 1
    wrong: int = -1


class SquareRow(Kind):
    """A square."""

    square: int
    took_s: float


class Context(NamedTuple):
    config: Squares
    folder: Path


def units(context):
    found = []
    for i in range(context.config.count):
        needs = (Unit(root, (i // 2,), ()),)
        found.append(Unit(square, (i,), (f"square/{i}",), needs))
    return found


def root(context, i):
    """Leave a file that `square` needs."""
    noted(context, f"root {i}")
    file = context.folder / f"root-{i}"
    file.touch()
    return []


def square(context, i):
    c, begin = context.config, time.perf_counter()
    noted(context, f"square {i}")
    assert (context.folder / f"root-{i // 2}").exists()
    time.sleep(c.seconds)
    if i == c.fatal and lines(context.folder).count(f"square {i}") <= c.deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    if i == c.wrong:
        raise ValueError(f"{i} has no square")
    took = time.perf_counter() - begin
    return [{"id": f"square/{i}", "kind": "square", "square": i * i, "took_s": took}]


def noted(context, text):
    """Every unit begun, by whom, in a file beside the run folder."""
    with open(context.folder.with_suffix(".log"), "a") as file:
        file.write(f"{os.getpid()} {text}\n")


def lines(folder):
    """The units begun so far."""
    return [line.split(" ", 1)[1] for line in folder.with_suffix(".log").read_text().splitlines()]


def pids(folder):
    """The processes that began units."""
    return [int(line.split()[0]) for line in folder.with_suffix(".log").read_text().splitlines()]


STUDY = Study(
    name="squares",
    about="squares",
    config=Squares,
    quick={},
    prepare=Context,
    units=units,
    kinds={"square": SquareRow},
    grids=lambda rows, config: [],
    drawings={},
)
