"""Loading a key file: strict, the same key or a refusal that repeats nothing of it."""

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.hidden import RAW, SECRET, SECRET_64, shows, told, write
from hypothesis import given, settings
from hypothesis import strategies as st

from modellock_jax.vault.keys.secret import Secret, load_key

GOOD: dict[str, Any] = {
    "format": "modellock-jax key",
    "version": 2,
    "extra": {},
    "id": SECRET.id,
    "created": "2026-01-02T03:04:05+00:00",
    "secret": SECRET_64,
}


def changed(**fields: Any) -> bytes:
    return json.dumps(GOOD | fields).encode()


NO_KEY_FILE = "is not a modellock-jax key file, or is damaged"
VERSION = "is not of version 2"
FIELDS = "must have format, version, extra, id, created, secret, each once"
BASE64 = "has a field `secret` that is not 32 bytes in base64"
ID = "has an id that does not match its secret"
WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", NO_KEY_FILE),
    "raw bytes": (RAW, NO_KEY_FILE),
    "not UTF-8": (changed()[:-1] + b"\xff}", NO_KEY_FILE),
    "cut": (changed()[:-3], NO_KEY_FILE),
    "two documents": (changed() * 2, NO_KEY_FILE),
    "a list of pairs": (json.dumps(list(GOOD.items())).encode(), NO_KEY_FILE),
    "a string": (json.dumps(SECRET_64).encode(), NO_KEY_FILE),
    "null": (b"null", NO_KEY_FILE),
    "empty object": (b"{}", NO_KEY_FILE),
    "too deep": (b"[" * 4000, NO_KEY_FILE),
    "deep object": (b'{"format":' * 400, NO_KEY_FILE),
    "too long a number": (changed(version=2)[:-1] + b', "n": ' + b"9" * 3800 + b"}", FIELDS),
    "too large": (changed() + b" " * 4096, NO_KEY_FILE),
    "format": (changed(format="modellock-jax keys"), NO_KEY_FILE),
    "format of another type": (changed(format=["modellock-jax key"]), NO_KEY_FILE),
    "version 1": (changed(version=1), VERSION),
    "version 3": (changed(version=3), VERSION),
    "version true": (changed(version=True), VERSION),
    "version 2.0": (changed(version=2.0), VERSION),
    "version text": (changed(version="2"), VERSION),
    "version NaN": (changed(version=float("nan")), VERSION),
    "extra a list": (changed(extra=[]), FIELDS),
    "extra null": (changed(extra=None), FIELDS),
    "an unknown field": (changed(comment=SECRET_64), FIELDS),
    "a field twice": (changed()[:-1] + f', "secret": "{SECRET_64}"}}'.encode(), FIELDS),
    "a field replaced": (changed().replace(b'"created"', b'"Created"'), FIELDS),
    "id of another type": (changed(id=1), FIELDS),
    "created null": (changed(created=None), FIELDS),
    "secret a list": (changed(secret=list(RAW)), FIELDS),
    "secret empty": (changed(secret=""), BASE64),
    "secret of 31 bytes": (changed(secret=base64.b64encode(RAW[:31]).decode()), BASE64),
    "secret of 33 bytes": (changed(secret=base64.b64encode(RAW + b"x").decode()), BASE64),
    "secret in hex": (changed(secret=RAW.hex()), BASE64),
    "secret unpadded": (changed(secret=SECRET_64[:-1]), BASE64),
    "secret with a space": (changed(secret=" " + SECRET_64), BASE64),
    "secret with a newline": (changed(secret=SECRET_64 + "\n"), BASE64),
    "secret not ASCII": (changed(secret="é" + SECRET_64[1:]), BASE64),
    "secret in other digits": (changed(secret="-" + SECRET_64[1:]), BASE64),
    "another id": (changed(id=Secret(bytes(32)).id), ID),
    "id in capitals": (changed(id=SECRET.id.upper()), ID),
    "id a lone surrogate": (changed(id="\ud800"), ID),
    "another secret": (changed(secret=base64.b64encode(bytes(32)).decode()), ID),
} | {
    f"no {name}": (
        json.dumps({n: v for n, v in GOOD.items() if n != name}).encode(),
        {"format": NO_KEY_FILE, "version": VERSION}.get(name, FIELDS),
    )
    for name in GOOD
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_load_is_strict_and_repeats_nothing(tmp_path, content, message):
    path = write(tmp_path / "owner.key", content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_key(path)
    assert type(caught.value) is ValueError
    assert str(caught.value).startswith(f"load_key: {path} ")
    assert str(caught.value).endswith("; restore the key file from a copy")
    assert not shows(told(caught.value))


def test_base64_has_one_spelling(tmp_path):
    """The last digit's two unused bits: a lax decoder takes four spellings of the same bytes."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    accepted = []
    for digit in digits:
        text = SECRET_64[:-2] + digit + "="
        raw = base64.b64decode(text)
        content = changed(secret=text, id=Secret(raw).id)
        try:
            accepted.append(load_key(write(tmp_path / "owner.key", content)) == Secret(raw))
        except ValueError:
            assert base64.b64encode(raw).decode() != text
    assert accepted == [True] * 16


def test_order_and_space_are_free(tmp_path):
    content = json.dumps(dict(reversed(GOOD.items())), indent=7).encode()
    assert load_key(write(tmp_path / "owner.key", b"\r\n" + content)) == SECRET
    full = changed() + b" " * (4096 - len(changed()))
    assert load_key(write(tmp_path / "owner.key", full)) == SECRET
    with pytest.raises(ValueError, match="is not a modellock-jax key file"):
        load_key(write(tmp_path / "owner.key", full + b" "))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777])
def test_a_file_open_to_others_is_refused(tmp_path, mode):
    path = write(tmp_path / "owner.key", changed(), mode)
    with pytest.raises(PermissionError, match="run `chmod 600` on it") as caught:
        load_key(path)
    assert not shows(told(caught.value))
    path.chmod(0o400)
    assert load_key(path) == SECRET


@pytest.mark.parametrize("kind", ["absent", "directory", "pipe"])
def test_no_file(tmp_path, kind):
    path = tmp_path / "owner.key"
    if kind == "directory":
        path.mkdir(0o700)
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    with pytest.raises(FileNotFoundError, match=r"no key file .*owner\.key; write one with save"):
        load_key(path)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "owner.key"


def loads_or_refuses(path: Path, content: bytes) -> None:
    write(path, content)
    try:
        refusal = None
        assert load_key(path) == SECRET
    except ValueError as error:
        refusal = error
    if refusal:
        assert type(refusal) is ValueError
        assert not shows(told(refusal))


@settings(derandomize=True, max_examples=200, deadline=None, database=None)
@given(content=st.binary(max_size=300))
def test_any_bytes(fuzzed, content):
    loads_or_refuses(fuzzed, content)


@settings(derandomize=True, max_examples=200, deadline=None, database=None)
@given(
    start=st.integers(0, len(changed())),
    length=st.integers(0, 20),
    patch=st.binary(max_size=20) | st.text('{}[],:"\\01azAZ=+/ \n', max_size=20).map(str.encode),
)
def test_any_damage(fuzzed, start, length, patch):
    """A damaged file is refused, or (in its time or its white space) still gives the same key."""
    loads_or_refuses(fuzzed, changed()[:start] + patch + changed()[start + length :])
