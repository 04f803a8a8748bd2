"""Which key is used: the one that the file is for, wherever it is, and what is said if none is."""

import json
import os
import threading

import numpy as np
import pytest
from helpers.commands import bad, good, run
from safetensors.numpy import save_file

PHRASE = "MODELLOCK_PASSPHRASE"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with keys, a file for each of three, one for a passphrase, and a locked one."""
    folder = tmp_path_factory.mktemp("made")
    save_file({"w": np.arange(6.0)}, folder / "m")
    for name in ("alice", "bob", "carol"):
        classic = ["--classic"] if name == "bob" else []
        good(folder, "keygen", f"{name}.key", *classic)
        good(folder, "seal", "m", f"{name}.sealed", "--to", f"{name}.key.pub")
    good(folder, "seal", "m", "words.sealed", "--passphrase", **{PHRASE: "correct horse"})
    good(folder, "lock", "m", "l", "--key", "alice.key")
    return folder


@pytest.fixture
def text(made):
    return {name: (made / f"{name}.key").read_text() for name in ("alice", "bob", "carol")}


def default(folder, text, mode=0o600):
    """Put a default key file into a folder, and tell where the configuration lies."""
    place = folder / "config" / "modellock-jax" / "default.key"
    place.parent.mkdir(parents=True)
    place.write_text(text)
    place.chmod(mode)
    return {"XDG_CONFIG_HOME": str(folder / "config")}


KEYRING = """
import sys, types
keyring, errors = types.ModuleType("keyring"), types.ModuleType("keyring.errors")
errors.NoKeyringError = type("NoKeyringError", (Exception,), {})
keyring.errors = errors
def get_password(service, name):
    %s
