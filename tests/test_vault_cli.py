"""Sealed and locked files from the command line, as subprocesses: options, pipes, faults."""

import json

import numpy as np
import pytest
from helpers.commands import bad, good, run
from safetensors.numpy import load_file, save_file

from modellock_jax import explain


@pytest.fixture(scope="module")
def keyring(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    made = json.loads(good(folder, "keygen", "alice.key", "--json"))
    good(folder, "keygen", "bob.key", "--classic")
    assert (folder / "alice.key").stat().st_mode & 0o777 == 0o600
    return folder, made["id"]


@pytest.fixture
def sealed(keyring, tmp_path):
    """A folder with a small sealed file for alice, and the options of both keys."""
    keys, _ = keyring
    save_file({"w": np.arange(6.0)}, tmp_path / "m.safetensors")
    good(tmp_path, "seal", "m.safetensors", "m.sealed", "--to", keys / "alice.key.pub")
    return tmp_path, ["--key", keys / "alice.key"], ["--key", keys / "bob.key"], keys


def test_recipients_come_and_go(sealed, keyring):
    folder, alice, bob, keys = sealed
    body = (folder / "m.sealed").read_bytes()[-200:]
    bad(3, "not for this key", folder, "open", "m.sealed", "x", *bob)
    bob_pub = ["--to", keys / "bob.key.pub"]
    good(folder, "recipients", "add", "m.sealed", *bob_pub, *alice, "--dry-run")
    bad(3, "not for this key", folder, "verify", "m.sealed", *bob)
    good(folder, "recipients", "add", "m.sealed", *bob_pub, *alice)
    assert good(folder, "open", "m.sealed", "-", *bob) == (folder / "m.safetensors").read_bytes()
    listed = json.loads(good(folder, "recipients", "list", "m.sealed", "--json"))["recipients"]
    assert [one["type"] for one in listed] == ["mlkem768-x25519", "x25519"]
    assert listed[0]["id"] == keyring[1]
    good(folder, "recipients", "rm", "m.sealed", keyring[1], *bob)
    bad(3, "not for this key", folder, "verify", "m.sealed", *alice)
    bad(2, "no recipient of m.sealed", folder, "recipients", "rm", "m.sealed", keyring[1], *bob)
    good(folder, "rewrap", "m.sealed", "--to", keys / "alice.key.pub", *bob)
    bad(3, "not for this key", folder, "verify", "m.sealed", *bob)
    assert (folder / "m.sealed").read_bytes()[-200:] == body
    good(folder, "rotate", "m.sealed", "r.sealed", *bob_pub, *alice)
    bad(3, "not for this key", folder, "verify", "r.sealed", *alice)
    assert good(folder, "open", "r.sealed", "-", *bob) == (folder / "m.safetensors").read_bytes()


def test_dates_and_signatures(sealed):
    folder, alice, _, keys = sealed
    signed = ["--signed-by", keys / "bob.key.pub"]
    bad(4, "signature is required", folder, "verify", "m.sealed", *alice, *signed)
    sign = ["--sign", keys / "bob.key"]
    good(folder, "expire", "m.sealed", "2000-01-01", *alice, *sign)
    bad(5, "expired", folder, "open", "m.sealed", "x", *alice, *signed)
    bad(2, "undoes that", folder, "expire", "m.sealed", "", *alice)
    good(folder, "expire", "m.sealed", "2999-01-01", *alice, *sign)
    good(folder, "verify", "m.sealed", *alice, *signed)
    told = json.loads(good(folder, "inspect", "m.sealed", "--json"))
    assert told["expires"].startswith("2999-01-01")
    assert len(told["signatures"]) == 1


def test_pipes_passphrases_and_keys_from_elsewhere(sealed):
    folder, _, _, keys = sealed
    plain = (folder / "m.safetensors").read_bytes()
    words = {"MODELLOCK_PASSPHRASE": "correct horse"}
    piped = good(folder, "seal", "-", "-", "--passphrase", given=plain, **words)
    assert b"correct horse" not in piped
    assert good(folder, "open", "-", "-", given=piped, **words) == plain
    bad(3, "not for this key", folder, "open", "-", "-", given=piped, MODELLOCK_PASSPHRASE="no")
    bad(2, "no passphrase", folder, "open", "-", "-", given=piped)
    bad(2, "no key", folder, "open", "m.sealed", "x")
    key = (keys / "alice.key").read_text()
    assert good(folder, "open", "m.sealed", "-", MODELLOCK_KEY=key) == plain
    (folder / "config" / "modellock-jax").mkdir(parents=True)
    default = folder / "config" / "modellock-jax" / "default.key"
    default.write_text(key)
    default.chmod(0o600)
    assert good(folder, "open", "m.sealed", "-") == plain
    default.chmod(0o644)
    bad(6, "chmod 600", folder, "open", "m.sealed", "x")


def test_a_locked_file_still_loads(sealed):
    folder, alice, bob, _ = sealed
    told = json.loads(good(folder, "lock", "m.safetensors", "l.st", *alice, "--json"))
    assert told["scheme"] == "stream_lock()"
    hidden = load_file(folder / "l.st")["w"]
    assert (hidden.shape, hidden.dtype) == ((6,), np.float64)
    bad(3, "l.st", folder, "unlock", "l.st", "x", *bob)
    good(folder, "unlock", "l.st", "again", *alice)
    assert (folder / "again").read_bytes() == (folder / "m.safetensors").read_bytes()
    bad(
        2,
        "cannot lock a file",
        folder,
        "lock",
        "m.safetensors",
        "x",
        "--scheme",
        "sign_mask",
        *alice,
    )
    assert b"locked file" in good(folder, "inspect", "l.st")


def test_damage_and_what_is_no_sealed_file(sealed):
    folder, alice, _, keys = sealed
    whole = (folder / "m.sealed").read_bytes()
    for at, cut in ((-5, None), (2000, None), (None, -1)):
        hurt = bytearray(whole)
        if at is not None:
            hurt[at] ^= 1
        (folder / "hurt").write_bytes(hurt[:cut])
        bad(4, "error: hurt: ", folder, "open", "hurt", "x", *alice)
    bad(6, "nothing.sealed", folder, "open", "nothing.sealed", "x", *alice)
    bad(6, "", folder, "open", "m.safetensors", "x", *alice)
    bad(6, "", folder, "seal", "m.sealed.x", "x", "--to", keys / "alice.key.pub")
    bad(6, "public key", folder, "seal", "m.safetensors", "x", "--to", keys / "alice.key")
    bad(6, "no key file", folder, "open", "m.sealed", "x", "--key", "absent.key")
    bad(2, "exists", keys, "keygen", "alice.key")
    bad(2, "name a recipient", folder, "seal", "m.safetensors", "x")
    assert not (folder / "x").exists()
    assert run(folder, "seal").code == 2


def test_the_page_is_what_explain_prints(tmp_path):
    from pathlib import Path

    page = (Path(__file__).parents[1] / "docs" / "threat-model.md").read_text()
    assert good(tmp_path, "explain").decode() == page == explain.page()
    assert b"Broken?** Yes" in good(tmp_path, "explain", "deep_lock")
    bad(2, "nothing is called 'rot13'", tmp_path, "explain", "rot13")
    assert good(tmp_path, "doctor").count(b"ok ") >= 4  # shares and keyring are extras


def test_the_shell_completes_commands(tmp_path):
    shell = {"_MODELLOCK_JAX_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    ran = run(tmp_path, COMP_WORDS="modellock-jax re", **shell)
    assert ran.out.split() == [b"rewrap", b"revoke", b"recipients", b"register"]
