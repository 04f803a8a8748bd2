"""Heads of locked files that others have changed, and commands that point at one another."""

import io
import json

import pytest
from helpers.commands import bad
from helpers.sealed import ALICE, public, some
from safetensors.numpy import save

from modellock_jax.vault.errors import Tampered, Unreadable
from modellock_jax.vault.keys.secret import save_key
from modellock_jax.vault.locked import _format
from modellock_jax.vault.locked.files import lock_file, locked_info
from modellock_jax.vault.sealed import envelope


def file_of(arrays):
    target = io.BytesIO()
    lock_file(save(arrays), target, ALICE, "stream_lock")
    return target.getvalue()


def rewritten(file, **fields):
    """The file with other fields of ours, and a head whose checksum fits."""
    size = 8 + int.from_bytes(file[:8], "little")
    table = json.loads(file[8:size])
    table["__metadata__"] |= fields
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + file[size:]


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"modellock.more": "1"}, Tampered, "not as it was written"),
        ({"modellock.version": "1"}, Unreadable, "not of version 2, the only one"),
        ({"modellock.version": "3"}, Unreadable, "not of version 2, the only one"),
        ({"modellock.key_id": "\x1b[2J"}, Tampered, "not as it was written"),
        ({"modellock": "another's"}, Unreadable, "plain safetensors file"),
        ({"more": "1"}, Tampered, "not as it was written"),
    ],
)
def test_unknown_fields_and_other_versions_are_refused(fields, error, text):
    file = file_of(some())
    assert locked_info(rewritten(file))
    with pytest.raises(error, match=text):
        locked_info(rewritten(file, **fields))


def test_a_key_id_of_another_form_is_refused_whatever_the_checksum():
    file = file_of(some())
    info = locked_info(file)
    for name in ("key_id", "nonce", "check", "tag"):
        for wrong in ("", "\x1b[2J", getattr(info, name).upper() + "G", getattr(info, name)[:-1]):
            head = _format.head(info._replace(**{name: wrong}))
            size = 8 + int.from_bytes(file[:8], "little")
            with pytest.raises(Tampered, match="not as it was written"):
                locked_info(head + file[size:])


def test_open_and_unlock_point_at_each_other(tmp_path):
    save_key(ALICE, tmp_path / "a.key")
    (tmp_path / "plain").write_bytes(save(some()))
    (tmp_path / "locked").write_bytes(file_of(some()))
    envelope.seal(some(), tmp_path / "sealed", [public(ALICE)])
    (tmp_path / "npz").write_bytes(b"PK\x03\x04" + bytes(600))
    (tmp_path / "utf16").write_bytes("[1, 2, 3]".encode("utf-16"))
    for command, name, text in (
        ("open", "locked", "locked is locked, not sealed; use `unlock` instead of `open`"),
        ("verify", "locked", "locked is locked, not sealed; use `unlock` instead of `open`"),
        ("unlock", "sealed", "sealed is sealed, not locked; use `open` instead of `unlock`"),
        (
            "open",
            "plain",
            "plain is a plain safetensors file: it is not sealed, so there is nothing",
        ),
        (
            "unlock",
            "plain",
            "plain is a plain safetensors file: it is not locked, so there is nothing",
        ),
        ("open", "a.key", "a.key is a secret key file, and no sealed file"),
        ("unlock", "a.key", "a.key is a secret key file, and no locked file"),
        ("open", "npz", "npz is a ZIP archive"),
        ("unlock", "npz", "npz is a ZIP archive"),
        ("unlock", "utf16", "utf16 is in UTF-16"),
    ):
        words = [name] if command == "verify" else [name, "x"]
        bad(6, text, tmp_path, command, *words, "--key", "a.key")
    assert not (tmp_path / "x").exists()
