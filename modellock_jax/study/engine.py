"""The engine: units of work through an executor of `concurrent.futures`, in one process or in many."""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "JOIN_SECONDS",
    "TRIES",
    "Pool",
    "Row",
    "Unit",
    "choose",
    "compute",
    "elsewhere",
    "here",
    "in_order",
]

Row = dict[str, Any]
Pool = Callable[[], contextlib.AbstractContextManager[Executor]]

TRIES = 3
"""How often in turn workers may die without finishing anything."""

JOIN_SECONDS = 60
"""How long a scheduler may be without a worker at the start."""


class Unit(NamedTuple):
    """One piece of a study's work: a function of this record and the study's context, and of no more.

    Attributes:
        work: `work(context, *args)` gives the rows; a function of a module.
        args: Plain values, so that a unit can be pickled and hashed.
        ids: Of its rows, in their order.
        needs: Units to be done before, such as those that train a model, which leave it in the run
            folder and give no rows.
    """

    work: Callable[..., list[Row]]
    args: tuple[Any, ...]
    ids: tuple[str, ...]
    needs: tuple["Unit", ...] = ()

    @property
    def name(self) -> str:
        """What people read: the row, or how many of them, or the work."""
        if self.ids:
            return self.ids[0] + (f" and {len(self.ids) - 1} more" if len(self.ids) > 1 else "")
        return " ".join([self.work.__name__, *map(str, self.args)])


def here(context: Any, unit: Unit) -> list[Row]:
    """Do a unit.

    Args:
        context: What the study's `prepare` gave.
        unit: The unit.

    Returns:
        Its rows.
    """
    return unit.work(context, *unit.args)


def elsewhere(prepare: Any, config: Any, folder: Path, unit: Unit) -> list[Row]:
    """Do a unit in a process that has not prepared the study.

    Args:
        prepare: That of the study.
        config: The study's settings.
        folder: That of the run.
        unit: The unit.

    Returns:
        Its rows.
    """
    return here(_context(prepare, config, folder), unit)


@functools.lru_cache(maxsize=1)
def _context(prepare: Any, config: Any, folder: Path) -> Any:
    """Return the context of a worker, for all of its units."""
    return prepare(config, folder)


def in_order(units: Iterable[Unit]) -> list[Unit]:
    """Return these units and all that they need, each once and what is needed first.

    Args:
        units: Units that are wanted.

    Returns:
        Units that can be done one after the other.
    """
    units, needed = list(units), dict[Unit, None]()
    for unit in units:
        needed |= dict.fromkeys(in_order(unit.needs))
    # All that is needed first: then no worker waits for it while others are free.
    return list(dict.fromkeys([*needed, *units]))


def compute(
    units: list[Unit], call: Callable[[Unit], list[Row]], pool: Pool, room: int | None = None
) -> Generator[tuple[Unit, list[Row]]]:
    """Do units, each when what it needs is done, and give each with its rows as it is finished.

    Units whose worker died are done again in a new executor. After a fault in a unit no other is begun,
    and it is raised when those that run have given their rows.

    Args:
        units: In an order in which what a unit needs comes before it.
        call: Does one unit, in an executor.
        pool: Makes an executor.
        room: How many units are in it at a time; None for all.

    Yields:
        Units and their rows, as they are finished.

    Raises:
        ConnectionError: If workers die `TRIES` times in turn.
    """
    left, deaths = dict.fromkeys(units), 0
    while left:
        try:
            with pool() as executor:
                for unit, rows in _through(executor, list(left), call, room):
                    del left[unit]
                    deaths = 0
                    yield unit, rows
        except BrokenExecutor:
            deaths += 1
            if deaths == TRIES:
                raise ConnectionError(
                    f"workers died {TRIES} times in turn, the last over {next(iter(left)).name}; the "
                    "machine may lack memory for so many. Finished rows are kept"
                ) from None


def _through(
    executor: Executor, units: list[Unit], call: Callable[[Unit], list[Row]], room: int | None
) -> Generator[tuple[Unit, list[Row]]]:
    waiting, running, fault = dict.fromkeys(units), dict[Future[list[Row]], Unit](), None
    while running or (waiting and fault is None):
        for unit in list(waiting) if fault is None else ():
            if room is not None and len(running) >= room:
                break
            if not any(n in waiting or n in running.values() for n in unit.needs):
                running[executor.submit(call, unit)] = unit
                del waiting[unit]
        done, _ = concurrent.futures.wait(running, return_when="FIRST_COMPLETED")
        # What is finished, and what still runs, is handed over before a fault is raised.
        for future in done:
            unit = running.pop(future)
            if future.exception() is None:
                yield unit, future.result()
            else:
                fault = fault or future.exception()
    if fault is not None:
        raise fault


class _Here(Executor):
    """An executor that does everything at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def choose(workers: int, scheduler: str) -> tuple[Pool, int | None]:
    """Return an executor's factory, and how many units it is to be given at a time.

    Args:
        workers: Local processes; 0 for none.
        scheduler: The address of a Dask scheduler, whose workers serve; "" for none.

    Returns:
        The factory, and the number; None for as many as there are. Without either units run here.

    Raises:
        ValueError: For both, or less than no workers.
    """
    if workers < 0 or (workers and scheduler):
        raise ValueError(
            f"a study runs here, or on --workers 1 or more, or on a --scheduler; not {workers} workers"
            + (f" and {scheduler}" if scheduler else "")
        )
    if scheduler:
        return functools.partial(_dask, scheduler), None
    return (functools.partial(_local, workers), workers) if workers else (_Here, 1)


@contextlib.contextmanager
def _local(workers: int) -> Iterator[Executor]:
    """Return processes of this machine; they end with this one, however it ends."""
    others = set(multiprocessing.active_children())
    # A fork of a process that has begun to compute with JAX hangs.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Leave Ctrl-C to the process that started this one, and end when it is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _dask(address: str) -> Iterator[Executor]:
    """Return the workers that have joined a Dask scheduler."""
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise ImportError(
            'a scheduler needs the package distributed: from a clone, pip install -e ".[cluster]"'
        ) from None
    try:
        client = Client(address, set_as_default=False, timeout=JOIN_SECONDS)
    except OSError:
        raise ConnectionError(
            f"no Dask scheduler answers at {address}; start one with `dask scheduler`"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=JOIN_SECONDS)
        except TimeoutError:
            raise ConnectionError(
                f"the scheduler at {address} has no worker; start some with `dask worker {address} "
                "--nthreads 1`"
            ) from None
        try:
            yield client.get_executor()
        except KilledWorker as error:
            raise ConnectionError(
                f"workers of {address} died again and again over one unit; they may lack memory. "
                f"Finished rows are kept: {error}"
            ) from None
