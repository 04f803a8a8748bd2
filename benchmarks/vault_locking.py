"""How much memory and time it takes to lock and unlock a large file, scheme by scheme.

    python benchmarks/vault_locking.py [--mib 4096] [--schemes S ...] [--folder FOLDER] [--json PATH]

The file holds sixteen random float32 kernels, and one of a patch embedding. Each scheme has a process of
its own, which locks and unlocks a small file first, so that what is imported and compiled for any file
does not count: its peak of memory beyond that, as `/proc` has it. Beside the seconds of each step stand
those of a plain copy that is brought to the disk, and of `age` (X25519) where that is installed, made in
turn in the same run. Files that are read lie in the page cache, as far as it goes.
"""

import argparse
import datetime
import filecmp
import json
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from command import command
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save_file
from vault_speed import _peak

from modellock_jax.study.report import machine
from modellock_jax.vault._tensors import METADATA
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.locked.files import lock_file, unlock_file

SCHEMES = ("stream_lock", "sign_flip", "deep_lock", "patch_shuffle(patch=4)")
KERNELS, ROOM = 16, 200 * 2**20  # of the file; bytes beside one and a half of them


def write(path: Path, size: int) -> None:
    """Write a file of about `size` bytes, piece by piece."""
    rows = max(1, size // (KERNELS * 4 * 1024))
    names = [f"layer_{i}/kernel" for i in range(KERNELS)]
    shapes = dict.fromkeys(names, (rows, 1024)) | {"embed/kernel": (4, 4, 3, 64)}
    at, table = 0, dict[str, Any]({METADATA: {"format": "random"}})
    for name, shape in shapes.items():
        end = at + 4 * int(np.prod(shape))
        table[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, end]}
        at = end
    head, rng = json.dumps(table).encode(), np.random.default_rng(0)
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for shape in shapes.values():
            file.write(rng.standard_normal(shape, np.float32).tobytes())


def trial(scheme: str, folder: Path, answer: Any) -> None:
    """In a process of its own: the peak of memory and the seconds of both steps."""
    secret, found = Secret(os.urandom(32)), dict[str, float]()
    for name in ("small", "large"):
        path = folder / name
        for step, work, into in (
            ("lock", lambda a, b: lock_file(a, b, secret, scheme), folder / "locked"),
            ("unlock", lambda a, b: unlock_file(a, b, secret), folder / "plain"),
        ):
            before, begin = _peak(), time.perf_counter()
            work(path, into)
            found |= {f"{step} s": time.perf_counter() - begin, f"{step} peak": _peak() - before}
            path = into
        if name == "small":
            continue
        found["peak"] = found["lock peak"] + found["unlock peak"]
    answer.send(found)


def copied(folder: Path) -> float:
    """Copy the file, and bring it to the disk; the seconds."""
    begin = time.perf_counter()
    shutil.copyfile(folder / "large", folder / "copy")
    file = os.open(folder / "copy", os.O_RDONLY)
    os.fsync(file)
    os.close(file)
    return time.perf_counter() - begin


def by_age(folder: Path) -> dict[str, float]:
    """Encrypt and decrypt the file by `age`; the seconds, none if it is not installed."""
    if not (shutil.which("age") and shutil.which("age-keygen")):
        return {}
    key = folder / "age.key"
    key.unlink(missing_ok=True)
    subprocess.run(["age-keygen", "-o", key], check=True, capture_output=True)
    public = subprocess.run(
        ["age-keygen", "-y", key], check=True, capture_output=True, text=True
    ).stdout.strip()
    found = {}
    plain, locked, opened = (str(folder / name) for name in ("large", "age", "copy"))
    for step, words in (
        ("lock", ["-r", public, "-o", locked, plain]),
        ("unlock", ["-d", "-i", str(key), "-o", opened, locked]),
    ):
        begin = time.perf_counter()
        subprocess.run(["age", *words], check=True)
        os.sync()
        found[step] = time.perf_counter() - begin
    return found


def measure(folder: Path, size: int, schemes: list[str]) -> list[dict[str, Any]]:
    """Write both files, and try each scheme; a row for each."""
    save_file({"layer/kernel": np.ones((8, 8), np.float32),
               "embed/kernel": np.ones((4, 4, 3, 8), np.float32)}, folder / "small")  # fmt: skip
    write(folder / "large", size)
    size, largest = (folder / "large").stat().st_size, size // KERNELS
    spawn, rows = multiprocessing.get_context("spawn"), []
    for scheme in schemes:
        beside = {"copy s": copied(folder)} | {f"age {k} s": v for k, v in by_age(folder).items()}
        here, there = spawn.Pipe()
        process = spawn.Process(target=trial, args=(scheme, folder, there))
        process.start()
        there.close()
        found = here.recv()
        process.join()
        same = filecmp.cmp(folder / "plain", folder / "large", shallow=False)
        row: dict[str, Any] = {
            "scheme": scheme,
            "bytes": size,
            "largest tensor": largest,
            "same": same,
        }
        row |= {"peak": found["peak"], "target": 1.5 * largest + ROOM}
        row |= {"lock s": found["lock s"], "unlock s": found["unlock s"]} | beside
        rows.append(row | {"met": row["peak"] <= row["target"]})
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the table."""
    table = Table("scheme", "peak, MiB", "at most", "", "lock, s", "unlock, s", "copy, s", "age, s")
    for row in rows:
        age = f"{row['age lock s']:.1f}, {row['age unlock s']:.1f}" if "age lock s" in row else ""
        table.add_row(
            row["scheme"], f"{row['peak'] / 2**20:.0f}", f"{row['target'] / 2**20:.0f}",
            "met" if row["met"] else "missed", f"{row['lock s']:.1f}", f"{row['unlock s']:.1f}",
            f"{row['copy s']:.1f}", age,
        )  # fmt: skip
    console.print(table)


def main() -> None:
    """Measure, print, and write the rows where `--json` says."""
    parser = argparse.ArgumentParser(description="Measure what locking a large file takes.")
    parser.add_argument("--mib", type=int, default=4096, help="the file's size")
    parser.add_argument("--schemes", nargs="*", default=list(SCHEMES))
    parser.add_argument("--folder", type=Path, default=tempfile.gettempdir(), help="with room")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    given, console = parser.parse_args(), Console()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        rows = measure(Path(folder), given.mib * 2**20, given.schemes)
    show(rows, console)
    today = datetime.date.today().isoformat()
    if given.json is not None:
        about = {"command": command(), "date": today, "machine": machine()}
        given.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
