"""Locked files larger than memory: read, locked, checked and opened in pieces, in any stretch."""

import io
import itertools
import math
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.commands import within
from helpers.sealed import ALICE
from safetensors.numpy import load_file, save, save_file

import modellock_jax as ml
from modellock_jax.ciphers import chacha
from modellock_jax.ciphers.nonces import leaf_nonce
from modellock_jax.cli import inputs
from modellock_jax.locks import SCHEMES
from modellock_jax.vault._tensors import DTYPES, Tensor, lay_out
from modellock_jax.vault.errors import Tampered
from modellock_jax.vault.keys import secret
from modellock_jax.vault.locked import _file_schemes
from modellock_jax.vault.locked._host_stream import HostStream
from modellock_jax.vault.locked.files import load_locked, lock_file, unlock_file
from modellock_jax.vault.sealed import _chunks

SOURCE = ALICE.source("pieces").for_file("one")
SIZES = (0, 1, 63, 64, 65, 0, 200, 7)


def tensors(sizes):
    ends = np.cumsum(sizes).tolist()
    return [
        Tensor(f"t{i}", np.dtype(np.uint8), (n,), end - n, end)
        for i, (n, end) in enumerate(zip(sizes, ends))
    ]


@pytest.mark.parametrize("step", [1, 3, 64, 100, 1000])
def test_any_stretch_is_masked_as_in_the_whole(step):
    stream = HostStream(SOURCE, bytes(12), tensors(SIZES))
    whole = np.zeros(sum(SIZES), np.uint8)
    stream.change(0, whole)
    parts = np.zeros_like(whole)
    for start in range(0, whole.size, step):
        stream.change(start, parts[start : start + step])
    np.testing.assert_array_equal(parts, whole)
    assert len({whole[t.begin : t.end].tobytes()[:63] for t in tensors(SIZES)[2:5]}) == 3


def test_beyond_the_counter_the_nonce_counts_on():
    (huge,) = tensors([2**39])
    stream, found = HostStream(SOURCE, bytes(12), [huge]), np.zeros(256, np.uint8)
    stream.change(2**38 - 130, found)
    key = jnp.asarray(np.frombuffer(stream._key, "<u4"))
    expected = b""
    for number in range(2**32 - 3, 2**32 + 2):
        nonce = [*leaf_nonce(huge.name), np.uint32(number >> 32)]
        words = chacha.words(key, [jnp.uint32(n) for n in nonce], jnp.uint32(number % 2**32))
        expected += np.array(words).astype("<u4").tobytes()
    assert found.tobytes() == expected[62 : 62 + 256]


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(_chunks, "CHUNK", 64)


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"w{i}": rng.integers(0, 256, (5, 31 * i + 1), np.uint8) for i in range(9)}
    arrays["kernel"] = rng.normal(size=(40, 50)).astype(np.float32)
    save_file(arrays, tmp_path / "m")
    return tmp_path / "m", arrays


@pytest.mark.parametrize("scheme", ["stream_lock", "sign_flip(bits=3)"])
def test_tensors_that_straddle_pieces_come_back(scheme, small_pieces, file, tmp_path):
    path, arrays = file
    lock_file(path, tmp_path / "l", ALICE, scheme)
    assert (load_file(tmp_path / "l")["kernel"] != arrays["kernel"]).any()
    unlock_file(tmp_path / "l", tmp_path / "again", ALICE)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    opened = load_locked(tmp_path / "l", ALICE)
    assert all(np.array_equal(opened[name], array) for name, array in arrays.items())
    # A stream that cannot go back takes what a file takes.
    unlock_file(tmp_path / "l", stream := io.BytesIO(), ALICE)
    assert stream.getvalue() == path.read_bytes()


KINDS = ("F32", "BF16", "F16", "F8_E5M2", "I32", "I8")
OTHERS = ("I64", "BOOL", "F64")  # which a sign lock leaves as they are


def signed(rng):
    """A body of layers of every kind, and its tensors."""
    shapes = {"weight": (7, 3, 5), "bias": (7,), "scale": (3,)}
    arrays = {"flax/kernel": rng.normal(size=(4, 33)).astype(np.float32)}
    for kind, (name, shape) in itertools.product(KINDS, shapes.items()):
        dtype = DTYPES[kind]
        raw = rng.integers(0, 256, math.prod(shape) * dtype.itemsize, np.uint8)
        arrays[f"{kind}.{name}"] = raw.view(dtype).reshape(shape)
    arrays |= {f"{kind}.count": np.ones(3, DTYPES[kind]) for kind in OTHERS}
    directory = lay_out(arrays, {})
    parts = [arrays[one.name].tobytes() for one in directory.tensors]
    return directory.tensors, np.frombuffer(b"".join(parts), np.uint8)


