"""A key on a list is refused wherever the list is present, and by whose list it is."""

import json
import os
import shutil

import pytest
from helpers.sealed import (
    ALICE,
    BOB,
    MALLORY,
    OWNER,
    adding,
    for_two,
    public,
    refusing_bob,
    same,
    some,
)
from safetensors.numpy import save_file

from modellock_jax.vault.errors import Expired, Tampered, Unreadable, WrongKey
from modellock_jax.vault.issuing import _lines, revocation
from modellock_jax.vault.keys import identity
from modellock_jax.vault.locked.files import lock_file, unlock_file
from modellock_jax.vault.sealed import envelope
from modellock_jax.vault.sealed.recipients import Passphrase, name_of
from modellock_jax.vault.sealed.rewrite import read_header, rewrite


@pytest.fixture
def path(tmp_path):
    return for_two(tmp_path)


@pytest.fixture
def bobs(tmp_path):
    return refusing_bob(tmp_path)


def refused(path, **options):
    """Bob is refused, in one sentence that says by what; Alice, and a stranger, as ever."""
    assert same(envelope.load(path, ALICE, **options), some())
    with pytest.raises(WrongKey):
        envelope.load(path, MALLORY, **options)
    with pytest.raises(Expired, match=f"key {BOB.id} was revoked on .*left the company") as caught:
        envelope.load(path, BOB, **options)
    assert caught.value.code == 5
    return str(caught.value)


def test_a_revoked_recipient_is_refused_wherever_the_list_is_present(path, bobs, monkeypatch):
    assert same(envelope.load(path, BOB), some())
    assert str(bobs) in refused(path, revoked=[bobs])
    monkeypatch.setenv(revocation.LISTS, str(bobs))
    refused(path)
    monkeypatch.setenv(revocation.LISTS, os.pathsep.join([str(bobs), str(bobs)]))
    refused(path)
    monkeypatch.delenv(revocation.LISTS)
    for name in ("revoked.json", "m.sealed.revoked.json"):
        shutil.copy(bobs, path.parent / name)
        refused(path)
        (path.parent / name).unlink()
    assert same(envelope.load(path, BOB), some())


