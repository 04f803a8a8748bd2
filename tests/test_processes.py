"""A study by several processes: the rows of one, whoever is killed when; and no one waits for ever."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from modellock_jax.data import load
from modellock_jax.study import processes
from modellock_jax.study.config import Config
from modellock_jax.study.processes import Part
from modellock_jax.study.store import Store

LOCK = "sign_mask(bits=64)"
STUDY = """
import os, signal, sys
import numpy as np
from modellock_jax.data import Data
from modellock_jax.study import config, figures, run as runner, subjects
from modellock_jax.study.store import Store

config.QUICK = {
    "seeds": 2, "epochs": 1, "wrong_keys": 2, "budgets": (0.1,), "thief_rates": (1e-3,),
    "thief_steps": 2, "thief_scores": 1,
}
dies_after, add, fit = int(os.environ["DIES_AFTER"]), Store.add, runner.fit


def noted_add(store, row):
    add(store, row)
    print("row", row["id"], flush=True)
    if len(store.own) == dies_after:
        os.kill(os.getpid(), signal.SIGKILL)


def noted_fit(*args, progress, **settings):
    print(progress, flush=True)
    return fit(*args, progress=progress, **settings)


Store.add, runner.fit = noted_add, noted_fit
# The same images without scikit-learn, and no pictures: they take longer than the study.
with np.load(os.environ["DIGITS"]) as held:
    digits = Data(**{name: held[name] for name in held} | {"classes": 10})
subjects.load = lambda name: digits
figures.save_figures = lambda *args: None
from modellock_jax.cli import main
main()
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def environment(**more):
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
        "PYTHONPATH": os.pathsep.join(sys.path),
        **more,
    }


def start(code, *words, **more):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(child):
    out, err = child.communicate(timeout=120)
    assert "Traceback" not in err
    return child.returncode, out.splitlines(), err


def study(out, cache, count=1, dies=None, **options):
    """Run the command in `count` processes, number `dies` to be killed when it has two rows."""
    words = ["study", "--data=digits", "--model=mlp", "--quick", f"--locks={LOCK}", f"--out={out}"]
    port, children = free_port(), []
    for i in range(count):
        mine = [*words]
        if count > 1:
            mine += [f"--coordinator=127.0.0.1:{port}", f"--processes={count}", f"--process={i}"]
        given = {"JAX_COMPILATION_CACHE_DIR": cache / str(i), "DIGITS": cache / "digits.npz"}
        given |= {"DIES_AFTER": 2 if i == dies else 0}
        children.append(start(STUDY, *mine, **{name: str(v) for name, v in given.items()}))
    return [ended(child) for child in children]


def computed(lines):
    return [line.removeprefix("row ") for line in lines if line.startswith("row ")]


def trained(lines):
    return [line for line in lines if line.startswith("training")]


def rows(out, name="rows.jsonl"):
    """The rows in order, without measured seconds."""
    (folder,) = out.iterdir()
    read = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith("_s")} for row in read]


