"""Whatever strangers wrote, into any field of any file or its name, a terminal only shows it."""

import json
import os
import re

import numpy as np
import pytest
from helpers.commands import good, run, within
from safetensors.numpy import save_file

from modellock_jax.vault.issuing import _lines
from modellock_jax.vault.keys.secret import load_key
from modellock_jax.vault.locked._format import head
from modellock_jax.vault.locked.files import locked_info
from modellock_jax.vault.sealed import _header

EVIL = "x\x1b]0;owned\x07\x1b[2J\n\rerror: none\u202egnp\u2028\x9b1m\u200b\x7f"
NAME = EVIL.replace("\r", "")  # of a file


def calm(ran):
    """Nothing but lines of printable characters."""
    for text in (ran.out.decode(), ran.told):
        assert all(line.isprintable() for line in text.split("\n")), text
        assert "\nerror: none" not in text
    return ran


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    for name in ("a", "b"):
        good(folder, "keygen", f"{name}.key")
    save_file({"w": np.arange(6.0)}, folder / "m", metadata={"by": "me"})
    good(folder, "seal", "m", "sealed", "--to", "a.key.pub", "--sign", "b.key", "--name", "m")
    good(folder, "lock", "m", "locked", "--key", "a.key")
    issue = ("issue", "m", "users", "--user", "u", "--register", "register", "--key", "a.key")
    good(folder, *issue)
    good(folder, "revoke", "list", "0" * 32, "--key", "b.key", "--reason", "why")
    return folder


KEY = ("--key", "a.key")
EVERY = {
    "inspect": ("inspect", "FILE"),
    "open": ("open", "FILE", "x", *KEY),
    "verify": ("verify", "FILE", *KEY, "--signed-by", "b.key.pub"),
    "list": ("recipients", "list", "FILE"),
    "add": ("recipients", "add", "FILE", "--to", "b.key.pub", *KEY, "--dry-run"),
    "rm": ("recipients", "rm", "FILE", EVIL, *KEY, "--dry-run"),
    "rotate": ("rotate", "FILE", "x", "--to", "b.key.pub", *KEY, "--dry-run"),
    "seal": ("seal", "FILE", "x", "--to", "b.key.pub", "--dry-run"),
    "lock": ("lock", "FILE", "/dev/null", *KEY),
    "unlock": ("unlock", "FILE", "x", *KEY),
    "issue": ("issue", "FILE", "users", "--user", "v", "--register", "other", *KEY),
}


def every(folder, path, names=EVERY):
    for name in names:
        words = [path if word == "FILE" else word for word in EVERY[name]]
        calm(within(folder, *words))
    calm(within(folder, "inspect", path, "--json"))


def plain(metadata, names=("w",)):
    """A safetensors file of any text, which the library that usually writes it would refuse."""
    table = {"__metadata__": metadata} if metadata else {}
    for i, name in enumerate(names):
        table[name] = {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]}
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + bytes(len(names))


@pytest.mark.parametrize(
    "mark",
    ["modellock-jax sealed file", "modellock-jax locked file", "modellock-jax sealed file ", EVIL],
    ids=["sealed", "locked", "nearly", "evil"],
)
def test_metadata_and_names_of_plain_files(made, tmp_path, mark):
    metadata = {"modellock": mark, "modellock.about": EVIL, "modellock.scheme": EVIL, EVIL: EVIL}
    metadata |= {"modellock.key_id": EVIL, "modellock.version": "2"}
    (tmp_path / "f").write_bytes(plain(metadata, (EVIL, "b")))
    every(made, tmp_path / "f")
    ran = within(made, "inspect", tmp_path / "f")
    first = ran.out.decode().partition("\n")[0]
    assert ran.code in (4, 6) or ": plain safetensors, 2 tensors" in first
    assert "sealed file, version" not in first  # it is none, whatever it says


def test_names_of_tensors_in_what_is_sealed_and_locked(made, tmp_path):
    (tmp_path / "f").write_bytes(plain({EVIL: EVIL}, (EVIL, "kernel")))
    good(made, "seal", tmp_path / "f", tmp_path / "s", "--to", "a.key.pub")
    every(made, tmp_path / "s")
    every(made, tmp_path / "f")
    (tmp_path / "half").write_bytes(plain({EVIL: "\ud800"}, ("\ud800",)))
    every(made, tmp_path / "half", ("inspect", "seal", "lock"))
    for scheme in ("sign_flip", EVIL, "stream_lock(" + EVIL + ")"):
        calm(within(made, "lock", tmp_path / "f", tmp_path / "l", "--scheme", scheme, *KEY))


