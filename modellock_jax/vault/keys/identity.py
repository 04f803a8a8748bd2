"""Public keys: what others need to write to the holder of a secret and to check their signatures."""

import base64
import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from modellock_jax._atomic import creating, write_all
from modellock_jax._printing import printable
from modellock_jax.vault import _texts
from modellock_jax.vault._files import read_small
from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault._json import canonical, strict_json
from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.keys import _private_keys

if TYPE_CHECKING:
    from modellock_jax.vault.keys.secret import Secret

__all__ = ["PublicKey", "load_public_key", "public_key", "save_public_key", "sign", "verify"]

_FORMAT = "modellock-jax public key"
_VERSION = 2
_LONGEST = 16_384  # bytes of a file
_SIZES = {"x25519": 32, "mlkem768": 1184, "ed25519": 32, "mldsa65": 1952}
_SUITES = {
    "x25519": Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
    "mlkem768-x25519": Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
}
HYBRID, CLASSIC = "mlkem768-x25519", "x25519"
ID = "[0-9a-f]{32}"  # of a key, and the name of a passphrase's stanza


class PublicKey(NamedTuple):
    """The public half of a secret: raw keys, from which its `id` follows.

    Attributes:
        x25519: 32 bytes, to seal for (RFC 7748).
        mlkem768: 1,184 bytes, to seal for (FIPS 203); empty for a classic key, whose messages a
            future quantum computer could read.
        ed25519: 32 bytes, to verify signatures with (RFC 8032).
        mldsa65: 1,952 bytes, to verify signatures with (FIPS 204).
    """

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
        """SHA-256 of its kind and all its keys, 64 hex digits: to be compared over another channel."""
        return hashlib.sha256(
            canonical({"format": _FORMAT, "kind": self.kind} | _raw(self))
        ).hexdigest()

    @property
    def id(self) -> str:
        """The first 32 hex digits of the fingerprint.

        **Guarantees.** Nobody can make another key with this id, if SHA-256 is second-preimage
        resistant; two keys of one id, by whoever makes both, take some 2^64 attempts.
        """
        return self.fingerprint[:32]


@clears_frames
def public_key(secret: "Secret", classic: bool = False) -> PublicKey:
    """Return the public half of a secret, by which others seal for it and check its signatures.

    Args:
        secret: The key.
        classic: Omit ML-KEM-768; that half has another id.

    Returns:
        Those for X25519, ML-KEM-768, Ed25519 and ML-DSA-65.

    **Guarantees.** The same secret always gives the same keys, each by HKDF under a label of its own.
    """
    post_quantum = (
        b"" if classic else _private_keys.mlkem768(secret).public_key().public_bytes_raw()
    )
    return PublicKey(
        _private_keys.x25519(secret).public_key().public_bytes_raw(),
        post_quantum,
        _private_keys.ed25519(secret).public_key().public_bytes_raw(),
        _private_keys.mldsa65(secret).public_key().public_bytes_raw(),
    )


def ids_of(secret: "Secret") -> dict[str, str]:
    """Return the ids of both public halves of a secret, by their kind."""
    whole = public_key(secret)
    return {HYBRID: whole.id, CLASSIC: whole._replace(mlkem768=b"").id}


@clears_frames
def encrypt(message: bytes, public: PublicKey, info: bytes) -> bytes:
    """Encrypt to the holder of a secret by HPKE (RFC 9180), X25519 or ML-KEM-768 with X25519."""
    x25519 = X25519PublicKey.from_public_bytes(public.x25519)
    if public.kind == CLASSIC:
        return _SUITES[CLASSIC].encrypt(message, x25519, info=info)
    mlkem768 = MLKEM768PublicKey.from_public_bytes(public.mlkem768)
    return _SUITES[HYBRID].encrypt(message, MLKEM768X25519PublicKey(mlkem768, x25519), info=info)


@clears_frames
def decrypt(ciphertext: bytes, secret: "Secret", kind: str, info: bytes) -> bytes:
    """Return what `encrypt` hid. Raises `InvalidTag` if it was not for this secret."""
    x25519 = _private_keys.x25519(secret)
    if kind == CLASSIC:
        return _SUITES[CLASSIC].decrypt(ciphertext, x25519, info=info)
    both = MLKEM768X25519PrivateKey(_private_keys.mlkem768(secret), x25519)
    return _SUITES[HYBRID].decrypt(ciphertext, both, info=info)


@clears_frames
def sign(secret: "Secret", message: bytes) -> dict[str, str]:
    """Sign by Ed25519 and by ML-DSA-65; both must hold.

    Args:
        secret: The signer's.
        message: Any bytes.

    Returns:
        The signer's id and both signatures, as texts.
    """
    return {
        "id": secret.id,
        "ed25519": base64.b64encode(_private_keys.ed25519(secret).sign(message)).decode(),
        "mldsa65": base64.b64encode(_private_keys.mldsa65(secret).sign(message)).decode(),
    }


