"""Rows of `results/`, and how numbers are written."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

ROOT = Path(__file__).parents[2]
Row = dict[str, Any]


class Results:
    """The committed rows below a folder."""

    def __init__(self, folder: Path = ROOT / "results"):
        self.folder = folder

    def run(self, study: str, data: str) -> list[Row]:
        lines = (self.folder / study / data / "rows.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def runs(self, study: str) -> list[str]:
        """Return the folders of a study's runs."""
        return sorted(path.name for path in (self.folder / study).iterdir())

    def settings(self, study: str, data: str) -> dict[str, Any]:
        return json.loads((self.folder / study / data / "config.json").read_text())

    def made(self, study: str, data: str) -> str:
        """By which command, when and where, as the run itself printed it."""
        text = (self.folder / study / data / "table.md").read_text()
        return text[text.rindex("Made by") :].strip()

    def made_each(self, study: str, folders: Iterable[str]) -> str:
        """Say so of several models of a study, each of which `--model` names."""
        made = [self.made(study, folder) for folder in folders]
        texts = [re.sub(r" --model=[^ `]+", "", text) for text in made]
        return "\n".join(dict.fromkeys(texts)).replace("` on", "`, for each model by `--model`, on")

    def file(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / f"{name}.json").read_text())


def made(file: dict[str, Any], command: str = "") -> str:
    """Say by which command, when and where a benchmark's file was made."""
    return f"Made by `{file.get('command', command)}` on {file['date']}, {file['machine']}."


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean and 95 % Student-t interval, in percent of shares."""
    v = 100 * np.array(list(values))
    half = stats.t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v)) if len(v) > 1 else 0.0
    return v.mean(), v.mean() - half, v.mean() + half


def percent(values: Iterable[float]) -> str:
    return f"{100 * np.mean(list(values)):.1f}"


def with_interval(values: Iterable[float]) -> str:
    mean, low, high = interval(values)
    return f"{mean:.1f} [{max(low, 0):.1f}, {min(high, 100):.1f}]"


def of(rows: list[Row], **fields: Any) -> list[Row]:
    return [row for row in rows if all(row.get(k) == v for k, v in fields.items())]


def markdown(header: list[str], rows: list[list[str]], right: int = 1) -> str:
    """Write a table; all columns after the first `right` are aligned to the right."""
    rule = ["---"] * right + ["---:"] * (len(header) - right)
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *rows])


def locks_in(rows: list[Row], kind: str) -> list[str]:
    return list(dict.fromkeys(row["lock"] for row in rows if row["kind"] == kind))
