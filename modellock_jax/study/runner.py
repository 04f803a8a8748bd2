"""The runner: lists a study's units, skips the finished, has the rest computed, keeps the rows."""

import contextlib
import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modellock_jax._progress import bar
from modellock_jax.study.engine import choose, compute, elsewhere, here, in_order
from modellock_jax.study.record import Study
from modellock_jax.study.store import Store

__all__ = ["run", "steps"]


def run(study: Study, config: Any, out: Path, *, workers: int = 0, scheduler: str = "") -> Store:
    """Run a study, or what an earlier run left of it, in the run folder `OUT/NAME-HASH`.

    Every row is kept as soon as it is finished, by this process alone; running again skips finished
    rows, whoever computed them. The rows are the same wherever the units run, but for measured times.

    Args:
        study: Its record.
        config: Its settings.
        out: Where the run folder is, or will be.
        workers: Local processes that do the units; 0 for this one.
        scheduler: The address of a Dask scheduler, whose workers do them; "" for none.

    Returns:
        The folder, with all its rows.

    Raises:
        ValueError: For settings that do not fit, before anything is written, or a folder that does
            not.
        ConnectionError: For a folder that another process works in, and if workers die again and
            again.
    """
    pool, room = choose(workers, scheduler)
    folder = (out / f"{study.name}-{config.id}").resolve()
    context = study.prepare(config, folder)
    units = study.units(context)
    call: Any = functools.partial(here, context)
    if workers or scheduler:
        call = functools.partial(elsewhere, study.prepare, config, folder)
    with Store(folder, config, study.kinds) as store:
        todo = in_order(u for u in units if not all(i in store.rows for i in u.ids))
        with (
            steps(f"study {study.name}", len(todo)) as step,
            contextlib.closing(compute(todo, call, pool, room)) as done,
        ):
            for unit, rows in done:
                for row in rows:
                    store.add(row)
                step(unit.name)
        store.sort(itertools.chain(*(unit.ids for unit in units)))
    return store


@contextlib.contextmanager
def steps(what: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show how far some work is: a bar on a terminal, elsewhere a line for each step, on stderr.

    Args:
        what: The work, in a word.
        total: How many steps it has.

    Yields:
        `step(name)`, to be called after each.
    """
    with bar() as shown:
        task, count = shown.add_task(what, total=total), itertools.count(1)

        def step(name: str) -> None:
            if shown.disable:
                print(f"{what}: {next(count)} of {total}, {name}", file=sys.stderr, flush=True)
            shown.advance(task)

        yield step
