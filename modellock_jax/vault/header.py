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
from modellock_jax.vault.errors import Expired, Tampered, Unreadable, VaultError, WrongKey
from modellock_jax.vault.files import canonical, strict_json
from modellock_jax.vault.frames import clears_frames
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
SHOWN = 5  # recipients that an error names
MOST_PASSPHRASES = 8  # of one file: each costs an opener a second and 64 MiB


class Header(NamedTuple):
    """`file_id`: 16 bytes, fresh for every key of the file; `body`: bytes after the head;
    `digest`: of the body, 32 bytes, or empty if it never was signed; `expires`: an ISO date and time
    in UTC, or empty; `signatures`: of all but the MAC; `mac`: of all the rest under the file's key;
    `room`: bytes of the head, 0 until `finish` finds how many it needs."""

    file_id: bytes
    body: int
    digest: bytes
    expires: str
    stanzas: tuple[Stanza, ...]
    mac: bytes = bytes(32)
    signatures: tuple[dict[str, str], ...] = ()
    room: int = 0

    @property
    def binding(self) -> bytes:
        """What every chunk is bound to, 32 bytes: all of the header that stays when it is rewritten."""
        fixed = {"mark": MARK, "version": VERSION, "id": self.file_id.hex(), "body": self.body}
        return hashlib.sha256(canonical(fixed)).digest()


@clears_frames
def file_key_use(file_key: bytes, file_id: bytes, use: str) -> bytes:
    """A key of 32 bytes for one use of the file's key."""
    info = f"modellock-jax v1 {use}".encode()
    return HKDF(SHA256(), 32, salt=file_id, info=info).derive(file_key)


