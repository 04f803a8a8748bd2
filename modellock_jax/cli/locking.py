"""`lock` and `unlock`: a file that still loads as a model, under one of the package's locks."""

from typing import Annotated

import typer

from modellock_jax.cli import folders, paths
from modellock_jax.cli.app import FILES, app
from modellock_jax.cli.choosing import Choice, KeyFile
from modellock_jax.cli.inputs import Json, RevokedBy, on_files, progress, say_memory, tell
from modellock_jax.cli.paths import Force, In, Out

__all__ = ["lock", "unlock"]


@app.command(rich_help_panel=FILES)
@on_files
def lock(
    source: In,
    output: Out,
    scheme: Annotated[
        str,
        typer.Option(
            help='stream_lock, a research lock, "deep_lock(key_bits=256)", or a chain, '
            '"sign_flip+stream_lock"; explain says what each is worth, and which can lock files.'
        ),
    ] = "stream_lock",
    key: KeyFile = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Lock the tensors of a safetensors file; names, shapes and types stay in the open: see seal."""
    from modellock_jax.vault.locked.files import lock_file

    secret = Choice(key).first()
    if paths.is_folder(source):
        folders.lock(source, output, secret, scheme, as_json)
        return
    with (
        paths.reading(source) as given,
        paths.writing(output, force) as target,
        progress("locking", paths.size_of(given)) as done,
    ):
        say_memory(scheme, paths.size_of(given))
        info = lock_file(paths.hold_in_memory(given), target, secret, scheme, done=done)
    if not paths.is_output(output):
        tell(
            as_json,
            [f"{source} locked into {output} with key {info.key_id}", info.about],
            output=str(output),
            scheme=info.scheme,
            key=info.key_id,
            about=info.about,
        )


@app.command(rich_help_panel=FILES)
@on_files
def unlock(
    source: In,
    output: Out,
    key: KeyFile = None,
    revoked: RevokedBy = [],  # noqa: B006
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Give back the file that was locked, to the bit, or say why not."""
    from modellock_jax.vault.locked.files import locked_info, unlock_file

    choice = Choice(key)
    if paths.is_folder(source):
        folders.unlock(source, output, choice, revoked, as_json)
        return
    with (
        paths.reading(source) as given,
        paths.writing(output, force) as target,
        progress("unlocking", paths.size_of(given)) as done,
        choice.explained(),
    ):
        data = paths.hold_in_memory(given)
        info = locked_info(data)
        secret = choice.of([info.key_id])
        say_memory(info.scheme, paths.size_of(given))
        unlock_file(data, target, secret, revoked=revoked, done=done)
    if not paths.is_output(output):
        tell(as_json, f"{source} unlocked into {output}", output=str(output))
