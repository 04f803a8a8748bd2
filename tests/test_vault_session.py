"""A scripted session of every command on real checkpoints, as subprocesses, with every exit code."""

import functools
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import onnx
import pytest
from helpers.commands import bad, good, run
from safetensors.numpy import load_file, save_file

from modellock_jax.core.paths import paths
from modellock_jax.data import load
from modellock_jax.models import MODELS
from modellock_jax.train import fit


def _trained():
    """A network trained here, on digits."""
    data, model = load("digits"), MODELS["mlp"](10)
    start = model.init(jax.random.key(0), data.train_x[:1])
    settings = {"epochs": 2, "batch_size": 64, "learning_rate": 1e-2}
    params, _ = fit(
        model.train, start, data.train_x, data.train_y, rng=jax.random.key(1), **settings
    )
    return dict(zip(jax.tree.leaves(paths(params)), map(np.asarray, jax.tree.leaves(params))))


@functools.cache
def _shipped(name):
    """The weights of a model that the PyPI package ddddocr ships, as it names them."""
    found = importlib.util.find_spec("ddddocr")
    path = Path(found.submodule_search_locations[0]) / f"{name}.onnx"
    weights = onnx.load(path).graph.initializer
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in weights}


def _all_shipped():
    names = ("common", "common_old", "common_det")
    return {f"{name}/{key}": leaf for name in names for key, leaf in _shipped(name).items()}


