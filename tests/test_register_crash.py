"""Killed or out of disk at any moment: the register and the list are the old ones or the new ones."""

import errno
from pathlib import Path

import numpy as np
import pytest
from helpers.crash_worker import asking
from helpers.register_worker import TASKS, file_of
from helpers.sealed import ALICE, OWNER, public

from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.issuing import register, revocation
from modellock_jax.vault.issuing.copies import unfinished
from modellock_jax.vault.keys.secret import load_key
from modellock_jax.vault.locked.files import load_locked

KILLED = -9
KILLS = {"first": 40, "add": 40, "revoke": 40}


@pytest.fixture(scope="module")
def worker():
    with asking("register_worker") as ask:
        yield lambda task, path, **when: ask({"first": "add"}.get(task, task), path, **when)


@pytest.fixture
def begun(tmp_path):
    """By task: a path, and the content that it has before, if any."""
    old = file_of(tmp_path / "old", ["alice", "bob"]).read_bytes()
    revocation.revoke(tmp_path / "list", [ALICE.id], OWNER)
    return {
        "first": (tmp_path / "r", None),
        "add": (tmp_path / "r", old),
        "revoke": (tmp_path / "r", (tmp_path / "list").read_bytes()),
    }


def begin(path, content):
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


def is_new(task, path):
    """Whether the line is there; fails unless all of it is, or nothing."""
    if task == "revoke":
        return {1: False, 2: True}[len(revocation.read(path).revoked)]
    try:
        entries = register.read(path, public(OWNER)).entries
    except Unreadable:  # not yet made, or being made
        assert task == "first"
        return False
    old = {"first": 0, "add": 2}[task]
    assert len(entries) in (old, old + 1)
    return len(entries) > old


def goes_on(task, path):
    """What was begun can be done again, and the register holds together afterwards."""
    before = is_new(task, path)
    TASKS["revoke" if task == "revoke" else "add"](path)
    if task == "revoke":
        assert is_new(task, path)
        return
    found = register.read(path)
    assert len(found.entries) == {"first": 1, "add": 3}[task] + before
    assert found.entries[-1].user == "bob"


@pytest.mark.parametrize("task", KILLS)
def test_killed_at_random_moments(worker, begun, task):
    path, content = begun[task]
    taken = []
    for _ in range(5):
        begin(path, content)
        ended, seconds = worker(task, path)
        assert ended == 0
        taken.append(seconds)
    rng = np.random.default_rng(4)
    killed = done = 0
    for moment in rng.permutation(np.linspace(0, 1.2 * np.median(taken), KILLS[task])):
        begin(path, content)
        ended, _ = worker(task, path, delay=float(moment))
        assert ended in (0, KILLED)
        killed += ended == KILLED
        done += is_new(task, path)
        goes_on(task, path)
    print(f"{task}: {KILLS[task]} kills, {killed} in time, {done} found it done")
    assert killed >= KILLS[task] // 10


@pytest.mark.parametrize("task", KILLS)
def test_killed_half_way_through_each_step(worker, begun, task):
    path, content = begun[task]
    outcomes = []
    for step in range(1, 100):
        begin(path, content)
        ended, _ = worker(task, path, step=step)
        outcomes.append(is_new(task, path))
        goes_on(task, path)
        if ended == 0:
            break
        assert ended == KILLED
    assert outcomes == sorted(outcomes)  # once new, always new
    assert (outcomes[0], outcomes[-1]) == (False, True)
    assert len(outcomes) > 4


@pytest.mark.parametrize("task", KILLS)
@pytest.mark.parametrize("room", [0, 1, 100, 4000])
def test_a_full_disk_leaves_what_was(worker, begun, task, room):
    path, content = begun[task]
    begin(path, content)
    limit = room + (len(content) if task == "add" else 0)
    ended, _ = worker(task, path, limit=limit)
    assert ended == errno.EFBIG
    assert not is_new(task, path)
    assert content is None or path.read_bytes() == content
    goes_on(task, path)


def test_issuing_killed_half_way_through_each_step(worker, tmp_path):
    """Whoever is in the register has copy and key; the same command again completes the rest."""
    done = []
    for step in range(1, 100):
        path = tmp_path / f"r{step}"
        file_of(path, ["alice"])
        ended, _ = worker("issue", path, step=step)
        found = register.read(path, public(OWNER))
        done.append("carol" in found.current)
        if not done[-1]:
            TASKS["issue"](str(path))
            found = register.read(path, public(OWNER))
        folder, entry = Path(f"{path}.copies"), found.current["carol"]
        own = load_key(folder / f"carol.{entry.key}.key")
        assert load_locked(folder / f"carol.{entry.key}.safetensors", own)["w"].tolist() == [
            *range(6)
        ]
        left = {one.name.split(".")[1] for one in unfinished(folder, ["carol"], found)}
        assert entry.key not in left
        assert len(left) <= 1
        if ended == 0:
            break
        assert ended == KILLED
    assert done == sorted(done)
    assert (done[0], done[-1]) == (False, True)
    assert len(done) > 10
