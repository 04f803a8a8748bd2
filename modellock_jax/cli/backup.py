"""`backup split | join | drill`: a key kept in shares, any k of which restore it."""

from pathlib import Path
from typing import Annotated

import typer

from modellock_jax.cli import paths
from modellock_jax.cli.app import KEYS, app
from modellock_jax.cli.choosing import (
    NewPassphraseFile,
    PassphraseFile,
    ask_passphrase,
    load_secret,
)
from modellock_jax.cli.inputs import Json, on_files, tell
from modellock_jax.vault.keys import share_files, shares
from modellock_jax.vault.keys.secret import save_key_pair
from modellock_jax.vault.keys.shares import Share
from modellock_jax.vault.sealed.recipients import Passphrase

__all__ = ["backup", "drill", "join", "split"]

backup = typer.Typer(
    no_args_is_help=True, help="A key in shares: any k of n restore it, fewer tell nothing."
)
app.add_typer(backup, name="backup", rich_help_panel=KEYS)

_Shares = Annotated[list[Path], typer.Argument(help="Share files, as many as are needed or more.")]


@backup.command()
@on_files
def split(
    key: Annotated[Path, typer.Argument(parser=paths.parse_path, help="The key file to back up.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for the share files.")],
    threshold: Annotated[int, typer.Option(help="How many shares restore the key.")] = 3,
    count: Annotated[int, typer.Option("--shares", help="How many shares there are.")] = 5,
    passphrase: Annotated[
        bool,
        typer.Option("--passphrase", help="Restoring shall need a passphrase too: asks for it."),
    ] = False,
    passphrase_file: NewPassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Write shares of a key, one file for each holder, and prove that they restore it."""
    secret = load_secret(key)
    asks = passphrase or passphrase_file is not None
    words = ask_passphrase(confirm=True, file=passphrase_file) if asks else None
    written = share_files.save(shares.split(secret, threshold, count, words), folder)
    drill = shares.drill(map(share_files.load, written), secret, words)
    tell(
        as_json,
        [
            f"{folder}: {count} shares of key {secret.id}; {_proved(drill)}",
            f"Each is a secret: give them to {count} people or places, then delete the folder.",
        ],
        id=secret.id,
        threshold=threshold,
        shares=[str(path) for path in written],
        combinations=drill.tried,
    )


@backup.command()
@on_files
def join(
    sources: _Shares,
    output: Annotated[Path, typer.Argument(parser=paths.parse_path, help="The key file to write.")],
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Restore a key file, and its public half beside it, from its shares."""
    given = [share_files.load(path) for path in sources]
    secret = shares.join(given, _passphrase(given, passphrase_file))
    public = save_key_pair(secret, paths.key_file(output))
    tell(
        as_json,
        [
            f"{output}: key {secret.id}, restored from {len(given)} shares",
            f"{output}.pub: its public half {public.id}",
        ],
        id=secret.id,
        key=str(output),
        public=f"{output}.pub",
    )


@backup.command()
@on_files
def drill(
    sources: _Shares,
    key: Annotated[
        Path | None,
        typer.Option("--key", parser=paths.parse_path, help="The key file they must restore."),
    ] = None,
    key_id: Annotated[str, typer.Option("--id", help="Or its id, where the file is not.")] = "",
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Prove that shares restore a key, without showing or writing it."""
    if (key is None) == (not key_id):
        raise ValueError("name the key that the shares must restore: --key FILE, or --id ID")
    wanted = load_secret(key) if key else key_id
    given = [share_files.load(path) for path in sources]
    done = shares.drill(given, wanted, _passphrase(given, passphrase_file))
    tell(
        as_json,
        f"{len(given)} shares of key {done.key_id}; {_proved(done)}",
        id=done.key_id,
        shares=len(given),
        threshold=done.threshold,
        combinations=done.tried,
        possible=done.possible,
    )


def _passphrase(given: list[Share], file: Path | None) -> Passphrase | None:
    return ask_passphrase(confirm=False, file=file) if given[0].passphrase else None


def _proved(done: shares.Drill) -> str:
    tried = "all" if done.tried == done.possible else f"{done.tried} of the"
    return f"{tried} {done.possible} combinations of {done.threshold} restore it"
