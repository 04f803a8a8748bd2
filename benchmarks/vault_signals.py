"""Commands stopped at random moments by TERM, HUP, INT and KILL: what of the plaintext is left?

    python benchmarks/vault_signals.py [--count N] [--size BYTES] [--folder FOLDER] [--json PATH]

For each of the four signals N commands, spread over seal, open, lock and unlock, between files and
between pipes. Each is a process of its own, started with everything imported; the moment is uniform
up to 1.3 times what the command takes just before. Afterwards every file that the command could have
written is searched for the plaintext: beside the output, in $TMPDIR and in /dev/shm.

It fails if after TERM, HUP or INT anything of the plaintext is anywhere, or any file that is not
finished, unless the command was done first and says so with exit code 0; or if after KILL anything
is left that others than its owner may read. Takes 5 minutes for 200 each on 2 cores.
"""

import argparse
import contextlib
import datetime
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from command import command
from rich.console import Console
from rich.table import Table

from modellock_jax.cli import commands as _commands  # imported before a process is started
from modellock_jax.cli import main as run_command
from modellock_jax.vault import _tensors, threats
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.secret import generate_key, save_key
from modellock_jax.vault.locked.files import lock_file
from modellock_jax.vault.sealed import envelope

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL)
COMMANDS = ("seal", "open", "lock", "unlock")
WAYS = ("files", "pipes")
MARK = os.urandom(251) * 8  # a prime length, so that every 4 KiB of the plaintext hold it
LATEST = 1.3  # times what a command takes: the last moment
BEFORE = 251  # bytes of it that are looked for
_ = _commands, threats


