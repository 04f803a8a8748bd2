"""Sealed files with a date and with signatures: who could change what, and is found out."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from helpers.sealed import (
    ALICE,
    BOB,
    MALLORY,
    OWNER,
    apart,
    body_of,
    header_of,
    plain_of,
    public,
    same,
    some,
    together,
)

from modellock_jax.vault.errors import Expired, Tampered, WrongKey
from modellock_jax.vault.sealed import _chunks, _header, envelope


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.sealed"


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(_chunks, "CHUNK", 64)


def test_expiry(path):
    zone = timezone(timedelta(hours=5))
    end = datetime(2031, 5, 1, 12, 0, tzinfo=zone)
    envelope.seal(some(), path, [public(ALICE)], expires=end)
    with envelope.open(path, ALICE, now=end - timedelta(seconds=1)) as sealed:
        assert sealed.header.expires == "2031-05-01T07:00:00+00:00"
    for late in (end, end + timedelta(days=400)):
        with pytest.raises(Expired, match="expired on 2031-05-01") as caught:
            envelope.open(path, ALICE, now=late)
        assert caught.value.code == 5
    with pytest.raises(WrongKey):
        envelope.open(path, MALLORY, now=late)
    made, body = apart(path.read_bytes())
    for date in ("", "2099-01-01T00:00:00+00:00"):
        path.write_bytes(together(made._replace(expires=date), body))
        with pytest.raises(Tampered, match="header was changed"):
            envelope.load(path, ALICE)
    envelope.seal(some(), path, [public(ALICE)], expires=datetime.now(UTC) - timedelta(1))
    with pytest.raises(Expired):
        envelope.load(path, ALICE)


def swap_body(data: bytes, file_key: bytes, arrays: dict[str, np.ndarray]) -> bytes:
    """What a recipient can do: other content under the file's own key, the header as it was."""
    made, _ = apart(data)
    return together(made, body_of(file_key, made, "safetensors", plain_of(arrays)))


def test_a_required_signature_cannot_be_taken_away(path, small_chunks):
    owner, others = public(OWNER), public(BOB)
    envelope.seal(some(), path, [public(ALICE), public(MALLORY)], signers=[OWNER])
    data = path.read_bytes()
    made, body = apart(data)
    for signed_by in ([], [owner]):
        assert same(envelope.load(path, ALICE, signed_by=signed_by), some())
    with pytest.raises(Tampered, match=f"not signed by {others.id}.*required"):
        envelope.load(path, ALICE, signed_by=[owner, others])

    # Somebody without the file's key takes it away: found even where none is required.
    path.write_bytes(together(made._replace(signatures=()), body))
    with pytest.raises(Tampered, match="header was changed"):
        envelope.load(path, ALICE)

    # A recipient, who can make a proper MAC, takes it away, or signs in person, or under its name.
    file_key = _header.file_key_of(made, MALLORY)
    forged = _header.finish(made, file_key, (MALLORY,))
    renamed = forged.signatures[0] | {"id": OWNER.id}
    renamed = forged._replace(signatures=(renamed,))
    halves = forged.signatures[0] | {"ed25519": made.signatures[0]["ed25519"]}
    for new in (
        _header.finish(made, file_key),
        forged,
        renamed._replace(mac=_header._mac(renamed, file_key)),
        (half := made._replace(signatures=(halves,)))._replace(mac=_header._mac(half, file_key)),
    ):
        path.write_bytes(together(new, body))
        assert same(envelope.load(path, ALICE), some())
        with pytest.raises(Tampered, match=f"not signed by {OWNER.id}"):
            envelope.load(path, ALICE, signed_by=[owner])


def test_a_signature_vouches_for_the_body_against_recipients_too(path, small_chunks):
    envelope.seal(some(), path, [public(ALICE), public(MALLORY)], signers=[OWNER])
    file_key = _header.file_key_of(header_of(path), MALLORY)
    path.write_bytes(swap_body(path.read_bytes(), file_key, some(seed=1)))
    # Whoever has the file's key can write: without a signature that is all that is promised.
    assert same(envelope.load(path, ALICE), some(seed=1))
    with pytest.raises(Tampered, match="not what was signed"):
        envelope.load(path, ALICE, signed_by=[public(OWNER)])


def test_a_signature_is_of_one_file(tmp_path, path):
    """Of the same arrays for the same people, sealed twice."""
    envelope.seal(some(), path, [public(ALICE)], signers=[OWNER])
    envelope.seal(some(), tmp_path / "other", [public(ALICE)])
    signatures = header_of(path).signatures
    made, body = apart((tmp_path / "other").read_bytes())
    moved = _header.finish(made, file_key := _header.file_key_of(made, ALICE))
    moved = moved._replace(signatures=signatures, room=2**17)
    moved = moved._replace(mac=_header._mac(moved, file_key))
    path.write_bytes(together(moved, body))
    with pytest.raises(Tampered, match="not signed by"):
        envelope.load(path, ALICE, signed_by=[public(OWNER)])
