"""Checkpoints: trees as names and back, safetensors and Orbax directories read and written."""

import math
import os
import pickle
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.sealed import ALICE, public, same
from jax import NamedSharding, P
from safetensors.numpy import load_file, save_file

from modellock_jax.vault._tensors import DTYPES
from modellock_jax.vault.checkpoint import read_checkpoint, to_names, to_tree, write_orbax
from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.sealed import envelope


def any_bits(dtype, shape, seed=0):
    """Every bit pattern of the dtype, NaNs of all kinds among them."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return (raw & 1 if dtype == np.bool_ else raw).view(dtype).reshape(shape)


def all_dtypes():
    arrays = {f"layers/{name}/kernel": any_bits(dtype, (3, 5)) for name, dtype in DTYPES.items()}
    return arrays | {
        "step": np.array(2**62 + 1),
        "scale": any_bits(np.dtype("f4"), ()),
    }


# Names and trees


class Pair(NamedTuple):
    first: np.ndarray
    second: np.ndarray


def test_dicts_come_back_as_they_were():
    tree = {"b": {"y": np.ones(2), "x": {"deep": np.zeros((2, 2))}}, "a": np.arange(3)}
    named = to_names(tree)
    assert list(named) == ["a", "b/x/deep", "b/y"]
    assert named["a"] is tree["a"]
    again = to_tree(named)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    assert again["b"]["x"]["deep"] is tree["b"]["x"]["deep"]


def test_other_containers_come_back_with_like():
    tree = {"opt": [Pair(np.ones(2), np.zeros(3)), (np.arange(2),)], "w": jnp.ones(1)}
    named = to_names(tree)
    assert list(named) == ["opt/0/first", "opt/0/second", "opt/1/0", "w"]
    again = to_tree(dict(reversed(named.items())), tree)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again, tree))


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        ({}, ValueError, "empty pytree"),
        ({"a/b": np.ones(1), "a": {"b": np.ones(1)}}, ValueError, "two places in the parameters read"),
        ({"a": np.ones(1), "a/b": np.ones(1)}, ValueError, "two places in the parameters read"),
        ({"a": 1.0}, TypeError, "the leaf 'a' is a float, which safetensors does not have"),
        ({"a": np.array(["x"])}, TypeError, "the leaf 'a' is dtype <U1"),
        ({"a": np.ones(2, object)}, TypeError, "the leaf 'a' is dtype object"),
        ({"a": np.ones(2, np.complex128)}, TypeError, "the leaf 'a' is dtype complex128"),
        ({"a": jax.random.key(0)}, TypeError, "the leaf 'a' is dtype key"),
    ],
    ids=range(8),
)  # fmt: skip
def test_trees_that_have_no_names(tree, error, message):
    with pytest.raises(error, match=message):
        to_names(tree)


def test_names_that_are_no_tree():
    with pytest.raises(ValueError, match="'a/b' is an array and has 'a/b/c/d' below it"):
        to_tree({"a/b": np.ones(1), "a/b/c/d": np.ones(1)})
    like = {"a": np.ones((2, 3), np.float32)}
    for named, message in (
        ({}, "1 arrays are missing in the checkpoint: a"),
        ({"a": like["a"], "b": like["a"]}, "1 arrays are not in `like`: b"),
        (
            {"a": np.ones((3, 2), np.float32)},
            r"'a' is float32\[3, 2\] in the checkpoint and float32\[2, 3\]",
        ),
        (
            {"a": np.ones((2, 3), np.int32)},
            r"'a' is int32\[2, 3\] in the checkpoint and float32\[2, 3\]",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            to_tree(named, like)


# Safetensors


def test_a_safetensors_file_in_the_order_of_its_bytes(tmp_path):
    # What the format's own loader for numpy knows.
    arrays = {name: array for name, array in all_dtypes().items() if "/F8" not in name}
    save_file(arrays, tmp_path / "m.safetensors")
    found = read_checkpoint(tmp_path / "m.safetensors")
    assert same(found, load_file(tmp_path / "m.safetensors"))
    assert same(found, arrays)
    sizes = [array.dtype.itemsize for array in found.values()]
    assert sizes == sorted(sizes, reverse=True)
    envelope.seal(all_dtypes(), tmp_path / "sealed", [public(ALICE)])
    with envelope.open(tmp_path / "sealed", ALICE) as sealed:
        sealed.export(tmp_path / "plain.safetensors")
        names = sealed.names
    found = read_checkpoint(tmp_path / "plain.safetensors")
    assert same(found, all_dtypes())
    assert list(found) == names


def test_what_is_no_checkpoint(tmp_path):
    save_file({"a": np.ones(9)}, tmp_path / "m")
    (tmp_path / "cut").write_bytes((tmp_path / "m").read_bytes()[:-1])
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("absent", "cannot be read"),
        ("cut", "cut: should have|cut should have"),
        ("empty", "empty has no _METADATA of Orbax; name a checkpoint, such as .*empty/STEP"),
    ):
        with pytest.raises(Unreadable, match=message):
            read_checkpoint(tmp_path / name)


# Orbax


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An Orbax directory that Orbax wrote, and what is in it."""
    folder = tmp_path_factory.mktemp("orbax") / "m"
    arrays = all_dtypes()
    with ocp.PyTreeCheckpointer() as writer:
        writer.save(folder, to_tree(arrays))
    return folder, arrays


