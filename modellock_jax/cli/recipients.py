"""`recipients`, `rewrap`, `expire`: what changes a sealed file's head, and not its body."""

from pathlib import Path
from typing import Annotated

import typer

from modellock_jax.cli import folders, paths
from modellock_jax.cli.app import USERS, app
from modellock_jax.cli.choosing import Choice, KeyFile, NewPassphraseFile
from modellock_jax.cli.inputs import (
    DryRun,
    Json,
    Sign,
    To,
    WithPassphrase,
    chosen_recipients,
    moment,
    on_files,
    show,
    signers,
    tell,
)
from modellock_jax.vault import threats
from modellock_jax.vault.sealed import recipients, rewrite
from modellock_jax.vault.sealed._header_fields import Header

__all__ = ["add", "expire", "list_", "people", "rewrap", "rm"]

people = typer.Typer(no_args_is_help=True, help="Who can open a sealed file.")
app.add_typer(people, name="recipients", rich_help_panel=USERS)

_File = Annotated[
    Path, typer.Argument(parser=paths.parse_path, help="A sealed file, which is changed in place.")
]


@people.command("list")
@on_files
def list_(source: paths.In, as_json: Json = False) -> None:
    """List the key ids of who can open a file; needs no key."""
    with paths.reading(source if source == paths.STANDARD else folders.rewritten(source)) as given:
        made = rewrite.read_header(given)
    whom = [{"type": s["type"], "id": recipients.name_of(s)} for s in made.stanzas]
    show(as_json, [f"{one['id']}  {one['type']}" for one in whom], recipients=whom)


@people.command()
@on_files
def add(
    file: _File,
    to: To = [],  # noqa: B006
    passphrase: WithPassphrase = False,
    passphrase_file: NewPassphraseFile = None,
    key: KeyFile = None,
    sign: Sign = [],  # noqa: B006
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Let more people open a file; its body is not touched."""
    whom = chosen_recipients(to, passphrase, passphrase_file)

    def change(made: Header, file_key: bytes) -> Header:
        new = recipients.wrap_all(file_key, whom, made.file_id)
        return made._replace(stanzas=recipients.merge(made.stanzas, new))

    _rewrite(file, key, change, sign, dry_run, as_json)


@people.command()
@on_files
def rm(
    file: _File,
    ids: Annotated[list[str], typer.Argument(help="Key ids, as `recipients list` shows them.")],
    key: KeyFile = None,
    sign: Sign = [],  # noqa: B006
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Take people off a file. Whoever has an older copy, or its head, still opens it: see rotate."""

    def change(made: Header, _: bytes) -> Header:
        names = {recipients.name_of(stanza) for stanza in made.stanzas}
        if unknown := sorted(set(ids) - names):
            raise ValueError(
                f"{', '.join(unknown)}: no recipient of {file}; it has {sorted(names)}"
            )
        kept = tuple(s for s in made.stanzas if recipients.name_of(s) not in ids)
        return made._replace(stanzas=kept)

    _rewrite(file, key, change, sign, dry_run, as_json, threats.OLD_HEAD)


@app.command(rich_help_panel=USERS)
@on_files
def rewrap(
    file: _File,
    to: To = [],  # noqa: B006
    passphrase: WithPassphrase = False,
    passphrase_file: NewPassphraseFile = None,
    key: KeyFile = None,
    sign: Sign = [],  # noqa: B006
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Put new recipients in the place of all old ones. The file's key stays as it is: see rotate."""
    whom = chosen_recipients(to, passphrase, passphrase_file)

    def change(made: Header, file_key: bytes) -> Header:
        new = recipients.wrap_all(file_key, whom, made.file_id)
        return made._replace(stanzas=new)

    _rewrite(file, key, change, sign, dry_run, as_json, threats.OLD_HEAD)


@app.command(rich_help_panel=USERS)
@on_files
def expire(
    file: _File,
    date: Annotated[str, typer.Argument(help="As 2027-01-31; an empty text takes the date away.")],
    key: KeyFile = None,
    sign: Sign = [],  # noqa: B006
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Set the date after which our tools do not open a file. Other programs, and old heads, do."""
    until = moment(date)
    text = until.isoformat(timespec="seconds") if until else ""
    _rewrite(
        file,
        key,
        lambda made, _: made._replace(expires=text),
        sign,
        dry_run,
        as_json,
        threats.OLD_HEAD,
    )


def _rewrite(
    file: Path,
    key: Path | None,
    change: rewrite.Change,
    sign: list[Path],
    dry_run: bool,
    as_json: bool,
    cannot: str = "",
) -> None:
    if paths.is_stream(file):
        raise ValueError("a file is changed in place, so a pipe will not do; name a file")
    vouching, choice, file = signers(sign), Choice(key), folders.rewritten(file)
    before: list[Header] = []

    def unlocker(made: Header) -> recipients.Unlocker:
        before.append(made)  # as it is now that no other process changes it
        if made.signatures and not vouching:
            names = ", ".join(signature["id"] for signature in made.signatures)
            raise ValueError(
                f"{file} is signed by {names}, and a change undoes that: give --sign FILE"
            )
        return choice.unlocker(made)

    with choice.explained():
        new = rewrite.rewrite(file, unlocker, change, vouching, dry_run=dry_run)
    changes = recipients.changes(before[0].stanzas, new.stanzas)
    signed = f"signed by {', '.join(s.id for s in vouching)}" if vouching else "not signed"
    lines = [
        f"{file} {'would have' if dry_run else 'has'} {len(new.stanzas)} recipients; {signed}"
        + (f"; expires {new.expires}" if new.expires else "")
    ]
    words = zip(("added", "given anew", "removed"), changes)
    lines += [f"{word}: {', '.join(names)}" for word, names in words if names]
    lines += [f"What it cannot do: {cannot}"] if cannot else []
    tell(
        as_json,
        lines,
        recipients=[recipients.name_of(stanza) for stanza in new.stanzas],
        **changes._asdict(),
        expires=new.expires,
        name=new.name,
        serial=new.serial,
        signers=[secret.id for secret in vouching],
        cannot=cannot,
        written=not dry_run,
    )
