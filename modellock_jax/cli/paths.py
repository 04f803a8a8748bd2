"""What a command reads and writes: files, standard streams, pipes and devices, by one rule."""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from modellock_jax._atomic import need_directory
from modellock_jax._printing import printable
from modellock_jax.cli import streams

__all__ = [
    "STANDARD",
    "Force",
    "In",
    "Out",
    "Source",
    "Stream",
    "Target",
    "check",
    "content",
    "hold_in_memory",
    "is_folder",
    "is_output",
    "is_stream",
    "key_file",
    "parse_path",
    "reading",
    "size_of",
    "writing",
]

STANDARD = Path("-")


def parse_path(text: str) -> Path:
    """Return the path of an argument: `-` alone is a standard stream, and `./-` a file of that name."""
    path = Path(text)
    return Path.cwd() / path if path == STANDARD and text != "-" else path


In = Annotated[
    Path,
    typer.Argument(parser=parse_path, help="The file or pipe to read; - for standard input."),
]
Out = Annotated[
    Path,
    typer.Argument(
        parser=parse_path,
        help="The file to write, behind a link too; one that is there only with --force. A pipe or a "
        "device is written to; - for standard output.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace OUTPUT if it is there. Keys are never replaced.")
]
Target = Path | BinaryIO


class Stream:
    """A source that is read once: `count` says how many bytes it has given."""

    def __init__(self, raw: BinaryIO, name: str) -> None:
        self._raw, self.name, self.count = raw, name, 0

    def read(self, size: int = -1) -> bytes:
        """At most so many bytes, all of them by default."""
        data = self._raw.read(size)
        self.count += len(data)
        return data


Source = Path | Stream


def is_stream(path: Path) -> bool:
    """Whether what a path names is read or written once, from its beginning to its end.

    Raises `OSError` if the system does not say.
    """
    if path == STANDARD:
        return True
    try:
        found = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(found) or stat.S_ISDIR(found))


def is_folder(path: Path) -> bool:
    """Whether a path names a directory."""
    return path != STANDARD and path.is_dir()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Source]:
    """Yield a file's path, or a stream that is open. Raises `OSError`."""
    if path == STANDARD:
        yield Stream(streams.take_input("the file to read"), "standard input")
    elif is_stream(path):
        with _opened(path) as stream:
            yield Stream(stream, str(path))
    else:
        yield path


def _opened(path: Path) -> BinaryIO:
    number = _descriptor(path)
    return open(path, "rb") if number is None else os.fdopen(os.dup(number), "rb")


@contextlib.contextmanager
def writing(path: Path, force: bool) -> Iterator[Target]:
    """Yield a path that a new file may take, or a stream that is open; checked before anything is done.

    Raises `FileExistsError` for a file that is there without `force`, and for a key always; `OSError`
    for a directory and for a terminal, which takes no binary data unless it is named.
    """
    number = _descriptor(path)
    if path == STANDARD:
        yield streams.output()
    elif number is not None:
        with os.fdopen(os.dup(number), "wb") as stream:
            yield stream
    elif is_stream(path):
        if stat.S_ISBLK(os.stat(path).st_mode):
            raise OSError(f"{printable(path)} is a disk; name a file on it")
        with open(path, "wb") as stream:
            yield stream
    else:
        _check_new(path, force)
        yield path


def key_file(path: Path) -> Path:
    """Return the path of a new key file. Raises `ValueError` for a stream: it keeps nothing secret."""
    if is_stream(path):
        raise ValueError("a key goes to a file, which only its owner can read; name one")
    return path


def is_output(path: Path) -> bool:
    """Whether a path is standard output by any name, where nothing else may then be printed."""
    return path == STANDARD or _descriptor(path) == 1


def check(path: Path, force: bool) -> None:
    """As the beginning of `writing`, for a dry run."""
    if path == STANDARD:
        streams.output()
    elif _descriptor(path) is None and not is_stream(path):
        _check_new(path, force)


def _check_new(path: Path, force: bool) -> None:
    """Refuse to write to a path; raises as `writing`."""
    need_directory(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"{printable(path)} is a directory; name a file in it")
    if not os.path.exists(path):
        return
    if _is_key(path):
        raise FileExistsError(f"{printable(path)} is a key or a share, which is never replaced")
    if not force:
        raise FileExistsError(f"{printable(path)} is there already; give --force to replace it")


def hold_in_memory(given: Source) -> Path | bytes:
    """Return a file's path, or all of a stream: what is locked is in memory, and written nowhere."""
    return given if isinstance(given, Path) else given.read()


def size_of(given: Source) -> int:
    """How many bytes a file has, or a stream has given."""
    return given.stat().st_size if isinstance(given, Path) else given.count


def content(path: Path, most: int) -> bytes:
    """Return the first `most` bytes of a small file, a pipe, or standard input. Raises `OSError`."""
    if path == STANDARD:
        return streams.take_input("a key or a passphrase").read(most)
    with _opened(path) as stream:
        return stream.read(most)


def _descriptor(path: Path) -> int | None:
    """Return the open file that a name of the system stands for; another opening may wait, or cut it."""
    if str(path) in ("/dev/stdin", "/dev/stdout"):
        return int(str(path) == "/dev/stdout")
    found = re.fullmatch("/(?:dev|proc/self)/fd/([0-9]+)", str(path))
    return int(found[1]) if found else None


def _is_key(path: Path) -> bool:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return bool(re.search(rb'modellock-jax (key"|share of a key)', file.read(4096)))
    return False
