"""An id is what its key hashes to: nobody is taken for another, and none has two."""

import json

import pytest
from helpers.commands import bad, good
from helpers.sealed import (
    ALICE,
    BOB,
    MALLORY,
    OWNER,
    adding,
    apart,
    for_two,
    header_of,
    public,
    same,
    secret,
    some,
    together,
)

from modellock_jax.vault.errors import Expired, Tampered, Unreadable, WrongKey
from modellock_jax.vault.issuing import _lines, register, revocation
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.secret import save_key
from modellock_jax.vault.sealed import _header, envelope
from modellock_jax.vault.sealed.recipients import Passphrase, name_of
from modellock_jax.vault.sealed.rewrite import rewrite

CLASSIC = identity.public_key(ALICE, classic=True)


@pytest.fixture
def path(tmp_path):
    return for_two(tmp_path)


def fields_of(path):
    return json.loads(path.read_bytes())


# Public key files


@pytest.mark.parametrize("classic", [False, True])
def test_a_public_key_under_anothers_id_is_refused(tmp_path, classic):
    mallory = identity.public_key(MALLORY, classic)
    identity.save_public_key(mallory, tmp_path / "m.pub")
    fields = fields_of(tmp_path / "m.pub")
    for claimed in (ALICE.id, CLASSIC.id, fields["id"].upper(), fields["id"][:16], "", None):
        (tmp_path / "a.pub").write_text(json.dumps(fields | {"id": claimed}))
        with pytest.raises(Unreadable, match="an id that is not that of its keys"):
            identity.load_public_key(tmp_path / "a.pub")
    (tmp_path / "a.pub").write_text(json.dumps(fields))
    assert identity.load_public_key(tmp_path / "a.pub") == mallory


@pytest.mark.parametrize("name", ["x25519", "mlkem768", "ed25519", "mldsa65", "kind"])
def test_every_key_of_a_public_key_is_part_of_its_id(tmp_path, name):
    """Else whoever sends it on could put in a key of theirs for that one use."""
    identity.save_public_key(public(ALICE), tmp_path / "a.pub")
    identity.save_public_key(public(MALLORY), tmp_path / "m.pub")
    identity.save_public_key(CLASSIC, tmp_path / "c.pub")
    alice, mallory = fields_of(tmp_path / "a.pub"), fields_of(tmp_path / "m.pub")
    other = fields_of(tmp_path / "c.pub") if name == "kind" else mallory
    (tmp_path / "a.pub").write_text(json.dumps(alice | {name: other[name]}))
    with pytest.raises(Unreadable, match="damaged public key file"):
        identity.load_public_key(tmp_path / "a.pub")
    if name == "mlkem768":  # a classic half cannot be passed off as the whole one, nor back
        (tmp_path / "a.pub").write_text(json.dumps(alice | {"mlkem768": "", "kind": "x25519"}))
        with pytest.raises(Unreadable, match="an id that is not that of its keys"):
            identity.load_public_key(tmp_path / "a.pub")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": 1}, "not of version 2"),
        ({"version": 3}, "not of version 2"),
        ({"version": True}, "not of version 2"),
        ({"extra": []}, "damaged"),
        ({"more": ""}, "not as it was written"),
        ({"id": None}, "an id that is not"),
    ],
)
def test_a_public_key_file_of_another_form_is_refused(tmp_path, change, text):
    identity.save_public_key(public(ALICE), tmp_path / "a.pub")
    fields = fields_of(tmp_path / "a.pub")
    (tmp_path / "b.pub").write_text(json.dumps(fields | {"extra": {"note": "of a later release"}}))
    assert identity.load_public_key(tmp_path / "b.pub") == public(ALICE)
    (tmp_path / "b.pub").write_text(json.dumps(fields | change))
    with pytest.raises(Unreadable, match=text):
        identity.load_public_key(tmp_path / "b.pub")


# Stanzas


def test_one_stanza_an_id(path):
    phrase = Passphrase("horse")
    envelope.seal(
        some(), path, [public(ALICE), phrase, public(ALICE), Passphrase("horse"), CLASSIC]
    )
    stanzas = header_of(path).stanzas
    names = [name_of(one) for one in stanzas]
    assert names[0] == ALICE.id
    assert names[2] == CLASSIC.id
    assert len(set(names)) == len(names) == 3
    for who in (ALICE, phrase):
        assert same(envelope.load(path, who), some())


def test_a_head_with_two_stanzas_of_one_id_is_tampered(path):
    """Whoever can rewrite a file could put a stanza before another's, which then opens nothing."""
    made, body = apart(path.read_bytes())
    file_key = _header.file_key_of(made, ALICE)
    first, second = made.stanzas
    foreign = first | {"wrapped": second["wrapped"]}
    phrase = adding(Passphrase("horse"))(made, file_key).stanzas[-1]
    for stanzas in ((foreign, first), (first, foreign), (first, first), (phrase, first, phrase)):
        forged = made._replace(stanzas=stanzas)
        forged = forged._replace(mac=_header._mac(forged, file_key))
        path.write_bytes(together(forged, body))
        with pytest.raises(Tampered, match=f"two recipients named {name_of(stanzas[0])}"):
            envelope.load(path, ALICE)
        with pytest.raises(ValueError, match="two recipients named"):
            _header.finish(forged, file_key)


def test_a_passphrase_is_named_by_all_of_its_salt(path):
    rewrite(path, ALICE, adding(Passphrase("horse")))
    stanza = header_of(path).stanzas[-1]
    assert len(name_of(stanza)) == 32
    assert identity.base64.b64decode(stanza["salt"]).hex() == name_of(stanza)


