"""Host keys: known answers, separation of labels, nothing shown, the key file at every step."""

import base64
import copy
import hashlib
import hmac
import io
import json
import os
import pickle
import pprint
import re
import resource
import secrets
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import modellock_jax as ml
from modellock_jax import base
from modellock_jax.ciphers import chacha
from modellock_jax.vault import keys
from modellock_jax.vault.keys import KeySource, Secret

# Random-looking, so that no piece of it turns up in a text by chance.
RAW = hashlib.sha512(b"the secret of these tests").digest()[:32]
SECRET = Secret(RAW)


def hkdf(raw: bytes, length: int, *parts: str) -> bytes:
    """RFC 5869 from its text, with HMAC alone; `length` is at most 32."""
    info = b""
    for part in ("modellock-jax keys v1", *parts):
        info += len(part.encode()).to_bytes(4, "big") + part.encode()
    extracted = hmac.digest(bytes(32), raw, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")[:length]


def oracle(raw: bytes, n: int, *path: str) -> np.ndarray:
    """The words by way of the in-graph cipher, which shares no code with OpenSSL."""
    key = jnp.asarray(np.frombuffer(hkdf(raw, 32, "words", *path), "<u4"))
    counters = jnp.arange(-(-n // 16), dtype=jnp.uint32)
    return np.asarray(chacha.blocks(key, jnp.zeros(3, jnp.uint32), counters)).reshape(-1)[:n]


def shows(text: str, raw: bytes = RAW) -> bool:
    """Whether any 6 bytes' worth of the secret is in `text`, in one of the usual forms."""
    forms = [raw.hex(), repr(raw)[2:-1], repr(list(raw))[1:-1], raw.decode("latin1")]
    forms += [base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()]
    text = text.lower()
    return any(form[i : i + 12].lower() in text for form in forms for i in range(len(form) - 11))


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


# Words and ids


def test_version_1_is_frozen():
    """Other answers here would open no locked model again: they need another version."""
    secret = Secret(bytes(range(32)))
    assert secret.id == "346555e5f54f2794"
    assert secret.source("model 1").words(4).tolist() == [
        3637653010,
        2689373205,
        2939926958,
        2720190867,
    ]
    assert secret.source("model 1").split(2)[1].words(2).tolist() == [658115646, 1449555847]


@pytest.mark.parametrize("label", ["model 1", "", "a/b", "Schlüssel 鍵", "x" * 300])
def test_words_are_chacha20_under_hkdf(label):
    source = SECRET.source(label)
    words = source.words(37)
    assert words.dtype == np.uint32
    np.testing.assert_array_equal(words, oracle(RAW, 37, label))
    child = source.split(12)[11].split(1)[0]
    np.testing.assert_array_equal(child.words(16), oracle(RAW, 16, label, "11", "0"))


def test_id_is_hkdf_under_its_own_label():
    assert SECRET.id == hkdf(RAW, 8, "id").hex()
    assert re.fullmatch("[0-9a-f]{16}", SECRET.id)
    assert SECRET.id != Secret(bytes(32)).id


def test_words_and_split_are_pure_and_prefixes():
    source = SECRET.source("model 1")
    first = source.words(10)
    np.testing.assert_array_equal(source.words(10), first)
    for n in (0, 1, 5, np.int64(9)):
        np.testing.assert_array_equal(source.words(n), first[:n])
    two, three = ([s.words(3).tolist() for s in source.split(n)] for n in (2, 3))
    assert two == three[:2]
    assert source.split(0) == []
    assert source.words(np.uint8(100)).shape == (100,)


def test_no_two_paths_share_words():
    """Labels that look like paths, indices or encodings of others, at three depths, two secrets."""
    labels = [
        "",
        "0",
        "1",
        "a",
        "a/0",
        "a/b",
        "a0",
        "a\x00",
        "b",
        "words",
        "id",
        "a\x00\x00\x00\x010",
    ]
    streams = []
    for secret in (SECRET, Secret(bytes(32))):
        for label in labels:
            source = secret.source(label)
            children = source.split(11)
            family = [source, *children, *children[0].split(2), *children[1].split(2)]
            streams += [one.words(4).tobytes() for one in family]
    assert len(set(streams)) == len(streams) == 2 * len(labels) * 16


def test_bits_are_balanced():
    """2^20 bits: each of the 32 positions, and neighbouring words' agreement, within 5 sigma."""
    words = SECRET.source("balance").words(2**15)
    for stream in (words, words[1:] ^ words[:-1], words ^ SECRET.source("other").words(2**15)):
        ones = np.unpackbits(stream.view(np.uint8).reshape(-1, 4), axis=1).mean(axis=0)
        assert np.abs(ones - 0.5).max() < 5 * 0.5 / np.sqrt(len(stream))


def test_a_lock_draws_from_a_source():
    params = {"w": jnp.array([1.0, -0.0, 3.5])}
    lock = ml.stream_lock()
    key = lock.init(SECRET.source("model 1"), params)
    expected = oracle(RAW, 11, "model 1")
    np.testing.assert_array_equal(np.concatenate([key.key, key.nonce]), expected)
    first, second = ml.chain(lock, lock).init(SECRET.source("model 1"), params)
    np.testing.assert_array_equal(first.key, oracle(RAW, 8, "model 1", "0"))
    np.testing.assert_array_equal(second.key, oracle(RAW, 8, "model 1", "1"))
    assert base.random_words(SECRET.source("a"), 3).dtype == jnp.uint32


@pytest.mark.parametrize("method", [KeySource.words, KeySource.split])
@pytest.mark.parametrize(
    ("n", "error"), [(-1, ValueError), (2**36 + 1, ValueError), (2.0, TypeError)]
)
def test_counts_out_of_range(method: Callable[..., Any], n, error):
    with pytest.raises(error, match=r"0 to 2\*\*36|integer"):
        method(SECRET.source("a"), n)


def test_a_label_is_a_str():
    with pytest.raises(TypeError, match="label must be a str, not bytes"):
        SECRET.source(b"a")


@pytest.mark.parametrize("raw", [RAW[:31], RAW + b"x", bytearray(RAW), RAW.hex()], ids=range(4))
def test_a_secret_is_32_bytes(raw):
    with pytest.raises(ValueError, match="32 random bytes; use generate") as caught:
        Secret(raw)
    assert not shows(str(caught.value))


def test_generate_asks_the_operating_system(monkeypatch):
    assert keys.generate() != keys.generate()
    monkeypatch.setattr(secrets, "token_bytes", lambda n: RAW[:n])
    assert keys.generate() == SECRET


def test_equality_is_constant_time_and_there_is_no_hash(monkeypatch):
    assert Secret(RAW) == SECRET
    assert Secret(RAW[:31] + bytes([RAW[31] ^ 1])) != SECRET
    assert SECRET != RAW
    with pytest.raises(TypeError, match="unhashable"):
        hash(SECRET)
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or False)
    assert Secret(RAW) != SECRET
    assert compared == [(RAW, RAW)]


# Nothing shows


HOLDERS = {
    "Secret": SECRET,
    "KeySource": SECRET.source("a"),
    "child": SECRET.source("a").split(1)[0],
}


def test_the_search_finds_what_it_looks_for():
    """Among others in the error of the JSON parser, which carries the text it could not read."""
    with pytest.raises(ValueError, match="Expecting") as caught:
        json.loads(SECRET_64[1:])
    assert not shows(str(caught.value))
    assert shows(told(caught.value))
    for form in (RAW.hex().upper(), repr(RAW), str(list(RAW)), base64.b64encode(RAW).decode()):
        assert shows(f"<{form}>")
        assert shows(form[10:30])
    assert not shows(repr(SECRET))


def attributes(holder: Any) -> list[Any]:
    return [getattr(holder, name) for name in type(holder).__slots__] + [holder.__getstate__()]


SHOW: dict[str, Callable[[Any], Any]] = {
    "repr": repr,
    "str": str,
    "format": format,
    "pprint": pprint.pformat,
    "inside": lambda holder: [holder, {"key": holder}],
    "attributes": attributes,
}


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
@pytest.mark.parametrize("show", SHOW.values(), ids=SHOW)
def test_no_text_shows_the_secret(holder, show):
    text = str(show(holder))
    assert not shows(text)
    assert SECRET.id in text or show is attributes
    with pytest.raises(TypeError, match="__dict__"):
        vars(holder)


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
def test_nothing_is_pickled(holder):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        written = io.BytesIO()
        with pytest.raises(TypeError, match="pickle"):
            pickle.Pickler(written, protocol).dump(holder)
        assert RAW not in written.getvalue()
    with pytest.raises(TypeError, match="nor copied; use save"):
        copy.deepcopy(holder)


def test_a_secret_is_not_copied():
    with pytest.raises(TypeError, match="nor copied; use save"):
        copy.copy(SECRET)


# The key file


def test_a_saved_key_is_the_same_key(tmp_path):
    keys.save(SECRET, tmp_path / "owner.key")
    assert keys.load(str(tmp_path / "owner.key")) == SECRET
    fields = json.loads((tmp_path / "owner.key").read_text())
    created = fields.pop("created")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00", created)
    secret = base64.b64encode(RAW).decode()
    head = {"format": "modellock-jax key", "version": 1}
    assert fields == head | {"id": SECRET.id, "secret": secret}
    assert os.listdir(tmp_path) == ["owner.key"]


def test_mode_is_0600_from_the_first_byte(tmp_path, monkeypatch, no_umask):
    """Under umask 0, at creation and at every step after it; synced before it has its name."""
    opened, steps = [], []
    real_open, real_sync, real_link = os.open, os.fsync, os.link
    target = tmp_path / "owner.key"

    def spy_open(path: Any, flags: int, mode: int = 0o777, **kwargs: Any) -> int:
        fd = real_open(path, flags, mode, **kwargs)
        if flags & os.O_CREAT:
            opened.append((bool(flags & os.O_EXCL), stat.S_IMODE(os.fstat(fd).st_mode)))
        return fd

    def spy_sync(fd: int) -> None:
        found = os.fstat(fd)
        steps.append(
            "sync directory" if stat.S_ISDIR(found.st_mode) else f"sync {found.st_size > 0}"
        )
        assert stat.S_ISDIR(found.st_mode) or stat.S_IMODE(found.st_mode) == 0o600
        real_sync(fd)

    def spy_link(source: Any, destination: Any) -> None:
        steps.append("link")
        assert not target.exists()
        real_link(source, destination)

    monkeypatch.setattr(os, "open", spy_open)
    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(os, "link", spy_link)
    keys.save(SECRET, target)
    assert opened == [(True, 0o600)]
    assert steps == ["sync True", "link", "sync directory"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert target.stat().st_nlink == 1


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_nothing_is_overwritten(tmp_path, kind):
    target = tmp_path / "owner.key"
    if kind == "file":
        target.write_text("another key")
    elif kind == "directory":
        target.mkdir()
    else:
        target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match=r"owner\.key exists and is kept; choose another"):
        keys.save(SECRET, target)
    assert os.listdir(tmp_path) == ["owner.key"]
    assert kind != "file" or target.read_text() == "another key"


def test_a_missing_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no directory .*absent; create it first"):
        keys.save(SECRET, tmp_path / "absent" / "owner.key")


@pytest.mark.parametrize(
    "error", [OSError("no"), KeyboardInterrupt()], ids=["OSError", "interrupt"]
)
@pytest.mark.parametrize("step", ["fdopen", "fsync", "link"])
def test_a_failure_leaves_nothing(tmp_path, monkeypatch, step, error):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(type(error)) as caught:
            keys.save(SECRET, tmp_path / "owner.key")
    assert caught.value is error
    assert os.listdir(tmp_path) == []
    assert not shows(told(error))
    keys.save(SECRET, tmp_path / "owner.key")


@pytest.mark.parametrize("size", [0, 1, 100, 180])
def test_a_full_disk_leaves_nothing(tmp_path, size):
    """The kernel takes the first bytes and then refuses."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            keys.save(SECRET, tmp_path / "owner.key")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []
    assert not shows(told(caught.value))


def test_a_failed_sync_of_the_directory_leaves_the_whole_key(tmp_path, monkeypatch):
    real_sync = os.fsync

    def fail(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError("no")
        real_sync(fd)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no"):
        keys.save(SECRET, tmp_path / "owner.key")
    assert os.listdir(tmp_path) == ["owner.key"]
    assert keys.load(tmp_path / "owner.key") == SECRET


def test_a_killed_process_leaves_no_target(tmp_path):
    """No cleaning up: the process ends between the write and the publication."""
    script = (
        "import os, sys; from modellock_jax.vault import keys\n"
        "os.link = lambda *args: os._exit(9)\n"
        "keys.save(keys.generate(), sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "owner.key")], check=False)
    assert done.returncode == 9
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(r"\.modellock-.*\.tmp", left.name)
    assert stat.S_IMODE(left.stat().st_mode) == 0o600


# Strict loading

SECRET_64 = base64.b64encode(RAW).decode()
GOOD: dict[str, Any] = {
    "format": "modellock-jax key",
    "version": 1,
    "id": SECRET.id,
    "created": "2026-01-02T03:04:05+00:00",
    "secret": SECRET_64,
}


def changed(**fields: Any) -> bytes:
    return json.dumps(GOOD | fields).encode()


def told(error: BaseException) -> str:
    """All that a logger can print of an error: chain, attributes, each frame's locals but ours."""
    texts, todo = [], [error]
    while todo:
        e = todo.pop()
        tb = e.__traceback__
        while tb and tb.tb_frame.f_code.co_filename == __file__:
            tb = tb.tb_next
        texts += traceback.TracebackException(type(e), e, tb, capture_locals=True).format()
        texts += [repr(getattr(e, name, None)) for name in dir(e) if name[0] != "_"]
        todo += [link for link in (e.__cause__, e.__context__) if link]
    return "".join(texts)


NO_KEY_FILE = "is not a modellock-jax key file, or is damaged"
VERSION = "is not of version 1"
FIELDS = "must have format, version, id, created, secret, each once"
BASE64 = "has a field `secret` that is not 32 bytes in base64"
ID = "has an id that does not match its secret"
WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", NO_KEY_FILE),
    "raw bytes": (RAW, NO_KEY_FILE),
    "not UTF-8": (changed()[:-1] + b"\xff}", NO_KEY_FILE),
    "UTF-16": (changed().decode().encode("utf-16"), NO_KEY_FILE),
    "byte order mark": (b"\xef\xbb\xbf" + changed(), NO_KEY_FILE),
    "cut": (changed()[:-3], NO_KEY_FILE),
    "two documents": (changed() * 2, NO_KEY_FILE),
    "a list of pairs": (json.dumps(list(GOOD.items())).encode(), NO_KEY_FILE),
    "a string": (json.dumps(SECRET_64).encode(), NO_KEY_FILE),
    "null": (b"null", NO_KEY_FILE),
    "empty object": (b"{}", NO_KEY_FILE),
    "too deep": (b"[" * 4000, NO_KEY_FILE),
    "deep object": (b'{"format":' * 400, NO_KEY_FILE),
    "too long a number": (changed(version=1)[:-1] + b', "n": ' + b"9" * 3800 + b"}", FIELDS),
    "too large": (changed() + b" " * 4096, NO_KEY_FILE),
    "format": (changed(format="modellock-jax keys"), NO_KEY_FILE),
    "format of another type": (changed(format=["modellock-jax key"]), NO_KEY_FILE),
    "version 2": (changed(version=2), VERSION),
    "version true": (changed(version=True), VERSION),
    "version 1.0": (changed(version=1.0), VERSION),
    "version text": (changed(version="1"), VERSION),
    "version NaN": (changed(version=float("nan")), VERSION),
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
        keys.load(path)
    assert type(caught.value) is ValueError
    assert str(caught.value).startswith(f"load: {path} ")
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
            accepted.append(keys.load(write(tmp_path / "owner.key", content)) == Secret(raw))
        except ValueError:
            assert base64.b64encode(raw).decode() != text
    assert accepted == [True] * 16


def test_order_and_space_are_free(tmp_path):
    content = json.dumps(dict(reversed(GOOD.items())), indent=7).encode()
    assert keys.load(write(tmp_path / "owner.key", b"\r\n" + content)) == SECRET
    full = changed() + b" " * (4096 - len(changed()))
    assert keys.load(write(tmp_path / "owner.key", full)) == SECRET
    with pytest.raises(ValueError, match="is not a modellock-jax key file"):
        keys.load(write(tmp_path / "owner.key", full + b" "))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777])
def test_a_file_open_to_others_is_refused(tmp_path, mode):
    path = write(tmp_path / "owner.key", changed(), mode)
    with pytest.raises(PermissionError, match="run `chmod 600` on it") as caught:
        keys.load(path)
    assert not shows(told(caught.value))
    path.chmod(0o400)
    assert keys.load(path) == SECRET


@pytest.mark.parametrize("kind", ["absent", "directory", "pipe"])
def test_no_file(tmp_path, kind):
    path = tmp_path / "owner.key"
    if kind == "directory":
        path.mkdir(0o700)
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    with pytest.raises(FileNotFoundError, match=r"no key file .*owner\.key; write one with save"):
        keys.load(path)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "owner.key"


def loads_or_refuses(path: Path, content: bytes) -> None:
    write(path, content)
    try:
        refusal = None
        assert keys.load(path) == SECRET
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
