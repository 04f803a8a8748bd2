"""Public halves made again and never overwritten; every text file of ours told by `inspect`."""

import json

import pytest
from helpers.commands import bad, good
from helpers.hidden import SECRET, shows, write
from helpers.sealed import ALICE, BOB, MALLORY, OWNER, public, some
from safetensors.numpy import save_file

from modellock_jax.vault import _texts
from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.issuing import register, revocation
from modellock_jax.vault.keys import identity, share_files, shares
from modellock_jax.vault.keys.secret import load_key, save_key

CLASSIC = identity.public_key(ALICE, classic=True)


@pytest.fixture
def folder(tmp_path):
    save_key(ALICE, tmp_path / "alice.key")
    save_file(some(), tmp_path / "m.st")
    return tmp_path


# Made again


@pytest.mark.parametrize("classic", [False, True])
def test_a_public_half_is_made_again(folder, classic):
    options = ["--classic"] if classic else []
    make = ["keygen", "--public", "alice.key", "again.pub", *options]
    told = json.loads(good(folder, *make, "--json"))
    expected = CLASSIC if classic else public(ALICE)
    assert identity.load_public_key(folder / "again.pub") == expected
    assert (told["id"], told["public_id"]) == (ALICE.id, expected.id)
    assert told["fingerprint"] == expected.fingerprint
    before = (folder / "again.pub").read_bytes()
    assert expected.id in good(folder, *make).decode()  # the same again is no fault
    assert (folder / "again.pub").read_bytes() == before
    assert sorted(one.name for one in folder.iterdir()) == ["again.pub", "alice.key", "m.st"]
    assert good(folder, "keygen", "--public", "alice.key", "-", *options) == before
    bad(2, "needs no --from", folder, *make, "--from", "alice.key", "--path", "a")


def test_no_public_half_is_overwritten(folder):
    """It may be somebody else's, and files would be sealed to nobody."""
    identity.save_public_key(public(BOB), folder / "b.pub")
    before = (folder / "b.pub").read_bytes()
    bad(2, "b.pub exists", folder, "keygen", "--public", "alice.key", "b.pub")
    bad(2, "b.pub exists", folder, "keygen", "--public", "alice.key", "b.pub", "--classic")
    for name in ("alice.key", "m.st"):
        content = (folder / name).read_bytes()
        bad(2, f"{name} exists", folder, "keygen", "--public", "alice.key", name)
        bad(2, f"{name} exists and is kept", folder, "keygen", name)
        assert (folder / name).read_bytes() == content
    bad(2, "a key goes to a file", folder, "keygen", "-")
    (folder / "new.key.pub").write_bytes(before)
    bad(2, "new.key.pub exists and is no public half", folder, "keygen", "new.key")
    assert not (folder / "new.key").exists()  # nor is there a key without its public half
    (folder / "odd.key.pub").write_bytes(b"notes")
    bad(2, "odd.key.pub exists", folder, "keygen", "odd.key")
    assert not (folder / "odd.key").exists()
    (folder / "link.key.pub").symlink_to(folder / "nowhere")
    bad(2, "link.key.pub exists", folder, "keygen", "link.key")
    assert (folder / "b.pub").read_bytes() == (folder / "new.key.pub").read_bytes() == before


def test_joined_shares_give_the_public_half_too(folder):
    share_files.save(shares.split(ALICE, 2, 3), folder / "s")
    two = [f"s/share-{i}-of-3.txt" for i in (1, 3)]
    told = json.loads(good(folder, "backup", "join", *two, "again.key", "--json"))
    assert told["public"] == "again.key.pub"
    assert identity.load_public_key(folder / "again.key.pub") == public(ALICE)
    # The public half was kept, and the key lost: the classic one is one of this key's too.
    identity.save_public_key(CLASSIC, folder / "c.key.pub")
    assert CLASSIC.id in good(folder, "backup", "join", *two, "c.key").decode()
    assert identity.load_public_key(folder / "c.key.pub") == CLASSIC
    identity.save_public_key(public(BOB), folder / "d.key.pub")
    bad(2, "d.key.pub exists and is no", folder, "backup", "join", *two, "d.key")
    assert not (folder / "d.key").exists()


# The wrong file


def test_a_secret_key_among_recipients_is_named_as_such(folder):
    bad(6, "error: alice.key is a secret key file, and no public key; keep it to yourself and give "
        "the .pub", folder, "seal", "m.st", "x", "--to", "alice.key")  # fmt: skip
    for option in ("--to", "--signed-by"):
        with pytest.raises(Unreadable) as caught:
            identity.load_public_key(folder / "alice.key")
        assert not shows(str(caught.value), ALICE._reveal()), option


