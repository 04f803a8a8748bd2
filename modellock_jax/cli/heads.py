"""What `inspect` says of the head of a sealed file or set, and how far that goes."""

from typing import Any

from modellock_jax.vault.issuing import _naming
from modellock_jax.vault.sealed import _header, _header_fields, recipients
from modellock_jax.vault.sealed._header_fields import Header

__all__ = ["describe_head"]


def describe_head(made: Header, kind: str, size: int) -> tuple[list[str], dict[str, Any]]:
    """Return a header for people, whose first line goes behind the file's name, and for programs."""
    whom = [{"type": s["type"], "id": recipients.name_of(s)} for s in made.stanzas]
    signers = [signature["id"] for signature in made.signatures]
    listed = ", ".join("{id} ({type})".format(**one) for one in whom)
    lines = [
        f"{kind}, version {_header_fields.VERSION}, {size} bytes; its head is whole, and says:",
        f"name:       {_naming.describe(made.name, made.serial)}",
        f"recipients: {listed or 'those of the set that it is of'}",
        f"signed by:  {', '.join(signers) or 'nobody'}",
        f"expires:    {made.expires or 'never'}",
        "None of that is proved before `open` or `verify`, and who signed only with --signed-by.",
        _header.ABOUT,
    ]
    fields: dict[str, Any] = {"kind": kind, "version": _header_fields.VERSION, "name": made.name}
    fields |= {"serial": made.serial, "recipients": whom, "signatures": signers}
    return lines, fields | {"expires": made.expires}
