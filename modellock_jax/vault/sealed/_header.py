"""The open part of a sealed file: who can open it, until when, who signed it, and what it is not."""

import hashlib
import hmac
import os
import re
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from modellock_jax.vault import _tensors
from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault._json import canonical, canonical_pieces, strict_json
from modellock_jax.vault.errors import Expired, Tampered, Unreadable, WrongKey
from modellock_jax.vault.issuing import _naming
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.identity import PublicKey
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.sealed import recipients
from modellock_jax.vault.sealed._header_fields import (
    MARK,
    MOST_RECIPIENTS,
    VERSION,
    Header,
    check_stanzas,
    fields_of,
    header_of,
)
from modellock_jax.vault.sealed.recipients import Unlocker

ABOUT = (
    "Names, shapes, types and values of the tensors are encrypted and authenticated (AES-256-GCM). "
    "In the open: the size, the file's name and serial number, the recipients' key ids, the expiry "
    "date and the signers. Whoever can open the file holds the plain content, and can keep and pass "
    "on a copy."
)
ROOM = 65_536  # bytes that the head takes at least, so that recipients can be added in place
LONGEST = 2**24  # bytes of the head
SHOWN = 5  # recipients that an error names


@clears_frames
def file_key_use(file_key: bytes, file_id: bytes, use: str) -> bytes:
    """Return a key of 32 bytes for one use of the file's key."""
    info = f"modellock-jax v2 {use}".encode()
    return HKDF(SHA256(), 32, salt=file_id, info=info).derive(file_key)


