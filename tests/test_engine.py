"""Units of studies on any executor: the rows of one process, whoever is killed when."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.toy_study import STUDY, Squares, lines, pids

from modellock_jax.study import engine, runner
from modellock_jax.study.store import Store

SIX = [i * i for i in range(6)]


def squares(store):
    """Ids and squares as the file has them, in its order."""
    read = [json.loads(line) for line in (store.folder / "rows.jsonl").read_text().splitlines()]
    assert [row["id"] for row in read] == list(store.rows)
    return [row["square"] for row in read]


def computed(store):
    return [line for line in lines(store.folder) if line.startswith("square")]


def test_units_run_in_order_after_what_they_need_and_once(tmp_path, capsys):
    store = runner.run(STUDY, Squares(), tmp_path)
    assert squares(store) == SIX
    roots, rest = lines(store.folder)[:3], lines(store.folder)[3:]
    assert roots == [f"root {i}" for i in range(3)]
    assert rest == [f"square {i}" for i in range(6)]
    assert set(pids(store.folder)) == {os.getpid()}
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "study squares: 1 of 9, root 0"
    assert said[-1] == "study squares: 9 of 9, square/5"
    again = runner.run(STUDY, Squares(), tmp_path)
    assert again.rows == store.rows
    assert len(lines(store.folder)) == 9
    assert capsys.readouterr().err == ""


def test_only_what_is_missing_is_computed(tmp_path):
    store = runner.run(STUDY, Squares(), tmp_path)
    rows = (store.folder / "rows.jsonl").read_text().splitlines(keepends=True)
    (store.folder / "rows.jsonl").write_text("".join(rows[:2] + rows[3:]))
    again = runner.run(STUDY, Squares(), tmp_path)
    assert squares(again) == SIX
    assert lines(store.folder)[9:] == ["root 1", "square 2"]


def test_a_fault_in_a_unit_loses_no_row(tmp_path):
    for workers in (0, 2):
        config = Squares(wrong=3, seconds=0.01 * workers)
        with pytest.raises(ValueError, match="3 has no square"):
            runner.run(STUDY, config, tmp_path, workers=workers)
        with Store(tmp_path / f"squares-{config.id}", config, STUDY.kinds) as store:
            done = computed(store)
            assert len(store.rows) == len(done) - 1
            assert len(done) <= 3 + 1 + workers


class _Done(Executor):
    """All is done by the time that anybody waits for it."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except ValueError as fault:
            future.set_exception(fault)
        return future


@pytest.mark.parametrize("pool", [_Done, lambda: ThreadPoolExecutor(3)])
def test_what_runs_beside_a_fault_is_handed_over_before_it_is_raised(pool):
    """Whether it is finished by then or not; and nothing else is begun."""
    raised, begun, given = threading.Event(), [], []

    def call(unit):
        begun.append(unit)
        if unit.args == (1,):
            raised.set()
            raise ValueError("1 has no row")
        if pool is not _Done:
            assert raised.wait(20)
            time.sleep(0.05)
        return [unit.args]

    units = [engine.Unit(call, (i,), (f"{i}",)) for i in range(9)]

    def take():
        for unit, rows in engine.compute(units, call, pool, 3):
            assert rows == [unit.args]
            given.append(unit.args)

    with pytest.raises(ValueError, match="1 has no row"):
        take()
    assert sorted(given) == [(0,), (2,)]
    assert [unit.args for unit in begun] == [(0,), (1,), (2,)]


def test_a_killed_worker_loses_nothing(tmp_path):
    config = Squares(fatal=2, seconds=0.05)
    store = runner.run(STUDY, config, tmp_path, workers=2)
    assert squares(store) == SIX
    assert os.getpid() not in pids(store.folder)
    again = computed(store)
    # What ran beside it may be done again too; what was finished is not.
    assert again.count("square 2") == 2
    assert 7 <= len(again) <= 8


def test_workers_that_die_for_ever_are_named(tmp_path):
    config = Squares(fatal=5, deaths=99, seconds=0.05)
    with pytest.raises(
        ConnectionError, match="workers died 3 times in turn, the last over square/5"
    ):
        runner.run(STUDY, config, tmp_path, workers=1)
    with Store(tmp_path / f"squares-{config.id}", config, STUDY.kinds) as store:
        assert squares(store) == SIX[:5]
        assert computed(store).count("square 5") == 3