def test_what_orbax_wrote_is_read_to_the_bit(saved, monkeypatch):
    def refuse(*_):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert same(read_checkpoint(saved[0]), saved[1])
    assert same(read_checkpoint(str(saved[0])), saved[1])


def test_other_containers_and_sharded_arrays(tmp_path):
    mesh = jax.make_mesh((4,), ("x",), devices=jax.devices()[:4])
    sharded = jax.device_put(np.arange(8.0, dtype="f4"), NamedSharding(mesh, P("x")))
    tree = {"params": {"w": sharded}, "opt": [Pair(jnp.ones(2), jnp.zeros(3)), (jnp.arange(2),)]}
    with ocp.StandardCheckpointer() as writer:
        writer.save(tmp_path / "m", tree)
    found = read_checkpoint(tmp_path / "m")
    assert same(found, to_names(tree))
    assert all(type(array) is np.ndarray for array in found.values())
    again = to_tree(found, tree)
    assert isinstance(again["opt"][0], Pair)


def test_a_step_of_a_manager(tmp_path):
    tree = {"w": np.arange(4, dtype=np.int64), "b": {"c": np.array(2.5, np.float32)}}
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        manager.save(3, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
    assert same(read_checkpoint(tmp_path / "run" / "3"), to_names(tree))
    with pytest.raises(Unreadable, match=r"name a checkpoint, such as .*run/STEP"):
        read_checkpoint(tmp_path / "run")


def test_what_we_wrote_is_read_by_orbax(tmp_path):
    arrays = all_dtypes()
    write_orbax(arrays, tmp_path / "m")
    assert os.listdir(tmp_path) == ["m"]
    assert same(read_checkpoint(tmp_path / "m"), arrays)
    narrow = {name: array for name, array in arrays.items() if array.dtype.itemsize < 8}
    write_orbax(narrow, tmp_path / "narrow")
    with ocp.PyTreeCheckpointer() as reader:
        found = reader.restore(tmp_path / "narrow")
    assert same(
        {n: np.asarray(a) for n, a in to_names(jax.tree.map(np.asarray, found)).items()}, narrow
    )


def test_from_orbax_sealed_and_back_to_orbax(saved, tmp_path):
    envelope.seal(read_checkpoint(saved[0]), tmp_path / "m.sealed", [public(ALICE)])
    write_orbax(envelope.load(tmp_path / "m.sealed", ALICE), tmp_path / "again")
    assert same(read_checkpoint(tmp_path / "again"), saved[1])


def test_what_orbax_cannot_hold(tmp_path):
    one = np.ones(1)
    for named, message in (
        ({}, "Orbax cannot hold nothing"),
        ({"a": one, "b/c": np.ones((0, 2))}, "Orbax cannot hold 'b/c', which has no values"),
        ({"a.b": one, "a/b": one}, "Orbax would store 'a.b' and 'a/b' in one place"),
        ({"a": one, "a/b": one}, "'a' is an array and has 'a/b' below it"),
    ):
        with pytest.raises(ValueError, match=message):
            write_orbax(named, tmp_path / "m")
    with pytest.raises(FileNotFoundError, match="absent; create it first"):
        write_orbax({"a": one}, tmp_path / "absent" / "m")
    assert os.listdir(tmp_path) == []
    (tmp_path / "m").mkdir()
    with pytest.raises(FileExistsError, match="m exists and is kept"):
        write_orbax({"a": one}, tmp_path / "m")


def test_a_failed_write_leaves_no_checkpoint(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("the disk is full")

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "finalize", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_orbax({"a": np.ones(2)}, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    with pytest.raises(Unreadable):
        read_checkpoint(tmp_path / "m")


def test_a_damaged_directory_is_unreadable_or_the_same(tmp_path):
    """Each file in turn taken away, cut in two, or overwritten."""
    arrays = {"a/w": np.arange(1000, dtype=np.float32), "b": np.arange(7)}
    write_orbax(arrays, tmp_path / "m")
    files = [
        file.relative_to(tmp_path / "m") for file in (tmp_path / "m").rglob("*") if file.is_file()
    ]
    refused = set()
    for file in files:
        for damage in ("gone", "cut", "zeros"):
            shutil.rmtree(tmp_path / "hurt", ignore_errors=True)
            shutil.copytree(tmp_path / "m", tmp_path / "hurt")
            content = (tmp_path / "m" / file).read_bytes()
            if damage == "gone":
                (tmp_path / "hurt" / file).unlink()
            else:
                new = content[: len(content) // 2] if damage == "cut" else bytes(len(content))
                (tmp_path / "hurt" / file).write_bytes(new)
            try:
                found = read_checkpoint(tmp_path / "hurt")
            except Unreadable:
                refused.add((file.name, damage))
            else:
                assert same(found, arrays), (file, damage)
    assert {("_METADATA", damage) for damage in ("gone", "cut", "zeros")} <= refused
