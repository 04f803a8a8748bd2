"""`seal`, `open`, `verify`, and what changes a sealed file's recipients."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from modellock_jax.cli.app import app
from modellock_jax.cli.inputs import (
    DryRun,
    In,
    Json,
    KeyFile,
    Out,
    Sign,
    SignedBy,
    To,
    WithPassphrase,
    chosen_recipients,
    find_unlocker,
    moment,
    on_files,
    progress,
    publics,
    readable,
    tell,
    writable,
)
from modellock_jax.vault import envelope, keys, recipients, rewrite
from modellock_jax.vault.header import Header

people = typer.Typer(no_args_is_help=True, help="Who can open a sealed file.")
app.add_typer(people, name="recipients")

File = Annotated[Path, typer.Argument(help="A sealed file, which is changed in place.")]
Expires = Annotated[
    str, typer.Option("--expires", help="A date, as 2027-01-31, after which it is not opened.")
]


@app.command()
@on_files
def seal(
    source: In,
    output: Out,
    to: To = [],  # noqa: B006
    passphrase: WithPassphrase = False,
    expires: Expires = "",
    sign: Sign = [],  # noqa: B006
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Encrypt a safetensors file for named recipients; names and shapes are hidden too."""
    whom, until = chosen_recipients(to, passphrase), moment(expires)
    signers = [keys.load(path) for path in sign]
    with readable(source) as path:
        size = path.stat().st_size
        if dry_run:
            with envelope.reading(path) as file:
                envelope.read_directory(file, source)
        else:
            with writable(output) as target, progress("sealing", size) as done:
                envelope.seal_file(path, target, whom, expires=until, signers=signers, done=done)
    if str(output) != "-":
        word = "would be sealed" if dry_run else "sealed"
        tell(
            as_json,
            f"{source} {word} into {output} for {len(whom)} recipients, {size} bytes",
            output=str(output),
            recipients=len(whom),
            bytes=size,
            written=not dry_run,
        )