def test_a_public_key_where_the_secret_one_is_needed_is_named_as_such(folder):
    identity.save_public_key(public(ALICE), folder / "a.pub")
    text = "a.pub is a public key file, and no secret key file; give the key file"
    bad(2, text, folder, "lock", "m.st", "x", "--key", "a.pub")


# Text files, and their encodings


def texts_of(folder):
    """A file of each kind, by name; the key and the shares are `hidden.SECRET`'s."""
    save_key(SECRET, folder / "k.key")
    identity.save_public_key(identity.public_key(SECRET), folder / "k.pub")
    share_files.save(shares.split(SECRET, 2, 3), folder / "s")
    (folder / "s" / "share-2-of-3.txt").rename(folder / "share")
    with register.extending(folder / "r", OWNER) as writer:
        writer.add("alice", ALICE.id, "2" * 64, "stream_lock()", "0" * 64, "1" * 64)
    revocation.revoke(folder / "l", [BOB.id], MALLORY, "left")
    return {
        "k.key": (load_key, ("key", {"id": SECRET.id, "ids": SECRET.ids})),
        "k.pub": (
            identity.load_public_key,
            ("public key", {"id": SECRET.id, "type": "mlkem768-x25519"}),
        ),
        "share": (share_files.load, ("share of a key", {"id": SECRET.id, "index": 2, "count": 3})),
        "r": (register.read, ("register", {"signer": OWNER.id, "copies": 1, "users": ["alice"]})),
        "l": (revocation.read, ("revocation list", {"signer": MALLORY.id, "serial": 1})),
    }


def test_inspect_knows_every_kind_and_shows_no_secret(folder):
    words = set()
    for name, (_, (kind, fields)) in texts_of(folder).items():
        told = json.loads(good(folder, "inspect", name, "--json"))
        assert told["kind"] == f"modellock-jax {kind}"
        assert fields.items() <= told.items()
        text = good(folder, "inspect", name).decode()
        assert text.startswith(f"{name}: ")
        assert fields.get("id", fields.get("signer")) in text
        words |= {*(text + json.dumps(told)).split()}
        assert not shows(text + json.dumps(told))
    mnemonic = share_files.load(folder / "share")._reveal().mnemonic().split()
    assert len(words & {*mnemonic}) < 5
    assert BOB.id in good(folder, "inspect", "l").decode()
    (folder / "k.key").chmod(0o644)
    bad(6, "chmod 600", folder, "inspect", "k.key")


def test_a_mark_of_utf_8_is_no_harm_and_other_encodings_are_named(folder):
    for name, (read, _) in texts_of(folder).items():
        data, expected = (folder / name).read_bytes(), repr(read(folder / name))
        write(folder / name, b"\xef\xbb\xbf" + data)
        assert repr(read(folder / name)) == expected
        good(folder, "inspect", name)
        for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
            write(folder / name, data.decode().encode(encoding))
            code = encoding[:6].upper()
            with pytest.raises(
                (Unreadable, ValueError), match=f"{name} is in {code}.*as UTF-8"
            ) as e:
                read(folder / name)
            assert "\n" not in str(e.value)
        bad(6, f"{name} is in UTF-32", folder, "inspect", name)
        write(folder / name, data)


def test_a_model_is_not_taken_for_a_text(folder):
    """The length of a head may begin like the mark of another encoding."""
    for length in (0xFEFF, 0xFFFE, 0x00410058, 0x0041FEFF, 0x7B):
        text = json.dumps({"w": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}).encode()
        data = length.to_bytes(8, "little") + text.ljust(length)
        assert _texts.encoding_fault(data[:4096]) == "", hex(length)
        (folder / "m").write_bytes(data)
        assert b"plain safetensors, 1 tensors" in good(folder, "inspect", "m")


def test_a_register_with_a_mark_is_written_on(folder):
    texts_of(folder)
    (folder / "r").write_bytes(b"\xef\xbb\xbf" + (folder / "r").read_bytes())
    for key in ("3" * 32, "4" * 32):
        with register.extending(folder / "r", OWNER) as writer:
            writer.add("bob", key, key * 2, "stream_lock()", "0" * 64, "1" * 64)
    assert len(register.read(folder / "r", public(OWNER)).entries) == 3


def test_every_reader_names_the_kind_that_it_was_given(folder):
    found = texts_of(folder)
    names = {"k.key": "a secret key file", "k.pub": "a public key file", "share": "a share of a key",
             "r": "a register", "l": "a revocation list"}  # fmt: skip
    for name, (read, _) in found.items():
        for other in found.keys() - {name}:
            with pytest.raises(
                (Unreadable, ValueError), match=f"{other} is {names[other]}"
            ) as caught:
                read(folder / other)
            assert "\n" not in str(caught.value)
