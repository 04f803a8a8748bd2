"""Files that are whole or not there: the one place that puts a new file where an old one may be."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modellock_jax import _gaps, _temporary
from modellock_jax._printing import printable

__all__ = ["creating", "need_directory", "replacing", "sync_directory", "write_all"]


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: int = 0o644) -> Iterator[int]:
    """Yield a file descriptor, open to read and write, whose file takes the place of `path` at the end.

    Where `path` is a link to a file, that file is replaced and the link stays. A file that is there
    keeps its mode, and its owner and group where the system allows it; a new one gets `mode`,
    lessened by the process's umask.

    **Guarantees.** At every moment `path` is the old file or the whole new one, whatever is killed;
    after an exception it is the old one and nothing else is left. On return the new file is on the
    disk. Until it is whole nobody but its owner can read it. A killed process may leave
    `.modellock-*.tmp` beside it, which `doctor` finds.

    Args:
        path: Of the file, in a directory that is there.
        mode: Permissions of a new file.

    Yields:
        The descriptor, of an empty file.

    Raises:
        FileNotFoundError: If the directory does not exist, or a link leads nowhere.
        OSError: For a directory, a pipe or a device, or if the disk refuses.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/a") as file:
    ...         _ = os.write(file, b"whole")
    ...     Path(f"{folder}/a").read_bytes()
    b'whole'
    """
    with _written(_destination(path), mode, os.replace) as file:
        yield file


@contextlib.contextmanager
def creating(path: str | os.PathLike[str], mode: int = 0o644) -> Iterator[int]:
    """As `replacing`, for a file that is not there yet.

    **Guarantees.** As `replacing`, and what was at `path` is kept. Where the file system has no hard
    links, a process that is killed may leave `path` empty.

    Args:
        path: Of the file, in a directory that is there.
        mode: Its permissions.

    Yields:
        The descriptor, of an empty file.

    Raises:
        FileExistsError: If `path` is there, be it as a link that leads nowhere, at the beginning or
            at the end.
        FileNotFoundError: If the directory does not exist.
        OSError: If `mode` shuts others out and the file system cannot, or if the disk refuses.
    """
    target = Path(path)
    if os.path.lexists(target):
        raise _kept(target)
    with _written(target, mode, _put_new) as file:
        if not mode & 0o077 and os.fstat(file).st_mode & 0o077:
            raise OSError(
                f"{printable(target.parent)}: its file system can keep nothing from others; choose "
                "another folder"
            )
        yield file


@contextlib.contextmanager
def _written(target: Path, mode: int, put: Callable[[Path, Path], None]) -> Iterator[int]:
    need_directory(target)
    temp = _temporary.name_in(target.parent)
    try:
        with open(temp, "x+b", buffering=0, opener=_for_owner) as stream:
            file = stream.fileno()
            yield file
            with _gaps.tolerate(_gaps.NO_SYNC):
                os.fsync(file)
            _set_mode(file, mode, target)
        _temporary.finish(temp, lambda: put(temp, target))
    except BaseException:
        _temporary.remove(temp)
        raise
    sync_directory(target.parent)


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _destination(path: str | os.PathLike[str]) -> Path:
    """Return the file that a path to write names, behind any link. Raises `OSError` if it is no file."""
    try:
        # Not `realpath` alone, for the system may forbid to follow a stranger's link.
        found = os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.islink(path):
            raise FileNotFoundError(
                f"{printable(path)} is a link that leads nowhere; remove it, or name a file"
            ) from None
        return Path(path)
    if stat.S_ISDIR(found):
        raise IsADirectoryError(f"{printable(path)} is a directory; name a file in it")
    if not stat.S_ISREG(found):
        raise OSError(f"{printable(path)} is a pipe or a device, which no file can replace")
    return Path(os.path.realpath(path))


def _set_mode(file: int, mode: int, target: Path) -> None:
    """Open a file to those who may read it: the one in its place before, or a new one."""
    with _gaps.tolerate(_gaps.NO_MODES):
        try:
            before = os.stat(target)
        except FileNotFoundError:
            os.umask(umask := os.umask(0o077))
            os.fchmod(file, mode & ~umask)
            return
        found, wanted = os.fstat(file), stat.S_IMODE(before.st_mode) & 0o777
        if (found.st_uid, found.st_gid) != (before.st_uid, before.st_gid):
            for uid in (before.st_uid, -1):
                with contextlib.suppress(OSError):
                    os.fchown(file, uid, before.st_gid)
                    break
            else:
                # Its group is another now, which may do what all others may.
                wanted = wanted & 0o707 | (wanted & 0o007) << 3
        os.fchmod(file, wanted)


def _put_new(temp: Path, target: Path) -> None:
    try:
        os.link(temp, target)  # unlike a rename, refuses if the target exists
    except FileExistsError:
        raise _kept(target) from None
    except OSError as error:
        if error.errno not in _gaps.NO_LINKS:
            raise
        try:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            raise _kept(target) from None
        try:
            os.replace(temp, target)
        except BaseException:
            os.unlink(target)
            raise
    else:
        os.unlink(temp)


def _kept(target: Path) -> FileExistsError:
    return FileExistsError(f"{printable(target)} exists and is kept; choose another path")


def need_directory(path: Path) -> None:
    """Refuse a path whose directory is not there.

    Args:
        path: Of the new file.

    Raises:
        FileNotFoundError: If its directory does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {printable(path.parent)}; create it first")


def sync_directory(path: Path) -> None:
    """Bring a directory's entries to the disk, where the file system does that.

    Args:
        path: Of the directory.
    """
    with _gaps.tolerate(_gaps.NO_SYNC_OF_FOLDERS):
        directory = os.open(path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_all(file: int, data: Any, offset: int) -> None:
    """Write a buffer at an offset, however often the system takes only a part.

    Args:
        file: A descriptor, open to write.
        data: Any contiguous buffer.
        offset: Into the file, in bytes.
    """
    view = memoryview(data).cast("B")
    while view:
        done = os.pwrite(file, view, offset)
        view, offset = view[done:], offset + done
