"""Copies per user and the register of them: whole whatever is killed, and no line bent."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from register_worker import COPY, TASKS, add
from safetensors.numpy import load_file, save_file
from sealed import ALICE, BOB, MALLORY, OWNER, public, same, some
from test_vault_cli import bad, good

from modellock_jax.vault import identity, issuing, keys, locked, register, revocation, signed
from modellock_jax.vault.errors import Expired, Tampered, Unreadable, WrongKey
from modellock_jax.vault.issuing import issue

KILLED = -9
KILLS = {"first": 40, "add": 40, "revoke": 40}


def file_of(path: Path, users: list[str]) -> Path:
    """A register with a line for each of these users, in order."""
    with register.extending(path, OWNER) as writer:
        for user in users:
            key = hashlib.sha256(f"{user}{len(writer.register.entries)}".encode()).hexdigest()[:16]
            writer.add(user, key, **COPY)
    return path


# The register alone


def test_lines_follow_one_another(tmp_path):
    path = file_of(tmp_path / "r", ["alice", "bob"])
    before = register.read(path)
    file_of(path, ["Zoë", "alice"])
    found = register.read(path, public(OWNER), head=before.head)
    assert found.entries[:2] == before.entries
    assert [entry.number for entry in found.entries] == [1, 2, 3, 4]
    assert [entry.user for entry in found.entries] == ["alice", "bob", "Zoë", "alice"]
    assert found.entries[3].supersedes == before.current["alice"].key
    assert found.current["alice"] == found.entries[3]
    assert {entry.supersedes for entry in found.entries[:3]} == {""}
    assert found.head == hashlib.sha256(path.read_bytes().splitlines(True)[-1]).hexdigest()
    assert path.stat().st_mode & 0o777 == 0o600
    wrong = pytest.raises(WrongKey, match=f"register of key {OWNER.id}")
    with wrong, register.extending(path, MALLORY):
        pass
    assert register.read(path) == found


def test_removed_reordered_repeated_and_edited_lines_are_noticed(tmp_path):
    path = file_of(tmp_path / "r", ["alice", "bob", "carol", "alice"])
    lines = path.read_bytes().splitlines(True)
    other = file_of(tmp_path / "other", ["alice", "bob"]).read_bytes().splitlines(True)
    bent = [lines[:i] + lines[i + 1 :] for i in range(len(lines) - 1)]
    bent += [[*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]] for i in range(len(lines) - 1)]
    bent += [lines[: i + 1] + lines[i:] for i in range(len(lines))]
    bent += [[*lines[:2], other[2], *lines[3:]], [other[0], *lines[1:]], [*lines[:2], b"\n"]]
    bent += [[line.replace(b"carol", b"karol") for line in lines]]
    for some_lines in bent:
        (tmp_path / "bent").write_bytes(b"".join(some_lines))
        with pytest.raises((Tampered, Unreadable)):
            register.read(tmp_path / "bent")
        with pytest.raises((Tampered, Unreadable)):
            add(tmp_path / "bent")
        assert (tmp_path / "bent").read_bytes() == b"".join(some_lines)


def test_no_changed_byte_is_overlooked(tmp_path):
    """But in a last line that loses its end: it is as if it had not been written."""
    path = file_of(tmp_path / "r", ["alice", "bob"])
    whole = path.read_bytes()
    before = register.read(path)
    rng = np.random.default_rng(0)
    for at in [*range(45), *rng.integers(0, len(whole) - 1, 120).tolist()]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        with pytest.raises((Tampered, Unreadable)):
            register.read(path)
    for cut in (whole[:-1], whole[:-2000]):
        path.write_bytes(cut)
        assert register.read(path).entries == before.entries[:1]


def test_only_a_remembered_head_tells_a_cut_off_end(tmp_path):
    path = file_of(tmp_path / "r", ["alice", "bob"])
    whole = register.read(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(True)[:-1]))
    assert len(register.read(path).entries) == 1
    with pytest.raises(Tampered, match="its end was cut off"):
        register.read(path, head=whole.head)
    file_of(path, ["bob"])  # another line in its place
    with pytest.raises(Tampered, match="its end was cut off"):
        register.read(path, head=whole.head)


def test_a_register_made_by_somebody_else_is_told_by_the_issuers_key(tmp_path):
    path = tmp_path / "r"
    with register.extending(path, MALLORY) as writer:
        writer.add("alice", ALICE.id, **COPY)
    assert register.read(path).signer.id == MALLORY.id
    with pytest.raises(Tampered, match=f"signed by {MALLORY.id}"):
        register.read(path, public(OWNER))
    first, second = path.read_bytes().splitlines(True)
    fields = {k: v for k, v in json.loads(first).items() if k != "signature"}
    claimed = fields | {"signer": signed.named(public(OWNER))}
    path.write_bytes(signed.line(claimed, MALLORY) + second)
    with pytest.raises(Tampered):
        register.read(path)


@pytest.mark.parametrize(
    "change",
    [
        {"number": 2}, {"number": True}, {"number": "1"}, {"user": "../alice"}, {"user": 5},
        {"key": "x"}, {"time": "now"}, {"plain": ""}, {"scheme": "\x1b[2J"}, {"more": ""},
        {"previous": "0" * 64}, {"format": "another"}, {"supersedes": "me"},
    ],
)  # fmt: skip
def test_a_signed_line_of_another_form_is_refused(change, tmp_path):
    path = file_of(tmp_path / "r", ["alice"])
    first, second = path.read_bytes().splitlines(True)
    fields = {k: v for k, v in json.loads(second).items() if k != "signature"}
    path.write_bytes(first + signed.line(fields, OWNER))
    assert register.read(path).entries
    path.write_bytes(first + signed.line(fields | change, OWNER))
    with pytest.raises(Tampered):
        register.read(path)


def test_no_line_is_written_that_could_not_be_read(tmp_path):
    path = file_of(tmp_path / "r", ["alice"])
    before = path.read_bytes()
    with register.extending(path, OWNER) as writer, pytest.raises(ValueError, match="'user'"):
        writer.add("../bob", BOB.id, **COPY)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"a diary\n", b"a diary", b'{"format":"x"}\n', b"\n\n"])
def test_a_file_of_another_kind_is_left_alone(content, tmp_path):
    (tmp_path / "r").write_bytes(content)
    for call in (register.read, add):
        with pytest.raises(Unreadable, match="not a register"):
            call(tmp_path / "r")
    assert (tmp_path / "r").read_bytes() == content


def test_two_writers_wait_for_one_another(tmp_path):
    code = "import sys, register_worker as w\nfor _ in range(10): w.add(sys.argv[1])"
    where = {
        "cwd": Path(__file__).parent,
        "env": os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    }
    command = [sys.executable, "-c", code, str(tmp_path / "r")]
    both = [subprocess.Popen(command, **where) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(register.read(tmp_path / "r").entries) == 20


# Killed


@pytest.fixture(scope="module")
def worker():
    """Has a task done in a child of its own; says how that ended, and after how many seconds."""
    command = [sys.executable, str(Path(__file__).with_name("register_worker.py"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def ask(task, path, **when):
            line = {"task": {"first": "add"}.get(task, task), "path": str(path)} | when
            print(json.dumps(line), file=process.stdin, flush=True)
            return tuple(json.loads(process.stdout.readline()))

        yield ask
        process.stdin.close()


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
    assert found.entries[-1].key == BOB.id


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


# Copies


@pytest.fixture
def plain(tmp_path):
    save_file(some(), tmp_path / "m.st")
    return tmp_path / "m.st"


def opened(one, folder):
    locked.unlock_file(one.copy, folder / "opened", keys.load(one.key))
    return (folder / "opened").read_bytes()


def test_every_user_has_a_copy_and_a_key_of_his_own(plain, tmp_path):
    out, book = tmp_path / "out", tmp_path / "r"
    issued = issue(plain, out, ["alice", "bob"], OWNER, book)
    assert out.stat().st_mode & 0o777 == 0o700
    found = register.read(book, public(OWNER))
    assert found.entries == tuple(one.entry for one in issued)
    for number, one in enumerate(issued, 1):
        assert opened(one, tmp_path) == plain.read_bytes()
        assert one.key.stat().st_mode & 0o777 == 0o600
        assert one.entry.copy == hashlib.sha256(one.copy.read_bytes()).hexdigest()
        assert one.entry.plain == hashlib.sha256(plain.read_bytes()).hexdigest()
        assert one.entry.scheme == "stream_lock()"
        own = keys.load(one.key)
        assert own.id == one.entry.key == locked.locked_info(one.copy).key_id
        assert own == issuing.user_secret(OWNER, found.id, one.entry.user, number)
        for secret in (OWNER, own):
            text = book.read_bytes() + one.copy.read_bytes()
            assert secret._reveal() not in text
            assert secret._reveal().hex().encode() not in text
    alice, bob = issued
    with pytest.raises(WrongKey):
        locked.unlock_file(alice.copy, tmp_path / "x", keys.load(bob.key))
    assert not same(load_file(alice.copy), load_file(bob.copy))


def test_another_register_gives_other_keys(plain, tmp_path):
    one, two = (
        issue(plain, tmp_path / "out", ["alice"], OWNER, tmp_path / name)[0] for name in "rs"
    )
    assert one.entry.key != two.entry.key


def test_issued_again_the_old_key_is_superseded_and_revoked(plain, tmp_path):
    out, book, refused = tmp_path / "out", tmp_path / "r", tmp_path / "out" / "revoked.json"
    first, bob = issue(plain, out, ["alice", "bob"], OWNER, book)
    (second,) = issue(plain, out, ["alice"], OWNER, book, again=True)
    assert second.entry.supersedes == first.entry.key != second.entry.key
    assert opened(first, tmp_path) == opened(second, tmp_path) == plain.read_bytes()
    (third,) = issue(plain, out, ["alice"], OWNER, book, again=True, revocations=refused)
    assert revocation.read(refused).ids == {second.entry.key}
    assert third.entry.key in revocation.read(refused).revoked[0].reason
    with pytest.raises(Expired, match=second.entry.key):
        opened(second, tmp_path)
    assert opened(third, tmp_path) == opened(bob, tmp_path) == plain.read_bytes()
    assert register.read(book).current["alice"] == third.entry


@pytest.mark.parametrize(
    ("users", "options", "text"),
    [
        ([], {}, "name a user"),
        (["../alice"], {}, "cannot be a file's name"),
        ([".alice"], {}, "cannot be a file's name"),
        (["a" * 51], {}, "cannot be a file's name"),
        (["bob", "bob"], {}, "named twice"),
        (["alice", "bob"], {}, "alice: has a copy already"),
        (["bob"], {"again": True}, "bob: has no copy yet"),
        (["bob"], {"revocations": "list"}, "only issuing again"),
        (["bob"], {"scheme": "sign_mask"}, "cannot lock a file"),
    ],
)
def test_what_cannot_be_issued_says_so(users, options, text, plain, tmp_path):
    book = tmp_path / "r"
    issue(plain, tmp_path / "out", ["alice"], OWNER, book)
    before = book.read_bytes(), sorted(os.listdir(tmp_path / "out"))
    with pytest.raises(ValueError, match=text):
        issue(plain, tmp_path / "out", users, OWNER, book, **options)
    assert (book.read_bytes(), sorted(os.listdir(tmp_path / "out"))) == before


def test_faults_come_before_anything_is_written(plain, tmp_path):
    book, refused = tmp_path / "r", tmp_path / "list"
    with pytest.raises(TypeError, match="list of names"):
        issue(plain, tmp_path / "out", "alice", OWNER, book)
    with pytest.raises(Unreadable):
        issue(tmp_path / "absent", tmp_path / "out", ["alice"], OWNER, book)
    assert not book.exists()
    issue(plain, tmp_path / "out", ["alice"], OWNER, book)
    revocation.revoke(refused, [BOB.id], MALLORY)
    with pytest.raises(WrongKey, match="list of key"):
        issue(plain, tmp_path / "out", ["alice"], OWNER, book, again=True, revocations=refused)
    assert len(os.listdir(tmp_path / "out")) == 2


def test_what_was_interrupted_is_completed(plain, tmp_path, monkeypatch):
    """Before the register's line everything is there, and is the same when it is done again."""
    out, book = tmp_path / "out", tmp_path / "r"
    with monkeypatch.context() as m:
        m.setattr(register.Writer, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            issue(plain, out, ["alice"], OWNER, book)
    (key,) = out.glob("alice.*.key")
    before = key.read_bytes()
    assert not register.read(book).entries
    (one,) = issue(plain, out, ["alice"], OWNER, book)
    assert (one.key, key.read_bytes()) == (key, before)
    assert opened(one, tmp_path) == plain.read_bytes()
    bobs = issuing.user_secret(OWNER, register.read(book).id, "bob", 2)
    (out / f"bob.{bobs.id}.key").write_bytes(b"something else")
    with pytest.raises(FileExistsError):
        issue(plain, out, ["bob"], OWNER, book)


def interrupted(*_):
    raise KeyboardInterrupt


# From the command line


def test_from_the_command_line(plain, tmp_path):
    keys.save(OWNER, tmp_path / "owner.key")
    identity.save_public(public(OWNER), tmp_path / "owner.pub")
    identity.save_public(public(MALLORY), tmp_path / "m.pub")
    here = ["issue", "m.st", "out", "--register", "r.jsonl", "--key", "owner.key"]
    told = json.loads(good(tmp_path, *here, "--user", "alice", "--user", "bob", "--json"))
    alice, bob = told["issued"]
    assert (alice["user"], bob["number"]) == ("alice", 2)
    again = ["--user", "alice", "--reissue", "--revoke", "revoked.json"]
    assert b"its head is" in good(tmp_path, *here, *again)
    (tmp_path / "out" / "revoked.json").write_bytes((tmp_path / "revoked.json").read_bytes())
    unlocking = ["unlock", alice["copy_file"], "x", "--key", alice["key_file"]]
    bad(5, f"key {alice['key']} was revoked", tmp_path, *unlocking)
    good(tmp_path, "unlock", bob["copy_file"], "x", "--key", bob["key_file"])
    assert (tmp_path / "x").read_bytes() == plain.read_bytes()
    listing = ["register", "list", "r.jsonl", "--head", told["head"]]
    found = json.loads(good(tmp_path, *listing, "--signed-by", "owner.pub", "--json"))
    assert [one["superseded"] for one in found["entries"]] == [True, False, False]
    bad(4, "is signed by", tmp_path, *listing, "--signed-by", "m.pub")
    lines = (tmp_path / "r.jsonl").read_bytes().splitlines(True)
    (tmp_path / "r.jsonl").write_bytes(lines[0] + lines[2])
    bad(4, "line 2", tmp_path, *listing)
