"""A recipient who swaps chunks while a signed file is opened and read: is anything else believed?

    python benchmarks/vault_race.py [--runs N] [--json PATH]

A recipient knows the file's key, so they can seal other content under it, chunk by chunk. In each run
a thread puts such chunks into the body and the signed ones back, as fast as it can, while the file is
opened with its owner's signature required, held open, and read: as arrays, one array, pieces, an
exported file, a rotated one. A run ends in the signed content, in `Tampered`, or in anything else:
accepted, which must never be. The control does the same without a signature: what it takes shows that
the swaps come in time.
"""

import argparse
import collections
import datetime
import io
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from command import command
from rich.console import Console
from rich.table import Table

from modellock_jax.study.report import machine
from modellock_jax.vault.errors import Tampered
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.secret import Secret, generate_key
from modellock_jax.vault.sealed import _chunks, _header, envelope
from modellock_jax.vault.sealed.opened import INDEX, TENSORS, Sealed
from modellock_jax.vault.sealed.rewrite import read_header

SIZE = 2 * 10**6  # int32 in the one array: four chunks
Way = Callable[[Sealed, Secret], bytes]


def _rotated(sealed: Sealed, owner: Secret) -> bytes:
    made = io.BytesIO()
    envelope.rotate(sealed, made, [identity.public_key(owner)])
    return envelope.load(made.getvalue(), owner)["w"].tobytes()


def _exported(sealed: Sealed, _: Secret) -> bytes:
    made = io.BytesIO()
    sealed.export(made)
    return made.getvalue()[len(sealed.directory.head) :]


WAYS: dict[str, Way] = {
    "load": lambda sealed, _: sealed.load()["w"].tobytes(),
    "array": lambda sealed, _: sealed.array("w").tobytes(),
    "plain": lambda sealed, _: b"".join(sealed.plain())[len(sealed.directory.head) :],
    "export": _exported,
    "rotate": _rotated,
}


class Swapped:
    """A signed file, and a recipient's other chunks for it, each fitting its place."""

    def __init__(self, path: Path, size: int = SIZE) -> None:
        self.path, self.owner = path, generate_key()
        self.public = identity.public_key(self.owner)
        right = np.arange(size, dtype=np.int32)
        envelope.seal({"w": right}, path, [self.public], signers=[self.owner])
        self.right = right.tobytes()
        made = read_header(path)
        self.at, body = made.room, path.read_bytes()[made.room :]
        file_key = _header.file_key_of(made, self.owner)
        key = _header.file_key_use(file_key, made.file_id, "payload")
        cipher = _chunks.Cipher(key, made.binding)
        with envelope.open(path, self.owner) as sealed:
            plain = (
                TENSORS.encode().ljust(INDEX, b"\0") + sealed.directory.head + (-right).tobytes()
            )
        self.chunks: list[tuple[int, bytes, bytes]] = []
        for number in range(1, _chunks.count(len(plain))):  # the first holds the directory
            one = _chunks.chunk(number, len(plain))
            other = bytearray(one.length + _chunks.TAG)
            cipher.seal(number, plain[one.start : one.start + one.length], other)
            signed = body[one.place : one.place + len(other)]
            self.chunks.append((self.at + one.place, signed, bytes(other)))

    def put(self, other: bool) -> None:
        """Put the recipient's chunks, or the signed ones, into the file."""
        with open(self.path, "r+b", 0) as file:
            for place, *both in self.chunks:
                os.pwrite(file.fileno(), both[other], place)


def race(swapped: Swapped, way: Way, signed: bool, seed: int) -> str:
    """One run: `"signed"`, `"refused"` or `"accepted"`."""
    stop, rng = threading.Event(), np.random.default_rng(seed)
    swapped.put(False)

    def swap() -> None:
        while not stop.is_set():
            time.sleep(float(rng.exponential(0.004)))
            swapped.put(bool(rng.integers(2)))

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        by = [swapped.public] if signed else []
        with envelope.open(swapped.path, swapped.owner, signed_by=by) as sealed:
            time.sleep(float(rng.exponential(0.004)))
            found = way(sealed, swapped.owner)
    except Tampered:
        return "refused"
    finally:
        stop.set()
        thread.join()
    return "signed" if found == swapped.right else "accepted"


def measure(folder: Path, runs: int) -> list[dict[str, Any]]:
    """The rows: each way with a signature, and the control."""
    swapped, rows = Swapped(folder / "m.sealed"), []
    for name, way in WAYS.items():
        for signed, count in ((True, runs // len(WAYS)), (False, max(1, runs // 50))):
            ends = collections.Counter(race(swapped, way, signed, seed) for seed in range(count))
            row = {"way": name, "signature required": signed, "runs": count}
            rows.append(row | {end: ends[end] for end in ("signed", "refused", "accepted")})
    return rows


def main() -> None:
    """Race, print, and write the rows where `--json` says; fails if anything was accepted."""
    parser = argparse.ArgumentParser(description="Swap chunks of a signed file while it is read.")
    parser.add_argument("--runs", type=int, default=1000, help="with a signature, at least 5")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    given, console = parser.parse_args(), Console()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), given.runs)
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)
    versions = {name: version(name) for name in ("modellock-jax", "cryptography", "numpy")}
    today = datetime.date.today().isoformat()
    if given.json is not None:
        about = {"command": command(), "date": today, "machine": machine(), "versions": versions}
        given.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    if any(row["accepted"] for row in rows if row["signature required"]):
        raise SystemExit("content that nobody signed was accepted")


if __name__ == "__main__":
    main()
