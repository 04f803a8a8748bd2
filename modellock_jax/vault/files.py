"""Files that are whole or not there, and JSON that means one thing only."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from modellock_jax.vault.errors import Unreadable


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: int = 0o644) -> Iterator[int]:
    """A file descriptor, open to read and write, whose file takes the place of `path` at the end.

    Raises `FileNotFoundError` if the directory does not exist, `OSError` if the disk refuses.

    **Guarantees.** At every moment `path` is the old file or the whole new one, whatever is killed;
    after an exception it is the old one and nothing else is left. On return the new file is on the
    disk. A killed process may leave `.modellock-*.tmp` beside it.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/a") as file:
    ...         _ = os.write(file, b"whole")
    ...     Path(f"{folder}/a").read_bytes()
    b'whole'
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {target.parent}; create it first")
    file, temp = tempfile.mkstemp(prefix=".modellock-", suffix=".tmp", dir=target.parent)
    try:
        try:
            yield file
            os.fchmod(file, mode)
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(temp, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temp)
        raise
    sync_directory(target.parent)


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


def open_to_read(path: str | os.PathLike[str], write: bool = False) -> int:
    """A descriptor of an existing plain file, to write in place too if asked. Raises `Unreadable`."""
    mode = os.O_RDWR if write else os.O_RDONLY
    try:
        file = os.open(path, mode | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise Unreadable(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if os.path.isdir(path):
        os.close(file)
        raise Unreadable(f"{path} is a directory; name a file")
    return file


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

    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=refuse)
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
