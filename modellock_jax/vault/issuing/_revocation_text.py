"""The text of a revocation list: one signed line."""

import os
import re
from typing import Any, NamedTuple

from modellock_jax._printing import printable
from modellock_jax.vault import _texts
from modellock_jax.vault.errors import Tampered, Unreadable
from modellock_jax.vault.issuing import _lines
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.identity import PublicKey
from modellock_jax.vault.keys.secret import Secret

FORMAT = "modellock-jax revocation list"
LONGEST = 2**24  # bytes of a list: some 100,000 keys
REASON = 200  # characters
_FIELDS = {"format", "serial", "issued", "revoked", "signer", "extra"}


class Revoked(NamedTuple):
    """A key that is refused: its id, since when (UTC, ISO), and why, which may be empty."""

    id: str
    time: str
    reason: str


class RevocationList(NamedTuple):
    """A revocation list.

    `serial`: from 1, one more at every change; `issued`: when, UTC, ISO; `signer`: whose list;
    `extra`: what other releases put there.
    """

    serial: int
    issued: str
    signer: PublicKey
    revoked: tuple[Revoked, ...]
    extra: dict[str, Any]

    @property
    def ids(self) -> set[str]:
        """The ids of the keys that it refuses."""
        return {one.id for one in self.revoked}


def is_reason(text: object) -> bool:
    """Whether a text can be the reason of a revocation: one line."""
    return isinstance(text, str) and len(text) <= REASON and text.isprintable()


def encode(made: RevocationList, secret: Secret) -> bytes:
    """Return a list as a file, signed."""
    fields: dict[str, Any] = {"format": FORMAT, "serial": made.serial, "extra": made.extra}
    fields |= {"issued": made.issued, "revoked": [one._asdict() for one in made.revoked]}
    return _lines.line(fields | {"signer": identity.document(made.signer)}, secret)


def decode(data: bytes, path: str | os.PathLike[str]) -> RevocationList:
    """Return the list in a file of the name `path`. Raises `Unreadable` and `Tampered`."""
    if _texts.kind(data) != "revocation list" or len(data) > LONGEST:
        raise Unreadable(f"{printable(path)} {_no_list(data)}")
    try:
        return _parse(_lines.parse(_texts.without_mark(data)))
    except Unreadable as error:
        raise Unreadable(f"{printable(path)} {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        why = error if type(error) is ValueError else "is not as it was written"
        raise Tampered(
            f"{printable(path)} {why}: it was changed or cut off; get it again"
        ) from None


def _no_list(data: bytes) -> str:
    if len(data) > LONGEST:
        return f"has more than {LONGEST} bytes, which no revocation list has"
    if fault := _texts.encoding_fault(data):
        return fault
    kind = _texts.kind(data)
    what = f"is {_texts.KINDS[kind]}, and" if kind else "is"
    return f"{what} no revocation list of modellock-jax"


def _parse(fields: dict[str, Any]) -> RevocationList:
    if set(fields) != _FIELDS or fields["format"] != FORMAT:
        raise ValueError("lacks a field")
    if type(fields["serial"]) is not int or fields["serial"] < 1:
        raise ValueError("has no proper number")
    revoked = tuple(Revoked(**one) for one in fields["revoked"])
    for one in revoked:
        _lines.check_time(one.time)
        if not re.fullmatch(identity.ID, one.id) or not is_reason(one.reason):
            raise ValueError("has a key without a proper id or reason")
    issued, signer = _lines.check_time(fields["issued"]), _lines.signer_of(fields)
    return RevocationList(fields["serial"], issued, signer, revoked, fields["extra"])
