"""What `inspect` says of the head of a sealed file or set."""

from typing import Any

from modellock_jax.cli.inputs import show
from modellock_jax.vault import header, naming, recipients
from modellock_jax.vault.header import Header


def tell_head(what: str, made: Header, as_json: bool, **fields: Any) -> None:
    """Print a header; `what`: the file and its kind, `fields`: of it, for programs."""
    whom = [f"{recipients.name_of(s)} ({s['type']})" for s in made.stanzas]
    signers = [signature["id"] for signature in made.signatures]
    signed = f"{', '.join(signers) or 'nobody'} (checked only by open and verify --signed-by)"
    lines = [
        f"{what}, version {header.VERSION}, {fields['bytes']} bytes",
        f"name:       {naming.called(made.name, made.serial)}",
        f"recipients: {', '.join(whom) or 'those of the set that it is of'}",
        f"signed by:  {signed}",
        f"expires:    {made.expires or 'never'}",
        header.ABOUT,
    ]
    show(
        as_json,
        lines,
        **fields,
        version=header.VERSION,
        name=made.name,
        serial=made.serial,
        recipients=[{"type": s["type"], "id": recipients.name_of(s)} for s in made.stanzas],
        signatures=signers,
        expires=made.expires,
    )
