"""What is read after a signature was checked is what was signed, whoever changes the file meanwhile."""

import collections
import os

import jax
import numpy as np
import pytest
import vault_race
from helpers.sealed import ALICE, BOB, MALLORY, OWNER, adding, apart, header_of, public, same, some
from test_envelope_signed import swap_body

from modellock_jax.vault.errors import Tampered
from modellock_jax.vault.sealed import _chunks, _header, devices, envelope, rewrite

ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


@pytest.fixture
def signed(tmp_path, monkeypatch):
    """A file of many chunks, signed by the owner, and its bytes with other content of a recipient's."""
    monkeypatch.setattr(_chunks, "CHUNK", 64)
    path = tmp_path / "m.sealed"
    envelope.seal(floats(0), path, [public(ALICE), public(MALLORY)], signers=[OWNER])
    file_key = _header.file_key_of(header_of(path), MALLORY)
    return path, swap_body(path.read_bytes(), file_key, floats(1))


def floats(seed):
    return {name: array.astype(np.float32) for name, array in some(seed).items()}


def opened(path, **options):
    return envelope.open(path, ALICE, signed_by=[public(OWNER)], **options)


def overwrite(path, data):
    """In place, as a recipient who may write the file does."""
    with open(path, "r+b") as file:
        file.write(data)


READ = {
    "array": lambda sealed, _: sealed.array("running_statistics"),
    "load": lambda sealed, _: sealed.load(),
    "plain": lambda sealed, _: list(sealed.plain()),
    "check": lambda sealed, _: sealed.check(),
    "export": lambda sealed, folder: sealed.export(folder / "plain"),
    "devices": lambda sealed, _: devices.on_devices(sealed, ONE),
    "rotate": lambda sealed, folder: envelope.rotate(sealed, folder / "new", [public(BOB)]),
}


@pytest.mark.parametrize("way", READ)
def test_a_file_changed_while_it_is_open(signed, way):
    path, other = signed
    with opened(path) as sealed:
        READ[way](sealed, path.parent)
        overwrite(path, other)
        with pytest.raises(Tampered, match="changed after it was checked"):
            READ[way](sealed, path.parent)
    assert {one.name for one in path.parent.iterdir()} <= {path.name, "plain", "new"}
    overwrite(path, other)
    with envelope.open(path, ALICE) as sealed:  # their content is sealed as it should be
        READ[way](sealed, path.parent)


@pytest.mark.parametrize("after", range(1, 4))
def test_a_file_changed_between_any_two_readings(signed, monkeypatch, after):
    """Right after the check of the whole body, and after each of the first readings of a chunk."""
    path, other = signed
    real, calls = _chunks.digests_of, []

    def digests_of(*args):
        found = real(*args)
        overwrite(path, other)
        return found

    monkeypatch.setattr(_chunks, "digests_of", digests_of)
    with pytest.raises(Tampered, match="changed after it was checked"):
        opened(path)
    monkeypatch.setattr(_chunks, "digests_of", real)
    envelope.seal(floats(0), path, [public(ALICE), public(MALLORY)], signers=[OWNER])
    file_key = _header.file_key_of(header_of(path), MALLORY)
    other = swap_body(path.read_bytes(), file_key, floats(1))
    open_chunk = _chunks.Cipher.open

    def counting(cipher, number, *buffers):
        open_chunk(cipher, number, *buffers)
        calls.append(number)
        if len(calls) == after:
            overwrite(path, other)

    monkeypatch.setattr(_chunks.Cipher, "open", counting)
    with pytest.raises(Tampered, match="changed after it was checked"), opened(path) as sealed:
        sealed.load()


def test_a_file_replaced_cut_off_or_rewrapped_while_it_is_open(signed):
    path, other = signed
    with opened(path) as sealed:
        (path.parent / "new").write_bytes(other)
        os.replace(path.parent / "new", path)
        assert same(sealed.load(), floats(0))  # the old file is still the one that is open
    envelope.seal(floats(0), path, [public(ALICE)], signers=[OWNER])
    with opened(path) as sealed:
        rewrite.rewrite(path, ALICE, adding(public(BOB)), [OWNER])
        assert same(sealed.load(), floats(0))
        assert len(sealed.header.stanzas) == 1
        os.truncate(path, path.stat().st_size - 100)
        with pytest.raises(Tampered, match="shorter"):
            sealed.load()


def test_the_header_is_read_once(signed):
    """What chooses the key sees the header that is checked; another in its place comes too late."""
    path, _ = signed
    whole = path.read_bytes()
    made, body = apart(whole)
    file_key = _header.file_key_of(made, MALLORY)
    unsigned = _header.encode(_header.finish(made._replace(name="another"), file_key)) + body
    seen = []

    def choose(found):
        seen.append(found)
        overwrite(path, unsigned)
        return ALICE

    with envelope.open(path, choose, signed_by=[public(OWNER)], expect=None) as sealed:
        assert sealed.header == seen[0] == made
    with pytest.raises(Tampered, match="not signed by"):
        opened(path)
    overwrite(path, whole)
    rewrite.rewrite(path, choose, lambda found, _: found, [OWNER], dry_run=True)
    assert seen == [made, made]


def test_rotating_signs_nothing_that_a_recipient_put_in(signed):
    path, other = signed
    overwrite(path, other)
    with (
        envelope.open(path, ALICE) as sealed,
        pytest.raises(Tampered, match="not what was signed"),
    ):
        envelope.rotate(sealed, path.parent / "new", [public(BOB)], signers=[OWNER])
    assert not (path.parent / "new").exists()


def test_no_file_is_sealed_under_another_ones_key(tmp_path):
    """So a chunk of one version never fits another version, for those who are no recipients."""
    keys = set()
    for i in range(20):
        path = tmp_path / f"{i}"
        envelope.seal(some(), path, [public(ALICE)])
        with envelope.open(path, ALICE) as sealed:
            envelope.rotate(sealed, tmp_path / "rotated", [public(ALICE)])
        for one in (path, tmp_path / "rotated"):
            made = header_of(one)
            keys |= {_header.file_key_of(made, ALICE), made.file_id}
    assert len(keys) == 80


def test_blind_races(tmp_path):
    swapped = vault_race.Swapped(tmp_path / "m", 10**6)
    ends = collections.Counter()
    for run in range(30):
        way = list(vault_race.WAYS.values())[run % len(vault_race.WAYS)]
        ends[vault_race.race(swapped, way, True, run)] += 1
    print(ends)
    assert ends["accepted"] == 0
    assert ends["refused"] >= 3  # else nothing was swapped in time
