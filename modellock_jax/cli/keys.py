"""`keygen`: a new key, or one derived from a key above it."""

from pathlib import Path
from typing import Annotated

import typer

from modellock_jax.cli.app import app
from modellock_jax.cli.inputs import Json, on_files, tell
from modellock_jax.vault import identity, keys


@app.command()
@on_files
def keygen(
    output: Annotated[Path, typer.Argument(help="The key file; OUTPUT.pub is its public half.")],
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
    as_json: Json = False,
) -> None:
    """A new key from the operating system, or one below a key: OUTPUT, and OUTPUT.pub to give away."""
    if (parent is None) != (not path):
        raise ValueError("--from FILE and --path NAME/NAME belong together; give both or none")
    secret = keys.load(parent).child(path) if parent else keys.generate()
    origin = secret.origin
    public = identity.public_key(secret, classic)
    keys.save(secret, output)
    beside = Path(f"{output}.pub")
    identity.save_public(public, beside)
    backup = f"{origin.path} below {origin.parent}" if origin else "keep a backup"
    tell(
        as_json,
        [
            f"{output}: key {public.id}, keep it secret; {backup}",
            f"{beside}: its public half, to be given away; fingerprint {public.fingerprint}",
        ],
        id=public.id,
        key=str(output),
        public=str(beside),
        fingerprint=public.fingerprint,
        **(origin._asdict() if origin else {}),
    )
