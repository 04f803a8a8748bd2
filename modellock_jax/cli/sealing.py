"""`seal`, `open`, `verify` and `rotate`: whole files."""

from pathlib import Path
from typing import Annotated

import typer

from modellock_jax.cli import folders, paths
from modellock_jax.cli.app import FILES, app
from modellock_jax.cli.choosing import Choice, KeyFile, NewPassphraseFile, PassphraseFile
from modellock_jax.cli.inputs import (
    DryRun,
    Expect,
    Json,
    Name,
    RevokedBy,
    Serial,
    Sign,
    SignedBy,
    To,
    WithPassphrase,
    chosen_recipients,
    moment,
    on_files,
    progress,
    publics,
    signers,
    tell,
)
from modellock_jax.cli.paths import Force, In, Out
from modellock_jax.vault.issuing import _naming
from modellock_jax.vault.keys.identity import PublicKey
from modellock_jax.vault.sealed import _content, envelope
from modellock_jax.vault.sealed._header_fields import Header
from modellock_jax.vault.sealed.opened import BYTES, Sealed

__all__ = ["open_", "rotate", "seal", "verify"]

_Expires = Annotated[
    str, typer.Option("--expires", help="A date, as 2027-01-31, after which it is not opened.")
]

_AS_BYTES = (
    "It is no safetensors file and was sealed as bytes: it opens as a whole, without names, single "
    "arrays or shards, and nothing in it was looked at."
)


@app.command(rich_help_panel=FILES)
@on_files
def seal(
    source: In,
    output: Out,
    to: To = [],  # noqa: B006
    passphrase: WithPassphrase = False,
    passphrase_file: NewPassphraseFile = None,
    expires: _Expires = "",
    sign: Sign = [],  # noqa: B006
    name: Name = None,
    serial: Serial = None,
    force: Force = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Encrypt a safetensors file for named recipients; names and shapes are hidden too.

    A file of any other kind is sealed as it is, and opens as a whole only. A folder is sealed into a
    new folder, as one set.
    """
    whom, until = chosen_recipients(to, passphrase, passphrase_file), moment(expires)
    vouching = signers(sign)
    if paths.is_folder(source):
        about = {"expires": until, "signers": vouching, "name": name or "", "serial": serial or 0}
        folders.seal(source, output, whom, dry_run, as_json, **about)
        return
    with paths.reading(source) as given:
        if dry_run:
            paths.check(output, force)
            with _content.content_of(given) as content:
                kind = content.kind
                for _ in content.pieces:  # a stream's faults show when it is read
                    pass
        else:
            size = paths.size_of(given)
            with paths.writing(output, force) as target, progress("sealing", size) as done:
                kind = envelope.seal(
                    given,
                    target,
                    whom,
                    expires=until,
                    signers=vouching,
                    name=name or "",
                    serial=serial or 0,
                    done=done,
                )
        size = paths.size_of(given)
    if not paths.is_output(output):
        word = "would be sealed" if dry_run else "sealed"
        tell(
            as_json,
            [
                f"{source} {word} into {output} for {len(whom)} recipients, {size} bytes",
                *([_AS_BYTES] if kind == BYTES else []),
            ],
            output=str(output),
            kind=kind,
            name=name or "",
            serial=serial or 0,
            recipients=len(whom),
            bytes=size,
            written=not dry_run,
        )


@app.command("open", rich_help_panel=FILES)
@on_files
def open_(
    source: In,
    output: Out,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    signed_by: SignedBy = [],  # noqa: B006
    expect: Expect = None,
    revoked: RevokedBy = [],  # noqa: B006
    force: Force = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Decrypt a sealed file into the file that it was, or a sealed folder into a new folder."""
    choice, wanted = Choice(key, passphrase_file), publics(signed_by)
    if paths.is_folder(source):
        folders.open_(
            source, output, choice, wanted, dry_run, as_json, expect=expect, revoked=revoked
        )
        return
    with paths.reading(source) as given, _opened(given, choice, wanted, expect, revoked) as sealed:
        made, tensors, size = sealed.header, _tensors(sealed), sealed.size
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
            f"{source} {word}: {_called(made, signed_by)}, {_counted(tensors)}, {size} bytes",
            output=str(output),
            name=made.name,
            serial=made.serial,
            tensors=tensors,
            bytes=size,
            written=not dry_run,
        )


