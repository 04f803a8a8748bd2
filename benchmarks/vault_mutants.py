"""Changed files of every kind: does anything that opens tell something else than its writer wrote?

    python benchmarks/vault_mutants.py [--mutants N] [--kinds KIND ...] [--json PATH]

Each mutant is a whole file, changed once or several times: bits, bytes, cuts, copies, lines and JSON
values moved, swapped with those of another file of its kind, nested, repeated, made huge or strange. It
ends refused, by one of the faults that the reader documents, in one line that can be printed; the
same, if what is read is what was written; or accepted, which must never be. A register that lost whole
lines at its end is its own category: only a remembered head tells that, as its page says.
"""

import argparse
import collections
import datetime
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from command import command
from mutations import CHANGES, Pair
from rich.console import Console
from rich.table import Table

from modellock_jax.study.report import machine
from modellock_jax.vault.errors import VaultError
from modellock_jax.vault.issuing import register, revocation
from modellock_jax.vault.keys import identity, share_files, shares
from modellock_jax.vault.keys.secret import Secret, generate_key, load_key, save_key
from modellock_jax.vault.locked.files import load_locked, lock_file
from modellock_jax.vault.locked.sets import lock_set, unlock_set
from modellock_jax.vault.sealed import envelope, sets

FAULTS = VaultError, ValueError, PermissionError


class Kind(NamedTuple):
    """A kind of file.

    `pair`: two files of it; `path`: where a mutant is put; `read(path)`: what it tells, to be
    compared by `==`.
    """

    pair: Pair
    path: Path
    read: Callable[[Path], Any]


# Kinds


class Writers:
    """What writes a file of each kind, or another one of that kind, into a folder of its own."""

    def __init__(self) -> None:
        self.secret, self.owner = generate_key(), generate_key()
        self.signer = identity.public_key(self.owner)
        self.publics = [
            identity.public_key(self.secret),
            identity.public_key(self.owner, classic=True),
        ]
        arrays = {"w": np.arange(60.0).reshape(3, 20), "b/c": np.ones(3, np.float16)}
        self.arrays = arrays, {"w": arrays["w"] + 1, "b/c": arrays["b/c"]}

    def sealed_file(self, place: Path, is_other: bool) -> Path:
        settings: dict[str, Any] = {"signers": [self.owner], "name": "m", "serial": 1 + is_other}
        envelope.seal(self.arrays[is_other], place / "m", self.publics, **settings)
        return place / "m"

    def plain(self, place: Path, is_other: bool) -> Path:
        from safetensors.numpy import save_file

        place.mkdir(parents=True, exist_ok=True)
        save_file(self.arrays[is_other], place / "m.safetensors")
        return place / "m.safetensors"

    def locked_file(self, place: Path, is_other: bool) -> Path:
        lock_file(self.plain(place, is_other), place / "l", self.secret, "stream_lock")
        return place / "l"

    def sealed_set(self, place: Path, is_other: bool) -> Path:
        self.plain(place / "in", is_other)
        settings: dict[str, Any] = {"signers": [self.owner], "name": "m", "serial": 1}
        sets.seal_set(place / "in", place / "out", self.publics, **settings)
        return sets.manifest_of(place / "out")

    def locked_set(self, place: Path, is_other: bool) -> Path:
        self.plain(place / "in", is_other)
        lock_set(place / "in", place / "out", self.secret, "stream_lock")
        return next((place / "out").glob("modellock.set*"))

    def key_file(self, place: Path, is_other: bool) -> Path:
        save_key(self.owner if is_other else self.secret.child("team/a"), place / "k")
        return place / "k"

    def public_file(self, place: Path, is_other: bool) -> Path:
        identity.save_public_key(self.publics[is_other], place / "k.pub")
        return place / "k.pub"

    def share_file(self, place: Path, is_other: bool) -> Path:
        split = shares.split(self.owner if is_other else self.secret, 2, 3)
        return share_files.save(split, place / "shares")[0]

    def register(self, place: Path, is_other: bool) -> Path:
        with register.extending(place / "r", self.owner) as writer:
            for user in ("alice", "bob", "carol"):
                _line(writer, f"{user}{is_other}", self.secret)
        return place / "r"

    def revocation_list(self, place: Path, is_other: bool) -> Path:
        for one in (self.secret.id, *(f"{i:032x}" for i in range(3 + is_other))):
            revocation.revoke(place / "revoked.json", [one], self.owner, "lost")
        return place / "revoked.json"


