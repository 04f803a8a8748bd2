"""The open part of a sealed file: who can open it, until when, who signed it, and what it is not."""

import hashlib
import hmac
import os
import re
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from modellock_jax.vault import identity, recipients, tensors
from modellock_jax.vault.errors import Expired, Tampered, Unreadable, WrongKey
from modellock_jax.vault.files import canonical, strict_json
from modellock_jax.vault.identity import PublicKey
from modellock_jax.vault.keys import Secret
from modellock_jax.vault.recipients import Stanza, Unlocker, binary

MARK, VERSION = "modellock-jax sealed file", "1"
ABOUT = (
    "Names, shapes, types and values of the tensors are encrypted and authenticated (AES-256-GCM). "
    "In the open: the size, the recipients' key ids, the expiry date and the signers. Whoever can "
    "open the file holds the plain weights, and can keep and pass on a copy."
)
ROOM = 65_536  # bytes that the head takes at least, so that recipients can be added in place
MOST_PASSPHRASES = 8  # of one file: each costs an opener a second and 64 MiB


class Header(NamedTuple):
    """`file_id`: 16 bytes, fresh for every key of the file; `body`: bytes after the head;
    `digest`: of the body, 32 bytes, or empty if it never was signed; `expires`: an ISO date and time
    in UTC, or empty; `mac`: of all before it under the file's key."""

    file_id: bytes
    body: int
    digest: bytes
    expires: str
    stanzas: tuple[Stanza, ...]
    mac: bytes
    signatures: tuple[dict[str, str], ...]

    @property
    def binding(self) -> bytes:
        """What every chunk is bound to, 32 bytes: all of the header that stays when it is rewritten."""
        fixed = {"mark": MARK, "version": VERSION, "id": self.file_id.hex(), "body": self.body}
        return hashlib.sha256(canonical(fixed)).digest()


def file_key_use(file_key: bytes, file_id: bytes, use: str) -> bytes:
    """A key of 32 bytes for one use of the file's key."""
    info = f"modellock-jax v1 {use}".encode()
    return HKDF(SHA256(), 32, salt=file_id, info=info).derive(file_key)


def finish(header: Header, file_key: bytes, signers: tuple[Secret, ...] = ()) -> Header:
    """The header with its MAC and the signatures of `signers`, and no others."""
    header = header._replace(mac=b"", signatures=())
    key = file_key_use(file_key, header.file_id, "header")
    header = header._replace(mac=hmac.digest(key, canonical(_fields(header)), "sha256"))
    message = canonical(_fields(header))
    return header._replace(signatures=tuple(identity.sign(s, message) for s in signers))


def file_key_of(header: Header, unlocker: Unlocker, now: datetime | None = None) -> bytes:
    """The file's key, 32 bytes, for a recipient.

    Raises `WrongKey` if it is none, `Tampered` if the header was changed, `Expired` after its date.
    """
    opened = (recipients.unwrap(stanza, unlocker, header.file_id) for stanza in header.stanzas)
    file_key = next((key for key in opened if key is not None), None)
    if file_key is None:
        whom = ", ".join(map(recipients.name_of, header.stanzas))
        raise WrongKey(f"not for this key: the file's recipients are {whom}")
    unsigned = header._replace(mac=b"", signatures=())
    key = file_key_use(file_key, header.file_id, "header")
    if not hmac.compare_digest(
        hmac.digest(key, canonical(_fields(unsigned)), "sha256"), header.mac
    ):
        raise Tampered("the header was changed after it was written; get the file again")
    if header.expires and (now or datetime.now(UTC)) >= datetime.fromisoformat(header.expires):
        raise Expired(f"the file expired on {header.expires}; ask its owner for a new one")
    return file_key


def check_signed(header: Header, signers: tuple[PublicKey, ...]) -> None:
    """Raises `Tampered` unless every one of `signers` signed this header."""
    message = canonical(_fields(header._replace(signatures=())))
    for public in signers:
        if not any(identity.signed(public, message, s) for s in header.signatures):
            raise Tampered(
                f"not signed by {public.id}, whose signature is required: it was removed, or the "
                "file was changed after it was signed"
            )


