"""Files that are whole or not there, and JSON that means one thing only."""

import codecs
import contextlib
import fcntl
import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from modellock_jax.vault import gaps, temporary
from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.printing import printable


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: int = 0o644) -> Iterator[int]:
    """A file descriptor, open to read and write, whose file takes the place of `path` at the end.

    Where `path` is a link to a file, that file is replaced and the link stays. A file that is there
    keeps its mode, and its owner and group where the system allows it; a new one gets `mode`,
    lessened by the process's umask. Raises `FileNotFoundError` if the directory does not exist or a
    link leads nowhere, `OSError` for a directory, a pipe or a device, or if the disk refuses.

    **Guarantees.** At every moment `path` is the old file or the whole new one, whatever is killed;
    after an exception it is the old one and nothing else is left. On return the new file is on the
    disk. Until it is whole nobody but its owner can read it. A killed process may leave
    `.modellock-*.tmp` beside it, which `doctor` finds.

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

    Raises `FileExistsError` if `path` is there, be it as a link that leads nowhere, at the beginning
    or at the end; `OSError` if `mode` shuts others out and the file system cannot; else as `replacing`.

    **Guarantees.** As `replacing`, and what was at `path` is kept. Where the file system has no hard
    links, a process that is killed may leave `path` empty.
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
    temp = temporary.name_in(target.parent)
    try:
        with open(temp, "x+b", buffering=0, opener=_for_owner) as stream:
            file = stream.fileno()
            yield file
            with gaps.tolerated(gaps.NO_SYNC):
                os.fsync(file)
            _set_mode(file, mode, target)
        temporary.finish(temp, lambda: put(temp, target))
    except BaseException:
        temporary.remove(temp)
        raise
    sync_directory(target.parent)


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _destination(path: str | os.PathLike[str]) -> Path:
    """The file that a path to write names, behind any link. Raises `OSError` if it is no file."""
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
    with gaps.tolerated(gaps.NO_MODES):
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
        if error.errno not in gaps.NO_LINKS:
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
    """Raises `FileNotFoundError` unless the directory that a new file needs is there."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {printable(path.parent)}; create it first")


def check_private(file: int, path: str | os.PathLike[str]) -> None:
    """Raises `PermissionError` if group or others have access to an open file."""
    if os.fstat(file).st_mode & 0o077:
        raise PermissionError(f"{printable(path)} is open to others; run `chmod 600` on it first")


def sync_directory(path: Path) -> None:
    """Bring a directory's entries to the disk, where the file system does that."""
    with gaps.tolerated(gaps.NO_SYNC_OF_FOLDERS):
        directory = os.open(path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def hold(file: int, path: str | os.PathLike[str]) -> None:
    """Wait until no other process holds an open file. Raises `OSError` where that cannot be known."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in gaps.NO_LOCKS:
            raise
        raise OSError(
            f"{printable(path)}: its file system has no locks (flock), so two commands at a time could "
            "undo one another; work on a local disk, and copy the file back"
        ) from None


def write_all(file: int, data: Any, offset: int) -> None:
    """Write a buffer at an offset, however often the system takes only a part."""
    view = memoryview(data).cast("B")
    while view:
        done = os.pwrite(file, view, offset)
        view, offset = view[done:], offset + done


def open_to_read(path: str | os.PathLike[str]) -> int:
    """A descriptor of an existing plain file. Raises `Unreadable`."""
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
    """The first `most` bytes of a file or a pipe that somebody has named. Raises `Unreadable`."""
    try:
        with open(path, "rb") as stream:
            return stream.read(most)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str | os.PathLike[str], error: OSError | ValueError) -> Unreadable:
    why = error.strerror if isinstance(error, OSError) else error
    return Unreadable(f"{printable(path)}: cannot be read ({why}); check the path")


def strict_json(data: bytes) -> Any:
    """Parse JSON that has one meaning: UTF-8, no key twice, no NaN or infinity, not deep.

    Raises `ValueError` with what is wrong, and nothing of the content.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) != len(pairs):
            raise ValueError("has a key twice")
        return found

    def refuse(_: str) -> NoReturn:
        raise ValueError("has a number that JSON does not know")

    def number(digits: str) -> int | float:
        if len(digits) > 400 or not math.isfinite(found := float(digits)):
            raise ValueError("has a number that is too large")
        return int(digits) if digits.lstrip("-").isdecimal() else found

    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    del data  # which may be long, and be nobody else's
    try:
        return json.loads(
            text,
            object_pairs_hook=once,
            parse_constant=refuse,
            parse_float=number,
            parse_int=number,
        )
    except json.JSONDecodeError:
        raise ValueError("is not JSON") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, ASCII.

    >>> canonical({"b": 1, "a": "é"})
    b'{"a":"\\\\u00e9","b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def canonical_pieces(value: Any) -> Iterator[bytes]:
    """`canonical`, piece by piece, so that a long text is never whole in memory."""
    encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
    for piece in encoder.iterencode(value):
        yield piece.encode()


def quoted_pieces(text: str | bytes, ascii_only: bool) -> Iterator[bytes]:
    """The JSON string of a text, which may be UTF-8 bytes already, piece by piece.

    >>> b"".join(quoted_pieces("a\\n\u00e9", True))
    b'"a\\\\n\\\\u00e9"'
    """
    decoder, size = codecs.getincrementaldecoder("utf-8")(), 2**16
    yield b'"'
    for at in range(0, len(text), size):
        part = text[at : at + size]
        part = decoder.decode(part) if isinstance(part, bytes) else part
        yield json.dumps(part, ensure_ascii=ascii_only)[1:-1].encode()
    yield b'"'
