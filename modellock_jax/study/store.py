"""The run folder: rows that survive an interruption, written whole or not at all, by one or several."""

import contextlib
import dataclasses
import itertools
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from safetensors.flax import load_file, save

from modellock_jax.core.lock import Params, paths
from modellock_jax.study.config import Config
from modellock_jax.study.processes import ALONE, Part, wait


class Store:
    """A run folder `OUT/study-HASH` with `config.json`, `rows.jsonl` and trained models.

    Opening it reads the rows that earlier runs finished. One of several processes (`part`) writes a
    file of its own, `rows-NUMBER.jsonl`, until process 0 merges them. Raises `ValueError` if the
    folder holds another configuration or a row that cannot be read.
    """

    def __init__(self, out: Path, config: Config, part: Part = ALONE):
        self.folder, self.part = out / f"study-{config.id}", part
        self.file = self.folder / (
            "rows.jsonl" if part.processes == 1 else f"rows-{part.process}.jsonl"
        )
        self.units: list[tuple[str, ...]] = []
        settings = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
        file = self.folder / "config.json"
        if file.exists() and file.read_text() != settings:
            raise ValueError(f"{file} holds another configuration; choose another --out")
        self.rows = self._all()
        self.own = self.rows if part.processes == 1 else _read(self.file)
        write(file, settings.encode())

    def _all(self) -> dict[str, dict[str, Any]]:
        """The rows that all processes have finished so far."""
        rows: dict[str, dict[str, Any]] = {}
        # Those of one process first: while they are merged, both files hold them.
        for file in [*self._parts(), self.folder / "rows.jsonl"]:
            rows = _read(file) | rows
        return rows

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("rows-*.jsonl"))

    def takes(self, *ids: str) -> bool:
        """Whether this process is to compute a unit of work, the rows `ids`: in turns, if not finished.

        Every process asks for every unit of a study, once and in the same order.
        """
        self.units.append(ids)
        return self.part.takes(len(self.units) - 1) and not all(i in self.rows for i in ids)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a finished row: the whole file is replaced, so a crash leaves the old rows."""
        self.rows[row["id"]] = self.own[row["id"]] = row
        write(self.file, _lines(self.own.values()))

    def finish(self) -> None:
        """Wait for all rows and write them to `rows.jsonl` in order; only process 0 does anything.

        Raises `ConnectionError` if a process has ended without its rows.
        """
        if self.part.process or (self.part.processes == 1 and not self._parts()):
            return

        def owed() -> set[int]:
            rows = self._all()
            missing = (n for n, ids in enumerate(self.units) if not all(i in rows for i in ids))
            return {number % self.part.processes for number in missing}

        wait(self.folder, owed)
        place = {name: n for n, name in enumerate(itertools.chain(*self.units))}
        rows = sorted(self._all().values(), key=lambda row: place.get(row["id"], -1))
        self.rows = self.own = {row["id"]: row for row in rows}
        write(self.folder / "rows.jsonl", _lines(rows))
        for file in self._parts():
            file.unlink()

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The rows of one kind, in order of their making."""
        return [row for row in self.rows.values() if row["kind"] == kind]

    def save_params(self, name: str, params: Params) -> None:
        """Keep a trained model as `models/NAME.safetensors`."""
        named = dict(zip(jax.tree.leaves(paths(params)), jax.tree.leaves(params)))
        write(self._model(name), save(named))

    def _model(self, name: str) -> Path:
        return self.folder / "models" / f"{name}.safetensors"

    def holds_params(self, name: str) -> bool:
        """Whether a model is kept under `name`."""
        return self._model(name).exists()

    def load_params(self, name: str, like: Params) -> Params | None:
        """The model kept under `name` in the shape of `like`, or None."""
        if not self.holds_params(name):
            return None
        named = load_file(self._model(name))
        return jax.tree.map(lambda path: jnp.asarray(named[path]), paths(like))


def _read(file: Path) -> dict[str, dict[str, Any]]:
    rows = {}
    # Process 0 of an earlier run may be about to remove its parts.
    text = file.read_text() if file.exists() else ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
            rows[row["id"]] = row
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"line {number} of {file} is not a row; delete that line to compute it anew"
            ) from None
    return rows


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(file: Path, content: bytes) -> None:
    """Write a file atomically: a crash at any byte leaves the old file whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
