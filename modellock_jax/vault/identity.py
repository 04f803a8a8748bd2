"""Public keys: what others need to write to the holder of a secret and to check what he signed."""

import base64
import hashlib
import os
import re
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.files import canonical, open_to_read, replacing, strict_json, write_all
from modellock_jax.vault.keys import Secret

_FORMAT = "modellock-jax public key"
_SIZES = {"x25519": 32, "mlkem768": 1184, "ed25519": 32, "mldsa65": 1952}
_SUITES = {
    "x25519": Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
    "mlkem768-x25519": Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
}
HYBRID, CLASSIC = "mlkem768-x25519", "x25519"
ID = "[0-9a-f]{16}"


class PublicKey(NamedTuple):
    """The public half of a secret: `id` as the secret's, and raw keys.

    `mlkem768` is empty for a classic key, whose messages a future quantum computer could read.
    """

    id: str
    x25519: bytes
    mlkem768: bytes
    ed25519: bytes
    mldsa65: bytes

    @property
    def kind(self) -> str:
        """How messages to it are encrypted."""
        return HYBRID if self.mlkem768 else CLASSIC

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it, 64 hex digits: to be compared over another channel."""
        return hashlib.sha256(canonical(_document(self))).hexdigest()


def public_key(secret: Secret, classic: bool = False) -> PublicKey:
    """The public half of a secret; `classic` leaves the post-quantum part away.

    **Guarantees.** The same secret always gives the same keys, each by HKDF under a label of its own.
    """
    post_quantum = b"" if classic else _mlkem768(secret).public_key().public_bytes_raw()
    return PublicKey(
        secret.id,
        _x25519(secret).public_key().public_bytes_raw(),
        post_quantum,
        _ed25519(secret).public_key().public_bytes_raw(),
        _mldsa65(secret).public_key().public_bytes_raw(),
    )


def encrypt(message: bytes, public: PublicKey, info: bytes) -> bytes:
    """Encrypt to the holder of a secret by HPKE (RFC 9180), X25519 or ML-KEM-768 with X25519."""
    x25519 = X25519PublicKey.from_public_bytes(public.x25519)
    if public.kind == CLASSIC:
        return _SUITES[CLASSIC].encrypt(message, x25519, info=info)
    mlkem768 = MLKEM768PublicKey.from_public_bytes(public.mlkem768)
    return _SUITES[HYBRID].encrypt(message, MLKEM768X25519PublicKey(mlkem768, x25519), info=info)


def decrypt(ciphertext: bytes, secret: Secret, kind: str, info: bytes) -> bytes:
    """What `encrypt` hid. Raises `cryptography.exceptions.InvalidTag` if it was not for this secret."""
    x25519 = _x25519(secret)
    if kind == CLASSIC:
        return _SUITES[CLASSIC].decrypt(ciphertext, x25519, info=info)
    both = MLKEM768X25519PrivateKey(_mlkem768(secret), x25519)
    return _SUITES[HYBRID].decrypt(ciphertext, both, info=info)


def sign(secret: Secret, message: bytes) -> dict[str, str]:
    """Sign by Ed25519 and by ML-DSA-65; both must hold."""
    return {
        "id": secret.id,
        "ed25519": base64.b64encode(_ed25519(secret).sign(message)).decode(),
        "mldsa65": base64.b64encode(_mldsa65(secret).sign(message)).decode(),
    }


def signed(public: PublicKey, message: bytes, signature: Any) -> bool:
    """Whether both signatures are this key's, on this message."""
    try:
        first, second = (base64.b64decode(signature[k], validate=True) for k in _SIGNATURES)
        Ed25519PublicKey.from_public_bytes(public.ed25519).verify(first, message)
        MLDSA65PublicKey.from_public_bytes(public.mldsa65).verify(second, message)
    except (InvalidSignature, KeyError, TypeError, ValueError):
        return False
    return True


_SIGNATURES = ("ed25519", "mldsa65")


def save_public(public: PublicKey, path: str | os.PathLike[str]) -> None:
    """Write a public key as JSON; nothing in it is secret. Raises `OSError`."""
    with replacing(path) as file:
        write_all(file, canonical(_document(public)) + b"\n", 0)


def load_public(path: str | os.PathLike[str]) -> PublicKey:
    """Read a public key file. Raises `Unreadable` if it is none.

    >>> import tempfile
    >>> from modellock_jax.vault import keys
    >>> public = public_key(keys.generate())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_public(public, f"{folder}/owner.pub")
    ...     load_public(f"{folder}/owner.pub") == public
    True
    """
    file = open_to_read(path)
    try:
        data = os.read(file, 16_385)
    finally:
        os.close(file)
    public = _parse(data) if len(data) <= 16_384 else None
    if public is None:
        raise Unreadable(
            f"{path} is not a public key file of version 1, or is damaged; ask its owner for it again"
        )
    return public


def _parse(data: bytes) -> PublicKey | None:
    try:
        found = strict_json(data)
        raw = {name: base64.b64decode(found[name], validate=True) for name in _SIZES}
        public = PublicKey(found["id"] if re.fullmatch(ID, found["id"]) else "", **raw)
        encrypt(b"", public, b"")  # refuses points and keys that are none
    except (KeyError, TypeError, ValueError):
        return None
    sizes = all(len(raw[name]) == size for name, size in _SIZES.items() if raw[name])
    needed = [public.id, *(raw[name] for name in _SIZES if name != "mlkem768")]
    return public if sizes and all(needed) and _document(public) == found else None


def _document(public: PublicKey) -> dict[str, Any]:
    raw = {name: base64.b64encode(getattr(public, name)).decode() for name in _SIZES}
    return {"format": _FORMAT, "version": 1, "id": public.id, **raw}


def _x25519(secret: Secret) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(secret.derive(32, "x25519"))


def _mlkem768(secret: Secret) -> MLKEM768PrivateKey:
    return MLKEM768PrivateKey.from_seed_bytes(secret.derive(64, "mlkem768"))


def _ed25519(secret: Secret) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(secret.derive(32, "ed25519"))


def _mldsa65(secret: Secret) -> MLDSA65PrivateKey:
    return MLDSA65PrivateKey.from_seed_bytes(secret.derive(32, "mldsa65"))
