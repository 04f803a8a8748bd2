"""The run folder: rows that survive an interruption, written whole or not at all."""

import contextlib
import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from safetensors.flax import load_file, save

from modellock_jax.base import Params, paths
from modellock_jax.study.config import Config


class Store:
    """A run folder `OUT/study-HASH` with `config.json`, `rows.jsonl` and trained models.

    Opening it reads the rows that an earlier run finished. Raises `ValueError` if the folder holds
    another configuration or a row that cannot be read.
    """

    def __init__(self, out: Path, config: Config):
        self.folder = out / f"study-{config.id}"
        self.rows: dict[str, dict[str, Any]] = {}
        settings = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
        file = self.folder / "config.json"
        if file.exists() and file.read_text() != settings:
            raise ValueError(f"{file} holds another configuration; choose another --out")
        if (self.folder / "rows.jsonl").exists():
            self._read(self.folder / "rows.jsonl")
        write(file, settings.encode())

    def _read(self, file: Path) -> None:
        for number, line in enumerate(file.read_text().splitlines(), 1):
            try:
                row = json.loads(line)
                self.rows[row["id"]] = row
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"line {number} of {file} is not a row; delete that line to compute it anew"
                ) from None

    def add(self, row: dict[str, Any]) -> None:
        """Keep a finished row: the whole file is replaced, so a crash leaves the old rows."""
        self.rows[row["id"]] = row
        lines = "".join(json.dumps(r) + "\n" for r in self.rows.values())
        write(self.folder / "rows.jsonl", lines.encode())

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The rows of one kind, in order of their making."""
        return [row for row in self.rows.values() if row["kind"] == kind]

    def save_params(self, name: str, params: Params) -> None:
        """Keep a trained model as `models/NAME.safetensors`."""
        named = dict(zip(jax.tree.leaves(paths(params)), jax.tree.leaves(params)))
        write(self.folder / "models" / f"{name}.safetensors", save(named))

    def load_params(self, name: str, like: Params) -> Params | None:
        """The model kept under `name` in the shape of `like`, or None."""
        file = self.folder / "models" / f"{name}.safetensors"
        if not file.exists():
            return None
        named = load_file(file)
        return jax.tree.map(lambda path: jnp.asarray(named[path]), paths(like))


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
