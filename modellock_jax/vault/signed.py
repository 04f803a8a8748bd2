"""Signed records: a line of canonical JSON with its signer's two signatures in it."""

import base64
import re
from datetime import UTC, datetime
from typing import Any

from modellock_jax.vault import identity
from modellock_jax.vault.files import canonical, strict_json
from modellock_jax.vault.header import check_signature
from modellock_jax.vault.identity import PublicKey
from modellock_jax.vault.keys import Secret
from modellock_jax.vault.recipients import binary

_SIZES = {"ed25519": 32, "mldsa65": 1952}


def line(fields: dict[str, Any], secret: Secret) -> bytes:
    """Fields and the signatures over them, as one line.

    >>> from modellock_jax.vault import keys
    >>> secret = keys.generate()
    >>> parse(line({"a": 1}, secret), identity.public_key(secret))
    {'a': 1}
    """
    signature = identity.sign(secret, canonical(fields))
    return canonical(fields | {"signature": signature}) + b"\n"


def parse(data: bytes, signer: PublicKey | None = None) -> dict[str, Any]:
    """The fields of a line; without `signer`, he is whom the line itself names in its field `signer`.

    Raises `ValueError` unless the line is, to the last byte, one that `line` wrote for this signer.
    """
    fields = strict_json(data)
    if not isinstance(fields, dict) or canonical(fields) + b"\n" != data:
        raise ValueError("is not as it was written")
    signature = fields.pop("signature", None)
    check_signature(signature)
    public = signer or signer_of(fields)
    if signature["id"] != public.id or not identity.signed(public, canonical(fields), signature):
        raise ValueError("has a signature that does not fit")
    return fields


def signer(secret: Secret) -> PublicKey:
    """Whose signatures a secret makes: a public key to which nothing can be encrypted."""
    return identity.public_key(secret, classic=True)._replace(x25519=b"")


def named(signer: PublicKey) -> dict[str, str]:
    """A signer as fields: all that it takes to check what he signed."""
    keys = {name: base64.b64encode(getattr(signer, name)).decode() for name in _SIZES}
    return {"id": signer.id, **keys}


def signer_of(fields: dict[str, Any]) -> PublicKey:
    """Whom the field `signer` names, as `signer` does. Raises `ValueError`."""
    found = fields.get("signer")
    if not isinstance(found, dict) or set(found) != {"id", *_SIZES}:
        raise ValueError("names no signer")
    ed25519, mldsa65 = (binary(found[name], size) for name, size in _SIZES.items())
    if not isinstance(found["id"], str) or not re.fullmatch(identity.ID, found["id"]):
        raise ValueError("has a signer without a proper id")
    return PublicKey(found["id"], b"", b"", ed25519, mldsa65)


def same(one: PublicKey, other: PublicKey) -> bool:
    """Whether two public keys check the same signatures; ids and the rest prove nothing."""
    return all(getattr(one, k) == getattr(other, k) for k in _SIZES)


def now() -> str:
    """The time in UTC, to the second, as text."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def check_time(text: Any) -> str:
    """A time that `now` wrote. Raises `ValueError`."""
    if not isinstance(text, str) or datetime.fromisoformat(text).utcoffset() is None:
        raise ValueError("has a time that is none")
    return text
