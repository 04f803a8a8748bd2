"""Killed or out of disk at any moment: the path holds the old file or the whole new one."""

import errno
import math
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.crash_worker import CHUNK, FOLDER, MANY, STEPS, TASKS, arrays, asking
from helpers.sealed import ALICE, BOB, MALLORY, adding, header_of, public, same
from safetensors.numpy import load_file

from modellock_jax.vault.errors import Unreadable, WrongKey
from modellock_jax.vault.locked.files import locked_info, unlock_file
from modellock_jax.vault.sealed import _chunks, envelope
from modellock_jax.vault.sealed.rewrite import journal_of, read_header, rewrite

KILLS = {"seal": 20, "lock": 15, "rewrap": 20, "rotate": 15, "grow": 15}
MORE = {"seal": 60, "lock": 40, "rewrap": 60, "rotate": 40, "grow": 40}
KILLED = -9


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(_chunks, "CHUNK", CHUNK)


@pytest.fixture(scope="module")
def worker():
    with asking("crash_worker") as ask:
        yield ask


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.sealed"
    envelope.seal(arrays(0), path, [public(ALICE)])
    return path


def recipients_of(path: Path) -> int:
    return len(read_header(path).stanzas)


def is_new(task: str, path: Path) -> bool:
    """Whether the task is done; fails unless all of it is done, or nothing."""
    if task == "lock":
        return is_locked(path)
    new = {"seal": 2, "rewrap": 2, "rotate": 2, "grow": 1 + MANY}[task]
    count = recipients_of(path)
    assert count in (1, new)
    expected = arrays(int(count == new and task == "seal"))
    assert same(envelope.load(path, ALICE), expected)
    if count == new:
        assert same(envelope.load(path, BOB), expected)
    else:
        with pytest.raises(WrongKey):
            envelope.load(path, BOB)
    return count == new


def is_locked(path: Path) -> bool:
    """Whether the sealed file has become a locked one."""
    try:
        locked_info(path)
    except Unreadable:
        assert same(envelope.load(path, ALICE), arrays(0))
        return False
    again = Path(FOLDER.name) / "again.safetensors"
    unlock_file(path, again, ALICE)
    assert same(load_file(again), arrays(1))
    return True


def works_afterwards(task: str, path: Path) -> None:
    """Rewriting what is sealed, and sealing again, beside whatever was left behind."""
    if task != "lock":
        rewrite(path, ALICE, adding(public(MALLORY)))
        assert same(envelope.load(path, MALLORY), envelope.load(path, ALICE))
        assert not journal_of(path).exists()
    TASKS["seal"](path)
    assert is_new("seal", path)


@pytest.mark.parametrize(
    "kills", [KILLS, pytest.param(MORE, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize("task", TASKS)
def test_killed_at_random_moments(worker, path, task, kills):
    old = path.read_bytes()
    taken = []
    for _ in range(5):
        path.write_bytes(old)
        ended, seconds = worker(task, path)
        assert ended == 0
        taken.append(seconds)
    rng = np.random.default_rng(9)
    killed = done = 0
    for moment in rng.permutation(np.linspace(0, 1.2 * np.median(taken), kills[task])):
        path.write_bytes(old)  # temporary files and journals of the last crash stay
        ended, _ = worker(task, path, delay=float(moment))
        assert ended in (0, KILLED)
        killed += ended == KILLED
        done += is_new(task, path)
        works_afterwards(task, path)
    print(f"{task}: {kills[task]} kills, {killed} in time, {done} found it done")
    assert killed >= kills[task] // 10  # how many depends on what else the machine does


@pytest.mark.parametrize("task", TASKS)
def test_killed_half_way_through_each_step(worker, path, task):
    """Each opening, writing, syncing, renaming and removing in turn; half the bytes are written."""
    old, outcomes = path.read_bytes(), []
    for step in range(1, 1000):
        path.write_bytes(old)
        ended, _ = worker(task, path, step=step)
        outcomes.append(is_new(task, path))
        works_afterwards(task, path)
        if ended == 0:
            break
        assert ended == KILLED
    assert outcomes == sorted(outcomes)  # once new, always new
    assert not outcomes[0]
    assert outcomes[-1]
    assert len(outcomes) > {"seal": 20, "lock": 20, "rewrap": 8, "rotate": 20, "grow": 20}[task]


def test_killed_at_first_writing_there_is_no_file_or_a_whole_one(worker, path):
    path.unlink()
    found = []
    for step in range(1, 1000):
        ended, _ = worker("seal", path, step=step)
        if path.exists():
            assert same(envelope.load(path, ALICE), arrays(1))
            path.unlink()
            found.append(step)
        else:
            with pytest.raises(Unreadable, match="cannot be read"):
                envelope.load(path, ALICE)
        if ended == 0:
            break
    assert 1 < found[0] < step


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("limit", [0, 1, 4096, 65_535, 65_536, 300_000, 580_000])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(worker, path, task, limit):
    """No file may grow beyond a limit; a journal of 64 KiB is all that a rewrap needs, and a locked
    file is 518 kB and a head."""
    ended, _ = worker(task, path, limit=limit)
    enough = limit >= {"rewrap": 65_536, "lock": 580_000}.get(task, math.inf)
    assert ended == (0 if enough else errno.EFBIG)
    assert is_new(task, path) == enough
    assert os.listdir(path.parent) == [path.name]
    works_afterwards(task, path)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", STEPS)
def test_an_error_of_any_step_leaves_a_whole_file(path, monkeypatch, task, name):
    """The system refuses each opening, writing, syncing, renaming and removing in turn."""
    old, real, refused = path.read_bytes(), getattr(os, name), 0
    for step in range(1, 100):
        path.write_bytes(old)
        left = step

        def refusing(*args, **options):
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **options)

        with monkeypatch.context() as m:
            m.setattr(os, name, refusing)
            try:
                TASKS[task](path)
            except (OSError, Unreadable):
                refused += 1
        is_new(task, path)
        if name != "unlink":
            assert not list(path.parent.glob("*.tmp"))
        if left > 0:
            break
    assert refused == (0 if (name, task) in NEVER else step - 1)
    works_afterwards(task, path)


NEVER = {("unlink", "seal"), ("unlink", "lock")}


def test_the_vault_needs_no_jax(worker, path):
    """The worker refuses to run with JAX imported."""
    assert worker("rewrap", path)[0] == 0
    assert header_of(path).stanzas[1]["id"] == BOB.id
