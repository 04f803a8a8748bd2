"""What commands on files share: options, where keys come from, how results are told."""

import contextlib
import functools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from modellock_jax.cli import streams
from modellock_jax.vault import identity, keys, recipients
from modellock_jax.vault.errors import Unreadable, VaultError
from modellock_jax.vault.files import printable
from modellock_jax.vault.frames import clears_frames
from modellock_jax.vault.header import Header
from modellock_jax.vault.identity import PublicKey
from modellock_jax.vault.keys import Secret
from modellock_jax.vault.recipients import Passphrase, Unlocker

KEY = "MODELLOCK_KEY"
PASSPHRASE = "MODELLOCK_PASSPHRASE"

In = Annotated[Path, typer.Argument(help="The file to read; - for standard input.")]
Out = Annotated[Path, typer.Argument(help="The file to write; - for standard output.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key",
        help="Your key file. Otherwise: the default key file, $MODELLOCK_KEY (its content), the "
        "keyring, $MODELLOCK_PASSPHRASE, a prompt.",
    ),
]
To = Annotated[list[Path], typer.Option("--to", help="A recipient's public key file; repeat it.")]
WithPassphrase = Annotated[
    bool, typer.Option("--passphrase", help="Also for whoever knows a passphrase: asks for it.")
]
Sign = Annotated[list[Path], typer.Option("--sign", help="Sign with this key file; repeat it.")]
SignedBy = Annotated[
    list[Path],
    typer.Option("--signed-by", help="Refuse without the signature of this public key; repeat it."),
]
RevokedBy = Annotated[
    list[Path],
    typer.Option(
        "--revoked",
        help="Refuse the keys on this revocation list; repeat it. Always looked at: those that "
        "$MODELLOCK_REVOKED names, and NAME.revoked.json and revoked.json beside the file.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and write nothing.")]


def default_key_file() -> Path:
    """Where a key file is looked for if none is named."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "modellock-jax" / "default.key"


@clears_frames
def find_secret(named: Path | None) -> Secret | None:
    """The secret from the flag, the default file, the environment or the keyring, in this order."""
    if named is not None:
        return keys.load(named)
    if default_key_file().is_file():
        return keys.load(default_key_file())
    if text := os.environ.get(KEY):
        return keys.parse(text.encode(), f"${KEY}")
    with contextlib.suppress(ImportError):
        import keyring

        if text := keyring.get_password("modellock-jax", "default"):
            return keys.parse(text.encode(), "the keyring's modellock-jax/default")
    return None


def need_secret(named: Path | None) -> Secret:
    """As `find_secret`. Raises `ValueError` if there is none."""
    found = find_secret(named)
    if found is None:
        raise ValueError(f"no key: give --key FILE, or put one at {default_key_file()}")
    return found


def find_unlocker(named: Path | None, made: Header) -> Unlocker:
    """A secret, or for a file that has one the passphrase, from the environment or a prompt."""
    found = find_secret(named)
    if found is not None:
        return found
    if any(stanza["type"] == recipients.PASSPHRASE for stanza in made.stanzas):
        return ask_passphrase(confirm=False)
    return need_secret(None)


@clears_frames
def ask_passphrase(confirm: bool) -> Passphrase:
    """From the environment, or typed where nobody sees it. Raises `ValueError` without either."""
    if text := os.environ.get(PASSPHRASE):
        return Passphrase(text)
    if not sys.stdin.isatty():
        raise ValueError(f"no passphrase: set ${PASSPHRASE}, or run this in a terminal")
    text = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return Passphrase(text)


def publics(paths: list[Path]) -> list[PublicKey]:
    """The public keys in these files."""
    return [identity.load_public(path) for path in paths]


def chosen_recipients(to: list[Path], passphrase: bool) -> list[recipients.Recipient]:
    """Who shall be able to open a file. Raises `ValueError` if nobody."""
    found: list[recipients.Recipient] = [*publics(to)]
    if passphrase:
        found.append(ask_passphrase(confirm=True))
    if not found:
        raise ValueError("name a recipient: --to FILE.pub or --passphrase")
    return found


def moment(text: str) -> datetime | None:
    """A date, or date and time, in UTC unless it says otherwise; None for an empty text."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a date; write 2027-01-31 or 2027-01-31T12:00Z") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


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
def readable(path: Path) -> Iterator[Path]:
    """A file's path; for `-` a copy of standard input that only this process can read."""
    if str(path) != "-":
        yield path
        return
    streams.need(0)
    # In a directory of its own, so that nothing of others lies beside it.
    with tempfile.TemporaryDirectory(prefix="modellock-", dir=_memory()) as folder:
        copy = Path(folder) / "stdin"
        with open(copy, "xb") as stream:
            while piece := sys.stdin.buffer.read(2**20):
                stream.write(piece)
        yield copy


@contextlib.contextmanager
def writable(path: Path) -> Iterator[Path]:
    """A file's path; for `-` one whose content goes to standard output when it is whole."""
    if str(path) != "-":
        yield path
        return
    streams.need(1)
    with tempfile.TemporaryDirectory(prefix="modellock-", dir=_memory()) as folder:
        whole = Path(folder) / "whole"
        yield whole
        with open(whole, "rb") as stream:
            while piece := stream.read(2**20):
                sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def _memory() -> str | None:
    # What passes through a pipe should not touch the disk, where there is such a place.
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar in bytes on stderr, quiet if that is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as shown:
        task = shown.add_task(what, total=total)
        yield lambda count: shown.advance(task, count)


def _is_about(error: VaultError, options: dict[str, Any]) -> bool:
    """Whether an error names one of a command's files itself, which need not be the model."""
    values = [value if isinstance(value, list) else [value] for value in options.values()]
    given = (one for some in values for one in some if isinstance(one, Path))
    return any(str(path) in str(error) for path in given)


def on_files(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose faults name its file, and for which an unreadable one is exit code 6."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
            raise Unreadable(str(error)) from None
        except VaultError as error:
            name = options.get("source") or options.get("file")
            if name is None or _is_about(error, options):
                raise
            raise type(error)(f"{name}: {error}") from None

    return run
