"""Several processes on one study: who is there, and who still owes what.

JAX's coordination service gathers the processes and lets them start together. From then on they meet
in the run folder alone, because while the service is connected the death of one process aborts all
others. Each process holds a lock on a file there, which the system releases when it dies.
"""

import contextlib
import fcntl
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax

JOIN_SECONDS = 300
"""How long the processes wait for each other at the start."""


class Part(NamedTuple):
    """Process number `process`, from 0, of so many `processes`."""

    process: int = 0
    processes: int = 1

    def takes(self, unit: int) -> bool:
        """Whether a unit of work is this process's: units go round.

        >>> [unit for unit in range(7) if Part(1, 3).takes(unit)]
        [1, 4]
        """
        return unit % self.processes == self.process


ALONE = Part()


@contextlib.contextmanager
def joined(folder: Path, coordinator: str, count: int, index: int) -> Iterator[Part]:
    """Wait for the other processes of a study in `folder`, and be seen there until the end.

    `coordinator` is `HOST:PORT` on the machine of process 0. Must come before anything that JAX
    computes. Raises `ValueError` for numbers that do not fit, or a process that joined with another
    folder; `ConnectionError` for a process of this number that runs, or a port in use. If the others
    do not come in `JOIN_SECONDS`, it ends the whole process with one sentence and exit code 2: JAX
    would abort it.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 <= index < count:
        raise ValueError(
            "a study by several processes needs --coordinator HOST:PORT, --processes N, and "
            f"--process 0 to N - 1, another one for each; not {coordinator!r}, {count}, {index}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    file = _file(folder, index)
    with open(file, "w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConnectionError(
                f"process {index} of this study is running; give each process its own --process"
            ) from None
        try:
            _meet(folder, coordinator, count, index)
            yield Part(index, count)
        finally:
            file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()  # a fault before the first row leaves nothing


def wait(folder: Path, owed: Callable[[], set[int]]) -> None:
    """Wait until no process owes anything: `owed()` looks, and gives their numbers.

    Raises `ConnectionError` if one that does has ended.
    """
    while late := owed():
        gone = {index for index in late if not _runs(folder, index)}
        # One that ended may have delivered between the two looks.
        if gone and (gone := gone & owed()):
            names = ", ".join(map(str, sorted(gone)))
            raise ConnectionError(
                f"process {names} ended before its share was done; run the same command again in "
                "every process, or in one alone: finished rows are kept"
            )
        time.sleep(0.2)


def _meet(folder: Path, coordinator: str, count: int, index: int) -> None:
    if index == 0:
        # JAX crashes on a port in use.
        try:
            socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
        except (OSError, OverflowError):
            raise ConnectionError(
                f"the port of {coordinator} cannot be used; choose another --coordinator"
            ) from None

    def give_up() -> None:
        text = f"not all {count} processes came to {coordinator} in {JOIN_SECONDS} seconds"
        print(f"error: {text}; start them together", file=sys.stderr, flush=True)
        os._exit(2)

    patience = threading.Timer(JOIN_SECONDS, give_up)
    patience.daemon = True
    patience.start()
    try:
        # Its own patience is longer, since it ends in an abort.
        jax.distributed.initialize(
            coordinator, count, index, initialization_timeout=2 * JOIN_SECONDS
        )
        absent = [other for other in range(count) if not _runs(folder, other)]
        jax.distributed.shutdown()
    finally:
        patience.cancel()
    if absent:
        raise ValueError(
            f"process {', '.join(map(str, absent))} joined, but not in {folder}; give all processes "
            "the same options and an --out that they share"
        )


def _runs(folder: Path, index: int) -> bool:
    """Whether a process of that number holds its lock."""
    try:
        with open(_file(folder, index)) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _file(folder: Path, index: int) -> Path:
    return folder / f".process-{index}"
