"""What rewriting a head cannot do: the old one opens as before, and the commands say so."""

import json

import pytest
from helpers.commands import bad, good
from helpers.sealed import ALICE, BOB, public, some
from safetensors.numpy import save_file

from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.secret import save_key
from modellock_jax.vault.sealed import _header


@pytest.fixture
def folder(tmp_path):
    for one, name in ((ALICE, "alice"), (BOB, "bob")):
        save_key(one, tmp_path / f"{name}.key")
        identity.save_public_key(public(one), tmp_path / f"{name}.pub")
    save_file(some(), tmp_path / "m.st")
    good(tmp_path, "seal", "m.st", "m.sealed", "--to", "alice.pub", "--to", "bob.pub")
    return tmp_path


CHANGES = {
    "expire": ["expire", "m.sealed", "2020-01-01"],
    "rm": ["recipients", "rm", "m.sealed", BOB.id],
    "rewrap": ["rewrap", "m.sealed", "--to", "alice.pub"],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_old_head_opens_again_and_the_command_says_so(folder, change):
    """Were that mended some day, the sentence would be wrong; rotating is the remedy it names."""
    before, alice, bob = (
        (folder / "m.sealed").read_bytes(),
        ["--key", "alice.key"],
        ["--key", "bob.key"],
    )
    text = good(folder, *change, *alice).decode()
    assert "can put its first bytes back" in text
    assert "`rotate`" in text
    code = 5 if change[0] == "expire" else 3
    bad(code, "m.sealed", folder, "open", "m.sealed", "x", *bob)
    after = (folder / "m.sealed").read_bytes()
    assert after[_header.ROOM :] == before[_header.ROOM :]
    (folder / "m.sealed").write_bytes(before[: _header.ROOM] + after[_header.ROOM :])
    good(folder, "open", "m.sealed", "x", *bob)
    told = json.loads(good(folder, *change, *alice, "--dry-run", "--json"))
    assert "`rotate`" in told["cannot"]
    good(folder, "rotate", "m.sealed", "r.sealed", "--to", "alice.pub", *alice)
    rotated = (folder / "r.sealed").read_bytes()
    (folder / "r.sealed").write_bytes(before[: _header.ROOM] + rotated[_header.ROOM :])
    bad(4, "r.sealed", folder, "open", "r.sealed", "x", *bob)


def test_letting_more_people_in_has_no_such_limit(folder):
    told = json.loads(good(folder, "recipients", "add", "m.sealed", "--to", "bob.pub", "--key",
                           "alice.key", "--json"))  # fmt: skip
    assert told["cannot"] == ""


@pytest.mark.parametrize("name", ["expire", "recipients"])
def test_the_threat_model_says_so_too(folder, name):
    assert b"can put its first bytes back" in good(folder, "explain", name)
