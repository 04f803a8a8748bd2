"""Files that are written: who can read them meanwhile and afterwards, links, and poor file systems."""

import errno
import gc
import os
import stat
import subprocess
import sys

import pytest

from modellock_jax import _atomic, _temporary
from modellock_jax._atomic import creating, replacing
from modellock_jax.vault import _files
from modellock_jax.vault.keys import share_files, shares
from modellock_jax.vault.keys.secret import generate_key, load_key, save_key


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture(autouse=True)
def umask():
    old = os.umask(0o022)
    yield
    os.umask(old)


def write(path, data=b"new", how=replacing, **options):
    with how(path, **options) as file:
        os.write(file, data)


@pytest.mark.parametrize("how", [replacing, creating])
def test_until_it_is_whole_only_its_owner_can_read_it(tmp_path, how):
    with how(tmp_path / "a", mode=0o644):
        (temp,) = tmp_path.glob(".modellock-*.tmp")
        assert mode(temp) == 0o600
    assert mode(tmp_path / "a") == 0o644
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("before", [0o600, 0o640, 0o644, 0o666, 0o400])
def test_a_file_in_its_place_keeps_its_mode(tmp_path, before):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(before)
    write(path)
    assert (path.read_bytes(), mode(path)) == (b"new", before)


def test_a_new_file_obeys_the_umask(tmp_path):
    os.umask(0o077)
    write(tmp_path / "a")
    assert mode(tmp_path / "a") == 0o600
    assert os.umask(0o077) == 0o077


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_in_its_place_keeps_its_owner_or_its_group_gets_no_more(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(0o640)
    os.chown(path, 1234, 5678)
    write(path)
    assert (os.stat(path).st_uid, os.stat(path).st_gid, mode(path)) == (1234, 5678, 0o640)

    def refused(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refused)
    write(path)
    assert mode(path) == 0o600


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("far/a")
    write(link)
    assert link.is_symlink()
    assert (tmp_path / "far" / "a").read_bytes() == b"new"
    with pytest.raises(FileExistsError, match="exists and is kept"):
        write(link, how=creating)


def test_a_link_that_leads_nowhere_is_refused(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("nothing")
    with pytest.raises(FileNotFoundError, match="leads nowhere"):
        write(link)
    with pytest.raises(FileExistsError, match="exists and is kept"):
        write(link, how=creating)
    assert os.listdir(tmp_path) == ["link"]


def test_a_directory_a_pipe_or_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    for path in ("pipe", "null", os.devnull):
        with pytest.raises(OSError, match="a pipe or a device"):
            write(tmp_path / path)
    with pytest.raises(IsADirectoryError, match="name a file in it"):
        write(tmp_path)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def lacking(monkeypatch, name, number, only=lambda *_: True):
    """The system has no `name`, and says so by a number."""
    real = getattr(os, name)

    def call(*args, **options):
        if only(*args):
            raise OSError(number, os.strerror(number))
        return real(*args, **options)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK])
def test_without_hard_links_a_key_is_written_and_none_is_overwritten(tmp_path, monkeypatch, number):
    lacking(monkeypatch, "link", number)
    secret = generate_key()
    save_key(secret, tmp_path / "a.key")
    assert load_key(tmp_path / "a.key") == secret
    assert mode(tmp_path / "a.key") == 0o600
    real = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: False)  # it comes while we write
    with pytest.raises(FileExistsError, match="exists and is kept"):
        save_key(generate_key(), tmp_path / "a.key")
    monkeypatch.setattr(os.path, "lexists", real)
    assert load_key(tmp_path / "a.key") == secret
    lacking(monkeypatch, "replace", errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        save_key(secret, tmp_path / "b.key")
    assert os.listdir(tmp_path) == ["a.key"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM])
def test_a_folder_that_cannot_be_synced_is_no_fault(tmp_path, monkeypatch, number):
    lacking(monkeypatch, "fsync", number, lambda file: stat.S_ISDIR(os.fstat(file).st_mode))
    write(tmp_path / "a")
    write(tmp_path / "b", how=creating)
    lacking(monkeypatch, "fsync", errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write(tmp_path / "c")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_without_modes_a_file_stays_its_owners(tmp_path, monkeypatch):
    lacking(monkeypatch, "fchmod", errno.EPERM)
    write(tmp_path / "a")
    assert mode(tmp_path / "a") == 0o600


def test_a_key_goes_to_no_file_system_that_shows_it_to_all(tmp_path, monkeypatch):
    monkeypatch.setattr(_atomic, "_for_owner", lambda path, flags: os.open(path, flags, 0o644))
    with pytest.raises(OSError, match="can keep nothing from others"):
        save_key(generate_key(), tmp_path / "a.key")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_without_locks_it_says_so(tmp_path, monkeypatch, number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_files.fcntl, "flock", refused)
    from modellock_jax.vault.issuing import register, revocation

    with pytest.raises(OSError, match="has no locks"):
        revocation.revoke(tmp_path / "list", [generate_key().id], generate_key())
    with (
        pytest.raises(OSError, match="has no locks"),
        register.extending(tmp_path / "r", generate_key()),
    ):
        pass


class Stopped(BaseException):
    pass


# A file object that the exception took before anybody had it is closed by Python, with this warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_signal_between_any_two_lines_leaves_nothing(tmp_path):
    """Every line that Python runs in writing a file, interrupted in turn."""
    (tmp_path / "old").write_bytes(b"old")
    ended = 0
    for how, name in ((replacing, "old"), (creating, "new")):
        for step in range(1, 2000):
            left = step

            def trace(frame, event, _):
                nonlocal left
                ours = frame.f_code.co_filename in (_atomic.__file__, _temporary.__file__)
                if ours and event == "line" and frame.f_code.co_name not in ("remove", "begin"):
                    left -= 1
                    if left == 0:
                        _temporary.interrupt(Stopped())
                return trace if ours or event == "call" else None

            _temporary.begin()
            sys.settrace(trace)
            try:
                write(tmp_path / name, how=how)
                done = True
            except Stopped:
                done = False
            finally:
                sys.settrace(None)
                _temporary.remove_all()
            there = (tmp_path / name).read_bytes() if (tmp_path / name).exists() else None
            assert there == (b"new" if done else {"old": b"old", "new": None}[name])
            assert not list(tmp_path.glob(".modellock-*"))
            (tmp_path / "old").write_bytes(b"old")
            (tmp_path / "new").unlink(missing_ok=True)
            if left > 0:
                break
            ended += not done
        assert left > 0
    assert ended > 20
    gc.collect()


def test_a_fault_after_the_file_is_there_waits_for_the_next_file(tmp_path):
    _temporary.begin()
    write(tmp_path / "a")
    _temporary.interrupt(Stopped())
    with pytest.raises(Stopped):
        write(tmp_path / "b")
    assert os.listdir(tmp_path) == ["a"]
    write(tmp_path / "b")  # it came once


def test_shares_interrupted_leave_nothing(tmp_path, monkeypatch):
    pytest.importorskip("shamir_mnemonic")
    split = shares.split(generate_key(), 2, 3)

    def stopped(*_):
        raise Stopped

    monkeypatch.setattr(share_files, "write_all", stopped)
    with pytest.raises(Stopped):
        share_files.save(split, tmp_path / "shares")
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_leaves_is_found_and_nobody_else_can_read_it(tmp_path):
    program = (
        "import os; from modellock_jax._atomic import replacing\n"
        "with replacing('a'): os.kill(os.getpid(), 9)"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False)
    assert ran.returncode == -9
    (left,) = _temporary.left_in(tmp_path)
    assert mode(left) == 0o600
