"""Revocation lists: they only grow, and no byte of one is bent; and the commands that obey them."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.commands import bad, good
from helpers.sealed import ALICE, BOB, MALLORY, OWNER, for_two, public, refusing_bob, same, some
from safetensors.numpy import load_file, save_file

from modellock_jax.vault.errors import Tampered, Unreadable, WrongKey
from modellock_jax.vault.issuing import _lines, revocation
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.secret import save_key
from modellock_jax.vault.sealed import envelope


@pytest.fixture
def path(tmp_path):
    return for_two(tmp_path)


@pytest.fixture
def bobs(tmp_path):
    return refusing_bob(tmp_path)


def test_a_list_only_grows(tmp_path):
    path = tmp_path / "list.json"
    first = revocation.revoke(path, [BOB.id], OWNER, "lost a laptop")
    assert (first.serial, first.ids) == (1, {BOB.id})
    dry = revocation.revoke(path, [ALICE.id], OWNER, dry_run=True)
    assert (dry.serial, revocation.read(path)) == (2, first)
    second = revocation.revoke(path, [MALLORY.id, BOB.id, MALLORY.id], OWNER)
    assert (second.serial, len(second.revoked)) == (2, 2)
    assert second.revoked[0] == first.revoked[0]
    written = path.read_bytes()
    assert revocation.revoke(path, [BOB.id], OWNER, "again") == second == revocation.read(path)
    assert path.read_bytes() == written
    assert _lines.same(second.signer, public(OWNER))
    with pytest.raises(WrongKey, match=f"list of key {OWNER.id}"):
        revocation.revoke(path, [ALICE.id], MALLORY)
    assert path.read_bytes() == written


@pytest.mark.parametrize(
    ("ids", "reason", "text"),
    [
        ([], "", "name the id"),
        (["bob"], "", "'bob' is no key id"),
        ([BOB.id.upper() + "A"], "", "is no key id"),
        ([BOB.id], "x" * 201, "at most 200"),
        ([BOB.id], "one\ntwo", "one line"),
        ([BOB.id], "\x1b[2J", "one line"),
    ],
)
def test_what_cannot_be_revoked_says_so(ids, reason, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        revocation.revoke(tmp_path / "list.json", ids, OWNER, reason)
    assert not os.listdir(tmp_path)


def test_no_changed_byte_is_overlooked(path, bobs):
    """Beside the file, where a damaged list must not be passed over as if it were none."""
    whole = bobs.read_bytes()
    rng = np.random.default_rng(0)
    places = {*rng.integers(0, len(whole), 250).tolist(), *range(60), len(whole) - 1}
    places |= {whole.index(word) for word in (b'"serial"', b'"revoked"', b'"signer"')}
    hurt = [whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :] for at in places]
    hurt += [
        whole[:-1],
        whole + b"\n",
        whole[: len(whole) // 2],
        b"",
        whole * 2,
        b"{}",
        b"[" * 10**5,
    ]
    codes = []
    for data in hurt:
        (path.parent / "revoked.json").write_bytes(data)
        for who in (ALICE, BOB):
            with pytest.raises((Tampered, Unreadable)) as caught:
                envelope.load(path, who)
            codes.append(caught.value.code)
    assert codes.count(4) > 0.8 * len(codes)


def test_a_list_is_not_signed_over_by_somebody_else(tmp_path, bobs):
    """Neither by exchanging the signer, nor with the signature of another record."""
    fields = json.loads(bobs.read_bytes())
    signature = fields.pop("signature")
    forged = [
        fields | {"revoked": [], "signature": signature},
        fields | {"signer": identity.document(public(MALLORY)), "signature": signature},
        json.loads(_lines.line(fields, MALLORY)),
        fields | {"signature": signature | {"id": MALLORY.id}},
        fields | {"signature": signature | {"more": ""}},
        fields,
    ]
    for data in forged:
        (tmp_path / "forged").write_bytes(_lines.canonical(data) + b"\n")
        with pytest.raises(Tampered):
            revocation.read(tmp_path / "forged")


@pytest.mark.parametrize(
    "change",
    [
        {"serial": 0}, {"serial": "1"}, {"serial": True}, {"issued": "today"}, {"issued": 5},
        {"revoked": None}, {"revoked": ["x"]}, {"revoked": [{"id": BOB.id}]}, {"more": 1},
        {"revoked": [{"id": BOB.id, "time": "2026-01-01T00:00:00+00:00", "reason": "\x1b"}]},
        {"revoked": [{"id": 1, "time": "2026-01-01T00:00:00+00:00", "reason": ""}]},
        {"version": 1}, {"version": 3}, {"version": True}, {"extra": None}, {"extra": []},
    ],
)  # fmt: skip
def test_a_signed_list_of_another_form_is_refused(change, tmp_path, bobs):
    fields = json.loads(bobs.read_bytes())
    del fields["signature"]
    (tmp_path / "odd").write_bytes(_lines.line(fields | change, OWNER))
    with pytest.raises(Unreadable if "version" in change else Tampered):
        revocation.read(tmp_path / "odd")


def test_of_two_at_a_time_none_is_lost(tmp_path):
    path, ids = tmp_path / "list.json", [f"{i:032x}" for i in range(24)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: revocation.revoke(path, [one], OWNER), ids))
    found = revocation.read(path)
    assert (found.serial, found.ids) == (24, set(ids))
    assert os.listdir(tmp_path) == ["list.json"]


def test_a_reader_takes_over_newer_lists_only(tmp_path):
    mine, first, second = (tmp_path / name for name in ("mine", "first", "second"))
    revocation.revoke(first, [BOB.id], OWNER)
    shutil.copy(first, second)
    revocation.revoke(second, [ALICE.id], OWNER)
    for newer, serial in ((first, 1), (first, 1), (second, 2)):
        assert revocation.update(mine, newer).serial == serial
        assert mine.read_bytes() == newer.read_bytes()
    longer = tmp_path / "longer"  # but of an older number
    revocation.revoke(longer, [BOB.id, ALICE.id, MALLORY.id], OWNER)
    forked, other = tmp_path / "forked", tmp_path / "other"
    for i in range(4):
        revocation.revoke(forked, [f"{i:032x}"], OWNER)
        revocation.revoke(other, [BOB.id, ALICE.id, f"{i:032x}"], MALLORY)
    (tmp_path / "cut").write_bytes(second.read_bytes()[:-9])
    for offered in (first, longer, forked, other, tmp_path / "cut"):
        with pytest.raises(Tampered):
            revocation.update(mine, offered)
        assert mine.read_bytes() == second.read_bytes()


@pytest.fixture
def folder(tmp_path, path):
    identity.save_public_key(public(OWNER), tmp_path / "o.pub")
    for who, name in ((ALICE, "alice"), (BOB, "bob"), (OWNER, "owner")):
        save_key(who, tmp_path / f"{name}.key")
    shutil.move(path, tmp_path / "m.sealed")
    save_file({"w": np.arange(6.0)}, tmp_path / "m.st")
    return tmp_path


def test_from_the_command_line(folder):
    alice, bob, owner = (["--key", f"{name}.key"] for name in ("alice", "bob", "owner"))
    good(folder, "lock", "m.st", "l.st", *bob)
    assert f"key_id: {BOB.id}".encode() in good(folder, "inspect", "l.st")
    bad(2, "is no key id", folder, "revoke", "list.json", "bob", *owner)
    told = good(folder, "revoke", "list.json", BOB.id, *owner, "--reason", "left").decode()
    assert "number 1" in told
    assert "It takes nothing back" in told
    shutil.copy(folder / "list.json", folder / "old.json")
    bad(3, "list of key", folder, "revoke", "list.json", ALICE.id, *alice)
    told = json.loads(good(folder, "revoke", "list.json", MALLORY.id, BOB.id, *owner, "--json"))
    assert (told["serial"], told["new"], told["written"]) == (2, [MALLORY.id], True)

    refusing = ["--revoked", "list.json"]
    text = f"key {BOB.id} was revoked on 2"
    bad(5, text, folder, "open", "m.sealed", "x", *bob, *refusing)
    good(folder, "open", "m.sealed", "x", *alice, *refusing)
    bad(5, text, folder, "unlock", "l.st", "y", *bob, *refusing)
    bad(5, text, folder, "verify", "m.sealed", *bob, MODELLOCK_REVOKED="list.json")

    good(folder, "revoke", "revoked.json", "--from", "list.json")
    bad(4, "is older than", folder, "revoke", "revoked.json", "--from", "old.json")
    bad(5, text, folder, "unlock", "l.st", "x.st", *bob)
    bad(5, text, folder, "recipients", "add", "m.sealed", "--to", "o.pub", *bob)
    hurt = (folder / "revoked.json").read_bytes().replace(BOB.id.encode(), b"0" * 32)
    (folder / "revoked.json").write_bytes(hurt)
    bad(4, "revoked.json", folder, "open", "m.sealed", "x.st", *bob)
    assert not (folder / "x.st").exists()
    assert same(load_file(folder / "x"), some())
