"""The register: any line that is bent is noticed, and no other file is touched."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.register_worker import COPY, add, file_of
from helpers.sealed import ALICE, BOB, MALLORY, OWNER, public

from modellock_jax.vault.errors import Tampered, Unreadable, WrongKey
from modellock_jax.vault.issuing import _lines, register
from modellock_jax.vault.keys import identity


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
        writer.add("alice", ALICE.id, "2" * 64, **COPY)
    assert register.read(path).signer.id == MALLORY.id
    with pytest.raises(Tampered, match=f"signed by {MALLORY.id}"):
        register.read(path, public(OWNER))
    first, second = path.read_bytes().splitlines(True)
    fields = {k: v for k, v in json.loads(first).items() if k != "signature"}
    claimed = fields | {"signer": identity.document(public(OWNER))}
    path.write_bytes(_lines.line(claimed, MALLORY) + second)
    with pytest.raises(Tampered):
        register.read(path)


@pytest.mark.parametrize(
    "change",
    [
        {"number": 2}, {"number": True}, {"number": "1"}, {"user": "../alice"}, {"user": 5},
        {"key": "x"}, {"time": "now"}, {"plain": ""}, {"scheme": "\x1b[2J"}, {"more": ""},
        {"previous": "0" * 64}, {"salt": "0" * 63}, {"salt": None}, {"extra": None}, {"version": "2"},
        {"format": "another"}, {"supersedes": "me"},
    ],
)  # fmt: skip
def test_a_signed_line_of_another_form_is_refused(change, tmp_path):
    path = file_of(tmp_path / "r", ["alice"])
    first, second = path.read_bytes().splitlines(True)
    fields = {k: v for k, v in json.loads(second).items() if k != "signature"}
    path.write_bytes(first + _lines.line(fields, OWNER))
    assert register.read(path).entries
    path.write_bytes(first + _lines.line(fields | change, OWNER))
    with pytest.raises(Unreadable if "version" in change else Tampered):
        register.read(path)


def test_no_key_and_no_salt_is_entered_twice(tmp_path):
    path = tmp_path / "r"
    with register.extending(path, OWNER) as writer:
        writer.add("alice", ALICE.id, "2" * 64, **COPY)
        before = path.read_bytes()
        for key, salt in ((ALICE.id, "3" * 64), (BOB.id, "2" * 64)):
            with pytest.raises(ValueError, match="was issued before"):
                writer.add("bob", key, salt, **COPY)
    assert path.read_bytes() == before
    second = before.splitlines(True)[1]
    fields = {k: v for k, v in json.loads(second).items() if k != "signature"}
    fields |= {"number": 2, "previous": hashlib.sha256(second).hexdigest()}
    for change in ({"key": BOB.id}, {"salt": "3" * 64}):
        path.write_bytes(before + _lines.line(fields | change, OWNER))
        with pytest.raises(Tampered, match="line 3 has the key of an earlier line"):
            register.read(path)
    path.write_bytes(before + _lines.line(fields | {"key": BOB.id, "salt": "3" * 64}, OWNER))
    assert len(register.read(path).entries) == 2


def test_no_line_is_written_that_could_not_be_read(tmp_path):
    path = file_of(tmp_path / "r", ["alice"])
    before = path.read_bytes()
    with register.extending(path, OWNER) as writer, pytest.raises(ValueError, match="'user'"):
        writer.add("../bob", BOB.id, "2" * 64, **COPY)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"a diary\n", b"a diary", b'{"format":"x"}\n', b"\n\n"])
def test_a_file_of_another_kind_is_left_alone(content, tmp_path):
    (tmp_path / "r").write_bytes(content)
    for call in (register.read, add):
        with pytest.raises(Unreadable, match="not a register"):
            call(tmp_path / "r")
    assert (tmp_path / "r").read_bytes() == content


def test_two_writers_wait_for_one_another(tmp_path):
    code = "import sys\nfrom helpers import register_worker as w\nfor _ in range(10): w.add(sys.argv[1])"
    where = {
        "cwd": Path(__file__).parent,
        "env": os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    }
    command = [sys.executable, "-c", code, str(tmp_path / "r")]
    both = [subprocess.Popen(command, **where) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(register.read(tmp_path / "r").entries) == 20