def test_a_secret_opens_what_its_classic_half_was_given(path, tmp_path):
    envelope.seal(some(), path, [CLASSIC])
    assert header_of(path).stanzas[0]["id"] == CLASSIC.id != ALICE.id
    assert same(envelope.load(path, ALICE), some())
    made, body = apart(path.read_bytes())
    wrapped = made.stanzas[0]["wrapped"]
    hurt = made.stanzas[0] | {"wrapped": ("B" if wrapped[0] == "A" else "A") + wrapped[1:]}
    path.write_bytes(together(made._replace(stanzas=(hurt,)), body))
    with pytest.raises(Tampered, match=f"stanza for key {CLASSIC.id}"):
        envelope.load(path, ALICE)
    with pytest.raises(WrongKey):
        envelope.load(path, BOB)


@pytest.mark.parametrize("named", [CLASSIC.id, ALICE.id])
@pytest.mark.parametrize("given", [CLASSIC, public(ALICE)], ids=["classic", "hybrid"])
def test_a_secret_is_revoked_by_either_id(path, tmp_path, named, given):
    envelope.seal(some(), path, [given, public(BOB)])
    revocation.revoke(tmp_path / "list", [named], OWNER)
    with pytest.raises(Expired, match=named):
        envelope.load(path, ALICE, revoked=[tmp_path / "list"])
    with pytest.raises(Expired, match=named):
        revocation.check(path, ALICE, [tmp_path / "list"])
    assert same(envelope.load(path, BOB, revoked=[tmp_path / "list"]), some())


# Signatures and signers


def test_a_signature_under_anothers_id_is_none(path):
    """Made by its own key, and renamed by a recipient: `inspect` would show a wrong name."""
    envelope.seal(some(), path, [public(ALICE)], signers=[OWNER])
    made, body = apart(path.read_bytes())
    file_key = _header.file_key_of(made, ALICE)
    renamed = made._replace(signatures=(made.signatures[0] | {"id": MALLORY.id},))
    renamed = renamed._replace(mac=_header._mac(renamed, file_key))
    path.write_bytes(together(renamed, body))
    with pytest.raises(Tampered, match=f"not signed by {OWNER.id}"):
        envelope.load(path, ALICE, signed_by=[public(OWNER)])
    for wrong in ("\x1b[2J", 5, OWNER.id[:16], ["x"]):
        odd = made._replace(signatures=(made.signatures[0] | {"id": wrong},))
        path.write_bytes(together(odd, body))
        with pytest.raises(Tampered, match="signature without a proper id"):
            envelope.load(path, ALICE)


def test_a_classic_half_checks_signatures_too(path):
    envelope.seal(some(), path, [public(ALICE)], signers=[OWNER])
    halves = [identity.public_key(OWNER, classic=True), public(OWNER)]
    assert same(envelope.load(path, ALICE, signed_by=halves), some())


def test_a_signer_named_in_a_record_has_the_id_of_its_keys(tmp_path):
    """In a register and in a list, whose readers see the name of who signed."""
    with register.extending(tmp_path / "r", MALLORY):
        pass
    revocation.revoke(tmp_path / "l", [BOB.id], MALLORY)
    for path, read in ((tmp_path / "r", register.read), (tmp_path / "l", revocation.read)):
        assert read(path).signer == public(MALLORY)
        fields = json.loads(path.read_bytes())
        del fields["signature"]
        claimed = identity.document(public(MALLORY)) | {"id": OWNER.id}
        path.write_bytes(_lines.line(fields | {"signer": claimed}, MALLORY))
        with pytest.raises(Tampered, match="an id that is not that of its keys"):
            read(path)


# From the command line


def test_who_was_added_replaced_and_removed_is_told(path, tmp_path):
    carol = secret("Carol")
    save_key(ALICE, tmp_path / "alice.key")
    for one, name in (
        (public(BOB), "bob"),
        (identity.public_key(carol), "carol"),
        (CLASSIC, "classic"),
    ):
        identity.save_public_key(one, tmp_path / f"{name}.pub")
    alice, m = ["--key", "alice.key"], "models/m.sealed"
    adds = ["recipients", "add", m, "--to", "bob.pub", "--to", "carol.pub", *alice]
    told = json.loads(good(tmp_path, *adds, "--json"))
    assert (told["added"], told["replaced"], told["removed"]) == ([carol.id], [BOB.id], [])
    text = good(tmp_path, *adds).decode()
    assert f"given anew: {BOB.id}, {carol.id}\n" in text
    told = json.loads(good(tmp_path, "recipients", "rm", m, carol.id, *alice, "--json"))
    assert (told["added"], told["replaced"], told["removed"]) == ([], [], [carol.id])
    rewrap = ["rewrap", m, "--to", "classic.pub", "--to", "bob.pub", *alice]
    told = json.loads(good(tmp_path, *rewrap, "--dry-run", "--json"))
    assert (told["added"], told["replaced"]) == ([CLASSIC.id], [BOB.id])
    assert told["removed"] == [ALICE.id]
    text = good(tmp_path, *rewrap).decode()
    for line in (f"added: {CLASSIC.id}", f"given anew: {BOB.id}", f"removed: {ALICE.id}"):
        assert line in text
    bad(2, f"{carol.id}: no recipient", tmp_path, "recipients", "rm", m, carol.id, *alice)