def heads(made):
    """Sealed files whose heads say something else in each field that is text, and fit otherwise."""
    whole = (made / "sealed").read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    head = _header.decode(whole[:length], len(whole))
    stanza, signature = head.stanzas[0], head.signatures[0]
    changes = [{"name": EVIL}, {"expires": EVIL}]
    changes += [{"stanzas": ({**stanza, field: EVIL},)} for field in stanza]
    changes += [{"stanzas": (stanza | {EVIL: "x"},)}, {"stanzas": ({**stanza, "id": EVIL}, stanza)}]
    changes += [{"signatures": ({**signature, field: EVIL},)} for field in signature]
    for change in changes:
        try:
            yield _header.encode(head._replace(**change)) + whole[length:]
        except (ValueError, TypeError):
            continue


def test_fields_of_a_sealed_file(made, tmp_path):
    count = 0
    for data in heads(made):
        (tmp_path / "f").write_bytes(data)
        every(made, tmp_path / "f", ("inspect", "verify", "list", "rm", "add"))
        count += 1
    assert count >= 6


def test_fields_of_a_locked_file(made, tmp_path):
    info = locked_info(made / "locked")
    whole = (made / "locked").read_bytes()
    body = whole[8 + int.from_bytes(whole[:8], "little") :]
    for field in ("about", "scheme", "key_id", "label", "nonce", "check", "tag", "finish"):
        (tmp_path / "f").write_bytes(head(info._replace(**{field: EVIL})) + body)
        every(made, tmp_path / "f", ("inspect", "unlock"))


def test_fields_of_keys(made, tmp_path):
    for name in ("a.key", "a.key.pub"):
        fields = json.loads((made / name).read_text())
        for field in (*fields, EVIL, "parent"):
            text = json.dumps(
                fields | {field: EVIL} | ({"path": EVIL} if field == "parent" else {})
            )
            (tmp_path / "k").write_text(text)
            (tmp_path / "k").chmod(0o600)
            calm(within(made, "inspect", tmp_path / "k"))
            calm(within(made, "open", "sealed", "x", "--key", tmp_path / "k"))
            calm(within(made, "seal", "m", "/dev/null", "--to", tmp_path / "k"))
            calm(within(made, "verify", "sealed", "--signed-by", tmp_path / "k", *KEY))
        calm(within(made, "verify", "sealed", MODELLOCK_KEY=EVIL))


def signed_again(line, secret, **changes):
    """A signed line with other fields, by somebody who may sign."""
    fields = json.loads(line)
    del fields["signature"]
    for path, value in changes.items():
        place = fields
        *outer, last = path.split("__")
        for step in outer:
            place = place[int(step)] if isinstance(place, list) else place[step]
        place[last] = value
    return _lines.line(fields, secret)


def test_fields_of_lists_and_registers(made, tmp_path):
    owner, other = load_key(made / "a.key"), load_key(made / "b.key")
    line = (made / "list").read_bytes()
    for field in (
        "issued",
        "revoked__0__id",
        "revoked__0__time",
        "revoked__0__reason",
        "signer__id",
    ):
        (tmp_path / "list").write_bytes(signed_again(line, other, **{field: EVIL}))
        calm(within(made, "inspect", tmp_path / "list"))
        calm(within(made, "verify", "sealed", "--revoked", tmp_path / "list", *KEY))
        calm(within(made, "revoke", tmp_path / "list", "1" * 32, "--key", "b.key"))
        calm(within(made, "revoke", tmp_path / "mine", "--from", tmp_path / "list"))
    first, second = (made / "register").read_bytes().splitlines(keepends=True)
    for field in ("user", "scheme", "time", "key", "plain", "supersedes"):
        (tmp_path / "r").write_bytes(first + signed_again(second, owner, **{field: EVIL}))
        calm(within(made, "register", "list", tmp_path / "r", "--signed-by", "a.key.pub"))
        calm(within(made, "inspect", tmp_path / "r"))
    for field in ("id", "time", "signer__id"):
        (tmp_path / "r").write_bytes(signed_again(first, owner, **{field: EVIL}))
        calm(within(made, "register", "list", tmp_path / "r"))
        calm(within(made, "register", "list", tmp_path / "r", "--head", EVIL))


def test_fields_of_shares(made, tmp_path):
    pytest.importorskip("shamir_mnemonic")
    good(made, "backup", "split", "a.key", tmp_path / "shares", "--threshold", "2", "--shares", "2")
    first, second = sorted((tmp_path / "shares").iterdir())
    text = first.read_text()
    for line in re.findall("^[A-Z][a-z]+:.*$", text, re.MULTILINE):
        first.write_text(text.replace(line, line.partition(":")[0] + ": " + EVIL))
        for words in (("inspect", first), ("backup", "join", first, second, tmp_path / "k")):
            calm(within(made, *words))
        calm(within(made, "backup", "drill", first, second, "--id", EVIL))


