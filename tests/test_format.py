"""docs/format.md says what the code does: its constants, and a second reader that knows it alone."""

import ast
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from helpers import independent_reader as reader
from helpers import independent_records as records
from helpers.sealed import ALICE, BOB, OWNER, public, some
from safetensors.numpy import load, save

from modellock_jax.vault import keys, locked
from modellock_jax.vault.issuing import _lines, _revocation_text, register, revocation
from modellock_jax.vault.issuing.copies import issue
from modellock_jax.vault.keys import identity, share_files
from modellock_jax.vault.keys.secret import save_key
from modellock_jax.vault.locked.files import lock_file
from modellock_jax.vault.locked.sets import lock_set
from modellock_jax.vault.sealed import _header, envelope, recipients, rewrite, sets

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "format.md").read_text()
WORDS = recipients.Passphrase("correct horse")


def raw(secret):
    return secret._reveal()


def test_the_second_reader_is_short_and_uses_the_library_and_json_alone():
    for name in ("independent_reader", "independent_records"):
        text = (ROOT / "tests" / "helpers" / f"{name}.py").read_text()
        assert len(text.splitlines()) <= 150
        found = {
            node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        found -= {"helpers.independent_reader"}
        tops = {module.split(".")[0] for module in found}
        assert tops - sys.stdlib_module_names <= {"cryptography"}


def test_the_page_has_the_versions_of_the_code():
    found = re.findall(r"^\| [a-z ]+ \| (\d+) \| `([a-z -]+)` \|$", PAGE, re.MULTILINE)
    rows = {mark: int(version) for version, mark in found}
    assert len(rows) == len(found)
    share, _, version = share_files._FORMAT.partition(", version ")
    assert rows == {
        _header.MARK: int(_header.VERSION),
        locked._format.MARK: int(locked._format.VERSION),
        keys._text.FORMAT: keys._text.VERSION,
        identity._FORMAT: identity._VERSION,
        share: int(version),
        register.FORMAT: _lines.VERSION,
        _revocation_text.FORMAT: _lines.VERSION,
        sets.FORMAT: sets.VERSION,
        locked.sets.FORMAT: locked.sets.VERSION,
    }
    assert _header.ABOUT in PAGE
    assert f"`{rewrite.journal_of('NAME').name}`" in PAGE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("format")


@pytest.fixture(scope="module")
def sealed(folder):
    """For Alice, for Bob's classic key and for a passphrase, signed by the owner, of three chunks."""
    arrays = some() | {"long": np.random.default_rng(1).integers(0, 256, 2**22, np.uint8)}
    whom = [public(ALICE), identity.public_key(BOB, classic=True), WORDS]
    until = datetime.now(UTC) + timedelta(days=1)
    options = {"expires": until, "signers": [OWNER], "name": "resnet", "serial": 7}
    envelope.seal(arrays, folder / "m.sealed", whom, metadata={"a": "é"}, **options)
    return (folder / "m.sealed").read_bytes(), arrays


@pytest.mark.parametrize(
    "unlocker", [raw(ALICE), raw(BOB), "correct horse"], ids=["hybrid", "classic", "words"]
)
def test_the_second_reader_opens_a_sealed_file(sealed, unlocker):
    data, arrays = sealed
    owner = reader.public_key(raw(OWNER), reader.HYBRID)
    kind, content = reader.open_sealed(data, unlocker, [owner])
    assert kind == "safetensors"
    found = load(content)
    assert found.keys() == arrays.keys()
    assert all((found[name] == arrays[name]).all() for name in arrays)


def test_the_second_reader_opens_any_file_and_finds_what_is_wrong(folder, sealed):
    envelope.seal(b"any bytes", folder / "b.sealed", [public(ALICE)])
    data = (folder / "b.sealed").read_bytes()
    assert reader.open_sealed(data, raw(ALICE)) == ("bytes", b"any bytes")
    with pytest.raises(ValueError, match="not for this key"):
        reader.open_sealed(data, raw(BOB))
    with pytest.raises(InvalidTag):
        reader.open_sealed(data[:-1] + bytes([data[-1] ^ 1]), raw(ALICE))
    whole, _ = sealed
    with pytest.raises(ValueError, match="not signed"):
        reader.open_sealed(whole, raw(ALICE), [reader.public_key(raw(BOB), reader.HYBRID)])


def test_the_second_reader_reads_key_files_and_ids(folder):
    save_key(ALICE, folder / "alice.key")
    assert reader.read_key((folder / "alice.key").read_bytes()) == raw(ALICE)
    for classic, kind in ((False, reader.HYBRID), (True, reader.CLASSIC)):
        ours = identity.document(identity.public_key(ALICE, classic))
        assert reader.public_key(raw(ALICE), kind) == ours


def test_the_second_reader_unlocks_checks_a_register_and_a_list(folder):
    (folder / "m.safetensors").write_bytes(save(some(), {"format": "pt"}))
    one, two = issue(
        folder / "m.safetensors", folder / "copies", ["alice", "bob"], OWNER, folder / "register"
    )
    user = reader.read_key(one.key.read_bytes())
    plain = records.unlock(one.copy.read_bytes(), user)
    assert plain == (folder / "m.safetensors").read_bytes()
    with pytest.raises(ValueError, match="another key"):
        records.unlock(two.copy.read_bytes(), user)
    lines = (folder / "register").read_bytes()
    signer, entries = records.read_register(lines)
    assert signer == identity.document(public(OWNER))
    assert [(e["user"], e["key"]) for e in entries] == [
        ("alice", one.entry.key),
        ("bob", two.entry.key),
    ]
    book = register.read(folder / "register")
    place = "issued copy", book.id, "alice", entries[0]["salt"]
    assert reader.derive(raw(OWNER), 32, *place) == user
    revocation.revoke(folder / "revoked.json", [one.entry.key], OWNER, "lost")
    found = records.read_list((folder / "revoked.json").read_bytes())
    assert found == (signer, [one.entry.key])
    swapped = lines.splitlines(keepends=True)
    with pytest.raises(ValueError, match="chain"):
        records.read_register(b"".join([swapped[0], swapped[2], swapped[1]]))
    with pytest.raises((ValueError, InvalidSignature)):
        records.read_register(lines.replace(b'"alice"', b'"mallo"'))


def as_text(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def test_a_head_is_to_the_byte_what_the_page_makes_of_its_header(sealed):
    data, _ = sealed
    header_, end = reader.header_of(data)
    text = reader.canonical(header_).decode()
    (line,) = (one.strip() for one in PAGE.splitlines() if one.startswith('    {"__metadata__"'))
    about = re.search("^> (.*)$", PAGE, re.MULTILINE)[1]
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    checksum = reader.sha256(text.encode()).hex()
    line = line.replace("SHA-256(T), hex", checksum).replace("ABOUT", about)
    line = line.replace('"header":"T"', f'"header":"{quoted}"').replace(
        "BODY", str(header_["body"])
    )
    assert data[8:end] == line.encode().ljust(end - 8)


def test_a_locked_head_is_to_the_byte_what_the_page_makes_of_its_fields(folder):
    (folder / "l.safetensors").write_bytes(save(some(), {"format": "pt", "é": "ü"}))
    lock_file(folder / "l.safetensors", folder / "locked", ALICE, "stream_lock", label="é")
    data = (folder / "locked").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    found = json.loads(data[8:end])["__metadata__"]
    names = [*(f"modellock.{name}" for name in records.FIELDS), "modellock"]
    names += ["modellock.version", "modellock.checksum"]
    table = json.loads(found["modellock.original"])
    metadata = table.pop("__metadata__") | {name: found[name] for name in names}
    text = as_text({"__metadata__": metadata, **table}).encode()
    assert data[8:end] == text + b" " * (-len(text) % 8)


def test_a_public_key_file_is_to_the_byte_what_the_page_makes_of_a_secret(folder):
    identity.save_public_key(public(ALICE), folder / "alice.pub")
    fields = {"format": "modellock-jax public key", "version": 2, "extra": {}}
    made = reader.canonical(fields | reader.public_key(raw(ALICE), reader.HYBRID)) + b"\n"
    assert (folder / "alice.pub").read_bytes() == made


def files_of(folder):
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_the_second_reader_opens_sets(folder):
    plain = folder / "model"
    (plain / "shards").mkdir(parents=True)
    (plain / "shards" / "one.safetensors").write_bytes(save(some()))
    (plain / "config.json").write_text("{}")
    owner = reader.public_key(raw(OWNER), reader.HYBRID)
    sets.seal_set(plain, folder / "set", [public(ALICE), WORDS], signers=[OWNER])
    sealed = files_of(folder / "set")
    for unlocker in (raw(ALICE), "correct horse"):
        assert records.open_set(sealed, unlocker, [owner]) == files_of(plain)
    with pytest.raises(ValueError, match="others"):
        records.open_set(sealed | {"more": b""}, raw(ALICE))
    lock_set(plain, folder / "locked-set", ALICE, "stream_lock")
    assert records.unlock_set(files_of(folder / "locked-set"), raw(ALICE)) == files_of(plain)