@pytest.mark.parametrize("step", [8, 64, 104, 4096])
def test_signs_negated_in_pieces_are_those_of_the_lock(step):
    scheme = _file_schemes.normalise("sign_flip(bits=5)")
    found, body = signed(np.random.default_rng(1))
    expected, finish = _file_schemes.lock_body(scheme, SOURCE, tuple(found), body)
    assert _file_schemes.in_pieces(scheme, found)
    change, same = _file_schemes.change_of(scheme, SOURCE, None, found)
    locked = body.copy()
    for start in range(0, body.size, step):
        change(start, locked[start : start + step])
    np.testing.assert_array_equal(locked, expected)
    assert same == finish
    assert (locked != body).any()
    assert not _file_schemes.in_pieces(scheme, [found[0]._replace(begin=1)])


def test_a_key_that_negates_nothing_locks_no_file(monkeypatch):
    found, _ = signed(np.random.default_rng(1))
    change = SCHEMES["sign_flip"].files.in_pieces
    shapes = {one.name: np.broadcast_to(np.zeros((), one.dtype), one.shape) for one in found}
    with pytest.raises(ValueError, match="negates none"):
        change(ml.SignKey(np.ones(5, np.int8)), shapes)


def test_what_changes_while_it_is_opened_is_not_given_out(small_pieces, file, tmp_path):
    path, _ = file
    lock_file(path, tmp_path / "l", ALICE, "stream_lock")
    size = (tmp_path / "l").stat().st_size

    def change(_):
        with open(tmp_path / "l", "r+b") as locked:
            locked.seek(size - 1)
            locked.write(bytes([last ^ 1]))

    last = (tmp_path / "l").read_bytes()[-1]
    with pytest.raises(Tampered, match="changed while it was read"):
        unlock_file(tmp_path / "l", tmp_path / "x", ALICE, done=change)
    assert not (tmp_path / "x").exists()


def test_what_changes_while_it_is_locked_is_not_locked(small_pieces, file, monkeypatch):
    path, _ = file

    class Changing(io.BytesIO):
        def write(self, data):
            with open(path, "r+b") as plain:
                plain.seek(-1, os.SEEK_END)
                plain.write(bytes([last ^ 1]))
            return super().write(data)

    last = path.read_bytes()[-1]
    with pytest.raises(Tampered, match="changed while it was read"):
        lock_file(path, Changing(), ALICE, "stream_lock")


PROGRAM = """
import resource, sys
from modellock_jax import vault
secret, folder = vault.generate_key(), sys.argv[1]
def both(name):
    vault.lock_file(f"{folder}/{name}", f"{folder}/locked", secret, "stream_lock")
    vault.unlock_file(f"{folder}/locked", f"{folder}/plain", secret)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = both("small")
print((both("large") - small) * 1024, "jax" in sys.modules)
"""


def test_a_file_takes_no_more_memory_than_its_pieces(tmp_path):
    (tmp_path / "small").write_bytes(save({"w": np.zeros(1, np.uint8)}))
    size = 2**28
    head = save({"w": np.zeros(0, np.uint8)}).replace(b"[0]", b"[%d]" % size)
    head = head.replace(b"[0,0]", b"[0,%d]" % size)
    length = len(head) - 8
    with open(tmp_path / "large", "wb") as file:
        file.write(length.to_bytes(8, "little") + head[8:])
        file.truncate(8 + length + size)
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True, check=True
    )
    taken, jax_there = ran.stdout.split()
    assert int(taken) <= _file_schemes.memory_of("stream_lock()", size) < size / 3
    assert jax_there == "False"
    assert (tmp_path / "plain").stat().st_size == 8 + length + size


def test_a_lock_that_needs_much_memory_says_so_before_it_begins(tmp_path, monkeypatch):
    save_file({"w": np.zeros((8, 2**20), np.uint8)}, tmp_path / "m")
    secret.save_key(ALICE, tmp_path / "k")
    monkeypatch.setattr(inputs, "_MUCH", 2**24)
    monkeypatch.setattr(_file_schemes, "_PIECES", 0)
    (tmp_path / "folder").mkdir()
    save_file({"w": np.zeros((8, 2**20), np.uint8)}, tmp_path / "folder" / "m.safetensors")
    for scheme, says in (("deep_lock", True), ("stream_lock", False)):
        how, told = ("--scheme", scheme, "--key", "k"), []
        for source, target in (("m", "l"), ("folder", f"{scheme}.set")):
            told.append(within(tmp_path, "lock", source, target, *how, "--force"))
            told.append(within(tmp_path, "unlock", target, f"{target}.2", "--key", "k", "--force"))
        users = ("--user", "a", "--register", f"{scheme}.r")
        told.append(within(tmp_path, "issue", "m", scheme, *users, *how))
        for ran in told:
            assert ran.code == 0, ran.told
            assert ("holds the file in memory, about 0.0 GiB" in ran.told) == says
