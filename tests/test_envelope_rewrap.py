"""Heads rewritten in place: who is added opens, who is removed does not, the body stays."""

import os
import stat
import threading
from datetime import UTC, datetime

import pytest
from helpers.sealed import (
    ALICE,
    BOB,
    MALLORY,
    OWNER,
    adding,
    apart,
    header_of,
    public,
    removing,
    same,
    secret,
    some,
    together,
    unchanged,
)
from test_envelope_signed import swap_body

from modellock_jax.vault import _sources
from modellock_jax.vault.errors import Expired, Tampered, Unreadable, WrongKey
from modellock_jax.vault.keys import identity
from modellock_jax.vault.sealed import _chunks, _header, envelope, recipients
from modellock_jax.vault.sealed.recipients import Passphrase
from modellock_jax.vault.sealed.rewrite import head_of, journal_of, rewrite


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.sealed"


def classic(number):
    return identity.public_key(secret(f"classic {number}"), classic=True)


def test_recipients_come_and_go_and_the_body_stays(path):
    envelope.seal(some(), path, [public(ALICE)])
    inode, (_, body) = path.stat().st_ino, apart(path.read_bytes())
    rewrite(path, ALICE, adding(public(BOB), classic(0), Passphrase("horse")))
    for one in (ALICE, BOB, secret("classic 0"), Passphrase("horse")):
        assert same(envelope.load(path, one), some())
    phrase = next(s for s in header_of(path).stanzas if s["type"] == "passphrase")
    rewrite(path, BOB, removing(ALICE.id, recipients.name_of(phrase)))
    for one in (ALICE, Passphrase("horse")):
        with pytest.raises(WrongKey):
            envelope.load(path, one)
    for one in (BOB, secret("classic 0")):
        assert same(envelope.load(path, one), some())
    assert apart(path.read_bytes())[1] == body
    assert path.stat().st_ino == inode
    assert ALICE.id.encode() not in path.read_bytes()
    assert os.listdir(path.parent) == ["m.sealed"]


def test_the_date_is_changed(path):
    envelope.seal(some(), path, [public(ALICE)])
    rewrite(path, ALICE, lambda made, _: made._replace(expires="2020-01-01T00:00:00+00:00"))
    with pytest.raises(Expired):
        envelope.load(path, ALICE)
    with envelope.open(path, ALICE, now=datetime(2019, 1, 1, tzinfo=UTC)) as sealed:
        assert same(sealed.load(), some())


@pytest.mark.parametrize("who", [MALLORY, Passphrase("horse")], ids=["key", "passphrase"])
def test_only_a_recipient_rewrites(path, who):
    envelope.seal(some(), path, [public(ALICE)])
    before = path.read_bytes()
    with pytest.raises(WrongKey):
        rewrite(path, who, adding(public(MALLORY)))
    assert path.read_bytes() == before


def test_what_nobody_could_open_is_not_written(path):
    envelope.seal(some(), path, [public(ALICE)])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="last recipient"):
        rewrite(path, ALICE, removing(ALICE.id))
    nine = ({"type": "passphrase", "salt": "", "wrapped": ""},) * 9
    with pytest.raises(ValueError, match="more than 8 passphrases"):
        rewrite(path, ALICE, lambda made, _: made._replace(stanzas=made.stanzas + nine))
    assert path.read_bytes() == before
    for name, word in (("absent", "cannot be read"), (".", "directory")):
        with pytest.raises(Unreadable, match=word):
            rewrite(path.parent / name, ALICE, unchanged)
    assert os.listdir(path.parent) == ["m.sealed"]


def test_a_head_without_room_grows_and_keeps_body_and_mode(path):
    envelope.seal(some(), path, [public(ALICE)])
    path.chmod(0o640)
    _, body = apart(path.read_bytes())
    journal_of(path).write_bytes(b"left over")
    rewrite(path, ALICE, adding(public(BOB), *map(classic, range(400))))
    made, grown = apart(path.read_bytes())
    assert (made.room, grown) == (3 * _header.ROOM, body)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    for one in (ALICE, BOB):
        assert same(envelope.load(path, one), some())
    rewrite(path, ALICE, removing(BOB.id))
    assert header_of(path).room == made.room  # what grew does not shrink
    assert same(envelope.load(path, ALICE), some())
    assert os.listdir(path.parent) == ["m.sealed"]


# Signatures


def test_a_signature_is_lost_without_its_signer_and_kept_with_him(path, monkeypatch):
    owner = [public(OWNER)]
    envelope.seal(some(), path, [public(ALICE)], signers=[OWNER])
    with monkeypatch.context() as m:
        m.setattr(_chunks, "digests_of", None)  # who signed before does not read the body again
        rewrite(path, ALICE, adding(public(BOB)), [OWNER])
    for one in (ALICE, BOB):
        assert same(envelope.load(path, one, signed_by=owner), some())
    rewrite(path, ALICE, unchanged)
    assert same(envelope.load(path, ALICE), some())
    with pytest.raises(Tampered, match=f"not signed by {OWNER.id}"):
        envelope.load(path, ALICE, signed_by=owner)
    rewrite(path, ALICE, unchanged, [OWNER, BOB])  # vouch for it as it is
    assert same(envelope.load(path, ALICE, signed_by=[*owner, public(BOB)]), some())


