"""Files on their way: what is not finished is removed, whatever ends the process."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

PREFIX, SUFFIX = ".modellock-", ".tmp"

_left: set[Path] = set()  # what has to be removed should the process end now
_finished = False  # something was, and nothing is on its way
_waiting: list[BaseException] = []


def name_in(folder: Path) -> Path:
    """Return a new name in a folder, of what `remove_all` removes until it is finished.

    Raises what `interrupt` kept back since the last file was finished.
    """
    global _finished
    _finished = False
    if _waiting:
        raise _waiting.pop()
    path = folder / f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}"
    _left.add(path)  # before it is there, so that nothing can come between
    return path


def finish(temp: Path, put: Callable[[], None]) -> None:
    """Have `put` give what is complete its name; what `interrupt` brings from here on waits."""
    global _finished
    _finished = True
    try:
        put()
    except BaseException:
        _finished = False
        raise
    _left.discard(temp)


def interrupt(fault: BaseException) -> None:
    """Raise a fault, or keep it back while what is done is done: until another file is begun.

    For the handler of a signal, so that a command that has written its file says so.
    """
    if not _finished:
        raise fault
    _waiting.append(fault)


def remove(temp: Path) -> None:
    """Remove what `name_in` named, if it is there."""
    if temp.is_dir() and not temp.is_symlink():
        shutil.rmtree(temp)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temp)
    _left.discard(temp)


def remove_all() -> None:
    """Remove everything that is not finished, as far as the system lets us."""
    for temp in [*_left]:
        with contextlib.suppress(OSError):
            remove(temp)


def begin() -> None:
    """Forget what another command in this process has finished."""
    global _finished
    _finished = False
    _waiting.clear()


@contextlib.contextmanager
def folder_in(parent: Path) -> Iterator[Path]:
    """Yield a new folder for the owner's eyes alone; removed at the end unless it has its name."""
    temp = name_in(parent)
    try:
        temp.mkdir(0o700)
        yield temp
    finally:
        remove(temp)


def spool() -> FileIO:
    """Return a nameless file in `$TMPDIR` that nobody else can open; let what goes there be ciphertext.

    Raises `OSError` if there is no place for one.
    """
    try:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115, the caller closes it
    except OSError as error:
        raise OSError(f"no place for a temporary file ({error}); set $TMPDIR to a folder") from None
    return file


def left_in(folder: Path) -> list[Path]:
    """Return what killed commands, or ones that still run, have left in a folder."""
    return sorted(folder.glob(f"{PREFIX}*{SUFFIX}"))
