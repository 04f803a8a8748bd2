"""Signed records: a line of canonical JSON with its signer's two signatures in it."""

from datetime import UTC, datetime
from typing import Any

from modellock_jax.vault._json import canonical, strict_json
from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.identity import PublicKey
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.sealed._header_fields import check_signature

VERSION = 2


def line(fields: dict[str, Any], secret: Secret) -> bytes:
    """Fields and the signatures over them, as one line, with a version and a table `extra`.

    `extra` is room for what readers need not know; what they must know is another version.

    >>> from modellock_jax import vault
    >>> secret = vault.generate_key()
    >>> parse(line({"a": 1}, secret), vault.public_key(secret))
    {'a': 1, 'extra': {}}
    """
    fields = {"version": VERSION, "extra": {}} | fields
    signature = identity.sign(secret, canonical(fields))
    return canonical(fields | {"signature": signature}) + b"\n"


def parse(data: bytes, signer: PublicKey | None = None) -> dict[str, Any]:
    """Return the fields of a line, signed by `signer`, or by whom its field `signer` names.

    Raises `ValueError` unless the line is, to the last byte, one that `line` wrote for this signer,
    `Unreadable` if it is of another version.
    """
    fields = strict_json(data)
    if not isinstance(fields, dict) or canonical(fields) + b"\n" != data:
        raise ValueError("is not as it was written")
    if type(version := fields.get("version")) is not int or version != VERSION:
        raise Unreadable(f"is not of version {VERSION}, the only one that this release reads")
    signature = fields.pop("signature", None)
    check_signature(signature)
    public = signer or signer_of(fields)
    if not identity.verify(public, canonical(fields), signature):
        raise ValueError("has a signature that does not fit")
    del fields["version"]
    if not isinstance(fields.get("extra"), dict):
        raise ValueError("has no table `extra`")
    return fields


def signer_of(fields: dict[str, Any]) -> PublicKey:
    """Whom the field `signer` names, a document of a public key. Raises `ValueError`."""
    return identity.from_document(fields.get("signer"))


def same(one: PublicKey, other: PublicKey) -> bool:
    """Whether two public keys check the same signatures: a secret has two, of two ids."""
    return (one.ed25519, one.mldsa65) == (other.ed25519, other.mldsa65)


def now() -> str:
    """Return the time in UTC, to the second, as text."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def check_time(text: Any) -> str:
    """Return a time that `now` wrote. Raises `ValueError`."""
    if not isinstance(text, str) or datetime.fromisoformat(text).utcoffset() is None:
        raise ValueError("has a time that is none")
    return text
