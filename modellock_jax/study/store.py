"""The run folder: rows that survive an interruption, written whole or not at all, by one process."""

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
from safetensors.flax import load_file, save

from modellock_jax._atomic import replacing, write_all
from modellock_jax.core.lock import Params
from modellock_jax.core.paths import paths
from modellock_jax.study.rows import check

__all__ = ["Rows", "Store", "load_params", "read", "save_params", "write"]


class Rows(dict[str, dict[str, Any]]):
    """Rows by their ids."""

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the rows of one kind, in order.

        Args:
            kind: A name of the study's kinds.

        Returns:
            Rows as JSON has them.
        """
        return [row for row in self.values() if row["kind"] == kind]


class Store:
    """A run folder with `config.json`, `rows.jsonl` and trained models.

    Opening it reads the rows that earlier runs finished; until it is closed it is this process's alone.
    `kinds` says which fields a row of each kind has. Raises `ValueError` if the folder holds another
    configuration or a row that cannot be read, `ConnectionError` if another process works in it.
    """

    def __init__(self, folder: Path, config: Any, kinds: Mapping[str, type]):
        self.folder, self.kinds = folder, kinds
        settings = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
        file = self.folder / "config.json"
        if file.exists() and file.read_text() != settings:
            raise ValueError(f"{file} holds another configuration; choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        self._held = _hold(folder)
        try:
            self.rows = read(folder)
            write(file, settings.encode())
        except BaseException:
            os.close(self._held)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        os.close(self._held)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a finished row: the whole file is replaced, so a crash leaves the old rows.

        Args:
            row: A row of one of the study's kinds, with an `id`.

        Raises:
            TypeError: For a row that is not of its kind.
        """
        check(row, self.kinds)
        self.rows[row["id"]] = row
        self._write()

    def sort(self, ids: Iterable[str]) -> None:
        """Put the rows in one order, whatever order they were finished in.

        Args:
            ids: Those of all rows.
        """
        place = {name: n for n, name in enumerate(ids)}
        ordered = sorted(self.rows.values(), key=lambda row: place.get(row["id"], -1))
        if ordered != list(self.rows.values()):
            self.rows = Rows({row["id"]: row for row in ordered})
            self._write()

    def _write(self) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in self.rows.values())
        write(self.folder / "rows.jsonl", lines.encode())


def read(folder: Path) -> Rows:
    """Return the rows of a run folder.

    Args:
        folder: Of a run.

    Returns:
        The rows, in their order.

    Raises:
        ValueError: For a line that is no row.
    """
    rows, file = Rows(), folder / "rows.jsonl"
    for number, line in enumerate(file.read_text().splitlines() if file.exists() else (), 1):
        try:
            row = json.loads(line)
            rows[row["id"]] = row
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"line {number} of {file} is not a row; delete that line to compute it anew"
            ) from None
    return rows


def _hold(folder: Path) -> int:
    """Hold a folder until the descriptor is closed, or this process is no more."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise ConnectionError(
            f"another process works in {folder}; wait until it is done, or choose another --out"
        ) from None
    except OSError:
        pass  # a file system without locks
    return held


def save_params(file: Path, params: Params) -> None:
    """Keep a trained model in a file.

    Args:
        file: A path; its folder is made.
        params: A tree of arrays.
    """
    named = dict(zip(jax.tree.leaves(paths(params)), jax.tree.leaves(params)))
    write(file, save(named))


def load_params(file: Path, like: Params) -> Params | None:
    """Return the model kept in a file.

    Args:
        file: A path, which need not exist.
        like: A tree of arrays of the same shapes and dtypes.

    Returns:
        A tree like it; None if there is no file.
    """
    if not file.exists():
        return None
    named = load_file(file)
    return jax.tree.map(lambda path: jnp.asarray(named[path]), paths(like))


def write(file: Path, content: bytes) -> None:
    """Write a file atomically: a crash at any byte leaves the old file whole.

    Args:
        file: A path; its folder is made.
        content: All of it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as handle:
        write_all(handle, content, 0)
