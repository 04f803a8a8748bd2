"""What commands on files share: options, where keys come from, how results are told."""

import contextlib
import functools
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from modellock_jax._printing import printable
from modellock_jax.cli import choosing, paths, streams
from modellock_jax.vault.errors import Unreadable, VaultError
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.identity import PublicKey
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.sealed import recipients

__all__ = [
    "DryRun",
    "Expect",
    "Json",
    "Name",
    "RevokedBy",
    "Serial",
    "Sign",
    "SignedBy",
    "To",
    "WithPassphrase",
    "chosen_recipients",
    "moment",
    "on_files",
    "progress",
    "publics",
    "say_memory",
    "show",
    "signers",
    "tell",
]

To = Annotated[
    list[Path],
    typer.Option("--to", parser=paths.parse_path, help="A recipient's public key file; repeat it."),
]
WithPassphrase = Annotated[
    bool, typer.Option("--passphrase", help="Also for whoever knows a passphrase: asks for it.")
]
Sign = Annotated[
    list[Path],
    typer.Option("--sign", parser=paths.parse_path, help="Sign with this key file; repeat it."),
]
SignedBy = Annotated[
    list[Path],
    typer.Option(
        "--signed-by",
        parser=paths.parse_path,
        help="Refuse without the signature of this public key; repeat it.",
    ),
]
RevokedBy = Annotated[
    list[Path],
    typer.Option(
        "--revoked",
        parser=paths.parse_path,
        help="Refuse the keys on this revocation list; repeat it. Always looked at: those that "
        "$MODELLOCK_REVOKED names, and NAME.revoked.json and revoked.json beside the file.",
    ),
]
Name = Annotated[
    str | None,
    typer.Option("--name", help="What it is, for all to read: --expect asks for it. Signed too."),
]
Serial = Annotated[
    int | None, typer.Option("--serial", help="Which version of that, from 1 upwards. Signed too.")
]
Expect = Annotated[
    str | None,
    typer.Option(
        "--expect",
        help="Refuse another file: NAME, NAME@SERIAL, or NAME@SERIAL+ for that version or a later. "
        "Only with --signed-by does more than the recipients' word stand behind it.",
    ),
]
_EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""

_MUCH = 2**28
"""Bytes of memory that need no word."""

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and write nothing.")]


def signers(paths: list[Path]) -> list[Secret]:
    """Return the secrets in these files."""
    return [choosing.load_secret(path) for path in paths]


def publics(paths: list[Path]) -> list[PublicKey]:
    """Return the public keys in these files."""
    return [identity.load_public_key(path) for path in paths]


def chosen_recipients(
    to: list[Path], passphrase: bool, passphrase_file: Path | None
) -> list[recipients.Recipient]:
    """Who shall be able to open a file. Raises `ValueError` if nobody."""
    found: list[recipients.Recipient] = [*dict.fromkeys(publics(to))]
    if passphrase or passphrase_file:
        found.append(choosing.ask_passphrase(confirm=True, file=passphrase_file))
    if not found:
        raise ValueError("name a recipient: --to FILE.pub or --passphrase")
    return found


def moment(text: str) -> datetime | None:
    """Return a date, or date and time, in UTC unless it says otherwise; None for an empty text."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a date; write 2027-01-31 or 2027-01-31T12:00Z") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def say_memory(scheme: str, size: int) -> None:
    """Say before it begins that a lock holds a file of `size` bytes in memory, where that is much."""
    from modellock_jax.vault.locked import _file_schemes

    scheme = _file_schemes.normalise(scheme)
    if (needed := _file_schemes.memory_of(scheme, size)) > _MUCH:
        streams.say(
            f"{scheme} holds the file in memory, about {needed / 2**30:.1f} GiB with its copies; "
            "stream_lock reads it in pieces"
        )


def tell(as_json: bool, lines: str | list[str], /, **fields: Any) -> None:
    """Say what a command has done; that nobody could be told does not undo it."""
    try:
        show(as_json, lines, **fields)
    except OSError as error:
        streams.say(f"done, but standard output took no word of it: {error}")


def show(as_json: bool, lines: str | list[str], /, **fields: Any) -> None:
    """Print what a command was asked for, for people or for programs. Raises `OSError`.

    **Guarantees.** As many lines as are given, each of printable characters, whoever wrote them.
    """
    if as_json:
        streams.put(json.dumps(fields).replace("\x7f", "\\u007f"))
        return
    for line in [lines] if isinstance(lines, str) else lines:
        streams.put(printable(line, 4000))


@contextlib.contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar in bytes on stderr; without a terminal a line every ten seconds.

    Yields:
      What is told the bytes of each piece when it is done.
    """
    if not sys.stderr.isatty():
        yield _Lines(what, total).advance
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what, total=total or None)
        yield lambda count: shown.advance(task, count)


class _Lines:
    """How far something is, in a line now and then, none for what is done at once."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._of = what, f" of {total / 1e6:.0f}" if total else ""
        self._count, self._next = 0, time.monotonic() + _EVERY

    def advance(self, count: int) -> None:
        self._count += count
        if time.monotonic() >= self._next:
            self._next += _EVERY
            streams.say(f"{self._what}: {self._count / 1e6:.0f}{self._of} MB")


def _is_about(error: VaultError, options: dict[str, Any]) -> bool:
    """Whether an error names one of a command's files itself, which need not be the model."""
    values = [value if isinstance(value, list) else [value] for value in options.values()]
    given = (one for some in values for one in some if isinstance(one, Path))
    text = str(error).partition("; tried ")[0]
    names = (re.escape(name) for path in given for name in (str(path), printable(path)))
    return any(re.search(rf"(?<![\w/.-]){name}(?![\w/-])", text) for name in names)


def on_files(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command whose faults name its file, and for which an unreadable one is exit code 6."""

    @functools.wraps(command)
    def explained(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
            raise Unreadable(str(error)) from None
        except VaultError as error:
            name = options.get("source") or options.get("file")
            if name is None or _is_about(error, options):
                raise
            raise type(error)(f"{name}: {error}") from None

    return explained
