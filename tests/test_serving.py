"""Locked and issued files from Python: arrays, or locked weights for a program that serves them."""

import io
import os
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.sealed import ALICE, BOB, MALLORY, OWNER, same, some
from safetensors.numpy import load, save

import modellock_jax as ml
from modellock_jax.vault import checkpoint
from modellock_jax.vault.errors import Expired, Tampered, Unreadable, WrongKey
from modellock_jax.vault.issuing import revocation
from modellock_jax.vault.issuing.copies import issue
from modellock_jax.vault.keys.secret import load_key
from modellock_jax.vault.locked.files import (
    load_locked,
    lock_file,
    locked_info,
    unlock_file,
)
from modellock_jax.vault.locked.serving import open_locked

SCHEMES = (
    "stream_lock", "deep_lock", "sign_flip(bits=8)+stream_lock",
)  # fmt: skip
# Names whose order by code points is not that of a nested tree: `-` and `.` come before `/`.
TREE = {
    "a": {"kernel": np.linspace(-1, 1, 12, dtype="f4").reshape(4, 3), "bias": np.ones(3, "f4")},
    "a-b": {"kernel": np.linspace(2, -1, 6, dtype="f4").reshape(3, 2)},
    "a.c": np.arange(2, dtype="f4"),
}
X = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 4)


def forward(params, x, tap=ml.untapped):
    h = tap("a", x @ params["a"]["kernel"] + params["a"]["bias"][None])
    return tap("b", jnp.tanh(h) @ params["a-b"]["kernel"]) + params["a.c"][None]


def by_name(params, x, tap=ml.untapped):
    return forward(checkpoint.to_tree(params), x, tap)


def file_of(arrays, scheme="stream_lock", secret=ALICE):
    file = io.BytesIO()
    lock_file(save(arrays), file, secret, scheme)
    return file.getvalue()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_server_computes_what_the_plain_model_does(scheme):
    file = file_of(checkpoint.to_names(TREE), scheme)
    expected = np.asarray(jax.jit(forward)(TREE, X))
    lock, key, weights = open_locked(file, ALICE)
    assert sorted(weights) == sorted(checkpoint.to_names(TREE))
    assert not same(weights, checkpoint.to_names(TREE))
    if scheme == "stream_lock":
        flat = jax.jit(ml.user_forward(lock, by_name))(key, weights, X)
        np.testing.assert_array_equal(flat, expected)
    lock, key, weights = open_locked(file, ALICE, like=jax.eval_shape(lambda: TREE))
    assert jax.tree.structure(weights) == jax.tree.structure(TREE)
    nested = jax.jit(ml.user_forward(lock, forward))(key, weights, X)
    np.testing.assert_array_equal(nested, expected)
    assert same(load_locked(file, ALICE), checkpoint.to_names(TREE))


def test_a_layer_at_a_time(optimised):
    tree = {"layers": {"w": np.linspace(-1, 1, 48, dtype="f4").reshape(3, 4, 4)}}

    def scanned(params, x, tap=ml.untapped):
        return jax.lax.scan(lambda h, one: (h @ one["w"], None), x, params["layers"])[0]

    lock, key, weights = open_locked(file_of(checkpoint.to_names(tree)), ALICE, like=tree)
    user = ml.user_forward(lock, scanned, lambda path: path.startswith("layers/"))
    np.testing.assert_array_equal(jax.jit(user)(key, weights, X), jax.jit(scanned)(tree, X))


def test_bools_and_values_of_64_bits():
    arrays = some() | {
        "mask": np.array([[True, False, True]]), "scalar": np.array(7, np.int64),
        "complex": np.array([1 + 2j, -0j], np.complex64), "nan": np.array([np.nan, -0.0]),
    }  # fmt: skip
    file = file_of(arrays)
    assert same(load_locked(file, ALICE), arrays)
    assert not same(load(file), arrays)
    with pytest.raises(ValueError, match=r"64 bits, which JAX takes only after .*jax_enable_x64"):
        open_locked(file, ALICE)
    with jax.enable_x64(True):
        lock, key, weights = open_locked(file, ALICE)
        assert weights["mask"].dtype == np.uint8
        assert (weights["scalar"].dtype, weights["scalar"].shape) == (np.uint32, (2,))
        assert same(jax.device_get(jax.jit(lock.decrypt)(key, weights)), arrays)
    narrow = {name: arrays[name] for name in ("mask", "complex")}
    lock, key, weights = open_locked(file_of(narrow), ALICE)
    assert same(jax.device_get(lock.decrypt(key, weights)), narrow)


def test_like_must_fit():
    file = file_of(checkpoint.to_names(TREE))
    got = load_locked(file, ALICE, like=TREE)
    assert jax.tree.structure(got) == jax.tree.structure(TREE)
    assert same(checkpoint.to_names(got), checkpoint.to_names(TREE))
    wrong = [TREE | {"more": np.ones(2)}, {"a": TREE["a"]}, TREE | {"a.c": np.ones(3, "f4")},
             TREE | {"a.c": np.ones(2, "f2")}]  # fmt: skip
    for like in wrong:
        for read in (load_locked, open_locked):
            with pytest.raises(ValueError, match=r"in `like`|missing in the checkpoint"):
                read(file, ALICE, like=like)


