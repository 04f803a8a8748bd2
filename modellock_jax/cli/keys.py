"""`keygen`: a new key, one derived from a key above it, or the public half of one."""

from pathlib import Path
from typing import Annotated

import typer

from modellock_jax.cli import paths
from modellock_jax.cli.app import KEYS, app
from modellock_jax.cli.choosing import load_secret
from modellock_jax.cli.inputs import Json, on_files, tell
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.secret import Secret, generate_key, save_key_pair

__all__ = ["keygen"]


@app.command(rich_help_panel=KEYS)
@on_files
def keygen(
    output: Annotated[
        Path,
        typer.Argument(
            parser=paths.parse_path,
            help="The key file; OUTPUT.pub is its public half. With --public - is standard output.",
        ),
    ],
    classic: Annotated[
        bool, typer.Option("--classic", help="X25519 alone, without ML-KEM-768.")
    ] = False,
    parent: Annotated[
        Path | None,
        typer.Option("--from", help="Derive it from this key file, at --path, instead."),
    ] = None,
    path: Annotated[
        str, typer.Option(help="A name for each level below --from, as team/user/model.")
    ] = "",
    public_of: Annotated[
        Path | None,
        typer.Option(
            "--public",
            parser=paths.parse_path,
            help="Write no key, but the public half of this key file to OUTPUT.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a new key from the operating system, or one below a key: OUTPUT, and OUTPUT.pub to share."""
    if (parent is None) != (not path):
        raise ValueError("--from FILE and --path NAME/NAME belong together; give both or none")
    if public_of is not None:
        if parent is not None:
            raise ValueError("--public KEY needs no --from: derive the key first, or name it")
        _publish(load_secret(public_of), output, classic, as_json)
        return
    secret = load_secret(parent).child(path) if parent else generate_key()
    origin = secret.origin
    public = save_key_pair(secret, paths.key_file(output), classic)
    backup = f"{origin.path} below {origin.parent}" if origin else "keep a backup"
    tell(
        as_json,
        [f"{output}: key {secret.id}, keep it secret; {backup}", _about(f"{output}.pub", public)],
        id=secret.id,
        key=str(output),
        public=f"{output}.pub",
        public_id=public.id,
        fingerprint=public.fingerprint,
        **(origin._asdict() if origin else {}),
    )


def _publish(secret: Secret, output: Path, classic: bool, as_json: bool) -> None:
    public = identity.public_key(secret, classic)
    if paths.is_stream(output):
        with paths.writing(output, force=False) as stream:
            assert not isinstance(stream, Path)
            stream.write(identity.text_of(public))
            stream.flush()
        return
    identity.save_public_key(public, output)
    tell(
        as_json,
        _about(str(output), public),
        id=secret.id,
        public=str(output),
        public_id=public.id,
        fingerprint=public.fingerprint,
    )


def _about(path: str, public: identity.PublicKey) -> str:
    return (
        f"{path}: public half {public.id} ({public.kind}), to be given away; fingerprint "
        f"{public.fingerprint}"
    )
