"""How a sealed file is written: to a path, or to a stream that is written once."""

import hashlib
import itertools
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from modellock_jax import _temporary
from modellock_jax._atomic import replacing, write_all
from modellock_jax.vault import _sources
from modellock_jax.vault._targets import AnyTarget, is_path, put
from modellock_jax.vault.issuing import _naming
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.sealed import _chunks, _header, recipients
from modellock_jax.vault.sealed._body import Done
from modellock_jax.vault.sealed._chunks import Cipher
from modellock_jax.vault.sealed._header_fields import Header
from modellock_jax.vault.sealed.opened import INDEX
from modellock_jax.vault.sealed.recipients import Recipient


class Content(NamedTuple):
    """What is sealed: its kind, its bytes in pieces of any size, and how many, None if unknown."""

    kind: str
    pieces: Iterable[Any]
    size: int | None


class Cover(NamedTuple):
    """What the owner says of a file, for all to read: for whom, until when, signed by whom, as what."""

    whom: tuple[Recipient, ...]
    expires: str
    signers: tuple[Secret, ...]
    name: str
    serial: int
    hashed: bool = False
    """Whether the digest is needed although nobody signs."""


def cover(
    whom: Iterable[Recipient],
    expires: datetime | None,
    signers: Iterable[Secret],
    name: str,
    serial: int,
) -> Cover:
    """Raise `ValueError` without recipients, for a date without a time zone, and for a bad name."""
    if expires is not None and expires.utcoffset() is None:
        raise ValueError("expires: give a date and time with a time zone")
    if not (whom := tuple(whom)):
        raise ValueError("a sealed file needs a recipient; give a public key or a passphrase")
    _naming.check_name(name, serial)
    until = expires.astimezone(UTC).isoformat(timespec="seconds") if expires else ""
    return Cover(whom, until, tuple(signers), name, serial)


def seal(content: Content, target: AnyTarget, about: Cover, done: Done) -> Header:
    """Seal content under a fresh file key; gives the header that was written.

    **Guarantees.** Of the content nothing but ciphertext is written anywhere. A stream gets its first
    byte when all is known that its head says: at once without a signature and with a known size, else
    after the ciphertext was written to a nameless file in `$TMPDIR`.
    """
    file_key, file_id = os.urandom(32), _header.new_id()
    stanzas = recipients.wrap_all(file_key, about.whom, file_id)
    return seal_under(file_key, file_id, stanzas, content, target, about, done)


def seal_under(
    file_key: bytes,
    file_id: bytes,
    stanzas: tuple[recipients.Stanza, ...],
    content: Content,
    target: AnyTarget,
    about: Cover,
    done: Done,
) -> Header:
    """As `seal`, under a key that seals nothing else."""
    hashed = about.hashed or bool(about.signers)
    digest = bytes(32) if hashed else b""
    # The longest that a file can be, so that the head has room for its length.
    made = Header(file_id, 2**63, digest, about.expires, stanzas, name=about.name)
    made = made._replace(serial=about.serial)
    if content.size is not None:
        made = made._replace(body=_chunks.sealed_size(INDEX + content.size))
    made = _header.finish(made, file_key, about.signers)
    writer = _Writer(made, file_key, about.signers, content, done)
    if is_path(target):
        with replacing(target) as file:  # type: ignore[arg-type]
            made = writer.to_file(file, made.room)
            write_all(file, _header.encode(made), 0)
    elif content.size is not None and not hashed:
        put(target, _header.encode(made))
        writer.to_stream(target)
    else:
        with _temporary.spool() as spool:
            made = writer.to_file(spool.fileno(), 0)
            put(target, _header.encode(made))
            with _sources.of_file(spool.fileno(), "the spool") as reader:
                for piece in reader.pieces(_chunks.CHUNK):
                    put(target, piece)
    if not is_path(target):
        target.flush()  # type: ignore[union-attr]
    return made


class _Writer:
    def __init__(
        self,
        made: Header,
        file_key: bytes,
        signers: tuple[Secret, ...],
        content: Content,
        done: Done,
    ) -> None:
        key = _header.file_key_use(file_key, made.file_id, "payload")
        self._cipher = Cipher(key, made.binding)
        self._made, self._file_key, self._signers, self._done = made, file_key, signers, done
        index = content.kind.encode().ljust(INDEX, b"\0")
        self._size = 0
        whole = itertools.chain([index], content.pieces)
        self._pieces = self._counted(_sources.regroup(whole, _chunks.CHUNK))

    def _counted(self, pieces: Iterable[Any]) -> Iterable[Any]:
        for piece in pieces:
            self._size += len(piece)
            yield piece

    def to_file(self, file: int, at: int) -> Header:
        """Write the body from an offset on, and give the header that is true of it."""
        hashed = bool(self._made.digest)
        digests = _chunks.seal_all(
            self._cipher,
            self._pieces,
            lambda place, sealed: write_all(file, sealed, at + place),
            self._done,
            hashed=hashed,
            in_turn=False,
        )
        made = self._made._replace(body=_chunks.sealed_size(self._size))
        if hashed:
            made = made._replace(digest=hashlib.sha256(digests).digest())
        return _header.finish(made, self._file_key, self._signers)

    def to_stream(self, target: Any) -> None:
        """Write the body behind a head that says its length already."""
        _chunks.seal_all(
            self._cipher,
            self._pieces,
            lambda _, sealed: put(target, sealed),
            self._done,
            hashed=False,
            in_turn=True,
        )
        if _chunks.sealed_size(self._size) != self._made.body:
            raise ValueError("the source became longer or shorter while it was read")