def test_beside_the_file_is_also_where_a_link_to_it_leads(path, bobs, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(path)
    assert same(envelope.load(link, BOB), some())
    for place in (path.parent, link.parent):
        shutil.copy(bobs, place / "revoked.json")
        refused(link)
        (place / "revoked.json").unlink()


def test_a_list_that_cannot_be_read_is_an_error(path, tmp_path, monkeypatch):
    for name in ("absent.json", "models"):
        with pytest.raises(Unreadable, match=name):
            envelope.load(path, ALICE, revoked=[tmp_path / name])
        monkeypatch.setenv(revocation.LISTS, str(tmp_path / name))
        with pytest.raises(Unreadable, match=rf"{name}.*\$MODELLOCK_REVOKED names it: correct"):
            envelope.load(path, ALICE)
        monkeypatch.delenv(revocation.LISTS)
    (path.parent / "revoked.json").symlink_to(tmp_path / "absent.json")
    with pytest.raises(Unreadable, match=r"revoked.*it was read because it lies beside"):
        envelope.load(path, ALICE)


@pytest.mark.parametrize("form", ["", ":", "{}:", ":{}", "{}::{}"])
def test_an_empty_entry_of_the_variable_is_an_error(path, bobs, monkeypatch, form):
    """It may be what is left of a name that was not set: nobody would be refused."""
    monkeypatch.setenv(revocation.LISTS, form.replace(":", os.pathsep).format(bobs, bobs))
    for who in (ALICE, BOB):
        with pytest.raises(Unreadable, match="MODELLOCK_REVOKED has an empty entry; name"):
            envelope.load(path, who)


OTHERS = {
    "another program's": (b'{"revoked": ["token"]}', "is no revocation list of modellock-jax"),
    "a register": (b'{"extra":{},"format":"modellock-jax register"', "is a register, and no"),
    "UTF-16": ('{"extra":{},"format"'.encode("utf-16"), "is in UTF-16, .* save it as UTF-8"),
    "a directory": (None, "is a directory"),
    "too long": (b" " * (revocation.LONGEST + 1), "more than 16777216 bytes"),
    "empty": (b"", "is no revocation list"),
}


@pytest.mark.parametrize(("content", "text"), OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("name", ["revoked.json", "m.sealed.revoked.json"])
def test_what_is_no_list_is_an_error_that_says_why_it_was_read(path, name, content, text):
    place = path.parent / name
    place.mkdir() if content is None else place.write_bytes(content)
    for signers in ([], [OWNER]):
        envelope.seal(some(), path, [public(ALICE)], signers=signers)
        why = f"{name}.*{text}.*it was read because it lies beside .*m.sealed.*or move"
        with pytest.raises(Unreadable, match=why):
            envelope.load(path, ALICE)


def test_the_mark_that_editors_put_first_is_no_harm(path, bobs, tmp_path):
    marked = tmp_path / "marked.json"
    marked.write_bytes(b"\xef\xbb\xbf" + bobs.read_bytes())
    refused(path, revoked=[marked])
    revocation.update(tmp_path / "mine.json", marked)
    assert (tmp_path / "mine.json").read_bytes() == bobs.read_bytes()


def test_an_old_list_does_not_hide_a_newer_one(path, bobs, tmp_path):
    old = tmp_path / "old.json"
    revocation.revoke(old, [MALLORY.id], OWNER)
    shutil.copy(old, tmp_path / "new.json")
    revocation.revoke(tmp_path / "new.json", [BOB.id], OWNER, "left the company")
    for beside, asked in (("old.json", "new.json"), ("new.json", "old.json")):
        shutil.copy(tmp_path / beside, path.parent / "revoked.json")
        refused(path, revoked=[tmp_path / asked])


def test_a_list_that_is_named_counts_whoever_signed_the_file(path, tmp_path, monkeypatch):
    """Whoever names it vouches for it: it is the reader's own choice, and no stranger's."""
    envelope.seal(some(), path, [public(ALICE), public(BOB)], signers=[OWNER])
    foreign = tmp_path / "foreign.json"
    revocation.revoke(foreign, [BOB.id], MALLORY, "left the company")
    refused(path, revoked=[foreign])
    monkeypatch.setenv(revocation.LISTS, str(foreign))
    refused(path)
    shutil.copy(foreign, path.parent / "revoked.json")
    monkeypatch.setenv(revocation.LISTS, str(path.parent / "revoked.json"))
    refused(path)  # beside it too, but named
    with pytest.raises(Expired, match="left the company"):
        rewrite(path, BOB, adding(public(MALLORY)))


def test_beside_a_signed_file_only_its_signers_list_counts(path, bobs, tmp_path):
    envelope.seal(some(), path, [public(ALICE), public(BOB)], signers=[OWNER, ALICE])
    foreign = tmp_path / "foreign.json"
    revocation.revoke(foreign, [ALICE.id, BOB.id], MALLORY)
    for name in ("revoked.json", "m.sealed.revoked.json"):
        shutil.copy(foreign, path.parent / name)
        for who in (ALICE, BOB):
            text = f"{name} is a list of {MALLORY.id}, who did not sign .*lies beside.*--revoked"
            with pytest.raises(Unreadable, match=text):
                envelope.load(path, who)
        (path.parent / name).unlink()
    refused(path, revoked=[bobs])
    shutil.copy(bobs, path.parent / "m.sealed.revoked.json")
    refused(path)
    shutil.copy(foreign, path.parent / "revoked.json")
    # Of a file that nobody signed, everybody's list counts.
    (path.parent / "m.sealed.revoked.json").unlink()
    envelope.seal(some(), path, [public(ALICE)])
    with pytest.raises(Expired):
        envelope.load(path, ALICE)
    # That a list names the file's signer as its own does not make it theirs.
    fields = json.loads(foreign.read_bytes())
    del fields["signature"]
    named = identity.document(public(MALLORY)) | {"id": OWNER.id}
    (path.parent / "revoked.json").write_bytes(_lines.line(fields | {"signer": named}, MALLORY))
    envelope.seal(some(), path, [public(ALICE)], signers=[OWNER])
    with pytest.raises(Tampered):
        envelope.load(path, ALICE)


def test_a_passphrase_is_revoked_by_the_name_of_its_stanza(path, tmp_path):
    words = [Passphrase("correct horse"), Passphrase("battery staple")]
    rewrite(path, ALICE, adding(*words))
    name = name_of(read_header(path).stanzas[-1])
    revocation.revoke(path.parent / "revoked.json", [name], OWNER)
    assert same(envelope.load(path, words[0]), some())
    with pytest.raises(Expired, match=name):
        envelope.load(path, words[1])


def test_the_key_of_a_locked_file_is_refused(tmp_path, monkeypatch):
    save_file(some(), tmp_path / "m")
    lock_file(tmp_path / "m", tmp_path / "l", BOB, "stream_lock")
    lists = tmp_path / "lists"
    lists.mkdir()
    revocation.revoke(lists / "list.json", [BOB.id], OWNER)

    def unlock(**options):
        unlock_file(tmp_path / "l", tmp_path / "again", BOB, **options)

    unlock()
    (tmp_path / "again").unlink()
    with pytest.raises(Expired, match=BOB.id):
        unlock(revoked=[lists / "list.json"])
    with monkeypatch.context() as m:
        m.setenv(revocation.LISTS, str(lists / "list.json"))
        with pytest.raises(Expired):
            unlock()
    shutil.copy(lists / "list.json", tmp_path / "revoked.json")
    with pytest.raises(Expired):
        unlock()
    with pytest.raises(WrongKey):
        unlock_file(tmp_path / "l", tmp_path / "again", ALICE)
    (tmp_path / "revoked.json").write_bytes((lists / "list.json").read_bytes()[:-1])
    with pytest.raises(Tampered):
        unlock()
    assert not (tmp_path / "again").exists()
