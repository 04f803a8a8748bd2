"""Folders as sets: all of one release, under one signature, name and serial number, or exit code 4."""

import json
import os
import shutil

import numpy as np
import pytest
from helpers.folders import MIXED, SHARDS, contents, model
from helpers.sealed import ALICE, BOB, MALLORY, OWNER, adding, public

from modellock_jax.vault import checkpoint
from modellock_jax.vault._json import canonical
from modellock_jax.vault.errors import Expired, Tampered, Unreadable, WrongKey
from modellock_jax.vault.locked.sets import lock_set
from modellock_jax.vault.sealed import _header, _writing, envelope, sets
from modellock_jax.vault.sealed._writing import Content
from modellock_jax.vault.sealed.members import member_key as key_of
from modellock_jax.vault.sealed.opened import SET
from modellock_jax.vault.sealed.rewrite import read_header, rewrite

OWNERS = [public(OWNER)]


@pytest.fixture
def sealed(tmp_path):
    """Two releases of a model, sealed and signed, of which Mallory may open both."""
    for i in (1, 2):
        whom = [public(ALICE), public(MALLORY)]
        source = model(tmp_path / f"m{i}", i)
        sets.seal_set(source, tmp_path / f"s{i}", whom, signers=[OWNER], name="net", serial=i)
    return tmp_path


def opened(folder, who=ALICE, **options):
    return sets.open_set(folder, who, **{"signed_by": OWNERS, "expect": "net@2"} | options)


def test_a_folder_comes_back_whole_and_its_members_open_alone(sealed):
    with opened(sealed / "s2") as found:
        found.check()
        found.export(sealed / "back")
        assert contents(sealed / "back") == contents(sealed / "m2")
        assert (found.header.name, found.header.serial) == ("net", 2)
        assert set(found.paths) == {
            p for p, data in contents(sealed / "m2").items() if data is not None
        }
        with found.member(SHARDS[1]) as shard:
            assert shard.array("b").tolist() == [2, 3, 4, 5, 6]
        with found.member("config.json") as config, pytest.raises(Unreadable, match="bytes"):
            config.load()
        with pytest.raises(KeyError, match="no file 'absent'"):
            found.member("absent")
    with pytest.raises(ValueError, match="closed"):
        found.member("config.json")
    plain = b"".join(data or b"" for data in contents(sealed / "m2").values())
    hidden = [b"lora", b"total_size", b"filter=lfs", plain[-40:]]
    for data in contents(sealed / "s2").values():
        assert not any(part in (data or b"") for part in hidden)
    with pytest.raises(WrongKey):
        opened(sealed / "s2", BOB)
    with pytest.raises(WrongKey, match="belongs to a set: open the folder"):
        envelope.load(sealed / "s2" / SHARDS[0], ALICE)
    with pytest.raises(Unreadable, match="manifest of a set"):
        envelope.load(sealed / "s2" / "modellock.set", ALICE)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("change", MIXED)
def test_what_is_not_one_release_is_tampered(sealed, change, signed):
    MIXED[change](sealed / "s2", sealed / "s1")
    with (
        pytest.raises(Tampered) as caught,
        opened(sealed / "s2", signed_by=OWNERS * signed) as found,
    ):
        found.export(sealed / "back")
    assert caught.value.code == 4
    assert "get the" in str(caught.value) or "expected" in str(caught.value)
    assert not (sealed / "back").exists()
    assert sorted(p.name for p in sealed.iterdir() if p.name != "elsewhere") == [
        "m1",
        "m2",
        "s1",
        "s2",
    ]


def test_a_recipient_cannot_mix_what_was_signed(sealed):
    """Mallory knows all keys of the set: they seal another shard that fits, and another manifest."""
    folder, path = sealed / "s2", sealed / "s2" / SHARDS[0]
    key = _header.file_key_of(read_header(folder / "modellock.set"), MALLORY)
    made = read_header(path)
    member_key = key_of(key, made.file_id)
    with opened(sealed / "s1", MALLORY, expect=None) as old, old.member(SHARDS[0]) as shard:
        content = Content(shard.kind, list(shard.plain()), shard.size)
    _writing.seal_under(member_key, made.file_id, (), content, path, sets._OF_A_SET, lambda _: None)
    with opened(folder) as found, pytest.raises(Tampered, match="another release"):
        found.member(SHARDS[0])
    forged = read_header(path)._replace(digest=made.digest, mac=made.mac)
    forged = _header.finish(forged, member_key)
    data = path.read_bytes()
    path.write_bytes(_header.encode(forged) + data[forged.room :])
    with opened(folder) as found, pytest.raises(Tampered, match="not what was signed"):
        found.member(SHARDS[0])


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/x", "a/../../x", "", ".", "a//b", "a\n", "modellock.set", "config.json/x"],
)
def test_a_manifest_that_leads_elsewhere_is_refused(sealed, path):
    folder = sealed / "s2"
    made = read_header(folder / "modellock.set")
    key = _header.file_key_of(made, MALLORY)
    with opened(folder) as found:
        listed = [one._asdict() for one in found.members.values()]
    listed.append(listed[0] | {"path": path})
    fields = {"format": sets.FORMAT, "version": 1, "members": listed, "empty": [], "extra": {}}
    text = canonical(fields)
    about = _writing.Cover((), "", (), "net", 2)
    content = Content(SET, [text], len(text))
    _writing.seal_under(
        key, made.file_id, made.stanzas, content, folder / "modellock.set", about, lambda _: None
    )
    with pytest.raises(Tampered, match="manifest is not as it was written"):
        opened(folder, signed_by=[])


