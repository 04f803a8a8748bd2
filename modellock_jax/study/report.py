"""From rows to tables, and tables as Markdown for the run folder."""

import datetime
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import special

from modellock_jax.study.store import write

__all__ = [
    "Grid",
    "interval",
    "machine",
    "markdown",
    "save_tables",
    "seeds_text",
]


class Grid(NamedTuple):
    """A table of text: a `title`, a `header`, `rows` below it, and `notes` that follow."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]


def interval(values: Any, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and Student-t interval of `[N]` values; the interval is the mean itself for N = 1.

    Args:
        values: float `[N]`, at least one.
        level: How often such an interval holds, in (0, 1).

    Returns:
        Mean, lower and upper end.

    >>> [round(v, 3) for v in interval([0.1, 0.2, 0.3])]
    [0.2, -0.048, 0.448]
    """
    values = np.asarray(values, float)
    mean, spread = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
    if spread == 0:
        return mean, mean, mean
    # `scipy.stats` says the same, and takes two seconds to import.
    half = special.stdtrit(len(values) - 1, (1 + level) / 2) * spread / np.sqrt(len(values))
    low, high = mean - half, mean + half
    return mean, float(low), float(high)


def machine() -> str:
    """Return the machine and the versions that a table was made with.

    Returns:
        In a line.
    """
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1] for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = names[0].strip() if names else cpu
    device = jax.devices()[0]
    accelerator = "" if device.platform == "cpu" else f", {device.device_kind}"
    versions = f"Python {platform.python_version()}, jax {jax.__version__}"
    return f"{os.cpu_count()} x {cpu}{accelerator}, {versions}"


def save_tables(folder: Path, config: Any, command: str, grids: list[Grid]) -> None:
    """Write `table.md` into a run folder.

    Args:
        folder: Of the run.
        config: The study's settings.
        command: The one that made the rows.
        grids: The tables, in order.
    """
    today = datetime.date.today()
    made = f"Made by `{command}` on {today}, {machine()}, modellock_jax {config.version}."
    parts = [markdown(grid) for grid in grids]
    write(folder / "table.md", "\n".join([*parts, made, ""]).encode())


def markdown(grid: Grid) -> str:
    """Return a table as Markdown, with its title and notes.

    Args:
        grid: The table.

    Returns:
        Markdown, which ends with a newline.
    """
    line = "| " + " | ".join(grid.header) + " |"
    rule = "| --- |" + " ---: |" * (len(grid.header) - 1)
    body = ["| " + " | ".join(row) + " |" for row in grid.rows]
    notes = [f"- {note}" for note in grid.notes]
    return "\n".join([f"### {grid.title}", "", line, rule, *body, "", *notes, ""])


def seeds_text(config: Any) -> str:
    """How many seeds, in words.

    Args:
        config: The study's settings.

    Returns:
        As "3 seeds".
    """
    return f"{config.seeds} seed{'s' if config.seeds > 1 else ''}"
