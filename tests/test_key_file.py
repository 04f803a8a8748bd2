"""The key file: its mode, its failures, and what is left behind at every step."""

import base64
import json
import os
import re
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.hidden import RAW, SECRET, shows, told

from modellock_jax.vault.keys.secret import load_key, save_key


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_saved_key_is_the_same_key(tmp_path):
    save_key(SECRET, tmp_path / "owner.key")
    assert load_key(str(tmp_path / "owner.key")) == SECRET
    fields = json.loads((tmp_path / "owner.key").read_text())
    created = fields.pop("created")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00", created)
    secret = base64.b64encode(RAW).decode()
    head = {"format": "modellock-jax key", "version": 2, "extra": {}}
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
    save_key(SECRET, target)
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
        save_key(SECRET, target)
    assert os.listdir(tmp_path) == ["owner.key"]
    assert kind != "file" or target.read_text() == "another key"


def test_a_missing_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no directory .*absent; create it first"):
        save_key(SECRET, tmp_path / "absent" / "owner.key")


@pytest.mark.parametrize(
    "error", [OSError("no"), KeyboardInterrupt()], ids=["OSError", "interrupt"]
)
@pytest.mark.parametrize("step", ["pwrite", "fsync", "link"])
def test_a_failure_leaves_nothing(tmp_path, monkeypatch, step, error):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(type(error)) as caught:
            save_key(SECRET, tmp_path / "owner.key")
    assert caught.value is error
    assert os.listdir(tmp_path) == []
    assert not shows(told(error))
    save_key(SECRET, tmp_path / "owner.key")


@pytest.mark.parametrize("size", [0, 1, 100, 180])
def test_a_full_disk_leaves_nothing(tmp_path, size):
    """The kernel takes the first bytes and then refuses."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_key(SECRET, tmp_path / "owner.key")
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
        save_key(SECRET, tmp_path / "owner.key")
    assert os.listdir(tmp_path) == ["owner.key"]
    assert load_key(tmp_path / "owner.key") == SECRET


def test_a_killed_process_leaves_no_target(tmp_path):
    """No cleaning up: the process ends between the write and the publication."""
    script = (
        "import os, sys; from modellock_jax import vault\n"
        "os.link = lambda *args: os._exit(9)\n"
        "vault.save_key(vault.generate_key(), sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "owner.key")], check=False)
    assert done.returncode == 9
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(r"\.modellock-.*\.tmp", left.name)
    assert stat.S_IMODE(left.stat().st_mode) == 0o600
