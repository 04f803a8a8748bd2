"""The head of a sealed file rewritten in place: recipients, date and signatures, not the body."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from modellock_jax._atomic import replacing, write_all
from modellock_jax.vault import _kinds, _sources
from modellock_jax.vault._files import hold, open_to_read
from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault._sources import AnySource, Reader
from modellock_jax.vault.errors import Tampered, Unreadable, VaultError
from modellock_jax.vault.issuing import revocation
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.sealed import _chunks, _header
from modellock_jax.vault.sealed._header_fields import Header
from modellock_jax.vault.sealed.recipients import Passphrase, Unlocker

__all__ = ["Change", "read_header", "rewrite"]

Change = Callable[[Header, bytes], Header]  # of a header and the file's key
AnyUnlocker = Unlocker | Callable[[Header], Unlocker]


def unlocker_for(unlocker: AnyUnlocker, made: Header) -> Unlocker:
    """Return a recipient's secret or passphrase, or what a function chooses by the header."""
    return unlocker if isinstance(unlocker, Secret | Passphrase) else unlocker(made)


def read_header(source: AnySource) -> Header:
    """Return the header of a sealed file, which needs no key.

    Args:
        source: A path, bytes, or a binary file object.

    Returns:
        What it says, not proved.

    Raises:
        Unreadable: If it is no sealed file.
        Tampered: If the header is damaged.
    """
    with _sources.open_reader(source, _header.check_start) as reader:
        return head_of(reader)[0]


_ATTEMPTS = 3  # to read a head that may be written, and its journal removed, at this moment


def head_of(reader: Reader) -> tuple[Header, int]:
    """Return the header of an open sealed file, and where its body begins.

    If the head was cut off while it was rewritten, it is taken from the journal.
    """
    try:
        length = _header.head_length(reader.read(_header.START), reader.size)
    except Unreadable as error:
        raise Unreadable(_kinds.instead(reader, "sealed") or str(error)) from None
    seen, fault = b"", None
    for _ in range(_ATTEMPTS):
        head = reader.read(length)
        if seen == (seen := hashlib.sha256(head).digest()):
            break
        try:
            return _header.decode(head, reader.size), length
        except Tampered as error:
            fault = error
        del head
        if reader.path is None:
            break
        with contextlib.suppress(OSError, VaultError):
            return _header.decode(_journal(reader.path, length), reader.size), length
    assert fault is not None
    raise fault


def _journal(path: str | os.PathLike[str], length: int) -> bytes:
    with open(journal_of(path), "rb") as journal:
        return journal.read(length + 1)


def journal_of(path: str | os.PathLike[str]) -> Path:
    """Where the new head of a file lies while it is written into the file."""
    target = Path(os.path.realpath(path))
    return target.with_name(f".{target.name}.modellock-journal")


@clears_frames
def rewrite(
    path: str | os.PathLike[str],
    unlocker: AnyUnlocker,
    change: Change,
    signers: Iterable[Secret] = (),
    dry_run: bool = False,
) -> Header:
    """Put what `change` makes of the header and the file's key in its place, MAC and signatures anew.

    The signatures of all but `signers` go. Who signed before vouches for the same body again, unread;
    who did not vouches for the body as it is now.

    Args:
        path: Of the sealed file.
        unlocker: A secret, a passphrase, or a function that chooses one by the `Header`.
        change: `change(header, file_key) -> header`.
        signers: They sign the new header.
        dry_run: Whether to leave the file as it is.

    Returns:
        The new header.

    Raises:
        VaultError: As `open`, for a key that is revoked too.
        ValueError: If nobody could open the file afterwards.
        OSError: If it cannot be written.

    **Guarantees.** The body is not touched, so the time does not depend on the size, as long as the
    head has room and no new signer reads it. Killed at any moment, the file opens with the old head
    or with the new one; where it was killed within the writing, only beside its journal, which the
    next rewriting removes. Two rewritings at a time wait for one another.
    """
    signers, named, path = tuple(signers), path, Path(os.path.realpath(path))
    with _locked(path) as file, _sources.of_file(file, path) as reader:
        old, at = head_of(reader)
        file_key = revocation.file_key_of(named, old, unlocker_for(unlocker, old))
        new = change(old, file_key)
        if not new.stanzas:
            raise ValueError("the last recipient cannot be removed; delete the file instead")
        if signers:
            new = new._replace(digest=_digest(reader, at, old, signers))
        new = _header.finish(new, file_key, signers)
        head = _header.encode(new)
        if dry_run:
            return new
        if new.room == old.room:
            _in_place(file, head, path)
        else:
            _with_more_room(reader, at, head, path)
        return new


def _digest(reader: Reader, at: int, old: Header, signers: tuple[Secret, ...]) -> bytes:
    # What they all signed is not read anew: were the body exchanged by a recipient since, they
    # would be given a signature for it.
    with contextlib.suppress(Tampered):
        _header.check_signed(old, tuple(map(identity.public_key, signers)))
        return old.digest
    found = _chunks.digests_of(reader, at, old.body, lambda _: None)
    digest = hashlib.sha256(found).digest()
    if old.digest and digest != old.digest:
        raise Tampered("the content is not what was signed; get the file again")
    return digest


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Yield a descriptor of the file that `path` names, and no other rewriting has."""
    while True:
        os.close(open_to_read(path))
        file = os.open(path, os.O_RDWR)
        try:
            hold(file, path)
            if os.path.samestat(os.fstat(file), os.stat(path)):
                yield file
                return
        finally:
            os.close(file)


def _in_place(file: int, head: bytes, path: Path) -> None:
    journal = journal_of(path)
    with replacing(journal) as copy:
        write_all(copy, head, 0)
    write_all(file, head, 0)
    os.fsync(file)
    journal.unlink()  # should it come back after a power cut, it is as good as the head


def _with_more_room(reader: Reader, at: int, head: bytes, path: Path) -> None:
    with replacing(path) as copy:
        write_all(copy, head, 0)
        buffer = bytearray(_chunks.CHUNK)
        for start in range(at, reader.size, _chunks.CHUNK):
            part = memoryview(buffer)[: min(_chunks.CHUNK, reader.size - start)]
            reader.read_into(part, start)
            write_all(copy, part, len(head) + start - at)
    journal_of(path).unlink(missing_ok=True)