def left(out):
    (folder,) = out.iterdir()
    return sorted(os.listdir(folder))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The images, and a folder for the programs of each process."""
    folder = tmp_path_factory.mktemp("cache")
    np.savez(folder / "digits.npz", **load("digits")._asdict())
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache):
    out = tmp_path_factory.mktemp("alone")
    ((code, lines, err),) = study(out, cache)
    assert code == 0, err
    assert len(trained(lines)) == 4
    shutil.copytree(cache / "0", cache / "1")
    return rows(out), left(out)


def test_two_processes_give_the_rows_of_one(alone, tmp_path, cache):
    (code, first, err), (code_1, second, err_1) = study(tmp_path, cache, 2)
    assert (code, code_1) == (0, 0), err + err_1
    assert rows(tmp_path) == alone[0]
    assert left(tmp_path) == alone[1]
    ids = [row["id"] for row in alone[0]]
    assert computed(first) == ids[::2]
    assert computed(second) == ids[1::2]
    assert len(trained(first)) == len(trained(second)) == 2
    assert not {*trained(first)} & {*trained(second)}
    assert "Who opens what" in "".join(first)
    assert "process 1 has done its share" in second[-1]


def test_a_killed_worker_loses_nothing(alone, tmp_path, cache):
    (code, first, err), (killed, second, _) = study(tmp_path, cache, 2, dies=1)
    assert killed == -signal.SIGKILL
    assert code == 2
    assert err.count("\n") == 1
    assert "error: process 1 ended before its share was done; run the same command again" in err
    ids = [row["id"] for row in alone[0]]
    assert computed(first) == ids[::2]
    assert computed(second) == ids[1:4:2]
    assert rows(tmp_path, "rows-0.jsonl") == alone[0][::2]
    assert rows(tmp_path, "rows-1.jsonl") == alone[0][1:4:2]
    ((code, lines, err),) = study(tmp_path, cache)
    assert code == 0, err
    assert computed(lines) == ids[5::2]
    assert trained(lines) == []
    assert rows(tmp_path) == alone[0]
    assert left(tmp_path) == [".process-1", *alone[1]]


TWO = Config(data="digits", seeds=2)
IDS = [f"row {i}" for i in range(7)]


@contextlib.contextmanager
def there(folder, *numbers):
    """Processes of these numbers are seen in the folder."""
    code = (
        "import fcntl, sys, time\n"
        "held = [open(name, 'w') for name in sys.argv[1:]]\n"
        "for file in held: fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print(flush=True)\n"
        "time.sleep(60)\n"
    )
    folder.mkdir(exist_ok=True)
    child = start(code, *(folder / f".process-{n}" for n in numbers))
    child.stdout.readline()
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def work(store, at_most=99, start=0):
    """The rows that a process computes, until it has done so many."""
    mine = []
    for name in IDS:
        if store.takes(name) and len(mine) < at_most:
            store.add({"id": name, "kind": "row", "value": start})
            mine.append(name)
    return mine


@pytest.mark.parametrize("count", [1, 2, 3, 9])
@pytest.mark.parametrize("killed", [0, 1, 2])
def test_any_of_three_killed_and_any_number_started_again(tmp_path, count, killed):
    for i in range(3):
        work(Store(tmp_path, TWO, Part(i, 3)), at_most=1 if i == killed else 99)
    again = [Store(tmp_path, TWO, Part(i, count)) for i in range(count)]
    made = [name for store in reversed(again) for name in work(store, start=1)]
    again[0].finish()
    assert sorted(made) == [IDS[i] for i in range(7) if i % 3 == killed and i >= 3]
    merged = (again[0].folder / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in merged] == IDS
    assert [json.loads(line)["value"] for line in merged] == [int(name in made) for name in IDS]
    assert sorted(os.listdir(again[0].folder)) == ["config.json", "rows.jsonl"]
    assert work(Store(tmp_path, TWO)) == work(Store(tmp_path, TWO, Part(1, 2))) == []


def test_a_merge_broken_off_between_its_files_doubles_nothing(tmp_path, monkeypatch):
    stores = [Store(tmp_path, TWO, Part(i, 2)) for i in range(2)]
    for store in stores:
        work(store)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            stores[0].finish()
    again = Store(tmp_path, TWO)
    assert work(again) == []
    again.finish()
    lines = (again.folder / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == IDS
    assert sorted(os.listdir(again.folder)) == ["config.json", "rows.jsonl"]


def test_process_0_waits_for_a_running_one_and_not_for_a_dead_one(tmp_path):
    first, second = (Store(tmp_path, TWO, Part(i, 2)) for i in range(2))
    work(first)
    work(second, at_most=1)
    with there(first.folder, 1) as child:
        looks = []

        def slept(_):
            looks.append(None)
            assert len(looks) < 10, "waits for ever"
            if len(looks) == 3:
                child.kill()
                child.wait()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(processes.time, "sleep", slept)
            with pytest.raises(ConnectionError, match="process 1 ended before its share was done"):
                first.finish()
        assert len(looks) == 3
    assert not (first.folder / "rows.jsonl").exists()
    # Its last rows may come between two looks, and then it ends as it should.
    second.units.clear()
    work(second)
    first.finish()
    assert len((first.folder / "rows.jsonl").read_text().splitlines()) == 7


JOIN = """
import sys
from pathlib import Path
import jax
from modellock_jax.study import processes

processes.JOIN_SECONDS = 3
try:
    with processes.joined(Path(sys.argv[1]), *sys.argv[2:3], *map(int, sys.argv[3:])) as part:
        # JAX sees the devices of this process alone, as if there were no other.
        print(part, jax.local_device_count(), jax.numpy.ones(2).sum())
except (ValueError, ConnectionError) as error:
    raise SystemExit(f"error: {error}")
"""


def test_who_does_not_come_or_comes_elsewhere(tmp_path):
    at = f"127.0.0.1:{free_port()}"
    lonely = [
        start(JOIN, tmp_path / "a" / str(i), f"127.0.0.1:{free_port()}", 2, i) for i in (0, 1)
    ]
    apart = [start(JOIN, tmp_path / str(i), at, 2, i) for i in (0, 1)]
    for i, child in enumerate(apart):
        code, out, err = ended(child)
        assert code == 1
        assert out == []
        assert f"error: process {1 - i} joined, but not in {tmp_path / str(i)}; give all" in err
        assert not (tmp_path / str(i)).exists()
    for child in lonely:
        code, _, err = ended(child)
        assert code == 2
        assert "error: not all 2 processes came to 127.0.0.1:" in err
        assert "in 3 seconds; start them together" in err


FAULTS = {
    "no port": ("localhost", 2, 0),
    "no number": ("localhost:x", 2, 0),
    "no host": (":8476", 2, 0),
    "none": ("", 2, 0),
    "too high": ("localhost:8476", 2, 2),
    "negative": ("localhost:8476", 2, -1),
}


@pytest.mark.parametrize("words", FAULTS.values(), ids=FAULTS.keys())
def test_numbers_that_do_not_fit(words, tmp_path):
    with (
        pytest.raises(ValueError, match="several processes needs --coordinator HOST:PORT"),
        processes.joined(tmp_path / "run", *words),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_a_port_in_use_and_a_number_in_use(tmp_path):
    with socket.create_server(("", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(ConnectionError, match=f"the port of {at} cannot be used"),
            processes.joined(tmp_path / "run", at, 2, 0),
        ):
            pass
    assert os.listdir(tmp_path) == []
    with (
        there(tmp_path / "run", 0),
        pytest.raises(ConnectionError, match="process 0 of this study is running"),
        processes.joined(tmp_path / "run", at, 2, 0),
    ):
        pass
    assert os.listdir(tmp_path / "run") == [".process-0"]