CHECKPOINTS = {
    "trained here": (_trained, {"epoch": "2"}),
    "ddddocr's first": (lambda: _shipped("common_old"), {"licence": "MIT", "by": "überall"}),
    "ddddocr's detector": (lambda: _shipped("common_det"), {}),
    "ddddocr's second": (lambda: _shipped("common"), {"format": "onnx"}),
    "all three of ddddocr": (_all_shipped, {}),
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A folder with a key below another for the owner, and one each for two users."""
    folder = tmp_path_factory.mktemp("keys")
    good(folder, "keygen", "root.key")
    good(folder, "keygen", "owner.key", "--from", "root.key", "--path", "team/owner")
    for name in ("alice", "bob"):
        good(folder, "keygen", f"{name}.key")
    return folder


def _lock_and_issue(do, arrays, plain, tmp_path, alice, owner, owner_public):
    do("lock", "m.safetensors", "m.locked", *alice)
    locked = load_file(tmp_path / "m.locked")
    assert {k: (v.shape, v.dtype) for k, v in locked.items()} == {
        k: (v.shape, v.dtype) for k, v in arrays.items()
    }
    (tmp_path / "revoked.json").unlink()
    do("unlock", "m.locked", "again.safetensors", *alice, "--force")
    assert (tmp_path / "again.safetensors").read_bytes() == plain

    told = do(
        "issue", "m.safetensors", "copies", "--user", "carol", "--register", "book", *owner,
        "--json",
    )  # fmt: skip
    [copy] = json.loads(told)["issued"]
    do("register", "list", "book", "--signed-by", owner_public)
    do("unlock", copy["copy_file"], "again.safetensors", "--key", copy["key_file"], "--force")
    assert (tmp_path / "again.safetensors").read_bytes() == plain


@pytest.mark.optax
@pytest.mark.parametrize(
    "name",
    [
        name if name == "trained here" else pytest.param(name, marks=pytest.mark.slow)
        for name in CHECKPOINTS
    ],
)
def test_a_checkpoint_goes_through_every_command(name, keys, tmp_path):
    arrays, metadata = CHECKPOINTS[name]
    arrays, m = arrays(), tmp_path / "m.safetensors"
    save_file(arrays, m, metadata=metadata)
    plain = m.read_bytes()
    assert len(plain) >= (80e6 if name == "all three of ddddocr" else 1e4)
    public = {who: keys / f"{who}.key.pub" for who in ("owner", "alice", "bob")}
    key = {who: ("--key", keys / f"{who}.key") for who in public}
    # In interpreters of their own once; else forked, each still a process with its own exit code.
    how = {"fresh": name == "all three of ddddocr"}
    do = functools.partial(good, tmp_path, **how)

    def refused(code, text, *words):
        return bad(code, text, tmp_path, *words, **how)

    sealed = ("seal", "m.safetensors", "m.sealed", "--to", public["alice"])
    sign = ("--sign", keys / "owner.key")
    do(*sealed, *sign)
    do("verify", "m.sealed", *key["alice"], "--signed-by", public["owner"])
    do("inspect", "m.sealed")
    do("open", "m.sealed", "again.safetensors", *key["alice"], "--force")
    assert (tmp_path / "again.safetensors").read_bytes() == plain
    refused(3, "not for this key", "open", "m.sealed", "x", *key["bob"])

    # What a plain loader and a reader of bytes get.
    content = (tmp_path / "m.sealed").read_bytes()
    assert {k: v.dtype for k, v in load_file(tmp_path / "m.sealed").items()} == {
        "sealed": np.dtype(np.uint8)
    }
    assert not [tensor for tensor in arrays if len(tensor) > 4 and tensor.encode() in content]

    do("recipients", "add", "m.sealed", "--to", public["bob"], *key["alice"], *sign)
    listed = json.loads(do("recipients", "list", "m.sealed", "--json"))["recipients"]
    alice = listed[0]["id"]
    do("recipients", "rm", "m.sealed", alice, *key["bob"], *sign)
    refused(3, "not for this key", "verify", "m.sealed", *key["alice"])
    do("rewrap", "m.sealed", "--to", public["alice"], *key["bob"], *sign)
    do("rotate", "m.sealed", "r.sealed", "--to", public["bob"], *key["alice"], *sign)
    refused(2, "--force", "open", "r.sealed", "again.safetensors", *key["bob"])
    do("open", "r.sealed", "again.safetensors", *key["bob"], "--force")
    assert (tmp_path / "again.safetensors").read_bytes() == plain

    hurt = bytearray((tmp_path / "r.sealed").read_bytes())
    hurt[-len(plain) // 2] ^= 1
    (tmp_path / "hurt.sealed").write_bytes(hurt)
    refused(4, "hurt.sealed", "verify", "hurt.sealed", *key["bob"])
    do("expire", "r.sealed", "2000-01-01", *key["bob"], *sign)
    refused(5, "expired", "open", "r.sealed", "x", *key["bob"])
    do("revoke", "revoked.json", alice, *key["owner"])
    refused(5, "revoked", "open", "m.sealed", "x", *key["alice"])
    refused(6, "nothing.sealed", "open", "nothing.sealed", "x", *key["alice"])
    refused(2, "name a recipient", "seal", "m.safetensors", "x")

    _lock_and_issue(do, arrays, plain, tmp_path, key["alice"], key["owner"], public["owner"])
    assert not (tmp_path / "x").exists()


def test_keys_come_back_from_shares_and_from_the_key_above(keys, tmp_path):
    plain = {"w": np.arange(6.0)}
    save_file(plain, tmp_path / "m.safetensors")
    owner = keys / "owner.key"
    good(tmp_path, "seal", "m.safetensors", "m.sealed", "--to", f"{owner}.pub")
    good(tmp_path, "backup", "split", owner, "shares", "--threshold", 2, "--shares", 3)
    shares = sorted((tmp_path / "shares").iterdir())
    assert len(shares) == 3
    good(tmp_path, "backup", "drill", *shares, "--key", owner)
    assert run(tmp_path, "backup", "join", shares[0], "x").code == 2
    good(tmp_path, "backup", "join", *shares[1:], "joined.key")
    good(tmp_path, "keygen", "same.key", "--from", keys / "root.key", "--path", "team/owner")
    for restored in ("joined.key", "same.key"):
        opened = good(tmp_path, "open", "m.sealed", "-", "--key", restored)
        assert opened == (tmp_path / "m.safetensors").read_bytes()
    good(tmp_path, "doctor")
    good(tmp_path, "explain", "revoke")