@app.command(rich_help_panel=FILES)
@on_files
def verify(
    source: In,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    signed_by: SignedBy = [],  # noqa: B006
    expect: Expect = None,
    revoked: RevokedBy = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Check every byte of a sealed file or folder with a recipient's key, and write nothing."""
    choice, wanted = Choice(key, passphrase_file), publics(signed_by)
    if paths.is_folder(source):
        folders.open_(source, None, choice, wanted, True, as_json, expect=expect, revoked=revoked)
        return
    with paths.reading(source) as given, _opened(given, choice, wanted, expect, revoked) as sealed:
        _check(sealed)
        made, tensors = sealed.header, _tensors(sealed)
    checked = [public.id for public in wanted]
    by = f"signed by {', '.join(checked)}" if checked else "no signature asked for"
    tell(
        as_json,
        f"{source}: whole; {_called(made, signed_by)}; {_counted(tensors)}; {by}",
        name=made.name,
        serial=made.serial,
        tensors=tensors,
        signed_by=checked,
    )


@app.command(rich_help_panel=FILES)
@on_files
def rotate(
    source: In,
    output: Out,
    to: To = [],  # noqa: B006
    passphrase: WithPassphrase = False,
    passphrase_file: NewPassphraseFile = None,
    expires: _Expires = "",
    key: KeyFile = None,
    sign: Sign = [],  # noqa: B006
    name: Name = None,
    serial: Serial = None,
    signed_by: SignedBy = [],  # noqa: B006
    expect: Expect = None,
    revoked: RevokedBy = [],  # noqa: B006
    force: Force = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Encrypt a file anew under a fresh file key, for the recipients named now and nobody else.

    It keeps its name and serial number unless others are given.
    """
    whom, until = chosen_recipients(to, passphrase, passphrase_file), moment(expires)
    vouching = signers(sign)
    if paths.is_folder(source):
        about = {"expires": until, "signers": vouching, "name": name, "serial": serial}
        options = {"expect": expect, "revoked": revoked}
        wanted = publics(signed_by)
        folders.rotate(
            source, output, whom, Choice(key), wanted, options, dry_run, as_json, **about
        )
        return
    with (
        paths.reading(source) as given,
        _opened(given, Choice(key), publics(signed_by), expect, revoked) as sealed,
    ):
        size = sealed.size
        if dry_run:
            paths.check(output, force)
        else:
            with paths.writing(output, force) as target, progress("rotating", size) as done:
                envelope.rotate(
                    sealed,
                    target,
                    whom,
                    expires=until,
                    signers=vouching,
                    name=name,
                    serial=serial,
                    done=done,
                )
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
    given: paths.Source,
    choice: Choice,
    signed_by: list[PublicKey],
    expect: str | None,
    revoked: list[Path],
) -> Sealed:
    with choice.explained():
        return envelope.open(
            given, choice.unlocker, signed_by=signed_by, expect=expect, revoked=revoked
        )


def _export(sealed: Sealed, target: paths.Target) -> None:
    with progress("opening", sealed.size) as done:
        sealed.export(target, done)


def _check(sealed: Sealed) -> None:
    with progress("checking", sealed.size) as done:
        sealed.check(done)


def _tensors(sealed: Sealed) -> int | None:
    return None if sealed.kind == BYTES else len(sealed.directory.tensors)


def _counted(tensors: int | None) -> str:
    return "no safetensors file" if tensors is None else f"{tensors} tensors"


def _called(made: Header, signed_by: list[Path]) -> str:
    """Return what a file is called, and on whose word."""
    words = _naming.describe(made.name, made.serial)
    return words if signed_by or not made.name else f"{words} (so its recipients say)"
