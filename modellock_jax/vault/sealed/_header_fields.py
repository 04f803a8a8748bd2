"""What the head of a sealed file says, as a table of JSON and back."""

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from modellock_jax.vault._json import canonical
from modellock_jax.vault.issuing import _naming
from modellock_jax.vault.keys import identity
from modellock_jax.vault.sealed import recipients
from modellock_jax.vault.sealed.recipients import Stanza, binary

MARK, VERSION = "modellock-jax sealed file", "2"
MOST_PASSPHRASES = 8  # of one file: each costs an opener a second and 64 MiB
MOST_RECIPIENTS, MOST_SIGNATURES, MOST_EXTRA = 4096, 64, 64
_LISTS = ("recipients", "signatures")


class Header(NamedTuple):
    """What stands before the sealed body.

    `file_id`: 16 bytes, fresh for every key of the file; `body`: bytes after the head; `digest`:
    SHA-256 of the sealed chunks' digests, 32 bytes, or empty if it never was signed; `expires`: an
    ISO date and time in UTC, or empty; `name`, `serial`: as the owner calls it, empty and 0 if they
    do not; `extra`: for later releases, text by name, which readers keep and pass over;
    `signatures`: of all but the MAC; `mac`: of all the rest under the file's key; `room`: bytes of
    the head, 0 until `finish` finds how many it needs.
    """

    file_id: bytes
    body: int
    digest: bytes
    expires: str
    stanzas: tuple[Stanza, ...]
    mac: bytes = bytes(32)
    signatures: tuple[dict[str, str], ...] = ()
    room: int = 0
    name: str = ""
    serial: int = 0
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def binding(self) -> bytes:
        """What every chunk is bound to, 32 bytes: the format and the file, whatever its length."""
        fixed = {"mark": MARK, "version": VERSION, "id": self.file_id.hex()}
        return hashlib.sha256(canonical(fixed)).digest()


def check_stanzas(stanzas: Sequence[Stanza]) -> None:
    """Raise `ValueError` for recipients that no file has: too many, or one of them twice."""
    if sum(stanza["type"] == recipients.PASSPHRASE for stanza in stanzas) > MOST_PASSPHRASES:
        raise ValueError(f"has more than {MOST_PASSPHRASES} passphrases; give public keys")
    if len(stanzas) > MOST_RECIPIENTS:
        raise ValueError(f"has more than {MOST_RECIPIENTS} recipients; seal it twice")
    recipients.check_names(stanzas)


def fields_of(header: Header, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the table of a header, but for some of its fields."""
    fields = {
        "id": header.file_id.hex(),
        "body": header.body,
        "digest": header.digest.hex(),
        "expires": header.expires,
        "recipients": list(header.stanzas),
        "mac": header.mac.hex(),
        "signatures": list(header.signatures),
        "room": header.room,
        "name": header.name,
        "serial": header.serial,
        "extra": dict(header.extra),
    }
    return {name: value for name, value in fields.items() if name not in without}


def header_of(fields: Any) -> Header:
    """Return the header of a table. Raises `ValueError`, `KeyError` or `TypeError`."""
    if not isinstance(fields, dict) or not all(isinstance(fields[k], list) for k in _LISTS):
        raise ValueError("is not a table")
    if not re.fullmatch("[0-9a-f]{32}", fields["id"]):
        raise ValueError("has no proper id")
    if not all(type(fields[name]) is int for name in ("body", "room")):
        raise ValueError("has no proper size")
    if not re.fullmatch("[0-9a-f]{64}", fields["mac"]):
        raise ValueError("has no proper MAC")
    if not re.fullmatch("([0-9a-f]{64})?", fields["digest"]):
        raise ValueError("has no proper digest")
    date = fields["expires"]
    if date != "" and datetime.fromisoformat(date).utcoffset() is None:
        raise ValueError("has an expiry date without a time zone")
    _naming.check_name(fields["name"], fields["serial"])
    stanzas = tuple(recipients.check(stanza) for stanza in fields["recipients"])
    check_stanzas(stanzas)
    if len(fields["signatures"]) > MOST_SIGNATURES:
        raise ValueError(f"has more than {MOST_SIGNATURES} signatures")
    for signature in fields["signatures"]:
        check_signature(signature)
    extra = fields["extra"]
    check_extra(extra)
    return Header(
        bytes.fromhex(fields["id"]),
        fields["body"],
        bytes.fromhex(fields["digest"]),
        fields["expires"],
        stanzas,
        bytes.fromhex(fields["mac"]),
        tuple(fields["signatures"]),
        fields["room"],
        fields["name"],
        fields["serial"],
        tuple(extra.items()),
    )


def check_extra(extra: Any) -> None:
    """Refuse fields for later releases that are not text by name, or too many. Raises `ValueError`."""
    if not isinstance(extra, dict) or not all(isinstance(text, str) for text in extra.values()):
        raise ValueError("has extra fields that are not text")
    if len(extra) > MOST_EXTRA:
        raise ValueError(f"has more than {MOST_EXTRA} extra fields")


def check_signature(signature: Any) -> None:
    """Refuse what `identity.sign` cannot have written. Raises `ValueError`."""
    if not isinstance(signature, dict) or set(signature) != {"id", "ed25519", "mldsa65"}:
        raise ValueError("has a signature of an unknown kind")
    if not isinstance(signature["id"], str) or not re.fullmatch(identity.ID, signature["id"]):
        raise ValueError("has a signature without a proper id")
    binary(signature["ed25519"], 64)
    binary(signature["mldsa65"], 3309)