def kinds(folder: Path) -> dict[str, Kind]:
    """A file of each kind, and another one, in folders of their own."""
    writers = Writers()
    secret, signer = writers.secret, writers.signer
    table: dict[str, tuple[Callable[[Path, bool], Path], Callable[[Path], Any]]] = {
        "sealed file": (
            writers.sealed_file,
            lambda path: _of(envelope.load(path, secret, signed_by=[signer])),
        ),
        "sealed file, unsigned reading": (
            writers.sealed_file,
            lambda path: _of(envelope.load(path, secret)),
        ),
        "locked file": (writers.locked_file, lambda path: _of(load_locked(path, secret))),
        "sealed set": (writers.sealed_set, lambda path: _of_set(path, secret, signer)),
        "locked set": (writers.locked_set, lambda path: _of_locked_set(path, secret)),
        "key": (writers.key_file, load_key),
        "public key": (writers.public_file, identity.load_public_key),
        "share": (writers.share_file, _joined),
        "register": (writers.register, lambda path: register.read(path, signer).entries),
        "revocation list": (writers.revocation_list, revocation.read),
    }
    return {name: _kind(folder / name.replace(" ", "-"), *both) for name, both in table.items()}


def _kind(folder: Path, write: Callable[[Path, bool], Path], read: Callable[[Path], Any]) -> Kind:
    both = []
    for is_other in (True, False):
        place = folder / str(is_other)
        place.mkdir(parents=True)
        path = write(place, is_other)
        both.append(path.read_bytes())
    return Kind(Pair(both[1], both[0]), path, read)


def _line(writer: register.Writer, user: str, secret: Secret) -> None:
    fresh = os.urandom(32).hex()
    writer.add(user, secret.child(fresh).id, fresh, "stream_lock()", "0" * 64, "1" * 64)


def _of(arrays: dict[str, np.ndarray]) -> Any:
    return {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}


def _of_set(path: Path, secret: Secret, signer: identity.PublicKey) -> Any:
    found = {}
    with sets.open_set(path.parent, secret, signed_by=[signer]) as opened:
        for name in opened.paths:
            with opened.member(name) as member:
                found[name] = b"".join(map(bytes, member.plain()))
    return found


def _of_locked_set(path: Path, secret: Secret) -> Any:
    out = path.parent.parent / "again"
    shutil.rmtree(out, ignore_errors=True)
    unlock_set(path.parent, out, secret)
    return {file.name: file.read_bytes() for file in out.iterdir()}


def _joined(path: Path) -> Any:
    """The key that a share restores with another; alone, its words do not show a changed line `Key`."""
    both = path, path.with_name("share-2-of-3.txt")
    return shares.join(map(share_files.load, both))


def end_of(kind: Kind, data: bytes, right: Any) -> str:
    """How reading a mutant ends."""
    kind.path.write_bytes(data)
    try:
        found = kind.read(kind.path)
    except FAULTS as error:
        told = str(error)
        good = 10 < len(told) < 700 and told.isprintable()
        return "refused" if good else "refused, badly told"
    if found == right:
        return "the same"
    if isinstance(found, tuple) and found == right[: len(found)]:
        return "cut at a line"
    print(f"accepted: {kind.path.name}: {data!r}", file=sys.stderr)
    return "accepted"


def measure(folder: Path, mutants: int, only: list[str]) -> list[dict[str, Any]]:
    """A row for each kind."""
    rows, all_kinds = [], kinds(folder)
    chosen = {name: one for name, one in all_kinds.items() if not only or name in only}
    for name, kind in chosen.items():
        right, ends = kind.read(kind.path), collections.Counter[str]()
        for seed in range(-(-mutants // len(chosen))):
            rng = np.random.default_rng([seed, list(all_kinds).index(name)])
            data, change = kind.pair.data, CHANGES[int(rng.integers(len(CHANGES)))]
            while data in kind.pair:
                data = change(kind.pair, rng)
            ends[end_of(kind, data, right)] += 1
        kind.path.write_bytes(kind.pair.data)
        rows.append({"kind": name, "mutants": sum(ends.values()), **dict(sorted(ends.items()))})
    return rows


def main() -> None:
    """Change files, print, and write the rows where `--json` says; fails if anything was accepted."""
    parser = argparse.ArgumentParser(description="Changed files of every kind.")
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--kinds", nargs="*", default=[])
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    given, console = parser.parse_args(), Console()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), given.mutants, given.kinds)
    columns = [
        "kind",
        "mutants",
        *sorted({end for row in rows for end in row} - {"kind", "mutants"}),
    ]
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(row.get(column, 0)) for column in columns))
    console.print(table)
    versions = {name: version(name) for name in ("modellock-jax", "cryptography", "numpy")}
    if given.json is not None:
        about = {
            "command": command(),
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
        }
        text = json.dumps(about | {"versions": versions, "rows": rows}, indent=1) + "\n"
        given.json.write_text(text)
    if any(row.get(end) for row in rows for end in ("accepted", "refused, badly told")):
        raise SystemExit("something was accepted, or badly told")


if __name__ == "__main__":
    main()
