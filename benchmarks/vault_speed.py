"""How fast sealed files are, beside plain safetensors and cryptotensors: one command, one run.

    python benchmarks/vault_speed.py [--disk FOLDER] [--rounds N] [--json PATH]

Part 1 saves and loads a transformer's 250 MB of float32, in memory (tmpfs) and on the disk, by
safetensors, by cryptotensors (encrypted and signed, as it always is; skipped if it is not installed)
and by `vault.seal` and `load`; and it seals and exports a file, beside a plain copy of it. Only
ours brings a file to the disk before it says that it is saved, so the plain ones come with that
fsync too, and the disk's own speed is the row that writes the same number of bytes. The cipher alone
is AES-256-GCM from a chunk in the cache into fresh memory, on as many threads as ours: no loader of
this format can be faster. Part 2 rewrites heads, of 2.5 MB and of 250 MB. Part 3 is the peak of memory
beyond that of a process that has imported all it needs, as a multiple of the arrays' bytes.

Every round runs each contestant once, back and forth; the figures are medians over rounds (`best` is
the fastest), and ratios are taken within a round. Files that are read lie in the page cache. Targets
are printed as met or missed and do not change the exit status. A ratio whose interval is wide means
a busy machine: run it again.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import tempfile
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from command import command
from rich.console import Console
from rich.table import Table
from vault_contestants import (
    CIPHER,
    DISK,
    OURS,
    PEER,
    PLAIN,
    Contestants,
    parts,
    size_of,
    transformer,
)

from modellock_jax.bench.timing import alternate, median_with_interval
from modellock_jax.study.report import machine
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.secret import Secret, generate_key
from modellock_jax.vault.sealed import envelope, recipients, rewrite
from modellock_jax.vault.sealed._header_fields import Header

SIZES = {"2.5 MB": (128, 3, 270), "250 MB": (768, 8, 7600)}
PEER_TARGET, PLAIN_TARGET = 0.5, 1.5  # times the seconds of the peer, and of plain safetensors
REWRITE_TARGET = 50.0  # ms
LIMIT = 1.25  # times the mere writing: what is not much slower is as fast as the disk lets it be
PEAK_TARGET = 1.3  # times the bytes of the arrays


def compare(folder: Path, place: str, rounds: int) -> list[dict[str, Any]]:
    """The rows of part 1 in one folder; `times` are ratios of seconds, ours to theirs."""
    arrays, rows = transformer(*SIZES["250 MB"]), []
    targets = {PLAIN: PLAIN_TARGET, PEER: PEER_TARGET}
    for part, contestants in parts(folder, arrays).items():
        seconds = alternate(contestants, 0.0, min_rounds=rounds, max_rounds=rounds)
        for name, taken in seconds.items():
            ratio, low, high = median_with_interval(seconds[OURS] / taken)
            row: dict[str, Any] = {"part": part, "place": place, "name": name}
            row |= {"ms": 1e3 * float(np.median(taken)), "best_ms": 1e3 * float(taken.min())}
            row |= {"gb_per_s": size_of(arrays) / 1e9 / float(np.median(taken))}
            row |= {"ours_times": ratio, "low": low, "high": high}
            if name in targets:
                row |= {"target": targets[name], "met": ratio <= targets[name]}
            rows.append(row)
    return rows


def rewrites(folder: Path, place: str, rounds: int) -> list[dict[str, Any]]:
    """The rows of part 2 in one folder: a head rewritten, a recipient added, and both signed."""
    owner, rows = generate_key(), []
    public = identity.public_key(owner)

    def add(made: Header, file_key: bytes) -> Header:
        new = recipients.wrap(file_key, public, made.file_id)
        return made._replace(stanzas=(*made.stanzas[:8], new))  # so that the head does not grow

    def same(made: Header, _: bytes) -> Header:
        return made

    for case, shape in SIZES.items():
        for signers in ((), (owner,)):
            path = folder / f"{len(signers)}.sealed"
            envelope.seal(transformer(*shape), path, [public], signers=signers)
            signed = " and sign" if signers else ""
            tasks: Contestants = {}
            for name, change in (("rewrap", same), ("add a recipient", add)):
                tasks[name + signed] = partial(rewrite.rewrite, path, owner, change, signers)
            for name, taken in alternate(
                tasks, 0.0, min_rounds=3 * rounds, max_rounds=3 * rounds
            ).items():
                ms = 1e3 * float(np.median(taken))
                row = {"part": "rewrite", "place": place, "case": case, "name": name, "ms": ms}
                row |= {"best_ms": 1e3 * float(taken.min())}
                rows.append(row | {"target": REWRITE_TARGET, "met": ms < REWRITE_TARGET})
    return rows


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if "VmHWM" in line).split()[1])


def _peak_of(name: str, path: str, raw: bytes, answer: Any) -> None:
    """In a process of its own: the peak of memory before and after a file is loaded."""
    before = _peak()
    ours = name == OURS
    loaded = envelope.load(path, Secret(raw)) if ours else safetensors.numpy.load_file(path)
    answer.send((_peak() - before, size_of(loaded)))


def peaks(folder: Path, place: str) -> list[dict[str, Any]]:
    """The rows of part 3 in one folder."""
    arrays, raw, rows = transformer(*SIZES["250 MB"]), os.urandom(32), []
    paths = {PLAIN: folder / "m.plain", OURS: folder / "m.sealed"}
    safetensors.numpy.save_file(arrays, paths[PLAIN])
    envelope.seal(arrays, paths[OURS], [identity.public_key(Secret(raw))])
    spawn = multiprocessing.get_context("spawn")
    for name, path in paths.items():
        here, there = spawn.Pipe()
        process = spawn.Process(target=_peak_of, args=(name, str(path), raw, there))
        process.start()
        there.close()
        peak, size = here.recv()
        process.join()
        row = {"part": "peak of load", "place": place, "name": name, "times_arrays": peak / size}
        if name == OURS:
            row |= {"target": PEAK_TARGET, "met": peak / size <= PEAK_TARGET}
        rows.append(row)
    return rows


def measure(places: dict[str, Path], rounds: int) -> list[dict[str, Any]]:
    """Every row of every part."""
    rows: list[dict[str, Any]] = []
    for place, parent in places.items():
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            rows += compare(Path(folder), place, rounds)
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            rows += rewrites(Path(folder), place, rounds) + peaks(Path(folder), place)
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the three tables."""
    verdicts = {True: "met", False: "missed", None: ""}
    speed = Table("", "ms", "best", "GB/s", "ours takes times [5, 95 %]", "at most", "")
    heads = Table("", "ms", "best", f"< {REWRITE_TARGET:.0f} ms")
    memory = Table("", "times the arrays", f"<= {PEAK_TARGET}")
    speed.title, heads.title = "A checkpoint of 250 MB", "Heads rewritten"
    memory.title = "Peak memory of load"
    for table in (speed, heads, memory):
        table.title_justify = "left"
        for column in table.columns[1:]:
            column.justify = "right"
    at = None
    for row in rows:
        verdict = verdicts[row.get("met")]
        if row["part"].startswith("peak"):
            memory.add_row(f"{row['place']}, {row['name']}", f"{row['times_arrays']:.2f}", verdict)
        elif row["part"] == "rewrite":
            case = f"{row['place']}, {row['case']}, {row['name']}"
            heads.add_row(case, f"{row['ms']:.1f}", f"{row['best_ms']:.1f}", verdict)
        else:
            if at != (at := (row["part"], row["place"])):
                speed.add_section()
                speed.add_row(", ".join(at))
            figures = f"{row['ms']:.0f}", f"{row['best_ms']:.0f}", f"{row['gb_per_s']:.2f}"
            ratio = f"{row['ours_times']:.2f} \\[{row['low']:.2f}, {row['high']:.2f}]"
            target = str(row.get("target", ""))
            speed.add_row(f"  {row['name']}", *figures, ratio, target, verdict)
    for table in (speed, heads, memory):
        console.print(table)
    for place in dict.fromkeys(row["place"] for row in rows):
        save = {r["name"]: r["ms"] for r in rows if (r["part"], r["place"]) == ("save", place)}
        ratio = save[OURS] / save[DISK]
        limit = f": the {place} is the limit" if ratio < LIMIT else ""
        console.print(
            f"{place}: to save takes {ratio:.2f} times the mere writing with fsync{limit}."
        )
        load = {r["name"]: r["ms"] for r in rows if (r["part"], r["place"]) == ("load", place)}
        if PEER in load:
            share = load[CIPHER] / load[PEER]
            limit = f": {PEER_TARGET} is out of reach here" if share > PEER_TARGET else ""
            console.print(f"{place}: {CIPHER} takes {share:.2f} times {PEER}' load{limit}.")


def main() -> None:
    """Measure, print, and write the rows where `--json` says."""
    parser = argparse.ArgumentParser(description="Measure the speed of sealed files.")
    parser.add_argument("--disk", type=Path, default=tempfile.gettempdir(), help="a folder on it")
    parser.add_argument("--rounds", type=int, default=9, help="of every comparison")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    given, console = parser.parse_args(), Console()
    places = {"tmpfs": Path("/dev/shm"), "disk": given.disk}
    if not places["tmpfs"].is_dir():
        del places["tmpfs"]
        console.print("There is no /dev/shm here: nothing is measured in memory.")
    names = ["modellock-jax", PLAIN, "cryptography", "numpy", PEER]
    if not find_spec(PEER):
        names.remove(PEER)
        console.print(f"{PEER} is not installed, so it is left out; `pip install {PEER}` adds it.")
    versions = {name: version(name) for name in names}
    today, rows = datetime.date.today().isoformat(), measure(places, given.rounds)
    show(rows, console)
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    console.print(f"{today}, {machine()}, {listed}", highlight=False)
    if given.json is not None:
        about = {"command": command(), "date": today, "machine": machine(), "versions": versions}
        given.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
