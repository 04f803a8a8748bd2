"""The parts of `modellock-jax bench`, their run, and the table of what they found."""

import datetime
import json
import shlex
from collections.abc import Callable, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from modellock_jax.bench import ciphers, costs, forwards, keys, layers, training
from modellock_jax.bench.timing import Row, keep_freed_memory
from modellock_jax.study.report import Grid, machine
from modellock_jax.study.store import write

__all__ = ["PARTS", "grid", "run", "save", "today"]

PARTS: dict[str, Callable[[bool], list[Row]]] = {
    "ciphers": ciphers.measure,
    "forwards": forwards.measure,
    "layers": layers.measure,
    "keys": keys.measure,
    "training": training.measure,
    "costs": costs.measure,
    "gpu": costs.measure_gpu,
}
_VERDICTS = {True: "met", False: "missed", None: ""}


def run(only: Sequence[str] = (), quick: bool = False) -> list[Row]:
    """Measure parts of the bench, side by side with their limits.

    Args:
        only: Names of `PARTS`; none for all.
        quick: Whether to take small sizes and few rounds.

    Returns:
        The lines of the table.

    Raises:
        ValueError: For a part that is not in `PARTS`, before anything is measured.
    """
    if unknown := sorted(set(only) - set(PARTS)):
        raise ValueError(f"bench: the parts are {', '.join(PARTS)}, not {', '.join(unknown)}")
    keep_freed_memory()
    return [row for name, part in PARTS.items() if not only or name in only for row in part(quick)]


def grid(rows: Sequence[Row], part: str) -> Grid:
    """Return the table of one part: each contestant, its ratio to its limit, and its target.

    Args:
        rows: Lines of the bench.
        part: A name of `PARTS`.

    Returns:
        The table.
    """
    header = ["", "", "limit", "ratio [5, 95 %]", "target", ""]
    lines, notes, case = [], [], None
    for row in rows:
        if row["part"] != part:
            continue
        if row["case"] != case:
            case = row["case"]
            lines.append([case, *[""] * (len(header) - 1)])
        value = "" if row["value"] is None else f"{row['value']:.3g} {row['unit']}".strip()
        ratio = (
            f"{row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if "ratio" in row else ""
        )
        target = f"{row['sense']} {row['target']:g}" if "target" in row else ""
        verdict = _VERDICTS[row.get("met")]
        limit = row.get("limit", "")
        lines.append([f"  {row['name']}", value, limit, ratio, target, verdict])
        if "note" in row:
            notes.append(f"{row['name']}: {row['note']}")
    return Grid(f"Speed: {part}", header, lines, notes)


def save(path: Path, rows: Sequence[Row], words: Sequence[str]) -> None:
    """Write the rows as JSON, with the date, the machine and the versions.

    Args:
        path: Where to, replaced at once.
        rows: Lines of the bench.
        words: Those of the command that measured them.
    """
    packages = {"modellock-jax", "modellock-jax-native", "jax", "jaxlib", "numpy", "cryptography"}
    about: dict[str, Any] = {"command": shlex.join(words), "date": today(), "machine": machine()}
    versions = {d.name: d.version for d in distributions() if d.name in packages}
    about |= {"versions": dict(sorted(versions.items())), "rows": list(rows)}
    write(path, (json.dumps(about, indent=1) + "\n").encode())


def today() -> str:
    """Return the date, as it is printed and written.

    Returns:
        As "2026-01-31".
    """
    return datetime.date.today().isoformat()