PARENT = """
import sys
from pathlib import Path
from helpers.toy_study import STUDY, Squares
from modellock_jax.study import runner
if __name__ == "__main__":
    runner.run(STUDY, Squares(seconds=30), Path(sys.argv[1]), workers=2)
"""


@pytest.mark.skipif(not os.path.exists("/proc"), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_workers_end_with_the_process_that_started_them(tmp_path, number):
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py", tmp_path],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    log = (tmp_path / f"squares-{Squares(seconds=30).id}").with_suffix(".log")
    until(lambda: log.exists() and log.read_text().count("square") == 2)
    workers = set(pids(log))
    assert parent.pid not in workers
    parent.send_signal(number)
    _, said = parent.communicate(timeout=20)
    assert b"SpawnProcess" not in said  # no worker's traceback
    until(lambda: not any(runs(pid) for pid in workers))


def runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def environment(**more):
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)} | more


@contextlib.contextmanager
def dask(tmp_path, workers):
    """A scheduler and so many workers on the loopback: its address, and the workers."""
    file, begun = tmp_path / "scheduler.json", []

    def start(*words):
        begun.append(
            subprocess.Popen(
                [sys.executable, "-m", "dask", *map(str, words)],
                env=environment(DASK_DISTRIBUTED__LOGGING__DISTRIBUTED="critical"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=tmp_path,
            )
        )
        return begun[-1]

    try:
        start("scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard", "--no-show",
              f"--scheduler-file={file}")  # fmt: skip
        until(lambda: file.exists() and file.read_text().endswith("}"))
        address = json.loads(file.read_text())["address"]
        single = ("--nthreads=1", "--no-nanny", "--no-dashboard", "--host=127.0.0.1")
        yield address, [start("worker", address, *single) for _ in range(workers)]
    finally:
        for child in begun:
            child.kill()
            child.wait()


@pytest.mark.slow
def test_dask_with_a_killed_worker_gives_the_rows_of_one_process(tmp_path):
    config = Squares(seconds=0.3)
    with dask(tmp_path, 2) as (address, workers):
        log = (tmp_path / f"squares-{config.id}").with_suffix(".log")
        pool, _ = engine.choose(0, address)
        with pool() as executor:  # both are there
            executor._client.wait_for_workers(2, timeout=120)
        killed = []

        def kill(store, row, add=Store.add):
            add(store, row)
            if not killed:
                (busy,) = {w.pid for w in workers} & set(pids(log)[-1:])
                os.kill(busy, signal.SIGKILL)
                killed.append(busy)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "add", kill)
            store = runner.run(STUDY, config, tmp_path, scheduler=address)
    assert squares(store) == SIX
    assert killed
    assert {w.pid for w in workers} <= set(pids(log))
    assert len(computed(store)) > 6


def command(out, *options):
    """The main study by its command, on little."""
    words = ["study", "--quick", "--data=digits", "--model=mlp", "--seeds=2", f"--out={out}"]
    code = "from modellock_jax.cli import main\nif __name__ == '__main__': main()"
    (out / "command.py").write_text(code)
    return subprocess.Popen(
        [sys.executable, out / "command.py", *words, "--locks=sign_mask(bits=64)", *options],
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def rows_file(out):
    return next(out.glob("main-*/rows.jsonl"), None)


def ended(out, child):
    """The rows as text, without measured seconds."""
    _, said = child.communicate(timeout=600)
    assert child.returncode == 0, said
    rows = map(json.loads, rows_file(out).read_text().splitlines())
    return json.dumps([{k: v for k, v in r.items() if not k.endswith("_s")} for r in rows])


def children(pid):
    """The workers of a process."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(c) for c in listed if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc"), reason="needs Linux's /proc")
def test_the_main_study_on_workers_that_are_killed(tmp_path):
    outs = [tmp_path / name for name in ("alone", "workers", "dask")]
    for out in outs:
        out.mkdir()
    alone = ended(outs[0], command(outs[0]))
    assert alone.count('"id"') == 2 + 2 * 2 * 2
    child = command(outs[1], "--workers=2")
    until(lambda: rows_file(outs[1]), 300)
    os.kill(children(child.pid)[0], signal.SIGKILL)
    assert ended(outs[1], child) == alone
    with dask(tmp_path, 2) as (address, workers):
        child = command(outs[2], f"--scheduler={address}")
        until(lambda: rows_file(outs[2]), 300)
        workers[0].kill()
        assert ended(outs[2], child) == alone
