"""Keys below keys: known answers, one way down, names that mean one thing, and the command."""

import hmac
import itertools
import json
import re

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from helpers.commands import bad, good
from helpers.hidden import RAW, SECRET, shows, told, write
from hypothesis import given, settings
from hypothesis import strategies as st

from modellock_jax.vault.keys.secret import Origin, Secret, load_key, save_key

PATH = "acme/vision/alice/resnet18/conv1.kernel"


def info(name: str) -> bytes:
    """What a level is derived under, spelled out."""
    label = b"\x00\x00\x00\x15modellock-jax keys v2" + b"\x00\x00\x00\x05child"
    return label + len(name.encode()).to_bytes(4, "big") + name.encode()


def by_hmac(raw: bytes, path: str) -> bytes:
    """RFC 5869 from its text, with the standard library alone."""
    for name in path.split("/"):
        raw = hmac.digest(hmac.digest(bytes(32), raw, "sha256"), info(name) + b"\x01", "sha256")
    return raw


def by_cryptography(raw: bytes, path: str) -> bytes:
    for name in path.split("/"):
        extracted = HKDF.extract(SHA256(), None, raw)
        raw = HKDFExpand(SHA256(), 32, info(name)).derive(extracted)
    return raw


def test_the_tree_is_frozen():
    """Another answer here would lose every derived key: it needs another label."""
    assert Secret(bytes(range(32))).child(PATH).id == "be8cb8afab295af0b64c37d2f257f1e7"


@pytest.mark.parametrize("path", ["a", PATH, "Schlüssel/鍵/x y", "a" * 1000, "/".join("ab" * 200)])
def test_each_level_is_hkdf_of_the_one_above(path):
    child = SECRET.child(path)
    assert child == Secret(by_hmac(RAW, path)) == Secret(by_cryptography(RAW, path))
    assert child.origin == Origin(SECRET.id, path)


def test_a_path_may_be_walked_in_any_steps():
    names = PATH.split("/")
    whole = SECRET.child(PATH)
    for cut in range(1, len(names)):
        part = SECRET.child("/".join(names[:cut]))
        last = part.child("/".join(names[cut:]))
        assert last == whole
        assert last.origin == Origin(part.id, "/".join(names[cut:]))
    assert SECRET.origin is None


def test_no_two_keys_are_the_same():
    """Names that look like paths, labels and encodings of others; every use of every key."""
    names = ["a", "b", "ab", "a b", "id", "words", "child", "x25519", "0", "a.b", "a\\b", "A", "ä"]
    paths = names + ["/".join(pair) for pair in itertools.product(names, repeat=2)]
    found = [SECRET, *(SECRET.child(path) for path in paths)]
    uses = [(one.id, one.derive(32, "x25519"), one.source("a").words(8).tobytes()) for one in found]
    drawn = [one._reveal() for one in found] + [use for three in uses for use in three]
    drawn += [SECRET.derive(32, *parts) for parts in (["a"], ["child"], ["child", "a", "b"], ["b"])]
    assert len(set(drawn)) == len(drawn) == 4 * (1 + 13 + 169) + 4


def tried(path: str) -> Secret | ValueError:
    try:
        return SECRET.child(path)
    except ValueError as error:
        return error


@settings(derandomize=True, max_examples=300, deadline=None, database=None)
@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4).map("/".join))
def test_any_text_is_refused_or_means_one_key(path):
    child = tried(path)
    if isinstance(child, ValueError):
        assert not shows(told(child))
    else:
        assert child == Secret(by_hmac(RAW, child.origin.path))
        assert SECRET.child(child.origin.path).origin == child.origin


def test_two_spellings_of_one_name_are_one_key():
    composed, decomposed = "M\u00fcller", "Mu\u0308ller"
    assert SECRET.child(composed) == SECRET.child(decomposed)
    assert SECRET.child(decomposed).origin.path == composed
    assert SECRET.child("Muller") != SECRET.child(composed)


@pytest.mark.parametrize(
    "path",
    ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a/./b", " a", "a ", "a/ b", "a\x00", "a\nb",
     "a\u200b", "\ud800", "a\u00a0b", "a\u202eb"],
)  # fmt: skip
def test_names_that_mislead_are_refused(path):
    with pytest.raises(ValueError, match="has a level named"):
        SECRET.child(path)


def test_a_path_is_short_text():
    with pytest.raises(ValueError, match="at most 1000 bytes"):
        SECRET.child("a" * 1001)
    with pytest.raises(ValueError, match="at most 1000 bytes"):
        SECRET.child("ü" * 501)
    with pytest.raises(TypeError, match="must be a str, not bytes"):
        SECRET.child(b"a")


# Key files


@pytest.mark.parametrize("path", ["acme/vision", "ü" * 500, "𝛼" * 250, '"\\' * 500])
def test_a_key_file_says_where_the_key_is_from(tmp_path, path):
    child = SECRET.child(path)
    save_key(child, tmp_path / "child.key")
    again = load_key(tmp_path / "child.key")
    assert again == child
    assert again.origin == child.origin == Origin(SECRET.id, path)
    fields = json.loads((tmp_path / "child.key").read_text())
    assert (fields["parent"], fields["path"]) == (SECRET.id, path)
    assert len(fields) == 8
    assert not shows((tmp_path / "child.key").read_text())
    assert not shows(repr(child), child._reveal())


BOTH = "both or none of parent and path"
WRONG = {
    "no path": ({"parent": SECRET.id}, BOTH),
    "no parent": ({"path": "a"}, BOTH),
    "path null": ({"parent": SECRET.id, "path": None}, BOTH),
    "another field": ({"parent": SECRET.id, "path": "a", "level": "team"}, BOTH),
    "no id": ({"parent": SECRET.id[1:], "path": "a"}, "no key id"),
    "no path of keys": ({"parent": SECRET.id, "path": "a/../b"}, "a path that no key has"),
    "another spelling": ({"parent": SECRET.id, "path": "u\u0308"}, "a path that no key has"),
    "too long": ({"parent": SECRET.id, "path": "a" * 1001}, "a path that no key has"),
}


@pytest.mark.parametrize(("fields", "message"), WRONG.values(), ids=WRONG)
def test_an_origin_is_whole(tmp_path, fields, message):
    save_key(SECRET, tmp_path / "a.key")
    plain = json.loads((tmp_path / "a.key").read_text())
    write(tmp_path / "b.key", json.dumps(plain | fields).encode())
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_key(tmp_path / "b.key")
    assert not shows(told(caught.value))


# The command


def test_keygen_from_a_parent(tmp_path):
    save_key(SECRET, tmp_path / "acme.key")
    at = ["keygen", "alice.key", "--from", "acme.key", "--path", "vision/alice"]
    told = json.loads(good(tmp_path, *at, "--json"))
    child = load_key(tmp_path / "alice.key")
    assert child == SECRET.child("vision/alice")
    assert (told["id"], told["parent"], told["path"]) == (child.id, SECRET.id, "vision/alice")
    assert (tmp_path / "alice.key.pub").exists()
    assert (tmp_path / "alice.key").stat().st_mode & 0o777 == 0o600
    bad(2, "exists and is kept", tmp_path, *at)
    bad(2, "belong together", tmp_path, "keygen", "x.key", "--from", "acme.key")
    bad(2, "belong together", tmp_path, "keygen", "x.key", "--path", "vision")
    bad(2, "has a level named '..'", tmp_path, "keygen", "x.key", *at[2:-1], "../bob")
    bad(6, "no key file", tmp_path, "keygen", "x.key", "--from", "absent.key", "--path", "a")
    assert not list(tmp_path.glob("x.key*"))