def test_recipients_date_and_name_are_the_sets(sealed):
    folder = sealed / "s2"
    manifest = sets.manifest_of(folder)
    before = contents(folder)
    rewrite(manifest, ALICE, adding(public(BOB)), [OWNER])
    with opened(folder, BOB) as found:
        found.check()
    after = contents(folder)
    assert [path for path in before if before[path] != after[path]] == ["modellock.set"]
    with opened(folder) as found:
        sets.rotate_set(found, sealed / "r", [public(BOB)], signers=[OWNER], serial=3)
        with pytest.raises(FileExistsError, match="not empty"):
            sets.rotate_set(found, sealed / "r", [public(BOB)])
    with opened(sealed / "r", BOB, expect="net@3") as found:
        found.export(sealed / "back")
    assert contents(sealed / "back") == contents(sealed / "m2")
    with pytest.raises(WrongKey):
        opened(sealed / "r", ALICE, expect=None)
    with opened(folder, signed_by=[]) as found, pytest.raises(ValueError, match="signed_by"):
        sets.rotate_set(found, sealed / "x", [public(BOB)], signers=[OWNER])
    rewrite(manifest, ALICE, lambda m, _: m._replace(expires="2020-01-01T00:00:00+00:00"), [OWNER])
    with pytest.raises(Expired):
        opened(folder)


def disagree(folder, weights):
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weights}))


UNFIT = {
    "no files": (lambda f: shutil.rmtree(f) or f.mkdir(), "has no files"),
    "a tensor that no shard has": (
        lambda f: disagree(f, {"a/w": SHARDS[0], "b": SHARDS[1], "c": SHARDS[1]}),
        "disagree.* c",
    ),
    "a tensor that the index lacks": (lambda f: disagree(f, {"a/w": SHARDS[0]}), "is a shard that"),
    "a tensor in another shard": (
        lambda f: disagree(f, {"a/w": SHARDS[1], "b": SHARDS[1]}),
        "disagree",
    ),
    "a shard that is not there": (lambda f: (f / SHARDS[0]).unlink(), "which is not there"),
    "an index that is none": (
        lambda f: (f / "model.safetensors.index.json").write_text("[]"),
        "not an index",
    ),
    "a link out": (lambda f: (f / "x").symlink_to("/etc/hostname"), "leads out"),
    "a link to a folder": (lambda f: (f / "x").symlink_to(f / "adapters"), "leads out"),
    "a dangling link": (lambda f: (f / "x").symlink_to(f / "nothing"), "nowhere"),
    "a pipe": (lambda f: os.mkfifo(f / "x"), "pipe or a device"),
    "a name of two lines": (lambda f: (f / "a\nb").write_text(""), "cannot be shown"),
    "a shard that is cut off": (lambda f: os.truncate(f / SHARDS[0], 100), "should have"),
    "a set": (lambda f: (f / "modellock.set").write_text(""), "a set already"),
}


@pytest.mark.parametrize("fault", UNFIT)
def test_what_is_no_whole_model_is_refused_and_leaves_nothing(tmp_path, fault):
    source = model(tmp_path / "m")
    change, match = UNFIT[fault]
    change(source)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Unreadable, match=match):
        sets.seal_set(source, tmp_path / "s", [public(ALICE)])
    with pytest.raises(Unreadable, match=match):
        lock_set(source, tmp_path / "s", OWNER, "stream_lock")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_error_at_any_file_leaves_no_half_set(tmp_path, monkeypatch):
    source, real = model(tmp_path / "m"), os.pwrite
    for stop in (1, 3, 8, 13):
        left = stop

        def failing(*args):
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(28, "No space left on device")
            return real(*args)

        with monkeypatch.context() as m:
            m.setattr(os, "pwrite", failing)
            with pytest.raises(OSError, match="No space"):
                sets.seal_set(source, tmp_path / "s", [public(ALICE)])
        assert os.listdir(tmp_path) == ["m"]


def test_a_link_within_is_sealed_as_the_file_it_stands_for(tmp_path):
    source = model(tmp_path / "m")
    (source / "latest").symlink_to("config.json")
    sets.seal_set(source, tmp_path / "s", [public(ALICE)])
    with sets.open_set(tmp_path / "s", ALICE) as found:
        found.export(tmp_path / "back")
    assert (tmp_path / "back" / "latest").read_bytes() == (source / "config.json").read_bytes()
    assert not (tmp_path / "back" / "latest").is_symlink()


def test_an_orbax_checkpoint_is_one_set(tmp_path):
    """Files without endings, in folders; a step of another run is noticed."""
    arrays = {"a/w": np.arange(12, dtype=np.float32).reshape(3, 4), "a/b": np.ones(3, np.float32)}
    checkpoint.write_orbax(arrays, tmp_path / "run1")
    checkpoint.write_orbax({name: -one for name, one in arrays.items()}, tmp_path / "run2")
    for i in (1, 2):
        sets.seal_set(tmp_path / f"run{i}", tmp_path / f"s{i}", [public(ALICE)], signers=[OWNER])
    with opened(tmp_path / "s1", expect=None) as found:
        found.export(tmp_path / "back")
    read = checkpoint.read_checkpoint(tmp_path / "back")
    assert {name: one.tolist() for name, one in read.items()} == {
        name: one.tolist() for name, one in arrays.items()
    }
    shutil.copy(tmp_path / "s2" / "_METADATA", tmp_path / "s1" / "_METADATA")
    with opened(tmp_path / "s1", expect=None) as found, pytest.raises(Tampered, match="_METADATA"):
        found.check()
