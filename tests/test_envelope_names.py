"""A file's name and serial number: signed, expected, kept, and told."""

import json
import unicodedata

import numpy as np
import pytest
from helpers.commands import bad, good
from helpers.sealed import (
    ALICE,
    BOB,
    MALLORY,
    OWNER,
    adding,
    apart,
    header_of,
    public,
    some,
    together,
)
from safetensors.numpy import save_file

from modellock_jax.vault.errors import Tampered
from modellock_jax.vault.issuing import _naming
from modellock_jax.vault.sealed import _header, envelope
from modellock_jax.vault.sealed.rewrite import rewrite

OWNERS = [public(OWNER)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.sealed"
    people = [public(ALICE), public(MALLORY)]
    envelope.seal(some(), path, people, signers=[OWNER], name="résnet 50", serial=7)
    return path


def test_what_is_expected_opens_and_nothing_else(path):
    for expect in ("résnet 50", "résnet 50@7", "résnet 50@7+", "résnet 50@0+", "résnet 50@007"):
        with envelope.open(path, ALICE, signed_by=OWNERS, expect=expect) as sealed:
            assert (sealed.header.name, sealed.header.serial) == ("résnet 50", 7)
    decomposed = unicodedata.normalize("NFD", "résnet 50@7")
    envelope.load(path, ALICE, expect=decomposed)
    for expect in (
        "resnet 50",
        "résnet",
        "résnet 50@8",
        "résnet 50@6",
        "résnet 50@8+",
        "Résnet 50",
    ):
        with pytest.raises(Tampered, match=r"'résnet 50', serial 7, and .* was expected") as caught:
            envelope.load(path, ALICE, expect=expect)
        assert caught.value.code == 4
    for expect in ("", "@7", "a@", "a@-1", "a@x", "a@1++", "a@7@8", "a\n", " a", "a@" + "9" * 17):
        with pytest.raises(ValueError, match=r"expect NAME|printable characters"):
            envelope.load(path, ALICE, expect=expect)


def test_an_old_version_does_not_pass_for_the_new_one(path):
    """Both are signed by the owner: only the number tells them apart."""
    old = path.read_bytes()
    envelope.seal(some(1), path, [public(ALICE)], signers=[OWNER], name="résnet 50", serial=8)
    path.write_bytes(old)
    envelope.load(path, ALICE, signed_by=OWNERS)
    with pytest.raises(Tampered, match="serial 7"):
        envelope.load(path, ALICE, signed_by=OWNERS, expect="résnet 50@8+")


def test_a_recipient_cannot_rename_what_was_signed(path):
    made, body = apart(path.read_bytes())
    file_key = _header.file_key_of(made, MALLORY)
    for new in ({"serial": 8}, {"name": "other"}, {"name": "", "serial": 0}):
        forged = _header.finish(made._replace(**new), file_key)
        forged = forged._replace(signatures=made.signatures)
        path.write_bytes(together(forged._replace(mac=_header._mac(forged, file_key)), body))
        envelope.load(path, ALICE)
        with pytest.raises(Tampered, match="not signed by"):
            envelope.load(path, ALICE, signed_by=OWNERS)
        path.write_bytes(together(made._replace(**new), body))  # and nobody else without a trace
        with pytest.raises(Tampered, match="header was changed"):
            envelope.load(path, ALICE)


def test_what_rewrites_the_head_keeps_the_name_and_rotating_may_change_it(path):
    rewrite(path, ALICE, adding(public(BOB)), [OWNER])
    envelope.load(path, BOB, signed_by=OWNERS, expect="résnet 50@7")
    with envelope.open(path, BOB) as sealed:
        envelope.rotate(sealed, path.parent / "kept", [public(BOB)], signers=[OWNER])
        envelope.rotate(sealed, path.parent / "next", [public(BOB)], signers=[OWNER], serial=8)
        envelope.rotate(sealed, path.parent / "none", [public(BOB)], name="", serial=0)
    envelope.load(path.parent / "kept", BOB, signed_by=OWNERS, expect="résnet 50@7")
    envelope.load(path.parent / "next", BOB, signed_by=OWNERS, expect="résnet 50@8")
    assert header_of(path.parent / "none").name == ""


@pytest.mark.parametrize(
    ("name", "serial"),
    [
        ("a" * 201, 0), ("a@b", 0), ("a\nb", 0), ("a\x1b[31m", 0), ("a\u202eb", 0), ("\ud800", 0),
        (unicodedata.normalize("NFD", "é"), 0), (" a", 0), (7, 0), ("a", -1), ("a", True),
        ("a", 2**53), ("", 1), ("a", "1"),
    ],
)  # fmt: skip
def test_what_is_no_name_or_number_is_refused(tmp_path, name, serial):
    with pytest.raises(ValueError, match=r"name|serial number"):
        envelope.seal(some(), tmp_path / "m", [public(ALICE)], name=name, serial=serial)
    assert list(tmp_path.iterdir()) == []
    good_name = _naming.check_name("鍵 🔑 ﬁ" + "a" * 190, 2**53 - 1)
    assert good_name is None


def test_fields_of_later_releases_are_kept_and_vouched_for(path):
    later = (("licence", "CC-BY"), ("nach außen", ""))
    rewrite(path, ALICE, lambda made, _: made._replace(extra=later), [OWNER])
    rewrite(path, ALICE, adding(public(BOB)), [OWNER])
    with envelope.open(path, BOB, signed_by=OWNERS) as sealed:
        assert sealed.header.extra == later
    made, body = apart(path.read_bytes())
    path.write_bytes(together(made._replace(extra=later[:1]), body))
    with pytest.raises(Tampered, match="header was changed"):
        envelope.load(path, ALICE)


def test_commands(tmp_path):
    save_file({"w": np.arange(6.0)}, tmp_path / "m.safetensors")
    for who in ("alice", "owner"):
        good(tmp_path, "keygen", f"{who}.key")
    to, sign = ["--to", "alice.key.pub"], ["--sign", "owner.key"]
    alice, owner = ["--key", "alice.key"], ["--signed-by", "owner.key.pub"]
    good(tmp_path, "seal", "m.safetensors", "s", *to, *sign, "--name", "net", "--serial", "3")
    told = good(tmp_path, "open", "s", "x", *alice, *owner, "--expect", "net@3+").decode()
    assert "'net', serial 3" in told
    assert "recipients say" not in told
    assert (
        "'net', serial 3 (so its recipients say)" in good(tmp_path, "verify", "s", *alice).decode()
    )
    told = json.loads(good(tmp_path, "verify", "s", *alice, "--json"))
    assert (told["name"], told["serial"]) == ("net", 3)
    bad(4, "'net', serial 3, and 'net@4+' was expected",
        tmp_path, "open", "s", "y", *alice, *owner, "--expect", "net@4+")  # fmt: skip
    bad(4, "expected", tmp_path, "verify", "s", *alice, "--expect", "other")
    bad(2, "expect NAME", tmp_path, "verify", "s", *alice, "--expect", "@3")
    bad(
        2,
        "serial number",
        tmp_path,
        "seal",
        "m.safetensors",
        "y",
        *to,
        "--serial",
        "-1",
        "--name",
        "a",
    )
    bad(2, "give a name", tmp_path, "seal", "m.safetensors", "y", *to, "--serial", "1")
    assert not (tmp_path / "y").exists()
    good(tmp_path, "expire", "s", "2999-01-01", *alice, *sign)
    good(tmp_path, "rotate", "s", "r", *to, *alice, *sign, *owner, "--expect", "net@3")
    good(tmp_path, "rotate", "s", "r4", *to, *alice, *sign, "--serial", "4")
    good(tmp_path, "verify", "r", *alice, *owner, "--expect", "net@3")
    good(tmp_path, "verify", "r4", *alice, *owner, "--expect", "net@4+")
    told = json.loads(good(tmp_path, "inspect", "r4", "--json"))
    assert (told["name"], told["serial"]) == ("net", 4)
    assert "'net', serial 4" in good(tmp_path, "inspect", "r4").decode()