def test_rewrapping_does_not_sign_what_a_recipient_put_in(path):
    """Mallory, a recipient, exchanges the body; the owner, unaware, adds Bob and signs."""
    envelope.seal(some(), path, [public(ALICE), public(MALLORY)], signers=[OWNER])
    file_key = _header.file_key_of(header_of(path), MALLORY)
    path.write_bytes(swap_body(path.read_bytes(), file_key, some(seed=1)))
    rewrite(path, ALICE, adding(public(BOB)), [OWNER])
    with pytest.raises(Tampered, match="not what was signed"):
        envelope.load(path, ALICE, signed_by=[public(OWNER)])
    made, body = apart(path.read_bytes())
    path.write_bytes(together(_header.finish(made, file_key), body))  # and without the signature
    with pytest.raises(Tampered, match="not what was signed"):
        rewrite(path, ALICE, unchanged, [OWNER])


# What else happens to a file


def test_through_a_link_its_target_is_rewritten(path):
    envelope.seal(some(), path, [public(ALICE)])
    link = path.parent / "links" / "m"
    link.parent.mkdir()
    link.symlink_to(path)
    assert journal_of(link) == journal_of(path)
    for change in (adding(public(BOB)), adding(*map(classic, range(400)))):
        rewrite(link, ALICE, change)
        assert link.is_symlink()
        assert same(envelope.load(path, BOB), some())
        assert os.listdir(link.parent) == ["m"]


def test_two_at_a_time_wait_for_one_another(path):
    """Each adds one recipient, some while the head grows; none is lost."""
    envelope.seal(some(), path, [public(ALICE)])
    publics = [classic(i) for i in range(60)]
    failed = []

    def add(part):
        try:
            for one in part:
                rewrite(path, ALICE, adding(one))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=add, args=(publics[i::6],)) for i in range(6)]
    for thread in threads:
        thread.start()
    opened = 0
    while any(thread.is_alive() for thread in threads):
        assert same(envelope.load(path, ALICE), some())  # readers meet no half-written head
        opened += 1
    for thread in threads:
        thread.join()
    assert failed == []
    assert opened > 3
    names = {s["id"] for s in header_of(path).stanzas}
    assert names == {ALICE.id, *(one.id for one in publics)}


def heads(path):
    """A file's bytes, and its head with one recipient more."""
    envelope.seal(some(), path, [public(ALICE)])
    old = path.read_bytes()
    rewrite(path, ALICE, adding(public(BOB)))
    made, _ = apart(path.read_bytes())
    return old, _header.encode(made)


def test_a_head_torn_anywhere_is_taken_from_the_journal(path):
    """Every state of a write that stops at a byte, or leaves out any of its blocks of 512."""
    old, new = heads(path)
    used = len(new.rstrip(b" "))
    states = [new[:cut] + old[cut:] for cut in [*range(0, used + 20, 37), len(new)]]
    blocks = [(old[at : at + 512], new[at : at + 512]) for at in range(0, len(new), 512)]
    for i in range(40):
        bits = os.urandom(len(blocks))
        head = b"".join(pair[bit & 1] for bit, pair in zip(bits, blocks))
        states.append((head if i else old[: len(new)]) + old[len(new) :])
    journal_of(path).write_bytes(new)
    both = (ALICE.id,), (ALICE.id, BOB.id)
    found = set()
    for state in states:
        path.write_bytes(state)
        with _sources.open_reader(path) as reader:
            made, at = head_of(reader)
        assert at == len(new)
        found.add(tuple(s["id"] for s in made.stanzas))
    assert found == set(both)
    path.write_bytes(states[len(states) // 4])
    rewrite(path, ALICE, adding(public(MALLORY)))
    assert same(envelope.load(path, MALLORY), some())
    assert not journal_of(path).exists()


def test_a_journal_left_behind_hides_no_other_file(path):
    """A crash left it; then the path was sealed anew, with arrays of the same sizes."""
    _, new = heads(path)
    journal_of(path).write_bytes(new)
    envelope.seal(some(seed=1), path, [public(ALICE)])
    assert path.stat().st_size == len(new) + _header.decode(new, path.stat().st_size).body
    assert same(envelope.load(path, ALICE), some(seed=1))
    rewrite(path, ALICE, unchanged)
    assert same(envelope.load(path, ALICE), some(seed=1))
    journal_of(path).write_bytes(new)
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    with pytest.raises(Tampered):  # a torn head does not become another file's
        envelope.load(path, ALICE)