@app.command("open")
@on_files
def open_(
    source: In,
    output: Out,
    key: KeyFile = None,
    signed_by: SignedBy = [],  # noqa: B006
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Decrypt a sealed file into the plain safetensors file that it was."""
    with readable(source) as path, _opened(path, key, signed_by) as sealed:
        size = sealed.directory.size
        with progress("opening", size) as done:
            if dry_run:
                for _ in sealed.plain(done):
                    pass
            elif str(output) == "-":
                _check(sealed)
                for piece in sealed.plain(done):
                    sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
            else:
                sealed.export(output, done)
    if str(output) != "-":
        word = "can be opened" if dry_run else f"opened into {output}"
        tell(
            as_json,
            f"{source} {word}, {len(sealed.names)} tensors, {size} bytes",
            output=str(output),
            tensors=len(sealed.names),
            bytes=size,
            written=not dry_run,
        )


@app.command()
@on_files
def verify(
    source: In,
    key: KeyFile = None,
    signed_by: SignedBy = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Check every byte of a sealed file with a recipient's key, and write nothing."""
    with readable(source) as path, _opened(path, key, signed_by) as sealed:
        _check(sealed)
        count = len(sealed.names)
    checked = [public.id for public in publics(signed_by)]
    by = f"signed by {', '.join(checked)}" if checked else "no signature asked for"
    tell(as_json, f"{source}: whole; {count} tensors; {by}", tensors=count, signed_by=checked)


@people.command("list")
@on_files
def list_(
    source: Annotated[Path, typer.Argument(help="A sealed file.")], as_json: Json = False
) -> None:
    """The key ids of who can open a file; needs no key."""
    made = rewrite.read_header(source)
    whom = [{"type": s["type"], "id": recipients.name_of(s)} for s in made.stanzas]
    tell(as_json, "\n".join(f"{one['id']}  {one['type']}" for one in whom), recipients=whom)


@people.command()
@on_files
def add(
    file: File,
    to: To = [],  # noqa: B006
    passphrase: WithPassphrase = False,
    key: KeyFile = None,
    sign: Sign = [],  # noqa: B006
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Let more people open a file; its body is not touched."""
    whom = chosen_recipients(to, passphrase)

    def change(made: Header, file_key: bytes) -> Header:
        new = tuple(recipients.wrap(file_key, one, made.file_id) for one in whom)
        named = {recipients.name_of(stanza) for stanza in new}
        kept = tuple(s for s in made.stanzas if recipients.name_of(s) not in named)
        return made._replace(stanzas=kept + new)

    _rewrite(file, key, change, sign, dry_run, as_json)


@people.command()
@on_files
def rm(
    file: File,
    ids: Annotated[list[str], typer.Argument(help="Key ids, as `recipients list` shows them.")],
    key: KeyFile = None,
    sign: Sign = [],  # noqa: B006
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Take people off a file. Who has an older copy, or opened it, keeps what he has: see rotate."""

    def change(made: Header, _: bytes) -> Header:
        names = {recipients.name_of(stanza) for stanza in made.stanzas}
        if unknown := sorted(set(ids) - names):
            raise ValueError(
                f"{', '.join(unknown)}: no recipient of {file}; it has {sorted(names)}"
            )
        kept = tuple(s for s in made.stanzas if recipients.name_of(s) not in ids)
        return made._replace(stanzas=kept)

    _rewrite(file, key, change, sign, dry_run, as_json)


@app.command()
@on_files
def rewrap(
    file: File,
    to: To = [],  # noqa: B006
    passphrase: WithPassphrase = False,
    key: KeyFile = None,
    sign: Sign = [],  # noqa: B006
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Put new recipients in the place of all old ones; the body and its key stay as they are."""
    whom = chosen_recipients(to, passphrase)

    def change(made: Header, file_key: bytes) -> Header:
        new = tuple(recipients.wrap(file_key, one, made.file_id) for one in whom)
        return made._replace(stanzas=new)

    _rewrite(file, key, change, sign, dry_run, as_json)


@app.command()
@on_files
def expire(
    file: File,
    date: Annotated[str, typer.Argument(help="As 2027-01-31; an empty text takes the date away.")],
    key: KeyFile = None,
    sign: Sign = [],  # noqa: B006
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Set the date after which our tools do not open a file; other programs need not care."""
    until = moment(date)
    text = until.isoformat(timespec="seconds") if until else ""
    _rewrite(file, key, lambda made, _: made._replace(expires=text), sign, dry_run, as_json)


@app.command()
@on_files
def rotate(
    source: In,
    output: Out,
    to: To = [],  # noqa: B006
    passphrase: WithPassphrase = False,
    expires: Expires = "",
    key: KeyFile = None,
    sign: Sign = [],  # noqa: B006
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Encrypt a file anew under a fresh file key, for the recipients named now and nobody else."""
    whom, until = chosen_recipients(to, passphrase), moment(expires)
    signers = [keys.load(path) for path in sign]
    with readable(source) as path, _opened(path, key, []) as sealed:
        size = sealed.directory.size
        if not dry_run:
            with writable(output) as target, progress("rotating", size) as done:
                envelope.rotate(sealed, target, whom, expires=until, signers=signers, done=done)
    if str(output) != "-":
        word = "would be" if dry_run else "is"
        tell(
            as_json,
            f"{output} {word} under a fresh key for {len(whom)} recipients; destroy copies of {source}",
            output=str(output),
            recipients=len(whom),
            bytes=size,
            written=not dry_run,
        )


def _opened(path: Path, key: Path | None, signed_by: list[Path]) -> envelope.Sealed:
    made = rewrite.read_header(path)
    wants = any(stanza["type"] == recipients.PASSPHRASE for stanza in made.stanzas)
    unlocker = find_unlocker(key, wants)
    return envelope.open_sealed(path, unlocker, signed_by=publics(signed_by))


def _check(sealed: envelope.Sealed) -> None:
    with progress("checking", sealed.directory.size) as done:
        for _ in sealed.plain(done):
            pass


def _rewrite(
    file: Path,
    key: Path | None,
    change: rewrite.Change,
    sign: list[Path],
    dry_run: bool,
    as_json: bool,
) -> None:
    if str(file) == "-":
        raise ValueError("a file is changed in place, so - will not do; name a file")
    made = rewrite.read_header(file)
    wants = any(stanza["type"] == recipients.PASSPHRASE for stanza in made.stanzas)
    signers = [keys.load(path) for path in sign]
    if made.signatures and not signers:
        names = ", ".join(signature["id"] for signature in made.signatures)
        raise ValueError(f"{file} is signed by {names}, and a change undoes that: give --sign FILE")
    new = rewrite.rewrite(file, find_unlocker(key, wants), change, signers, dry_run=dry_run)
    signed = f"signed by {', '.join(s.id for s in signers)}" if signers else "not signed"
    tell(
        as_json,
        f"{file} {'would have' if dry_run else 'has'} {len(new.stanzas)} recipients; {signed}"
        + (f"; expires {new.expires}" if new.expires else ""),
        recipients=[recipients.name_of(stanza) for stanza in new.stanzas],
        expires=new.expires,
        signers=[secret.id for secret in signers],
        written=not dry_run,
    )