def prepare(folder: Path, size: int) -> dict[str, Path]:
    """The key and the source of each command, for their owner's eyes alone."""
    secret = generate_key()
    save_key(secret, folder / "a.key")
    identity.save_public_key(identity.public_key(secret), folder / "a.key.pub")
    body = (MARK * (size // len(MARK) + 1))[:size]
    array = np.frombuffer(body, np.uint8)
    directory = _tensors.lay_out({"w": array}, {})
    plain, sealed, kept = (folder / name for name in ("plain", "sealed", "locked"))
    plain.write_bytes(directory.head + body)
    plain.chmod(0o600)
    envelope.seal(plain, sealed, [identity.public_key(secret)])
    sealed.chmod(0o600)
    lock_file(plain, kept, secret, "stream_lock")
    return {"seal": plain, "open": sealed, "lock": plain, "unlock": kept}


def words(name: str, source: str, output: str, folder: Path) -> list[str]:
    """The command line."""
    who = (
        ["--to", str(folder / "a.key.pub")] if name == "seal" else ["--key", str(folder / "a.key")]
    )
    return ["modellock-jax", name, source, output, *who]


def trial(
    name: str, way: str, source: Path, folder: Path, room: Path, number: int, delay: float
) -> tuple[int, float]:
    """Run a command and send it a signal after so many seconds; its exit code, and how long it took."""
    (room / "tmp").mkdir(parents=True)
    pipes = [os.pipe(), os.pipe()] if way == "pipes" else []
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        _become(name, source, folder, room, pipes)
    helpers = [_feeder(source, pipes[0][1], pipes), _drain(pipes[1][0], pipes)] if pipes else []
    for pipe in pipes:
        for end in pipe:
            os.close(end)
    if number:
        time.sleep(delay)
        os.kill(pid, number)
    _, status = os.waitpid(pid, 0)
    taken = time.perf_counter() - start
    for helper in helpers:
        os.waitpid(helper, 0)
    return os.waitstatus_to_exitcode(status), taken


def _become(name: str, source: Path, folder: Path, room: Path, pipes: list[Any]) -> None:
    os.environ["TMPDIR"] = tempfile.tempdir = str(room / "tmp")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    if pipes:
        os.dup2(pipes[0][0], 0)
        os.dup2(pipes[1][1], 1)
        for pipe in pipes:
            for end in pipe:
                os.close(end)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    ends = ("-", "-") if pipes else (str(source), str(room / "output"))
    sys.argv = words(name, *ends, folder)
    try:
        run_command()
    except SystemExit as exit:
        os._exit(int(exit.code or 0))
    finally:
        os._exit(99)


def _feeder(source: Path, end: int, pipes: list[Any]) -> int:
    pid = os.fork()
    if pid == 0:
        _keep(end, pipes)
        try:
            with source.open("rb") as file, os.fdopen(end, "wb") as pipe:
                shutil.copyfileobj(file, pipe)
        except BrokenPipeError:
            pass
        os._exit(0)
    return pid


def _drain(end: int, pipes: list[Any]) -> int:
    pid = os.fork()
    if pid == 0:
        _keep(end, pipes)
        while os.read(end, 2**20):
            pass
        os._exit(0)
    return pid


def _keep(kept: int, pipes: list[Any]) -> None:
    for pipe in pipes:
        for end in pipe:
            if end != kept:
                os.close(end)


def left(room: Path, before: set[str]) -> dict[Path, tuple[bool, int]]:
    """The files that a command may have left: whether each shows plaintext, and its mode.

    Of shared memory, where others write too, only what shows it.
    """
    found = {}
    shared = Path("/dev/shm")
    others = set(os.listdir(shared)) - before if shared.is_dir() else set()
    for top in (room, *(shared / name for name in others)):
        inside = (Path(place, name) for place, _, names in os.walk(top) for name in names)
        for path in (top, *inside):  # `walk` passes over what others remove meanwhile
            with contextlib.suppress(OSError):
                if path.is_file():
                    shows = MARK[:BEFORE] in path.read_bytes()
                    if shows or top == room:
                        found[path] = shows, path.stat().st_mode & 0o777
    return found


def faults(name: str, number: int, code: int, room: Path, before: set[str]) -> list[str]:
    """What should not be there, as text."""
    found = []
    for path, (shows, mode) in left(room, before).items():
        output = path == room / "output"
        if number == signal.SIGKILL:
            if mode & 0o077 and not (output and not shows):
                found.append(f"{name}: {path.name} has mode {mode:o}")
        elif not output or (code != 0 and shows):
            found.append(f"{name}: {path.name} is left, exit code {code}")
    return found


def measure(folder: Path, count: int, size: int) -> list[dict[str, Any]]:
    """A row for each signal, command and way."""
    rng = np.random.default_rng(3)
    sources, room, rows = prepare(folder, size), folder / "room", []
    shared = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    cases, usual = [(name, way) for name in COMMANDS for way in WAYS], {}
    for name, way in cases:
        code, usual[name, way] = trial(name, way, sources[name], folder, room, 0, 0.0)
        assert code == 0, (name, way, code)
        shutil.rmtree(room)
    for number in SIGNALS:
        for i, (name, way) in enumerate(cases):
            row: dict[str, Any] = {
                "signal": number.name,
                "command": name,
                "way": way,
                "trials": 0,
                "stopped": 0,
            }
            row |= {"done": 0, "left": 0, "faults": []}
            for _ in range(count // len(cases) + (i < count % len(cases))):
                delay = rng.uniform(0, LATEST * usual[name, way])
                code, _ = trial(name, way, sources[name], folder, room, number, delay)
                allowed = {0, -number} if number == signal.SIGKILL else {0, -number, 128 + number}
                if code not in allowed:
                    row["faults"].append(f"{name}: exit code {code}")
                row["faults"] += faults(name, number, code, room, shared)
                row["left"] += sum(path != room / "output" for path in left(room, shared))
                row["trials"] += 1
                row["done" if code == 0 else "stopped"] += 1
                shutil.rmtree(room)
            rows.append(row)
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the table."""
    table = Table(
        "signal", "command", "between", "trials", "stopped", "done first", "files left", "faults"
    )
    for column in table.columns[3:]:
        column.justify = "right"
    for row in rows:
        counts = (row[name] for name in ("trials", "stopped", "done", "left"))
        table.add_row(
            row["signal"], row["command"], row["way"], *map(str, counts), str(len(row["faults"]))
        )
    console.print(table)


def main() -> None:
    """Try, print, and write the rows where `--json` says; exit code 1 if anything was left."""
    parser = argparse.ArgumentParser(description="Stop commands, and look what they leave.")
    parser.add_argument("--count", type=int, default=200, help="of each signal")
    parser.add_argument("--size", type=int, default=2**24, help="of the plaintext, bytes")
    parser.add_argument("--folder", type=Path, default=tempfile.gettempdir(), help="on the disk")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    given, console = parser.parse_args(), Console()
    for number in SIGNALS[:-1]:  # under nohup, or in the background, some would be ignored
        signal.signal(number, signal.SIG_DFL)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        rows = measure(Path(folder), given.count, given.size)
    show(rows, console)
    found = [fault for row in rows for fault in row["faults"]]
    versions = {name: version(name) for name in ("modellock-jax", "cryptography", "numpy")}
    if given.json is not None:
        about: dict[str, Any] = {"command": command(), "date": str(datetime.date.today())}
        from modellock_jax.study.report import machine  # with JAX, which no command here needs

        about |= {"machine": machine(), "versions": versions}
        given.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    for fault in found:
        console.print(fault, highlight=False)
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
