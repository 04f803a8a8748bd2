"""Tables as they are shown and as rows say, and rows with other values."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np

from modellock_jax.study.store import read
from modellock_jax.study.table import STUDIES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
FOLDERS = {
    "main": ("mnist5k",),
    "league": ("mnist5k", "fashion_mnist"),
    "sweep": ("mnist5k",),
    "evasion": ("mnist5k",),
    "sign_masks": ("mnist5k", "fashion_mnist"),
    "adv_params": ("mnist5k", "fashion_mnist"),
}
BOTH = (
    "deep_lock_keys",
    "signs_from_weights",
    "sign_curves",
    "matrix",
)  # of which all runs are shown
NAMES = ("games", "rows", "studies", "single", "curves", "matrix")


def writers():
    """The modules that write the tables of README and docs, by name."""
    place = str(ROOT / "docs" / "tables")
    sys.path.insert(0, place)
    try:
        return {name: __import__(name) for name in NAMES}
    finally:
        sys.path.remove(place)


def rows_of(made_up=None):
    """`run(study, data)` gives committed rows and settings, or, in a new folder, other values."""
    if made_up:
        rng = np.random.default_rng(0)
        for study in (*FOLDERS, *BOTH):
            shutil.copytree(RESULTS / study, made_up / study)
            for file in sorted((made_up / study).glob("*/rows.jsonl")):
                rows = [shaken(json.loads(line), rng) for line in file.read_text().splitlines()]
                file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = made_up or RESULTS

    def of(study, data):
        settings = json.loads((folder / study / data / "config.json").read_text())
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        return read(folder / study / data), STUDIES[study].config(**settings)

    return of


def shaken(value, rng, name=""):
    """A row with other measured values; what it is of, and in which order, stays."""
    if isinstance(value, dict):
        # What a row cannot say stays: that nothing was read off, or that no lock came after training.
        fixed = {"trained_under", "twin"} | ({"read"} if "accuracy" not in value else set())
        fixed |= {"right_is_plain"} if value.get("trained_under") else set()
        return {k: v if k in fixed else shaken(v, rng, k) for k, v in value.items()}
    if isinstance(value, list):
        return [shaken(v, rng, name) for v in value]
    if isinstance(value, bool):
        return bool(rng.integers(2))
    if isinstance(value, float) and name not in ("budget", "rate", "prior"):
        return float(rng.uniform())
    if name in ("exact", "false", "signs_right", "surest_wrong"):
        return int(rng.integers(50))
    return value


def lines(text):
    """The lines of a table in Markdown, by its header, without marks."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    header, _, *rest = ([cell.strip(" `*") for cell in line.split("|")[1:-1]] for line in table)
    return [dict(zip(header, line)) for line in rest]


def grid(run, study, data, number=0):
    table = STUDIES[study].grids(*run[0](study, data))[number]
    return [dict(zip(table.header, line)) for line in table.rows]


def numbers(cell):
    """The numbers of a cell, in [0, 100] where it is an interval of such."""
    found = [float(n) for n in re.findall(r"[-+]?\d+(?:\.\d+)?", cell.replace(" − ", ""))]
    return np.clip(found, 0, 100) if "+" not in cell else np.array(found)


def words(cell):
    """A cell without its numbers."""
    return re.sub(r"[\d.+\-`]", "", cell)


def alike(ours, theirs):
    np.testing.assert_allclose(
        numbers(ours), numbers(theirs), atol=0.1001, err_msg=f"{ours}, {theirs}"
    )


def mean(rows, lock, attack):
    mine = [r for r in rows if (r["lock"], r["attack"]) == (lock, attack)]
    return np.mean([0 if r["gave_up"] else r["accuracy"] for r in mine])