keyring.get_password = get_password
sys.modules |= {"keyring": keyring, "keyring.errors": errors}
"""


def test_each_file_finds_its_key(made, text, tmp_path):
    """Alice's is the environment's, Bob's the default file, Carol's in the keyring."""
    there = default(tmp_path, text["bob"]) | {"MODELLOCK_KEY": text["alice"]}
    ring = KEYRING % f"return {text['carol']!r}"
    plain = (made / "m").read_bytes()
    for name in ("alice", "bob", "carol"):
        assert good(made, "open", f"{name}.sealed", "-", setup=ring, **there) == plain
    words = there | {PHRASE: "correct horse"}
    assert good(made, "open", "words.sealed", "-", setup=ring, **words) == plain
    assert good(made, "unlock", "l", "-", **default_key(tmp_path, text)) == plain


def default_key(folder, text):
    """Bob's key in the environment does not hide Alice's, for a locked file either."""
    (folder / "config" / "modellock-jax" / "default.key").write_text(text["alice"])
    return {"XDG_CONFIG_HOME": str(folder / "config"), "MODELLOCK_KEY": text["bob"]}


def test_where_no_file_tells_the_environment_comes_first(made, text, tmp_path):
    there = default(tmp_path, text["bob"]) | {"MODELLOCK_KEY": text["alice"]}
    good(made, "lock", "m", tmp_path / "l", **there)
    good(made, "unlock", tmp_path / "l", tmp_path / "x", "--key", "alice.key")


def test_the_error_names_what_was_tried_and_from_where(made, text, tmp_path):
    there = default(tmp_path, text["bob"]) | {"MODELLOCK_KEY": text["carol"]}
    told = run(made, "open", "alice.sealed", tmp_path / "x", **there)
    assert told.code == 3
    bob, carol = (good(made, "inspect", f"{n}.sealed", "--json") for n in ("bob", "carol"))
    carol = json.loads(carol)["recipients"][0]["id"]
    assert f"$MODELLOCK_KEY (key {carol})" in told.told
    assert "default key file" in told.told
    assert "the keyring (has none)" in told.told
    assert "secret" not in told.told
    assert json.loads(bob)["recipients"][0]["id"] not in told.told  # classic: not the secret's id
    bad(
        3,
        f"tried {made / 'bob.key'} (key ",
        made,
        "open",
        "alice.sealed",
        "x",
        "--key",
        made / "bob.key",
    )
    bad(3, "tried", made, "unlock", "l", "x", "--key", "bob.key")
    bad(3, "tried $MODELLOCK_KEY (key", made, "unlock", "l", "x", MODELLOCK_KEY=text["bob"])
    bad(2, "$MODELLOCK_KEY (not set)", made, "open", "alice.sealed", "x")
    words = {"MODELLOCK_KEY": text["alice"]}
    bad(2, "no passphrase", made, "open", "words.sealed", "x", **words)
    bad(3, "and the passphrase", made, "open", "words.sealed", "x", **words, **{PHRASE: "no"})


def test_a_broken_place_does_not_stop_another_but_is_told(made, text, tmp_path):
    there = default(tmp_path, text["bob"], 0o644)
    bad(6, "chmod 600", made, "open", "bob.sealed", "x", **there)
    bad(6, "MODELLOCK_KEY", made, "open", "bob.sealed", "x", MODELLOCK_KEY="nonsense")
    ring = KEYRING % f"return {text['carol']!r}"
    ran = run(made, "verify", "carol.sealed", setup=ring, **there, MODELLOCK_KEY="nonsense")
    assert ran.code == 0
    assert ran.told.count("note: passed over") == 2
    assert "chmod 600" in ran.told
    ran = run(made, "verify", "words.sealed", **there, **{PHRASE: "correct horse"})
    assert ran.code == 0


@pytest.mark.parametrize(
    "fault", ["raise errors.NoKeyringError('no backend')", "raise RuntimeError('locked\\x1b]0;x')",
              "raise KeyError('x')", "return 'nonsense'", "return None"],
)  # fmt: skip
def test_a_keyring_that_does_not_work(made, text, fault):
    ring = KEYRING % fault
    good(made, "verify", "alice.sealed", "--key", "alice.key", setup=ring)
    assert run(made, "verify", "alice.sealed", setup=ring).code in (2, 6)
    words = {PHRASE: "correct horse"}
    assert run(made, "verify", "words.sealed", setup=ring, **words).code == 0


NOBODY = "import pwd\ndef getpwuid(uid): raise KeyError(uid)\npwd.getpwuid = getpwuid"


@pytest.mark.parametrize("place", ["", "relative", None])
def test_without_a_home(made, text, place):
    """No XDG_CONFIG_HOME that counts, no HOME, no entry for the user."""
    gone = {"XDG_CONFIG_HOME": place, "HOME": None, "setup": NOBODY}
    good(made, "verify", "alice.sealed", **gone, MODELLOCK_KEY=text["alice"])
    bad(2, "no home folder", made, "verify", "alice.sealed", **gone)
    assert b"no home folder" in good(made, "doctor", **gone)


def test_a_relative_place_of_configuration_is_ignored(made, text, tmp_path):
    (tmp_path / "here" / "modellock-jax").mkdir(parents=True)
    (tmp_path / "here" / "modellock-jax" / "default.key").write_text("nonsense")
    bad(2, "(not there)", tmp_path, "verify", made / "alice.sealed", XDG_CONFIG_HOME="here")


def test_keys_and_passphrases_through_pipes(made, text, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    plain = (made / "m").read_bytes()

    def given(data, *words, **options):

        thread = threading.Thread(target=lambda: pipe.write_bytes(data))
        thread.start()
        out = good(made, *words, **options)
        thread.join()
        return out

    opened = ("open", "alice.sealed", "-", "--key")
    assert given(text["alice"].encode(), *opened, pipe) == plain
    assert good(made, *opened, "-", given=text["alice"].encode()) == plain
    assert good(made, *opened, "/dev/fd/0", given=text["alice"].encode()) == plain
    public = (made / "alice.key.pub").read_bytes()
    given(public, "seal", "m", tmp_path / "s", "--to", pipe)
    good(made, "verify", tmp_path / "s", "--key", "alice.key")
    words = ("open", "words.sealed", "-", "--passphrase-file")
    for data in (b"correct horse", b"correct horse\n", b"correct horse\r\n"):
        assert good(made, *words, "-", given=data) == plain
    assert given(b"correct horse\n", *words, pipe) == plain
    bad(3, "not for this key", made, *words, "-", given=b"correct horse\n\n")
    bad(2, "not UTF-8", made, *words, "-", given=b"\xff\xfe")
    bad(2, "is empty", made, *words, "-", given=b"\n")
    bad(2, "not both", made, *words, "-", "--key", "alice.key")
    sealed = (made / "alice.sealed").read_bytes()
    bad(2, "not both", made, "open", "-", "-", "--key", "-", given=sealed)
    assert given(sealed, "open", pipe, "-", "--key", "alice.key") == plain


def test_a_passphrase_is_the_same_in_every_normal_form(made, tmp_path):
    (tmp_path / "nfd").write_text("u\u0308ber\n")
    good(made, "seal", "m", tmp_path / "s", "--passphrase-file", tmp_path / "nfd")
    good(made, "verify", tmp_path / "s", **{PHRASE: "\u00fcber"})
    bad(2, "no Unicode text", made, "verify", tmp_path / "s", **{PHRASE: "\udcff"})


def test_a_file_that_is_named_like_a_stream(made, tmp_path):
    (tmp_path / "-").write_bytes((made / "alice.sealed").read_bytes())
    key = ("--key", made / "alice.key")
    good(tmp_path, "open", "./-", "x", *key)
    assert (tmp_path / "x").read_bytes() == (made / "m").read_bytes()
    good(tmp_path, "open", "./-", "./-", *key, "--force")
    assert (tmp_path / "-").read_bytes() == (made / "m").read_bytes()


def test_registers_and_lists_go_on_under_the_key_that_signed_them(made, text, tmp_path):
    there = default(tmp_path, text["alice"]) | {"MODELLOCK_KEY": text["carol"]}
    revoke = ("revoke", tmp_path / "list")
    good(made, *revoke, "0" * 32, "--key", "alice.key")
    good(made, *revoke, "1" * 32, **there)
    bad(3, "tried $MODELLOCK_KEY (key", made, *revoke, "2" * 32, MODELLOCK_KEY=text["bob"])
    issue = ("issue", "m", tmp_path / "users", "--register", tmp_path / "r", "--user")
    good(made, *issue, "u", "--key", "alice.key")
    good(made, *issue, "v", **there)
    good(made, "register", "list", tmp_path / "r", "--signed-by", "alice.key.pub")
