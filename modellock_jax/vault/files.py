"""Files that are whole or not there, and JSON that means one thing only."""

import contextlib
import json
import math
import os
import secrets
import stat
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from modellock_jax.vault.errors import Unreadable


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: int = 0o644) -> Iterator[int]:
    """A file descriptor, open to read and write, whose file takes the place of `path` at the end.

    `mode` is lessened by the process's umask. Raises `FileNotFoundError` if the directory does not
    exist, `OSError` if the disk refuses.

    **Guarantees.** At every moment `path` is the old file or the whole new one, whatever is killed;
    after an exception it is the old one and nothing else is left. On return the new file is on the
    disk. A killed process may leave `.modellock-*.tmp` beside it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/a") as file:
    ...         _ = os.write(file, b"whole")
    ...     Path(f"{folder}/a").read_bytes()
    b'whole'
    """
    with _written(path, mode, os.replace) as file:
        yield file


@contextlib.contextmanager
def creating(path: str | os.PathLike[str], mode: int = 0o644) -> Iterator[int]:
    """As `replacing`, for a file that is not there yet.

    Raises `FileExistsError` if `path` is there at the end, `OSError` also if the file system has no
    hard links; else as `replacing`.

    **Guarantees.** As `replacing`, and what was at `path` is kept.
    """

    def put(temp: Path, target: Path) -> None:
        try:
            os.link(temp, target)  # unlike a rename, refuses if the target exists
        except FileExistsError:
            raise FileExistsError(f"{target} exists and is kept; choose another path") from None
        os.unlink(temp)

    with _written(path, mode, put) as file:
        yield file


@contextlib.contextmanager
def _written(
    path: str | os.PathLike[str], mode: int, put: Callable[[Path, Path], None]
) -> Iterator[int]:
    target = Path(path)
    need_directory(target)
    temp = target.with_name(f".modellock-{secrets.token_hex(8)}.tmp")
    file = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    try:
        try:
            yield file
            os.fsync(file)
        finally:
            os.close(file)
        put(temp, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temp)
        raise
    sync_directory(target.parent)


def need_directory(path: Path) -> None:
    """Raises `FileNotFoundError` unless the directory that a new file needs is there."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {path.parent}; create it first")


def check_private(file: int, path: str | os.PathLike[str]) -> None:
    """Raises `PermissionError` if group or others have access to an open file (POSIX)."""
    if os.name == "posix" and os.fstat(file).st_mode & 0o077:
        raise PermissionError(f"{path} is open to others; run `chmod 600` on it first")


def sync_directory(path: Path) -> None:
    """Bring a directory's entries to the disk (POSIX)."""
    if os.name == "posix":
        directory = os.open(path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_all(file: int, data: Any, offset: int) -> None:
    """Write a buffer at an offset, however often the system takes only a part."""
    view = memoryview(data).cast("B")
    while view:
        done = os.pwrite(file, view, offset)
        view, offset = view[done:], offset + done


# Else a pipe that nobody writes would block.
_WAIT_FOR_NOBODY = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_to_read(path: str | os.PathLike[str]) -> int:
    """A descriptor of an existing plain file. Raises `Unreadable`."""
    try:
        file = os.open(path, os.O_RDONLY | _WAIT_FOR_NOBODY)
    except OSError as error:
        raise Unreadable(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise Unreadable(f"{path} is a directory, a pipe or a device; name a file")
    return file


# Letters and signs that show nothing, though Unicode counts them as printable.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {
    chr(code) for first, end in ((0x180B, 0x1810), (0xFE00, 0xFE10), (0xE0000, 0xE1000))
    for code in range(first, end)
}  # fmt: skip
_MARKS = 4  # in a row on one letter: more pile up over the lines above


def printable(text: object, most: int = 300) -> str:
    r"""A text of somebody else's, or a path, on one line, such that a terminal only shows it.

    Printable characters stay. All others become escapes as in Python: controls, line ends, spaces
    but the usual one, what turns the direction of writing or shows nothing, lone surrogates. After
    `most` characters it is cut, and says so. Nothing of ours prints such a text otherwise.

    **Guarantees.** One line of printable characters, which any UTF-8 stream takes.

    >>> printable("a\x1b]0;title\x07\u202eb\n")
    'a\\x1b]0;title\\x07\\u202eb\\n'
    """
    whole = str(text)
    shown, marks = [], _MARKS  # a mark that comes first would sit on our own text
    for sign in whole[:most]:
        mark = unicodedata.combining(sign) or unicodedata.category(sign) in ("Mn", "Me", "Mc")
        marks = marks + 1 if mark else 0
        fine = sign.isprintable() and sign not in _BLANK and marks <= _MARKS
        shown.append(sign if fine else sign.encode("unicode_escape").decode())
    more = f"... ({len(whole)} characters)" if len(whole) > most else ""
    return "".join(shown) + more


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
