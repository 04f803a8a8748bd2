"""Files opened: plain ones, small ones, private ones, and one process at a time."""

import fcntl
import os
import stat

from modellock_jax import _gaps
from modellock_jax._printing import printable
from modellock_jax.vault.errors import Unreadable


def check_private(file: int, path: str | os.PathLike[str]) -> None:
    """Raise `PermissionError` if group or others have access to an open file."""
    if os.fstat(file).st_mode & 0o077:
        raise PermissionError(f"{printable(path)} is open to others; run `chmod 600` on it first")


def hold(file: int, path: str | os.PathLike[str]) -> None:
    """Wait until no other process holds an open file. Raises `OSError` where that cannot be known."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _gaps.NO_LOCKS:
            raise
        raise OSError(
            f"{printable(path)}: its file system has no locks (flock), so two commands at a time could "
            "undo one another; work on a local disk, and copy the file back"
        ) from None


def open_to_read(path: str | os.PathLike[str]) -> int:
    """Return a descriptor of an existing plain file. Raises `Unreadable`."""
    try:
        # Without waiting: a pipe that nobody writes would block.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise Unreadable(f"{printable(path)} is a directory, a pipe or a device; name a file")
    return file


def read_small(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the first `most` bytes of a file or a pipe that somebody has named. Raises `Unreadable`."""
    try:
        with open(path, "rb") as stream:
            return stream.read(most)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str | os.PathLike[str], error: OSError | ValueError) -> Unreadable:
    why = error.strerror if isinstance(error, OSError) else error
    return Unreadable(f"{printable(path)}: cannot be read ({why}); check the path")