def test_names_of_files(made, tmp_path):
    """What a glob makes of a stranger's folder."""
    places = {}
    for name in ("m", "sealed", "locked", "a.key", "a.key.pub", "list", "register"):
        places[name] = tmp_path / f"{name}{NAME}"
        places[name].write_bytes((made / name).read_bytes())
        places[name].chmod(0o600)
    for name, path in places.items():
        every(
            made, path, EVERY if name in ("m", "sealed", "locked") else ("inspect", "open", "seal")
        )
    key, public = places["a.key"], places["a.key.pub"]
    for words in (
        ("open", places["sealed"], tmp_path / NAME, "--key", key),
        ("seal", "m", tmp_path / f"s{NAME}", "--to", public, "--sign", key),
        ("lock", "m", tmp_path / f"l{NAME}", "--key", key),
        ("verify", "sealed", "--key", "b.key", "--revoked", places["list"]),
        ("open", tmp_path / f"absent{NAME}", "x", "--key", key),
        ("open", "sealed", tmp_path / f"no{NAME}" / "x", "--key", key),
        ("open", "sealed", "x", "--key", tmp_path / f"absent{NAME}"),
        ("keygen", key), ("keygen", tmp_path / f"new{NAME}"),
        ("keygen", "x", "--from", key, "--path", EVIL),
        ("register", "list", places["register"]), ("explain", EVIL), (EVIL,), ("seal", f"--{EVIL}"),
        ("revoke", places["list"], EVIL), ("revoke", places["list"], "0" * 32, "--reason", EVIL),
        ("expire", "sealed", EVIL), ("issue", "m", "users", "--user", EVIL, "--register", "r", *KEY),
        ("verify", "sealed", "--expect", EVIL, *KEY), ("seal", "m", "x", "--name", EVIL, "--to", public),
        ("study", EVIL), ("attack", EVIL), (EVIL, EVIL),
    ):  # fmt: skip
        calm(within(made, *words))
        calm(within(made, *words, "--json"))


def test_beside_a_file(made, tmp_path):
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "s").write_bytes((made / "sealed").read_bytes())
    (folder / "revoked.json").write_text(EVIL)
    every(made, folder / "s", ("open", "verify", "add"))
    os.symlink(EVIL, tmp_path / "link")
    every(made, tmp_path / "link", ("inspect", "open"))


def test_a_traceback_and_a_library_error_are_escaped(made):
    """The class of an error, or its message, may come from a file too."""
    setup = (
        "from modellock_jax.vault.sealed import envelope\n"
        f"def fails(*a, **k): raise type('E' + chr(27), (Exception,), {{}})({EVIL!r})\n"
        "envelope.open = fails"
    )
    assert calm(run(made, "open", "sealed", "x", *KEY, setup=setup)).code == 2


def test_one_line_is_told_whatever_is_in_it(made, tmp_path):
    """A stranger's line end makes no second line."""
    (tmp_path / "f").write_bytes(plain({"modellock": "a\nb"}))
    lines = good(made, "inspect", tmp_path / "f").decode().splitlines()
    assert len(lines) == 2
    assert "a\\nb" in lines[1]


def test_sets(made, tmp_path):
    """Folders whose files are named so, and a locked set whose manifest says so."""
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "m.safetensors").write_bytes((made / "m").read_bytes())
    (folder / f"config{NAME}.json").write_text(EVIL)
    (folder / f"empty{NAME}").mkdir()
    calm(within(made, "seal", folder, tmp_path / "s", "--to", "a.key.pub", "--name", "x"))
    calm(within(made, "lock", folder, tmp_path / "l", *KEY))
    (folder / f"config{NAME}.json").unlink()
    (folder / f"empty{NAME}").rmdir()
    commands = {"s": ("seal", "--to", "a.key.pub"), "l": ("lock", *KEY)}
    for place in (tmp_path / "s", tmp_path / "l"):
        if not place.exists():  # such names may be refused, in one sentence
            first, *more = commands[place.name]
            good(made, first, folder, place, *more)
        calm(within(made, "inspect", place))
        calm(within(made, "recipients", "list", place))
        for i, command in enumerate(("open", "unlock")):
            calm(within(made, command, place, tmp_path / f"{place.name}{i}", *KEY))
        (place / NAME).write_text(EVIL)
        calm(within(made, "verify", place, *KEY))
        os.unlink(place / NAME)
    manifest = tmp_path / "l" / "modellock.set.json"
    fields = json.loads(manifest.read_text())
    for field in fields:
        manifest.write_text(json.dumps(fields | {field: EVIL}))
        calm(within(made, "inspect", tmp_path / "l"))
        calm(within(made, "unlock", tmp_path / "l", tmp_path / "v", *KEY))
