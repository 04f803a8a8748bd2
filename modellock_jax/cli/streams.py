"""The three standard streams, be they closed, full, or unable to write a letter."""

import contextlib
import os
import sys
from typing import BinaryIO, TextIO

from modellock_jax._printing import printable

__all__ = ["flush", "output", "prepare", "put", "say", "take_input"]

_closed: set[int] = set()  # of 0, 1, 2: those that were closed when the command began
_taken = ""  # what standard input is


def prepare() -> None:
    """Put the null device where a stream is closed, and escapes where it lacks a letter.

    Else the next file that is opened would be the standard output of whatever prints.
    """
    global _taken
    _closed.clear()
    _taken = ""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            _closed.add(os.open(os.devnull, os.O_RDWR))
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):  # where a test has put another
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def take_input(what: str) -> BinaryIO:
    """Return standard input, for one purpose.

    Raises:
        OSError: It is closed.
        ValueError: It was taken before.
    """
    global _taken
    if 0 in _closed:
        raise OSError("standard input is closed; name a file instead of -")
    if _taken:
        raise ValueError(f"standard input can be {_taken} or {what}, not both; name a file")
    _taken = what
    return sys.stdin.buffer


def output() -> BinaryIO:
    """Return standard output, for what is no text. Raises `OSError` if it is closed or a terminal."""
    if 1 in _closed:
        raise OSError("standard output is closed; name a file instead of -")
    if sys.stdout.isatty():
        raise OSError(
            "standard output is a terminal, which cannot show this; name a file, or pipe it"
        )
    return sys.stdout.buffer


def put(text: str) -> None:
    """Print on standard output, all of it. Raises `OSError`."""
    try:
        print(text, flush=True)
    except OSError:
        _give_up(sys.stdout)
        raise


def say(text: str) -> None:
    """Print a line on standard error; if nobody can be told, so be it."""
    try:
        print(printable(text, 4000), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _give_up(sys.stderr)


def flush() -> OSError | None:
    """Bring out what was printed; what went wrong, if it did."""
    fault = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            _give_up(stream)
            fault = error if stream is sys.stdout else fault
    return fault


def _give_up(stream: TextIO) -> None:
    """Send the rest nowhere, or Python tries again at its end and prints a traceback."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
