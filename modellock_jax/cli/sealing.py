"""`seal`, `open`, `verify` and `rotate`: whole files."""

from pathlib import Path
from typing import Annotated

import typer

from modellock_jax.cli import paths
from modellock_jax.cli.app import app
from modellock_jax.cli.choosing import Choice, KeyFile, NewPassphraseFile, PassphraseFile
from modellock_jax.cli.inputs import (
    DryRun,
    Json,
    RevokedBy,
    Sign,
    SignedBy,
    To,
    WithPassphrase,
    chosen_recipients,
    moment,
    on_files,
    progress,
    publics,
    readable,
    signers,
    tell,
    writable,
)
from modellock_jax.cli.paths import Force, In, Out
from modellock_jax.vault import envelope, rewrite
from modellock_jax.vault.identity import PublicKey

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
    passphrase_file: NewPassphraseFile = None,
    expires: Expires = "",
    sign: Sign = [],  # noqa: B006
    force: Force = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Encrypt a safetensors file for named recipients; names and shapes are hidden too."""
    whom, until = chosen_recipients(to, passphrase, passphrase_file), moment(expires)
    vouching = signers(sign)
    with readable(source) as path:
        size = path.stat().st_size
        if dry_run:
            paths.check(output, force)
            with envelope.reading(path) as file:
                envelope.read_directory(file, source)
        else:
            with writable(output, force) as target, progress("sealing", size) as done:
                envelope.seal_file(path, target, whom, expires=until, signers=vouching, done=done)
    if not paths.is_output(output):
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
    passphrase_file: PassphraseFile = None,
    signed_by: SignedBy = [],  # noqa: B006
    revoked: RevokedBy = [],  # noqa: B006
    force: Force = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Decrypt a sealed file into the plain safetensors file that it was."""
    choice, wanted = Choice(key, passphrase_file), publics(signed_by)
    with readable(source) as path, _opened(path, choice, wanted, revoked) as sealed:
        size = sealed.directory.size
        if dry_run:
            paths.check(output, force)
            _check(sealed)
        else:
            with paths.writing(output, force) as target:
                _export(sealed, target)
    if not paths.is_output(output):
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
    passphrase_file: PassphraseFile = None,
    signed_by: SignedBy = [],  # noqa: B006
    revoked: RevokedBy = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Check every byte of a sealed file with a recipient's key, and write nothing."""
    choice, wanted = Choice(key, passphrase_file), publics(signed_by)
    with readable(source) as path, _opened(path, choice, wanted, revoked) as sealed:
        _check(sealed)
        count = len(sealed.names)
    checked = [public.id for public in wanted]
    by = f"signed by {', '.join(checked)}" if checked else "no signature asked for"
    tell(as_json, f"{source}: whole; {count} tensors; {by}", tensors=count, signed_by=checked)


@app.command()
@on_files
def rotate(
    source: In,
    output: Out,
    to: To = [],  # noqa: B006
    passphrase: WithPassphrase = False,
    passphrase_file: NewPassphraseFile = None,
    expires: Expires = "",
    key: KeyFile = None,
    sign: Sign = [],  # noqa: B006
    force: Force = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Encrypt a file anew under a fresh file key, for the recipients named now and nobody else."""
    whom, until = chosen_recipients(to, passphrase, passphrase_file), moment(expires)
    vouching = signers(sign)
    with readable(source) as path, _opened(path, Choice(key), [], []) as sealed:
        size = sealed.directory.size
        if dry_run:
            paths.check(output, force)
        else:
            with writable(output, force) as target, progress("rotating", size) as done:
                envelope.rotate(sealed, target, whom, expires=until, signers=vouching, done=done)
    if not paths.is_output(output):
        word = "would be" if dry_run else "is"
        tell(
            as_json,
            f"{output} {word} under a fresh key for {len(whom)} recipients; destroy copies of {source}",
            output=str(output),
            recipients=len(whom),
            bytes=size,
            written=not dry_run,
        )


def _opened(
    path: Path, choice: Choice, signed_by: list[PublicKey], revoked: list[Path]
) -> envelope.Sealed:
    unlocker = choice.unlocker(rewrite.read_header(path))
    with choice.explained():
        return envelope.open_sealed(path, unlocker, signed_by=signed_by, revoked=revoked)


def _export(sealed: envelope.Sealed, target: paths.Target) -> None:
    if not isinstance(target, Path):
        _check(sealed)  # all of it, before anybody gets any of it
    with progress("opening", sealed.directory.size) as done:
        if isinstance(target, Path):
            sealed.export(target, done)
        else:
            for piece in sealed.plain(done):
                target.write(piece)
            target.flush()


def _check(sealed: envelope.Sealed) -> None:
    with progress("checking", sealed.directory.size) as done:
        for _ in sealed.plain(done):
            pass
