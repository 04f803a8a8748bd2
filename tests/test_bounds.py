"""What a head costs that reads it: at most four times its bytes, whatever is in it, and read once."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers.sealed import ALICE, MALLORY, header_of, public, secret, some

from modellock_jax.vault import _tensors
from modellock_jax.vault.errors import Tampered, WrongKey
from modellock_jax.vault.keys import identity
from modellock_jax.vault.sealed import _header, envelope, recipients, rewrite

MOST, SIZE = 4, 1_500_000


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc")
def test_no_head_costs_more_than_four_times_its_bytes(tmp_path):
    environment = os.environ | {
        # What is freed goes back to the system at once, so that the peak is that of what is held.
        "MALLOC_MMAP_THRESHOLD_": "131072",
        "MALLOC_TRIM_THRESHOLD_": "131072",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    ran = subprocess.run(
        [sys.executable, "-m", "helpers.bounds_worker", str(SIZE), tmp_path],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(rows) > 40
    assert [row for row in rows if row[2] > MOST] == []
    ends = {name: end for name, end, _ in rows}
    for name in ("plain: tiny tensors", "plain: text", "sealed: legal, many recipients"):
        assert ends[name] == "read"
    assert {end for name, end in ends.items() if name.startswith("locked: legal")} == {"read"}
    hostile = {end for name, end in ends.items() if "brackets" in name or "deep" in name}
    assert hostile <= {"Unreadable", "Tampered"}


def test_a_head_is_decoded_once(tmp_path, monkeypatch):
    """The hostile too, and by every way to open a file."""
    envelope.seal(some(), tmp_path / "m", [public(ALICE)])
    real, calls = _header.decode, []
    monkeypatch.setattr(_header, "decode", lambda *args: calls.append(0) or real(*args))
    envelope.load(tmp_path / "m", ALICE)
    rewrite.rewrite(tmp_path / "m", ALICE, lambda made, _: made)
    assert len(calls) == 2
    data = bytearray((tmp_path / "m").read_bytes())
    data[1000] ^= 1
    (tmp_path / "m").write_bytes(data)
    calls.clear()
    with pytest.raises(Tampered):
        envelope.load(tmp_path / "m", ALICE)
    assert len(calls) == 1


def test_a_stanza_of_ones_own_is_there_once_and_costs_one_opening(tmp_path, monkeypatch):
    path = tmp_path / "m"
    envelope.seal(some(), path, [public(ALICE), public(MALLORY)])
    made = header_of(path)
    file_key = _header.file_key_of(made, MALLORY)
    own = made.stanzas[0]
    with pytest.raises(ValueError, match="the file has two recipients named"):
        _header.finish(made._replace(stanzas=(own, *made.stanzas)), file_key)
    noise = [own | {"wrapped": recipients._text(os.urandom(1168))} for _ in range(50)]
    many = made._replace(stanzas=(*noise, *made.stanzas))
    many = many._replace(mac=_header._mac(many, file_key), room=2**18)
    path.write_bytes(_header.encode(many) + path.read_bytes()[made.room :])
    opened, real = [], identity.decrypt
    monkeypatch.setattr(identity, "decrypt", lambda *args: opened.append(0) or real(*args))
    with pytest.raises(Tampered, match="two recipients named"):
        envelope.load(path, ALICE)
    assert opened == []


def test_a_file_has_no_more_recipients_than_its_readers_take(tmp_path):
    made = _header.Header(bytes(16), 100, b"", "", ())
    stanza = {"type": "x25519", "wrapped": recipients._text(bytes(80))}
    most = tuple(stanza | {"id": f"{i:032x}"} for i in range(4096))
    finished = _header.finish(made._replace(stanzas=most), bytes(32))
    head = _header.encode(finished)
    assert _header.decode(head, len(head) + 100) == finished
    with pytest.raises(WrongKey, match="and 4091 more"):
        _header.file_key_of(finished, ALICE)
    one_more = (*most, stanza | {"id": "f" * 32})
    with pytest.raises(ValueError, match="more than 4096 recipients"):
        _header.finish(made._replace(stanzas=one_more), bytes(32))
    forged = finished._replace(stanzas=one_more)
    with pytest.raises(Tampered, match="more than 4096 recipients"):
        _header.decode(_header.encode(forged), len(head) + 100)
    assert public(secret("Alice")).id == ALICE.id


def test_an_array_is_found_by_name_whatever_else_there_is(tmp_path, monkeypatch):
    arrays = {f"layer_{i}/w": np.full(2, i, np.int16) for i in range(3000)}
    envelope.seal(arrays, tmp_path / "m", [public(ALICE)])
    with envelope.open(tmp_path / "m", ALICE) as sealed:
        real, read = _tensors._tensor, []
        monkeypatch.setattr(_tensors, "_tensor", lambda *args: read.append(0) or real(*args))
        for i in (0, 1500, 2999):
            assert sealed.array(f"layer_{i}/w").tolist() == [i, i]
        with pytest.raises(KeyError):
            sealed.array("layer_3000/w")
    assert len(read) == 3
