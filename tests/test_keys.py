"""Host keys: known answers, separation of labels, and nothing shown."""

import base64
import copy
import hashlib
import hmac
import io
import json
import pickle
import pprint
import secrets
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.hidden import RAW, SECRET, SECRET_64, shows, told

import modellock_jax as ml
from modellock_jax.ciphers import chacha
from modellock_jax.core import source as base
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.secret import KeySource, Secret, generate_key


def hkdf(raw: bytes, length: int, *parts: str) -> bytes:
    """RFC 5869 from its text, with HMAC alone; `length` is at most 32."""
    info = b""
    for part in ("modellock-jax keys v2", *parts):
        info += len(part.encode()).to_bytes(4, "big") + part.encode()
    extracted = hmac.digest(bytes(32), raw, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")[:length]


def oracle(raw: bytes, n: int, *path: str) -> np.ndarray:
    """The words by way of the in-graph cipher, which shares no code with OpenSSL."""
    key = jnp.asarray(np.frombuffer(hkdf(raw, 32, "words", *path), "<u4"))
    counters = jnp.arange(-(-n // 16), dtype=jnp.uint32)
    return np.asarray(chacha.blocks(key, jnp.zeros(3, jnp.uint32), counters)).reshape(-1)[:n]


# Words and ids


def test_version_2_is_frozen():
    """Other answers here would open no locked model again: they need another version."""
    secret = Secret(bytes(range(32)))
    assert secret.id == "ae6cc8ac01fdd5a135562bf1b09e9019"
    assert secret.source("model 1").words(4).tolist() == [
        172937558,
        2775864891,
        1003589938,
        667303739,
    ]
    assert secret.source("model 1").split(2)[1].words(2).tolist() == [1484446458, 3357220569]


@pytest.mark.parametrize("label", ["model 1", "", "a/b", "Schlüssel 鍵", "x" * 300])
def test_words_are_chacha20_under_hkdf(label):
    source = SECRET.source(label)
    words = source.words(37)
    assert words.dtype == np.uint32
    np.testing.assert_array_equal(words, oracle(RAW, 37, label))
    child = source.split(12)[11].split(1)[0]
    np.testing.assert_array_equal(
        child.words(16), oracle(RAW, 16, label, "place 12 of 12", "place 1 of 1")
    )


def test_ids_are_hashes_of_the_public_keys():
    whole, classic = identity.public_key(SECRET), identity.public_key(SECRET, classic=True)
    for public in (whole, classic):
        texts = {k: base64.b64encode(v).decode() for k, v in public._asdict().items()}
        texts |= {"format": "modellock-jax public key", "kind": public.kind}
        spelled = json.dumps(texts, sort_keys=True, separators=(",", ":")).encode()
        assert public.id == hashlib.sha256(spelled).hexdigest()[:32] == public.fingerprint[:32]
    assert SECRET.ids == {"mlkem768-x25519": whole.id, "x25519": classic.id}
    assert SECRET.id == whole.id != classic.id
    assert SECRET.id != Secret(bytes(32)).id


def test_words_and_split_are_pure_and_prefixes():
    source = SECRET.source("model 1")
    first = source.words(10)
    np.testing.assert_array_equal(source.words(10), first)
    for n in (0, 1, 5, np.int64(9)):
        np.testing.assert_array_equal(source.words(n), first[:n])
    two, three = ([s.words(3).tolist() for s in source.split(n)] for n in (2, 3))
    assert len({*map(tuple, two + three)}) == 5
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
            family += [
                source.for_lock("place 1 of 11"),
                children[0].for_lock(""),
                source.for_file(""),
            ]
            streams += [one.words(4).tobytes() for one in family]
    assert len(set(streams)) == len(streams) == 2 * len(labels) * 19


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
    expected = oracle(RAW, 11, "model 1", "lock stream_lock()")
    np.testing.assert_array_equal(np.concatenate([key.key, key.nonce]), expected)
    first, second = ml.chain(lock, lock).init(SECRET.source("model 1"), params)
    np.testing.assert_array_equal(
        first.key, oracle(RAW, 8, "model 1", "place 1 of 2", "lock stream_lock()")
    )
    np.testing.assert_array_equal(
        second.key, oracle(RAW, 8, "model 1", "place 2 of 2", "lock stream_lock()")
    )
    assert base.random_words(SECRET.source("a"), 3, "any").dtype == jnp.uint32


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
    assert generate_key() != generate_key()
    monkeypatch.setattr(secrets, "token_bytes", lambda n: RAW[:n])
    assert generate_key() == SECRET


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