@clears_frames
def finish(header: Header, file_key: bytes, signers: tuple[Secret, ...] = ()) -> Header:
    """The header with the signatures of `signers`, no others, its MAC, and more room if it needs it.

    Raises `ValueError` if nobody could open it: too many recipients, or passphrases.
    """
    if sum(s["type"] == recipients.PASSPHRASE for s in header.stanzas) > MOST_PASSPHRASES:
        raise ValueError(f"a file has at most {MOST_PASSPHRASES} passphrases; give public keys")
    recipients.check_names(header.stanzas)
    finished = _finish(header, file_key, signers)
    needed = len(encode(finished._replace(room=0))) + len(str(tensors.LONGEST))
    if needed > tensors.LONGEST:
        raise ValueError("too many recipients for one file; seal it again for some of them")
    if needed <= header.room:
        return finished
    # Twice what is needed, so that in-place rewriting stays the rule as recipients are added.
    room = min(-(-2 * needed // ROOM) * ROOM, tensors.LONGEST)
    return _finish(header._replace(room=room), file_key, signers)


def _finish(header: Header, file_key: bytes, signers: tuple[Secret, ...]) -> Header:
    message = _signed(header) if signers else b""  # of a thousand recipients it takes a while
    header = header._replace(signatures=tuple(identity.sign(s, message) for s in signers))
    return header._replace(mac=_mac(header, file_key))


def _signed(header: Header) -> bytes:
    return canonical({"mark": MARK, "version": VERSION} | _fields(header, without=_SEALS))


def _mac(header: Header, file_key: bytes) -> bytes:
    key = file_key_use(file_key, header.file_id, "header")
    # With the signatures, so that only a recipient could take one away.
    return hmac.digest(key, canonical(_fields(header, without=("mac",))), "sha256")


@clears_frames
def file_key_of(header: Header, unlocker: Unlocker) -> bytes:
    """The file's key, 32 bytes, for a recipient; raises as `opened_by`."""
    return opened_by(header, unlocker)[1]


@clears_frames
def opened_by(header: Header, unlocker: Unlocker) -> tuple[str, bytes]:
    """The name of the stanza that a recipient opens, and the file's key, 32 bytes.

    Raises `WrongKey` if he is no recipient, `Tampered` if the header was changed.
    """
    opened = ((s, recipients.unwrap(s, unlocker, header.file_id)) for s in header.stanzas)
    stanza, file_key = next(((s, key) for s, key in opened if key is not None), (None, None))
    if stanza is None or file_key is None:
        names = [recipients.name_of(stanza) for stanza in header.stanzas]
        mine = unlocker.ids.values() if isinstance(unlocker, Secret) else ()
        if own := next((name for name in mine if name in names), None):
            raise Tampered(f"the stanza for key {own} was changed, or comes from another file")
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        whom = ", ".join(names[:SHOWN]) + more
        raise WrongKey(f"not for this key: the file's recipients are {whom}")
    if not hmac.compare_digest(_mac(header, file_key), header.mac):
        raise Tampered("the header was changed after it was written; get the file again")
    return recipients.name_of(stanza), file_key


def check_date(header: Header, now: datetime | None = None) -> None:
    """Raises `Expired` after the header's date."""
    if header.expires and (now or datetime.now(UTC)) >= datetime.fromisoformat(header.expires):
        raise Expired(f"the file expired on {header.expires}; ask its owner for a new one")


def check_signed(header: Header, signers: tuple[PublicKey, ...]) -> None:
    """Raises `Tampered` unless every one of `signers` signed this header."""
    message = _signed(header) if signers else b""
    for public in signers:
        if not any(identity.signed(public, message, s) for s in header.signatures):
            raise Tampered(
                f"not signed by {public.id}, whose signature is required: it was removed, or the "
                "file was changed after it was signed"
            )


def encode(header: Header) -> bytes:
    """The head of the file, `header.room` bytes with the 8 of the length; if that is 0, what it needs.

    Raises `ValueError` if it needs more.
    """
    text = canonical(_fields(header)).decode()
    checksum = hashlib.sha256(text.encode()).hexdigest()
    metadata = {"modellock": MARK, "version": VERSION, "about": ABOUT}
    metadata |= {"checksum": checksum, "header": text}
    body = [tensors.Tensor("sealed", tensors.DTYPES["U8"], (header.body,), 0, header.body)]
    return tensors.head(body, metadata, header.room)


def no_header(start: bytes) -> VaultError:
    """What is wrong with a file that begins so and has no head to read."""
    if start[8:].startswith(_START):
        return Tampered("the file is cut off, or its beginning was changed; get the file again")
    return Unreadable("not a file that modellock-jax sealed; name one, or get the file again")


_START = f'{{"{tensors.METADATA}":{{"modellock":"{MARK}"'.encode()


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
        raise no_header(head)
    if metadata.get("version") != VERSION:
        raise Unreadable(f"not of version {VERSION}, the only one that this release opens")
    try:
        header = _header(strict_json(metadata["header"].encode()))
        if header.room != len(head) or encode(header) != head:
            raise ValueError("is not as it was written")
    except (KeyError, TypeError, ValueError) as error:
        raise Tampered(f"the header {_why(error)}; get the file again") from None
    if size != len(head) + header.body:
        raise Tampered(
            f"the file has {size} bytes and should have {len(head) + header.body}: cut off, or added to"
        )
    return header


def _fields(header: Header, without: tuple[str, ...] = ()) -> dict[str, Any]:
    fields = {
        "id": header.file_id.hex(),
        "body": header.body,
        "digest": header.digest.hex(),
        "expires": header.expires,
        "recipients": list(header.stanzas),
        "mac": header.mac.hex(),
        "signatures": list(header.signatures),
        "room": header.room,
    }
    return {name: value for name, value in fields.items() if name not in without}


def _header(fields: Any) -> Header:
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
    stanzas = tuple(recipients.check(stanza) for stanza in fields["recipients"])
    if sum(stanza["type"] == recipients.PASSPHRASE for stanza in stanzas) > MOST_PASSPHRASES:
        raise ValueError(f"has more than {MOST_PASSPHRASES} passphrases")
    recipients.check_names(stanzas)
    for signature in fields["signatures"]:
        check_signature(signature)
    return Header(
        bytes.fromhex(fields["id"]),
        fields["body"],
        bytes.fromhex(fields["digest"]),
        fields["expires"],
        stanzas,
        bytes.fromhex(fields["mac"]),
        tuple(fields["signatures"]),
        fields["room"],
    )


def check_signature(signature: Any) -> None:
    """Refuse what `identity.sign` cannot have written. Raises `ValueError`."""
    if not isinstance(signature, dict) or set(signature) != {"id", "ed25519", "mldsa65"}:
        raise ValueError("has a signature of an unknown kind")
    if not isinstance(signature["id"], str) or not re.fullmatch(identity.ID, signature["id"]):
        raise ValueError("has a signature without a proper id")
    binary(signature["ed25519"], 64)
    binary(signature["mldsa65"], 3309)


_LISTS = ("recipients", "signatures")
_SEALS = ("mac", "signatures")


def _why(error: Exception) -> str:
    return str(error) if type(error) is ValueError else "lacks a field"


def new_id() -> bytes:
    """An id for a file: 16 bytes from the operating system."""
    return os.urandom(16)
