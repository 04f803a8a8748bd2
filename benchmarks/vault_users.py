"""A thousand users: one sealed file for all, a locked copy for each, and one of them revoked.

    python benchmarks/vault_users.py [--users N] [--folder FOLDER] [--json PATH]

Seals one small checkpoint for N recipients by ML-KEM-768 with X25519, opens it as the last of them,
and adds one more. Then issues N copies, each locked by stream_lock under its user's own key and
entered in the register, and checks the register. Then revokes one user's two keys, and looks whether
they are refused, with the copy and with the sealed file, and their neighbour is not: if not so, it
fails.

Seconds are of one run each, every file brought to the disk before it counts as written; what takes
less than a second is the median of 9 runs. Bytes are of the files that the step left.
"""

import argparse
import datetime
import json
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from command import command
from rich.console import Console
from rich.table import Table
from vault_contestants import transformer

from modellock_jax.study.report import machine
from modellock_jax.vault.errors import Expired
from modellock_jax.vault.issuing import register, revocation
from modellock_jax.vault.issuing.copies import Issued, issue
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.secret import generate_key, load_key
from modellock_jax.vault.locked.files import unlock_file
from modellock_jax.vault.sealed import envelope, recipients, rewrite
from modellock_jax.vault.sealed._header_fields import Header

SHAPE = (64, 2, 300)  # width, blocks, vocabulary: half a megabyte
ROUNDS = 9


def seconds(call: Callable[[], Any], rounds: int = 1) -> float:
    """The median of the seconds that a call takes."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def is_refused(call: Callable[[], Any]) -> bool:
    """Whether a call ends because the key was revoked."""
    try:
        call()
    except Expired:
        return True
    return False


def size(path: Path) -> int:
    """Bytes of a file, or of all in a folder."""
    return sum(f.stat().st_size for f in path.iterdir()) if path.is_dir() else path.stat().st_size


def measure(folder: Path, users: int) -> list[dict[str, Any]]:
    """One row for each step."""
    rows: list[dict[str, Any]] = []

    def row(name: str, taken: float, count: int, path: Path | None = None) -> None:
        each = 1e3 * taken / count
        rows.append({"step": name, "seconds": taken, "count": count, "ms_each": each})
        rows[-1] |= {"bytes": size(path) if path else 0}

    owner, secrets = generate_key(), [generate_key() for _ in range(users)]
    public: list[identity.PublicKey] = []
    plain, sealed, refusing = (folder / name for name in ("m.st", "m.sealed", "list.json"))
    safetensors.numpy.save_file(transformer(*SHAPE), plain)
    row("the plain checkpoint", 0.0, 1, plain)
    row("public keys", seconds(lambda: public.extend(map(identity.public_key, secrets))), users)

    row("seal for one", seconds(lambda: envelope.seal(plain, sealed, public[:1])), 1, sealed)
    row("seal for all", seconds(lambda: envelope.seal(plain, sealed, public)), users, sealed)
    row("open as the last", seconds(lambda: envelope.load(sealed, secrets[-1]), ROUNDS), 1)

    def again(made: Header, file_key: bytes) -> Header:
        new = recipients.wrap(file_key, public[0], made.file_id)
        return made._replace(stanzas=(*made.stanzas[:users], new))

    taken = seconds(lambda: rewrite.rewrite(sealed, secrets[-1], again), ROUNDS)
    row("add a recipient", taken, 1, sealed)

    out, book, issued = folder / "out", folder / "register.jsonl", []
    names = [f"user{i:04d}" for i in range(users)]
    taken = seconds(lambda: issued.extend(issue(plain, out, names, owner, book)))
    row("issue copies", taken, users, out)
    row("check the register", seconds(lambda: register.read(book), 3), users, book)
    one, other = issued[users // 2], issued[users // 2 - 1]

    def unlock(issue: Issued) -> None:
        unlock_file(issue.copy, folder / "opened", load_key(issue.key), revoked=[refusing])

    ids = [secrets[-1].id, one.entry.key]
    row("revoke", seconds(lambda: revocation.revoke(refusing, ids, owner)), 1, refusing)
    refused = is_refused(lambda: unlock(one))
    refused &= is_refused(lambda: envelope.load(sealed, secrets[-1], revoked=[refusing]))
    unlock(other)
    if not refused or (folder / "opened").read_bytes() != plain.read_bytes():
        raise SystemExit("a revoked key was not refused, or another copy did not open")
    last = secrets[-2]
    taken = seconds(lambda: envelope.load(sealed, last, revoked=[refusing]), ROUNDS)
    row("open, with the list", taken, 1)
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the table."""
    table = Table("step", "of", "seconds", "ms each", "bytes", "bytes each")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        many, bytes_ = row["count"], row["bytes"]
        sizes = (f"{bytes_:,}", f"{bytes_ / many:,.0f}") if bytes_ else ("", "")
        table.add_row(
            row["step"], f"{many:,}", f"{row['seconds']:.3f}", f"{row['ms_each']:.2f}", *sizes
        )
    console.print(table)


def main() -> None:
    """Measure, print, and write the rows where `--json` says."""
    parser = argparse.ArgumentParser(description="Measure files for many users.")
    parser.add_argument("--users", type=int, default=1000, help="how many, at least 2")
    parser.add_argument("--folder", type=Path, default=tempfile.gettempdir(), help="on the disk")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    given, console = parser.parse_args(), Console()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        rows = measure(Path(folder), given.users)
    show(rows, console)
    versions = {name: version(name) for name in ("modellock-jax", "cryptography", "jax", "numpy")}
    today = datetime.date.today().isoformat()
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    console.print(f"{today}, {machine()}, {listed}", highlight=False)
    if given.json is not None:
        about = {"command": command(), "date": today, "machine": machine(), "versions": versions}
        given.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