def verify(public: PublicKey, message: bytes, signature: Any) -> bool:
    """Whether both signatures are this key's, on this message, under its name if that is known.

    A classic public half does not know the id of the whole one, under which its secret signs.

    Args:
        public: The signer's public key.
        message: Any bytes.
        signature: What `sign` gave, or whatever came in its place.

    Returns:
        True if they hold.
    """
    try:
        if public.kind == HYBRID and signature["id"] != public.id:
            return False
        first, second = (base64.b64decode(signature[k], validate=True) for k in _SIGNATURES)
        Ed25519PublicKey.from_public_bytes(public.ed25519).verify(first, message)
        MLDSA65PublicKey.from_public_bytes(public.mldsa65).verify(second, message)
    except (InvalidSignature, KeyError, TypeError, ValueError):
        return False
    return True


_SIGNATURES = ("ed25519", "mldsa65")


def document(public: PublicKey) -> dict[str, Any]:
    """Return a public key as fields, for a file of its own and inside of others."""
    return {"kind": public.kind, "id": public.id} | _raw(public)


def from_document(fields: Any) -> PublicKey:
    """Return the public key that `document` made these fields of. Raises `ValueError`.

    **Guarantees.** Its id is that of its keys.
    """
    try:
        public = PublicKey(
            **{name: base64.b64decode(fields[name], validate=True) for name in _SIZES}
        )
        encrypt(b"", public, b"")  # refuses points and keys that are none
    except (KeyError, TypeError, ValueError):
        raise ValueError("has a public key that is none") from None
    sizes = _SIZES if public.mlkem768 else _SIZES | {"mlkem768": 0}
    if any(len(getattr(public, name)) != size for name, size in sizes.items()):
        raise ValueError("has a public key of another length")
    if fields.get("id") != public.id:
        raise ValueError("has an id that is not that of its keys")
    if document(public) != fields:
        raise ValueError("has a public key that is not as it was written")
    return public


def text_of(public: PublicKey) -> bytes:
    """Return the content of a public key file."""
    fields = {"format": _FORMAT, "version": _VERSION, "extra": {}}
    return canonical(fields | document(public)) + b"\n"


def save_public_key(public: PublicKey, path: str | os.PathLike[str]) -> None:
    """Write a public key as JSON; nothing in it is secret.

    Args:
        public: The key.
        path: A new file, or one that holds this key already and is left alone.

    Raises:
        FileExistsError: Anything else is there.
        OSError: The disk refuses.
    """
    try:
        with creating(path) as file:
            write_all(file, text_of(public), 0)
    except FileExistsError:
        there = None
        with contextlib.suppress(Unreadable):
            there = load_public_key(path)
        if there != public:
            raise


def load_public_key(path: str | os.PathLike[str]) -> PublicKey:
    """Read a public key file.

    Args:
        path: The file, as `save_public_key` or `keygen` wrote it.

    Returns:
        The public key, a recipient of `seal` and a signer that `open` can ask for.

    Raises:
        Unreadable: It is none, or is damaged.

    **Guarantees.** Its id is that of its keys, so nobody's file bears the id of another's key.

    >>> import tempfile
    >>> from modellock_jax import vault
    >>> public = public_key(vault.generate_key())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_public_key(public, f"{folder}/owner.pub")
    ...     load_public_key(f"{folder}/owner.pub") == public
    True
    """
    found = _parse(read_small(path, _LONGEST + 1))
    if isinstance(found, str):
        raise Unreadable(f"{printable(path)} {found}")
    return found


def _parse(data: bytes) -> PublicKey | str:
    """Return the key, or what is wrong: it may be a secret key, which no traceback shall show."""
    if fault := _texts.encoding_fault(data):
        return fault
    if (kind := _texts.kind(data)) != "public key":
        what = f"is {_texts.KINDS[kind]}, and no public key" if kind else "is no public key file"
        return f"{what}; {_GIVE[kind == 'key']}"
    try:
        fields: Any = strict_json(_texts.without_mark(data)) if len(data) <= _LONGEST else None
        head = {name: fields.pop(name) for name in ("format", "version", "extra")}
        if type(head["version"]) is not int or head["version"] != _VERSION:
            return f"is not of version {_VERSION}, the only one that this release reads; {_AGAIN}"
        if head["format"] != _FORMAT or not isinstance(head["extra"], dict):
            return f"is a damaged public key file; {_AGAIN}"
        return from_document(fields)
    except (AttributeError, KeyError):
        return f"is a damaged public key file; {_AGAIN}"
    except ValueError as error:
        return f"is a damaged public key file, which {error}; {_AGAIN}"


_AGAIN = "ask its owner for it again"
_GIVE = (
    "give a .pub file",
    "keep it to yourself and give the .pub beside it, which `keygen --public KEY OUT` makes again",
)


def _raw(public: PublicKey) -> dict[str, str]:
    return {name: base64.b64encode(getattr(public, name)).decode() for name in _SIZES}