@pytest.fixture
def sources(tmp_path):
    """One locked file in every form that is read."""
    data = file_of(some())
    (tmp_path / "l.st").write_bytes(data)
    read_end, write_end = os.pipe()
    with open(tmp_path / "l.st", "rb") as file, open(read_end, "rb") as stream:
        os.write(write_end, data)
        os.close(write_end)
        yield {
            "str": str(tmp_path / "l.st"), "path": tmp_path / "l.st", "bytes": data,
            "memoryview": memoryview(data), "BytesIO": io.BytesIO(data), "file": file,
            "stream": stream,
        }  # fmt: skip


@pytest.mark.parametrize(
    "form", ["str", "path", "bytes", "memoryview", "BytesIO", "file", "stream"]
)
@pytest.mark.parametrize("read", ["load", "open", "unlock", "info"])
def test_paths_bytes_and_file_objects_are_taken(sources, form, read, tmp_path):
    source = sources[form]
    if read == "load":
        assert same(load_locked(source, ALICE), some())
    elif read == "open":
        with jax.enable_x64(True):
            lock, key, weights = open_locked(source, ALICE)
            assert same(jax.device_get(lock.decrypt(key, weights)), some())
    elif read == "unlock":
        into = io.BytesIO()
        unlock_file(source, into, ALICE)
        assert same(load(into.getvalue()), some())
    else:
        assert locked_info(source).key_id == ALICE.id


def test_what_is_read_is_locked_from_every_form(tmp_path, monkeypatch):
    plain = save(some())
    (tmp_path / "m").write_bytes(plain)
    with open(tmp_path / "m", "rb") as file:
        for source in (tmp_path / "m", plain, bytearray(plain), io.BytesIO(plain), file):
            into = io.BytesIO()
            lock_file(source, into, ALICE, "stream_lock")
            assert same(load_locked(into.getvalue(), ALICE), some())
    read_end, write_end = os.pipe()
    os.write(write_end, plain)
    os.close(write_end)
    with open(read_end, "rb") as stream, monkeypatch.context() as m:
        m.setattr(tempfile, "TemporaryFile", None)  # no spool: it would be plain
        into = io.BytesIO()
        lock_file(stream, into, ALICE, "stream_lock")
    assert same(load_locked(into.getvalue(), ALICE), some())
    with pytest.raises(TypeError, match="give a path, bytes or a file opened in binary mode"):
        lock_file(io.StringIO(""), tmp_path / "x", ALICE, "stream_lock")
    with pytest.raises(TypeError, match="give a path or a file opened in binary mode"):
        lock_file(plain, io.StringIO(), ALICE, "stream_lock")


@pytest.mark.parametrize("read", [load_locked, open_locked])
def test_wrong_damaged_and_revoked_as_unlock_says(read, tmp_path, monkeypatch):
    file = file_of({"w": np.arange(9, dtype="f4")})
    with pytest.raises(WrongKey, match=f"locked with {ALICE.id}, and this is {BOB.id}"):
        read(file, BOB)
    for at in (len(file) - 1, len(file) - 30, 40):
        with pytest.raises((Tampered, Unreadable)):
            read(file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :], ALICE)
    revocation.revoke(tmp_path / "list", [ALICE.id], OWNER)
    with pytest.raises(Expired, match=ALICE.id):
        read(file, ALICE, revoked=[tmp_path / "list"])
    monkeypatch.setenv(revocation.LISTS, str(tmp_path / "list"))
    with pytest.raises(Expired, match=ALICE.id):
        read(file, ALICE)
    monkeypatch.delenv(revocation.LISTS)
    (tmp_path / "l.st").write_bytes(file)
    read(tmp_path / "l.st", ALICE)
    os.rename(tmp_path / "list", tmp_path / "revoked.json")
    with pytest.raises(Expired, match=ALICE.id):
        read(tmp_path / "l.st", ALICE)


def test_nothing_is_written(tmp_path, monkeypatch):
    """A stream's spool apart, which holds what came: the locked file."""
    file, real = file_of(checkpoint.to_names(TREE)), os.open

    def reading_only(path, flags, *rest, **options):
        assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT), path
        return real(path, flags, *rest, **options)

    (tmp_path / "l.st").write_bytes(file)
    monkeypatch.setattr(os, "open", reading_only)
    for source in (tmp_path / "l.st", file):
        lock, key, weights = open_locked(source, ALICE, like=TREE)
        ml.user_forward(lock, forward)(key, weights, X)
        load_locked(source, ALICE)
    assert os.listdir(tmp_path) == ["l.st"]


def test_an_issued_copy_opens_for_its_user(tmp_path):
    (tmp_path / "m").write_bytes(save(checkpoint.to_names(TREE)))
    (one,) = issue(tmp_path / "m", tmp_path / "out", ["alice"], OWNER, tmp_path / "r")
    own = load_key(one.key)
    assert same(load_locked(one.copy, own), checkpoint.to_names(TREE))
    lock, key, weights = open_locked(one.copy, own, like=TREE)
    np.testing.assert_array_equal(ml.user_forward(lock, forward)(key, weights, X), forward(TREE, X))
    with pytest.raises(WrongKey):
        open_locked(one.copy, MALLORY)
