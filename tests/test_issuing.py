"""Copies per user: each with a key of its own, all in the register, and issued again."""

import hashlib
import json
import os

import pytest
from helpers.commands import bad, good
from helpers.sealed import BOB, MALLORY, OWNER, public, same, some
from safetensors.numpy import load_file, save_file

from modellock_jax.vault.errors import Expired, Unreadable, WrongKey
from modellock_jax.vault.issuing import register, revocation
from modellock_jax.vault.issuing.copies import issue, unfinished, user_secret
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.secret import load_key, save_key
from modellock_jax.vault.locked.files import locked_info, unlock_file


@pytest.fixture
def plain(tmp_path):
    save_file(some(), tmp_path / "m.st")
    return tmp_path / "m.st"


def opened(one, folder):
    unlock_file(one.copy, folder / "opened", load_key(one.key))
    return (folder / "opened").read_bytes()


def test_every_user_has_a_copy_and_a_key_of_his_own(plain, tmp_path):
    out, book = tmp_path / "out", tmp_path / "r"
    issued = issue(plain, out, ["alice", "bob"], OWNER, book)
    assert out.stat().st_mode & 0o777 == 0o700
    found = register.read(book, public(OWNER))
    assert found.entries == tuple(one.entry for one in issued)
    for one in issued:
        assert opened(one, tmp_path) == plain.read_bytes()
        assert one.key.stat().st_mode & 0o777 == 0o600
        assert one.entry.copy == hashlib.sha256(one.copy.read_bytes()).hexdigest()
        assert one.entry.plain == hashlib.sha256(plain.read_bytes()).hexdigest()
        assert one.entry.scheme == "stream_lock()"
        own = load_key(one.key)
        assert own.id == one.entry.key == locked_info(one.copy).key_id
        assert own == user_secret(OWNER, found.id, one.entry.user, one.entry.salt)
        for secret in (OWNER, own):
            text = book.read_bytes() + one.copy.read_bytes()
            assert secret._reveal() not in text
            assert secret._reveal().hex().encode() not in text
    alice, bob = issued
    with pytest.raises(WrongKey):
        unlock_file(alice.copy, tmp_path / "x", load_key(bob.key))
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
    """Under another key: what the first attempt left might be in somebody's hands already."""
    out, book = tmp_path / "out", tmp_path / "r"
    with monkeypatch.context() as m:
        m.setattr(register.Writer, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            issue(plain, out, ["alice"], OWNER, book)
    left = {*out.iterdir()}
    assert len(left) == 2
    assert not register.read(book).entries
    (one,) = issue(plain, out, ["alice"], OWNER, book)
    assert opened(one, tmp_path) == plain.read_bytes()
    assert {*out.iterdir()} == left | {one.copy, one.key}
    assert {*unfinished(out, ["alice", "bob"], register.read(book))} == left
    assert unfinished(out, ["bob"], register.read(book)) == []
    (old,) = {*out.glob("*.key")} - {one.key}
    assert load_key(old) != load_key(one.key)


def lost_line(book, _):
    book.write_bytes(b"".join(book.read_bytes().splitlines(True)[:-1]))


def cut_line(book, _):
    book.write_bytes(book.read_bytes()[:-7])


def from_a_backup(book, before):
    book.write_bytes(before)


@pytest.mark.parametrize("harm", [lost_line, cut_line, from_a_backup])
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_no_key_comes_twice_whatever_becomes_of_the_register(plain, tmp_path, harm, again):
    out, book = tmp_path / "out", tmp_path / "r"
    issue(plain, out, ["alice"] if again else ["bob"], OWNER, book)
    before = book.read_bytes()
    (first,) = issue(plain, out, ["alice"], OWNER, book, again=again)
    harm(book, before)
    (second,) = issue(plain, out, ["alice"], OWNER, book, again=again)
    assert first.entry.number == second.entry.number
    assert first.entry.key != second.entry.key
    assert load_key(first.key) != load_key(second.key)
    with pytest.raises(WrongKey):
        unlock_file(second.copy, tmp_path / "x", load_key(first.key))
    left = unfinished(out, ["alice"], register.read(book))
    assert {*left} == {first.copy, first.key}


def test_two_copies_of_one_register_give_different_keys(plain, tmp_path):
    issue(plain, tmp_path / "out", ["bob"], OWNER, tmp_path / "r")
    (tmp_path / "s").write_bytes((tmp_path / "r").read_bytes())
    found = [
        issue(plain, tmp_path / name, ["alice"], OWNER, tmp_path / book)[0]
        for name, book in (("o", "r"), ("p", "s"))
    ]
    assert found[0].entry.number == found[1].entry.number
    assert load_key(found[0].key) != load_key(found[1].key)


def interrupted(*_):
    raise KeyboardInterrupt


# From the command line


def test_from_the_command_line(plain, tmp_path):
    save_key(OWNER, tmp_path / "owner.key")
    identity.save_public_key(public(OWNER), tmp_path / "owner.pub")
    identity.save_public_key(public(MALLORY), tmp_path / "m.pub")
    here = ["issue", "m.st", "out", "--register", "r.jsonl", "--key", "owner.key"]
    told = json.loads(good(tmp_path, *here, "--user", "alice", "--user", "bob", "--json"))
    alice, bob = told["issued"]
    assert (alice["user"], bob["number"], told["unfinished"]) == ("alice", 2, [])
    left = tmp_path / "out" / f"alice.{'0' * 32}.key"
    left.write_bytes(b"")
    again = ["--user", "alice", "--reissue", "--revoke", "revoked.json"]
    said = good(tmp_path, *here, *again).decode()
    assert "its head is" in said
    assert f"out/{left.name}: in no line of r.jsonl" in said
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