@clears_frames
def finish(header: Header, file_key: bytes, signers: tuple[Secret, ...] = ()) -> Header:
    """Return the header with the signatures of `signers` alone, its MAC, and more room if needed.

    Raises `ValueError` for what `decode` would refuse: too many recipients, or one of them twice.
    """
    try:
        check_stanzas(header.stanzas)
    except ValueError as error:
        raise ValueError(f"the file {error}") from None
    _naming.check_name(header.name, header.serial)
    finished = _finish(header, file_key, signers)
    needed = len(encode(finished._replace(room=0))) + len(str(LONGEST))
    if needed > LONGEST:
        raise ValueError("too many recipients for one file; seal it again for some of them")
    if needed <= header.room:
        return finished
    # Twice what is needed, so that in-place rewriting stays the rule as recipients are added.
    room = min(-(-2 * needed // ROOM) * ROOM, LONGEST)
    return _finish(header._replace(room=room), file_key, signers)


def _finish(header: Header, file_key: bytes, signers: tuple[Secret, ...]) -> Header:
    message = _signed_bytes(header) if signers else b""  # of a thousand recipients it takes a while
    header = header._replace(signatures=tuple(identity.sign(s, message) for s in signers))
    return header._replace(mac=_mac(header, file_key))


def _signed_bytes(header: Header) -> bytes:
    digest = _digest(fields_of(header, without=_SEALS)).hex()
    return canonical({"mark": MARK, "version": VERSION, "header": digest})


def _mac(header: Header, file_key: bytes) -> bytes:
    key = file_key_use(file_key, header.file_id, "header")
    # With the signatures, so that only a recipient could take one away.
    return hmac.digest(key, _digest(fields_of(header, without=("mac",))), "sha256")


def _digest(fields: dict[str, Any]) -> bytes:
    """SHA-256 of the canonical JSON text, which is never whole in memory."""
    made = hashlib.sha256()
    for piece in canonical_pieces(fields):
        made.update(piece)
    return made.digest()


@clears_frames
def file_key_of(header: Header, unlocker: Unlocker) -> bytes:
    """Return the file's key, 32 bytes, for a recipient; raises as `opened_by`."""
    return opened_by(header, unlocker)[1]


@clears_frames
def opened_by(header: Header, unlocker: Unlocker) -> tuple[str, bytes]:
    """Return the name of the stanza that a recipient opens, and the file's key, 32 bytes.

    Raises `WrongKey` if they are no recipient, `Tampered` if the header was changed.
    """
    opened = ((s, recipients.unwrap(s, unlocker, header.file_id)) for s in header.stanzas)
    stanza, file_key = next(((s, key) for s, key in opened if key is not None), (None, None))
    if not header.stanzas:
        raise WrongKey("this file belongs to a set: open the folder that it was sealed in")
    if stanza is None or file_key is None:
        names = [recipients.name_of(stanza) for stanza in header.stanzas]
        mine = unlocker.ids.values() if isinstance(unlocker, Secret) else ()
        if own := next((name for name in mine if name in names), None):
            raise Tampered(f"the stanza for key {own} was changed, or comes from another file")
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        whom = ", ".join(names[:SHOWN]) + more
        raise WrongKey(f"not for this key: the file's recipients are {whom}")
    check_mac(header, file_key)
    return recipients.name_of(stanza), file_key


def check_mac(header: Header, file_key: bytes) -> None:
    """Raise `Tampered` unless the header was written by somebody who has the file's key."""
    if not hmac.compare_digest(_mac(header, file_key), header.mac):
        raise Tampered("the header was changed after it was written; get the file again")


def check_date(header: Header, now: datetime | None = None) -> None:
    """Raise `Expired` after the header's date."""
    if header.expires and (now or datetime.now(UTC)) >= datetime.fromisoformat(header.expires):
        raise Expired(f"the file expired on {header.expires}; ask its owner for a new one")


def check_expected(header: Header, expected: str | None) -> None:
    """Raise `Tampered` unless the file has the name and the serial number that are expected."""
    if expected is not None:
        _naming.check_expected(header.name, header.serial, expected)


def check_signed(header: Header, signers: tuple[PublicKey, ...]) -> None:
    """Raise `Tampered` unless every one of `signers` signed this header."""
    message = _signed_bytes(header) if signers else b""
    for public in signers:
        if not any(identity.verify(public, message, s) for s in header.signatures):
            raise Tampered(
                f"not signed by {public.id}, whose signature is required: it was removed, or the "
                "file was changed after it was signed"
            )


def encode(header: Header) -> bytes:
    """Return the head of the file, in `header.room` bytes; if that is 0, in as many as it needs.

    Raises `ValueError` if it needs more.
    """
    text = canonical(fields_of(header))
    checksum = hashlib.sha256(text).hexdigest().encode()
    quoted = text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    made = b"".join([_BEFORE, checksum, b'","header":"', quoted, _after(header.body)])
    length = header.room or -(-(8 + len(made)) // 8) * 8
    if 8 + len(made) > length:
        raise ValueError(f"a head of {8 + len(made)} bytes does not fit into {length}")
    return (length - 8).to_bytes(8, "little") + made.ljust(length - 8)


_START = f'{{"{_tensors.METADATA}":{{"modellock":"{MARK}","version":"'.encode()
_BEFORE = _START + f'{VERSION}","about":"{ABOUT}","checksum":"'.encode()
_HEADER = re.compile(rb'([0-9a-f]{64})","header":"([^"\\]*+(?:\\["\\][^"\\]*+)*+)')


def _after(body: int) -> bytes:
    entry = f'{{"dtype":"U8","shape":[{body}],"data_offsets":[0,{body}]}}'
    return f'"}},"sealed":{entry}}}'.encode()


def head_length(start: bytes, size: int) -> int:
    """Bytes of the head of a sealed file of `size` bytes that begins so.

    Raises `Unreadable` if the file is of another kind or version, `Tampered` if it is cut off.
    """
    check_start(start)
    version = re.match(rb'([0-9]{1,9})"', start[8 + len(_START) :])
    if version and version[1] != VERSION.encode():
        raise Unreadable(
            f"sealed in version {version[1].decode()} of the format; this release reads {VERSION} alone"
        )
    length = 8 + int.from_bytes(start[:8], "little")
    if not version or not 8 < length <= min(size, LONGEST):
        raise Tampered("the file is cut off, or its beginning was changed; get the file again")
    return length


def check_start(start: bytes) -> None:
    """Raise `Unreadable` for what does not begin as a sealed file of any version."""
    if not start[8:].startswith(_START):
        raise Unreadable("not a file that modellock-jax sealed; name one, or get the file again")


START = 8 + len(_BEFORE)  # bytes of a file that tell its kind


def decode(head: bytes, size: int) -> Header:
    """Read the head of a sealed file of `size` bytes.

    Raises `Unreadable` if the file is of another kind or version, `Tampered` unless the head is, to
    the last byte, one that `encode` wrote.

    **Guarantees.** Memory of at most three times the head's bytes, whatever is in them, and 4 MiB.
    """
    head_length(head[:START], size)
    try:
        header = header_of(strict_json(_text_in(head)))
        after, end = _after(header.body), _end_of_text(head)
        padding = len(head) - end - len(after)
        if not head.startswith(after, end) or head.count(b" ", end + len(after)) != padding:
            raise ValueError("is not as it was written")
        digest = _digest(fields_of(header)).hex().encode()
        if len(head) != header.room or not head.startswith(digest, START):
            raise ValueError("is not as it was written")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Tampered(f"the header {_why(error)}; get the file again") from None
    if size != len(head) + header.body:
        raise Tampered(
            f"the file has {size} bytes and should have {len(head) + header.body}: cut off, or added to"
        )
    return header


def _end_of_text(head: bytes) -> int:
    """Where the JSON text of the header ends in a head. Raises `ValueError`."""
    found = _HEADER.match(head, START)
    if not found:
        raise ValueError("is not as it was written")
    return found.end()


def _text_in(head: bytes) -> bytes:
    """Return the JSON text of the header in a head. Raises `ValueError`."""
    found = _HEADER.match(head, START)
    if not head.startswith(_BEFORE, 8) or not found:
        raise ValueError("is not as it was written")
    # No byte 0 stands in a text of JSON.
    text = found[2].replace(b"\\\\", b"\0").replace(b'\\"', b'"').replace(b"\0", b"\\")
    if hashlib.sha256(text).hexdigest().encode() != found[1]:
        raise ValueError("is damaged")
    if sum(map(text.count, (b"{", b"[", b","))) > 5 * MOST_RECIPIENTS + 1000:
        raise ValueError("has more parts than it can have")
    return text


_SEALS = ("mac", "signatures")


def _why(error: Exception) -> str:
    return str(error) if type(error) is ValueError else "lacks a field"


def new_id() -> bytes:
    """Return an id for a file: 16 bytes from the operating system."""
    return os.urandom(16)
