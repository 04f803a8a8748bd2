"""Locked folders: of one release, or exit code 4."""

import json
import os
import shutil

import pytest
from helpers.folders import MIXED, SHARDS, contents, model
from helpers.sealed import ALICE, OWNER

from modellock_jax.vault.errors import Tampered, Unreadable, WrongKey
from modellock_jax.vault.issuing import register
from modellock_jax.vault.issuing.copies import issue, unfinished
from modellock_jax.vault.keys.secret import load_key
from modellock_jax.vault.locked.sets import lock_set, unlock_set


def test_each_user_gets_a_locked_folder(tmp_path):
    source = model(tmp_path / "m")
    made = issue(source, tmp_path / "out", ["alice", "bob"], OWNER, tmp_path / "register")
    for one in made:
        assert one.copy.is_dir()
        unlock_set(one.copy, tmp_path / one.entry.user, load_key(one.key))
        assert contents(tmp_path / one.entry.user) == contents(source)
    with pytest.raises(WrongKey):
        unlock_set(made[0].copy, tmp_path / "x", load_key(made[1].key))
    shutil.copy(made[0].copy / SHARDS[0], made[1].copy / SHARDS[0])
    with pytest.raises(Tampered):
        unlock_set(made[1].copy, tmp_path / "x", load_key(made[1].key))
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    lock_set(source, tmp_path / "out" / f"alice.{'0' * 32}.set", OWNER, "stream_lock")
    left = unfinished(tmp_path / "out", ["alice"], register.read(tmp_path / "register"))
    assert [path.name for path in left] == [f"alice.{'0' * 32}.set"]


def test_a_locked_folder_loads_and_comes_back(tmp_path):
    source = model(tmp_path / "m", 1)
    made = lock_set(source, tmp_path / "l", OWNER, "stream_lock")
    assert {one.path for one in made.members if one.locked} == {
        *SHARDS,
        "adapters/fr/x.safetensors",
    }
    (tmp_path / "there").mkdir()
    unlock_set(tmp_path / "l", tmp_path / "there", OWNER)
    assert contents(tmp_path / "there") == contents(source)
    with pytest.raises(WrongKey):
        unlock_set(tmp_path / "l", tmp_path / "x", ALICE)
    with pytest.raises(FileExistsError, match="not empty"):
        unlock_set(tmp_path / "l", tmp_path / "there", OWNER)


@pytest.mark.parametrize(
    "change", [name for name in MIXED if name != "a manifest of another release"]
)
def test_a_locked_folder_is_of_one_release(tmp_path, change):
    for i in (1, 2):
        lock_set(model(tmp_path / f"m{i}", i), tmp_path / f"s{i}", OWNER, "stream_lock")
    with_size = {"a file cut off": lambda new, _: os.truncate(new / SHARDS[0], 1000)}
    (MIXED | with_size)[change](tmp_path / "s2", tmp_path / "s1")
    with pytest.raises(Tampered, match="get the"):
        unlock_set(tmp_path / "s2", tmp_path / "back", OWNER)
    assert not (tmp_path / "back").exists()


def test_a_changed_manifest_of_a_locked_folder(tmp_path):
    lock_set(model(tmp_path / "m"), tmp_path / "l", OWNER, "stream_lock")
    path = tmp_path / "l" / "modellock.set.json"
    fields = json.loads(path.read_text())
    other = [fields["members"][0] | {"path": "../x"}]
    for change in (
        {"members": fields["members"][1:]}, {"empty": []}, {"scheme": "deep_lock()"}, {"tag": ""},
        {"nonce": "0" * 32}, {"members": other}, {"members": {}}, {"more": 1}, {"key_id": 7},
    ):  # fmt: skip
        path.write_text(json.dumps(fields | change))
        with pytest.raises(Tampered):
            unlock_set(tmp_path / "l", tmp_path / "back", OWNER)
    path.write_text(json.dumps(fields | {"version": 2}))
    with pytest.raises(Unreadable, match="not of version 1"):
        unlock_set(tmp_path / "l", tmp_path / "back", OWNER)
    assert not (tmp_path / "back").exists()
