"""Where a command writes: one rule for links, for what is no plain file, and for what is there."""

import json
import os
import stat
import threading

import numpy as np
import pytest
from helpers.commands import bad, good, run
from safetensors.numpy import save_file

COMMANDS = {
    "seal": ("seal", "m", "OUT", "--to", "a.key.pub"),
    "open": ("open", "m.sealed", "OUT", "--key", "a.key"),
    "rotate": ("rotate", "m.sealed", "OUT", "--key", "a.key", "--to", "a.key.pub"),
    "lock": ("lock", "m", "OUT", "--key", "a.key"),
    "unlock": ("unlock", "m.locked", "OUT", "--key", "a.key"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    save_file({"w": np.arange(6.0)}, folder / "m")
    good(folder, "keygen", "a.key")
    good(folder, "seal", "m", "m.sealed", "--to", "a.key.pub")
    good(folder, "lock", "m", "m.locked", "--key", "a.key")
    return folder


@pytest.fixture(params=COMMANDS)
def words(request):
    def to(output, *more):
        return *(output if word == "OUT" else word for word in COMMANDS[request.param]), *more

    return to


def whole(made, path, tmp_path):
    """Whether a path holds what one of the commands writes."""
    data = path.read_bytes()
    if data == (made / "m").read_bytes():
        return True
    back = tmp_path / "back"
    for command in ("open", "unlock"):
        if run(made, command, path, back, "--key", "a.key", "--force").code == 0:
            return back.read_bytes() == (made / "m").read_bytes()
    return False


def test_a_file_that_is_there_is_replaced_only_on_purpose(made, words, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(0o640)
    bad(2, "give --force", made, *words(path))
    assert path.read_bytes() == b"old"
    assert b"--force" in good(made, *words(path)[:1], "--help", COLUMNS="200")
    good(made, *words(path, "--force"))
    assert whole(made, path, tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_links(made, words, tmp_path):
    (tmp_path / "far").mkdir()
    link, target = tmp_path / "link", tmp_path / "far" / "x"
    link.symlink_to("far/x")
    bad(6, "leads nowhere", made, *words(link))
    bad(6, "leads nowhere", made, *words(link, "--force"))
    target.write_bytes(b"old")
    bad(2, "give --force", made, *words(link))
    good(made, *words(link, "--force"))
    assert link.is_symlink()
    assert whole(made, target, tmp_path)
    assert os.listdir(tmp_path / "far") == ["x"]


def test_keys_and_folders_are_never_replaced(made, words, tmp_path):
    key = (made / "a.key").read_bytes()
    bad(2, "never replaced", made, *words("a.key", "--force"))
    assert (made / "a.key").read_bytes() == key
    bad(6, "is a directory", made, *words(tmp_path, "--force"))
    bad(6, "no directory", made, *words(tmp_path / "no" / "x"))


def test_pipes_and_devices_are_written_to(made, words, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got = []
    thread = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    thread.start()
    good(made, *words(tmp_path / "pipe"))
    thread.join()
    for name in ("-", "/dev/stdout"):
        got.append(good(made, *words(name)))
    for data in got:
        (tmp_path / "x").write_bytes(data)
        assert whole(made, tmp_path / "x", tmp_path)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    good(made, *words(os.devnull))
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert run(made, *words("/dev/full")).code == 2


def test_over_its_own_source(made, words, tmp_path):
    """Refused, or with --force done whole."""
    source = tmp_path / words("x")[1]
    source.write_bytes((made / source.name).read_bytes())
    hard = tmp_path / "hard"
    os.link(source, hard)
    for output in (source, hard):
        command = words(output, "--force")
        bad(2, "give --force", made, command[0], source, *words(output)[2:])
        good(made, command[0], source, *command[2:])
        assert whole(made, output, tmp_path)
        source.write_bytes((made / source.name).read_bytes())


def test_a_terminal_gets_no_binary_data_unless_it_is_named(made, words):
    terminal = "os.isatty = lambda n: True\nsys.stdout.isatty = lambda: True"
    bad(2, "is a terminal", made, *words("-"), setup=f"import os, sys\n{terminal}")
    good(made, *words("/dev/stdout"), setup=f"import os, sys\n{terminal}")


def test_a_dry_run_refuses_what_the_run_would(made, tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    for name in ("seal", "open", "rotate"):
        words = [tmp_path / "x" if word == "OUT" else word for word in COMMANDS[name]]
        bad(2, "give --force", made, *words, "--dry-run")
        good(made, *words, "--dry-run", "--force")
    assert (tmp_path / "x").read_bytes() == b"old"


def test_keys_and_copies_are_never_overwritten(made, tmp_path):
    bad(2, "exists and is ", made, "keygen", "a.key")
    (tmp_path / "dangling").symlink_to("nowhere")
    bad(2, "exists and is kept", made, "keygen", tmp_path / "dangling")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    bad(2, "no empty folder", made, "backup", "split", "a.key", tmp_path / "full")
    ids = []
    for again in ((), ("--reissue",)):
        issue = ("issue", "m", tmp_path / "users", "--user", "u", "--register", tmp_path / "r")
        told = json.loads(good(made, *issue, *again, "--key", "a.key", "--json"))
        ids.append(told["issued"][0]["key"])
    assert len({*ids}) == 2
    assert len(os.listdir(tmp_path / "users")) == 4
