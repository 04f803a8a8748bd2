"""The head of a locked file: what it says, and what shows that it is whole and for this key."""

import hashlib
import hmac
import itertools
import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from modellock_jax._printing import printable
from modellock_jax.vault import _kinds, _tensors
from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault._json import canonical, quoted_pieces, strict_json
from modellock_jax.vault._sources import Reader
from modellock_jax.vault._tensors import METADATA, Directory
from modellock_jax.vault.errors import Tampered, Unreadable, WrongKey
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.secret import KeySource, Secret
from modellock_jax.vault.sealed import _header_fields

MARK, VERSION = "modellock-jax locked file", "2"
FIELD = "modellock"  # of the metadata; the others are `modellock.NAME`
LONGEST_EXTRA = 65_536  # bytes


class LockedInfo(NamedTuple):
    """What a locked file tells everybody, as text.

    `about`: the threat model in words; `scheme`: the lock with all its settings; `key_id`: of the
    secret; `label`: of the lock's key; `nonce`: 32 fresh bytes, `check`: 16 bytes that a right key
    gives, `tag`: 32 bytes over all else and the locked values, all three in hex; `finish`: what
    finishes the key of each link of the lock, a JSON list of hex; `original`: the head of the plain
    file, JSON; `extra`: for later releases, a JSON table of texts, which readers pass over.
    """

    about: str
    scheme: str
    key_id: str
    label: str
    nonce: str
    check: str
    tag: str
    finish: str
    original: str
    extra: str


_FORMS = {
    "key_id": identity.ID,
    "nonce": "[0-9a-f]{64}",
    "check": "[0-9a-f]{32}",
    "tag": "[0-9a-f]{64}",
}


def read_head(reader: Reader) -> tuple[LockedInfo, Directory]:
    """Return what a locked file says, and its directory. Raises `Unreadable` and `Tampered`.

    **Guarantees.** The head is, to the last byte, the one that `head` makes of what it says.
    """
    name, found = printable(reader.name), b""
    try:
        found = reader.read(_tensors.head_length(reader.read(8), reader.size))
        directory = _tensors.parse(found)
    except ValueError as error:
        if MARK.encode() in found:
            raise Tampered(f"the head of {name} {error}; get the file again") from None
        why = _kinds.instead(reader, "locked") or f"{name} {error}; name a file that was locked"
        raise Unreadable(why) from None
    if directory.field(FIELD) != MARK.encode():
        raise Unreadable(_kinds.instead(reader, "locked") or f"{name} is not a locked file")
    if directory.field(f"{FIELD}.version") != VERSION.encode():
        raise Unreadable(
            f"{name} is not of version {VERSION}, the only one that this release reads"
        )
    try:
        texts = [directory.field(f"{FIELD}.{field}") for field in LockedInfo._fields]
        info = LockedInfo(*(text.decode() for text in texts if text is not None))
        del texts
        whole = _is_head(info, found)
    except (TypeError, ValueError):
        whole = False
    if not whole or not _proper(info):
        raise Tampered(f"the head of {name} is not as it was written; get the file again")
    if reader.size != directory.size:
        raise Tampered(
            f"{name} has {reader.size} bytes and should have {directory.size}: cut off, or added to"
        )
    return info, directory


def _proper(info: LockedInfo) -> bool:
    try:
        _header_fields.check_extra(strict_json(info.extra.encode()[: LONGEST_EXTRA + 1]))
    except ValueError:
        return False
    return all(re.fullmatch(form, getattr(info, name)) for name, form in _FORMS.items())


def head(info: LockedInfo) -> bytes:
    """Return the one head of a locked file; what is not ours in it comes from the original."""
    text = b"".join(_pieces(info))
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _is_head(info: LockedInfo, found: bytes) -> bool:
    """Whether `found` is the head, without a second one in memory."""
    at = 8
    for piece in _pieces(info):
        if not found.startswith(piece, at):
            return False
        at += len(piece)
    padding = -(at - 8) % 8
    return len(found) == at + padding and found[at:] == b" " * padding


def _pieces(info: LockedInfo) -> Iterator[bytes]:
    """Yield the JSON text of a head: our fields behind the original's, its tensors in order."""
    ours = {f"{FIELD}.{name}": text for name, text in info._asdict().items()}
    ours |= {FIELD: MARK, f"{FIELD}.version": VERSION}
    # No secret is in it: it tells damage, which the holder of no key can see, from a wrong key.
    ours[f"{FIELD}.checksum"] = _checksum(ours)
    original = _tensors.parse(info.original.encode(), 0)
    yield b'{"' + METADATA.encode() + b'":{'
    theirs = ((name, value) for name, value in original.texts() if name not in ours)
    for i, (name, value) in enumerate(itertools.chain(theirs, ours.items())):
        yield b"," * (i > 0)
        yield from quoted_pieces(name, False)
        yield b":"
        yield from quoted_pieces(value, False)
    yield b"}"
    for name, entry in original.tensors.entries():
        yield b","
        yield from quoted_pieces(name, False)
        yield b":" + json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode()
    yield b"}"


def _checksum(ours: dict[str, str]) -> str:
    """SHA-256 of the canonical JSON text, which is never whole in memory."""
    made = hashlib.sha256()
    for i, (name, text) in enumerate(sorted(ours.items())):
        made.update(b"," if i else b"{")
        for piece in (*quoted_pieces(name, True), b":"):
            made.update(piece)
        for piece in quoted_pieces(text, True):
            made.update(piece)
    made.update(b"}")
    return made.hexdigest()


def check_of(info: LockedInfo, secret: Secret) -> str:
    """Return what the right key gives, 32 hex digits, before any tensor is read."""
    return secret.derive(16, "locked file check", info.label, info.nonce, info.scheme).hex()


def check_key(info: LockedInfo, secret: Secret) -> None:
    """Raise `WrongKey` if a file was locked with another secret, `Tampered` if its head was changed."""
    if hmac.compare_digest(check_of(info, secret).encode(), info.check.encode()):
        return
    if info.key_id == secret.id:
        raise Tampered(f"the head was changed: it names key {secret.id} and was not made by it")
    raise WrongKey(f"not for this key: locked with {info.key_id}, and this is {secret.id}")


@clears_frames
def tag_of(info: LockedInfo, digests: bytes, secret: Secret) -> str:
    """HMAC-SHA256 over what the head is made of and a hash of the joined hashes of locked pieces."""
    digest = hashlib.sha256(digests).hexdigest()
    message = canonical(info._replace(tag="")._asdict() | {"mark": MARK, "body": digest})
    key = secret.derive(32, "locked file tag", info.label, info.nonce, info.scheme)
    return hmac.digest(key, message, "sha256").hex()


def source_of(info: LockedInfo, secret: Secret) -> KeySource:
    """Return the source of the lock's key, which no other file has."""
    return secret.source(info.label).for_file(f"{info.nonce} {info.scheme}")