def encode(header: Header, room: int = 0) -> bytes:
    """The head of the file, 8 bytes of length included; exactly `room` bytes if that is given.

    Raises `ValueError` if it needs more than `room`.
    """
    text = canonical(_fields(header)).decode()
    checksum = hashlib.sha256(text.encode()).hexdigest()
    metadata = {"about": ABOUT, "checksum": checksum, "header": text}
    metadata |= {"modellock": MARK, "version": VERSION}
    body = [tensors.Tensor("sealed", tensors.DTYPES["U8"], (header.body,), 0, header.body)]
    if room:
        return tensors.head(body, metadata, room)
    needed = len(tensors.head(body, metadata))
    # Twice what is needed, so that in-place rewriting stays the rule as recipients are added.
    return tensors.head(body, metadata, max(ROOM, -(-2 * needed // ROOM) * ROOM))


def decode(head: bytes, size: int) -> Header:
    """Read the head of a sealed file of `size` bytes.

    Raises `Unreadable` if the file is of another kind or version, `Tampered` unless the head is, to
    the last byte, one that `encode` wrote.
    """
    try:
        metadata = tensors.parse(head).metadata
    except ValueError:
        metadata = {}
    if metadata.get("modellock") != MARK:
        raise Unreadable("not a file that modellock-jax sealed, or its beginning is destroyed")
    if metadata.get("version") != VERSION:
        raise Unreadable(f"not of version {VERSION}, the only one that this release opens")
    try:
        header = _header(strict_json(metadata["header"].encode()))
        if encode(header, len(head)) != head:
            raise ValueError("is not as it was written")
    except (KeyError, TypeError, ValueError) as error:
        raise Tampered(f"the header {_why(error)}; get the file again") from None
    if size != len(head) + header.body:
        raise Tampered(
            f"the file has {size} bytes and should have {len(head) + header.body}: cut off, or added to"
        )
    return header


def _fields(header: Header) -> dict[str, Any]:
    return {
        "id": header.file_id.hex(),
        "body": header.body,
        "digest": header.digest.hex(),
        "expires": header.expires,
        "recipients": list(header.stanzas),
        "mac": header.mac.hex(),
        "signatures": list(header.signatures),
    }


def _header(fields: Any) -> Header:
    if not isinstance(fields, dict) or not all(isinstance(fields[k], list) for k in _LISTS):
        raise ValueError("is not a table")
    if not re.fullmatch("[0-9a-f]{32}", fields["id"]) or type(fields["body"]) is not int:
        raise ValueError("has no proper id and size")
    if not re.fullmatch("[0-9a-f]{64}", fields["mac"]):
        raise ValueError("has no proper MAC")
    if not re.fullmatch("([0-9a-f]{64})?", fields["digest"]):
        raise ValueError("has no proper digest")
    if fields["expires"] and datetime.fromisoformat(fields["expires"]).utcoffset() is None:
        raise ValueError("has an expiry date without a time zone")
    stanzas = tuple(recipients.check(stanza) for stanza in fields["recipients"])
    if sum(stanza["type"] == recipients.PASSPHRASE for stanza in stanzas) > MOST_PASSPHRASES:
        raise ValueError(f"has more than {MOST_PASSPHRASES} passphrases")
    for signature in fields["signatures"]:
        if not isinstance(signature, dict) or set(signature) != {"id", "ed25519", "mldsa65"}:
            raise ValueError("has a signature of an unknown kind")
        binary(signature["ed25519"], 64)
        binary(signature["mldsa65"], 3309)
    return Header(
        bytes.fromhex(fields["id"]),
        fields["body"],
        bytes.fromhex(fields["digest"]),
        fields["expires"],
        stanzas,
        bytes.fromhex(fields["mac"]),
        tuple(fields["signatures"]),
    )


_LISTS = ("recipients", "signatures")


def _why(error: Exception) -> str:
    return str(error) if type(error) is ValueError else "lacks a field"


def new_id() -> bytes:
    """An id for a file: 16 bytes from the operating system."""
    return os.urandom(16)
