"""Locked files: they load as before, come back to the bit with the key, and with it alone."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
from helpers.sealed import ALICE, BOB, same
from safetensors.numpy import load_file, save_file

import modellock_jax as ml
from modellock_jax.vault import _tensors, checkpoint
from modellock_jax.vault.errors import Tampered, Unreadable, WrongKey
from modellock_jax.vault.locked.files import lock_file, unlock_file

SCHEMES = ("stream_lock", "deep_lock", "deep_lock(key_bits=256,restart='leaf')+stream_lock")


def every_dtype():
    rng = np.random.default_rng(0)
    kinds = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I8", "U8", "BOOL"}
    arrays = {}
    for name in sorted(kinds):
        dtype = _tensors.DTYPES[name]
        raw = rng.integers(0, 2 if name == "BOOL" else 256, (5, 12 * dtype.itemsize), np.uint8)
        arrays[f"layer.{name}.weight"] = raw.view(dtype)
    nan = np.array([np.nan, -0.0], np.float32).view(np.uint32) ^ np.uint32(3)
    return arrays | {"scalar": np.float32(2), "none": np.zeros((0, 3), ml_dtypes.bfloat16),
                     "nan": nan.view(np.float32)}  # fmt: skip


@pytest.fixture
def plain(tmp_path):
    arrays = {name: np.asarray(array) for name, array in every_dtype().items()}
    save_file(arrays, tmp_path / "m", metadata={"format": "pt", "licence": "überall"})
    return tmp_path / "m", arrays


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_locked_file_loads_and_comes_back(scheme, plain, tmp_path):
    path, arrays = plain
    info = lock_file(path, tmp_path / "l", ALICE, scheme)
    assert info.key_id == ALICE.id
    assert ("BROKEN" in info.about) == ("deep_lock" in scheme)
    hidden = dict(safetensors.deserialize((tmp_path / "l").read_bytes()))
    assert hidden.keys() == arrays.keys()
    for name, found in hidden.items():
        assert tuple(found["shape"]) == arrays[name].shape
        assert _tensors.DTYPES[found["dtype"]] == arrays[name].dtype
        assert arrays[name].nbytes < 40 or bytes(found["data"]) != arrays[name].tobytes()
    unlock_file(tmp_path / "l", tmp_path / "again", ALICE)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    with pytest.raises(WrongKey):
        unlock_file(tmp_path / "l", tmp_path / "x", BOB)
    assert not (tmp_path / "x").exists()
    content = (tmp_path / "l").read_bytes()
    assert ALICE._reveal() not in content
    assert ALICE._reveal().hex().encode() not in content


def test_the_cipher_of_the_host_is_that_of_the_graph(plain, tmp_path):
    path, arrays = plain
    info = lock_file(path, tmp_path / "l", ALICE, "stream_lock", label="model/v1")
    taken = {k: v for k, v in arrays.items() if v.dtype.itemsize < 8 and v.dtype != np.bool_}
    nonce = jnp.asarray(np.frombuffer(bytes.fromhex(json.loads(info.finish)[0]), "<u4"))
    lock, source = (
        ml.stream_lock(),
        ALICE.source("model/v1").for_file(f"{info.nonce} {info.scheme}"),
    )
    key = lock.init(source, taken)._replace(nonce=nonce)
    # What locks under a finished key is what opens.
    expected = jax.jit(lock.decrypt)(key, jax.tree.map(jnp.asarray, taken))
    hidden = dict(safetensors.deserialize((tmp_path / "l").read_bytes()))
    for name, leaf in expected.items():
        assert bytes(hidden[name]["data"]) == np.asarray(leaf).tobytes()


def test_every_changed_byte_is_noticed(plain, tmp_path):
    path, _ = plain
    lock_file(path, tmp_path / "l", ALICE, "stream_lock")
    whole = (tmp_path / "l").read_bytes()
    head = _tensors.head_length(whole[:8], len(whole))
    places = [*range(0, head, 97), *range(head, len(whole), 61), len(whole) - 1]
    hurt = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in places]
    hurt += [whole[:-1], whole + b"\0", whole[: head // 2], b""]
    codes = set()
    for data in hurt:
        (tmp_path / "hurt").write_bytes(data)
        with pytest.raises((Tampered, Unreadable, WrongKey)) as fault:
            unlock_file(tmp_path / "hurt", tmp_path / "x", ALICE)
        codes.add(fault.value.code)
    assert 4 in codes
    assert not (tmp_path / "x").exists()
    for at in range(head, len(whole), 61):  # in the values it is always tampering, never the key
        (tmp_path / "hurt").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(Tampered):
            unlock_file(tmp_path / "hurt", tmp_path / "x", ALICE)


def test_no_two_locked_files_share_a_key_stream(tmp_path):
    values = [np.random.default_rng(i).integers(0, 256, 4096, np.uint8) for i in range(2)]
    streams = []
    for i, array in enumerate(values):
        save_file({"w": array}, tmp_path / "m")
        lock_file(tmp_path / "m", tmp_path / "l", ALICE, "stream_lock", label="same")
        streams.append(load_file(tmp_path / "l")["w"] ^ values[i])
    assert (streams[0] == streams[1]).mean() < 0.02


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        ("pixel_shuffle(block=4)", "cannot lock a file"),
        ("adv_params", "needs the owner's loss"),
        ("rot13", "there is no lock 'rot13'"),
        ("stream_lock(1)", "cannot be read"),
        ("deep_lock(key_bits=100)", "does not work"),
    ],
)
def test_what_cannot_lock_a_file_says_so(scheme, text, plain, tmp_path):
    with pytest.raises(ValueError, match=text):
        lock_file(plain[0], tmp_path / "l", ALICE, scheme)
    assert not (tmp_path / "l").exists()


def test_trees_have_names_and_names_a_tree():
    tree = {"params": {"dense": {"kernel": np.ones((2, 3)), "bias": np.zeros(3)}}}
    named = checkpoint.to_names(tree)
    assert sorted(named) == ["params/dense/bias", "params/dense/kernel"]
    again = checkpoint.to_names(checkpoint.to_tree(named))
    assert same(again, named)
    with pytest.raises(ValueError, match="a"):
        checkpoint.to_tree({"a": np.ones(1), "a/b": np.ones(1)})
