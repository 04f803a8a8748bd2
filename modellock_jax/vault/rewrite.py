"""The head of a sealed file rewritten in place: recipients, date and signatures, not the body."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from modellock_jax.vault import chunks, header, identity, revocation, tensors
from modellock_jax.vault.errors import Tampered, VaultError
from modellock_jax.vault.files import hold, open_to_read, replacing, write_all
from modellock_jax.vault.frames import clears_frames
from modellock_jax.vault.header import Header
from modellock_jax.vault.keys import Secret
from modellock_jax.vault.recipients import Unlocker

Change = Callable[[Header, bytes], Header]  # of a header and the file's key


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a sealed file, which needs no key. Raises `Unreadable` and `Tampered`."""
    file = open_to_read(path)
    try:
        return head_of(file, path)[0]
    finally:
        os.close(file)


ATTEMPTS = 2  # to read a head that may be written, and its journal removed, at this moment


def head_of(file: int, path: str | os.PathLike[str]) -> tuple[Header, int]:
    """The header of an open sealed file, and where its body begins. Raises `Unreadable`, `Tampered`.

    If the head was cut off while it was rewritten, it is taken from the journal.
    """
    size = os.fstat(file).st_size
    try:
        length = tensors.head_length(os.pread(file, 8, 0), size)
    except ValueError:
        raise header.no_header(os.pread(file, 100, 0)) from None
    for _ in range(ATTEMPTS):
        with contextlib.suppress(VaultError):
            return header.decode(os.pread(file, length, 0), size), length
        with contextlib.suppress(OSError, VaultError):
            head = journal_of(path).read_bytes()
            if len(head) == length:
                return header.decode(head, size), length
    return header.decode(os.pread(file, length, 0), size), length


def journal_of(path: str | os.PathLike[str]) -> Path:
    """Where the new head of a file lies while it is written into the file."""
    target = Path(os.path.realpath(path))
    return target.with_name(f".{target.name}.modellock-journal")


@clears_frames
def rewrite(
    path: str | os.PathLike[str],
    unlocker: Unlocker,
    change: Change,
    signers: Iterable[Secret] = (),
    dry_run: bool = False,
) -> Header:
    """Put what `change` makes of the header and the file's key in its place, MAC and signatures anew.

    Gives the new header, which with `dry_run` is not written.
    The signatures of all but `signers` go. Who signed before vouches for the same body again, unread;
    who did not vouches for the body as it is now. Raises as `open_sealed`, for a key that is revoked
    too, `ValueError` if nobody
    could open the file afterwards, `OSError` if it cannot be written.

    **Guarantees.** The body is not touched, so the time does not depend on the size, as long as the
    head has room and no new signer reads it. Killed at any moment, the file opens with the old head
    or with the new one; where it was killed within the writing, only beside its journal, which the
    next rewriting removes. Two rewritings at a time wait for one another.
    """
    signers, named, path = tuple(signers), path, Path(os.path.realpath(path))
    with _locked(path) as file:
        old, at = head_of(file, path)
        file_key = revocation.file_key_of(named, old, unlocker)
        new = change(old, file_key)
        if not new.stanzas:
            raise ValueError("the last recipient cannot be removed; delete the file instead")
        if signers:
            new = new._replace(digest=_digest(file, old, signers))
        new = header.finish(new, file_key, signers)
        head = header.encode(new)
        if dry_run:
            return new
        if new.room == old.room:
            _in_place(file, head, path)
        else:
            _with_more_room(file, at, head, new.body, path)
        return new


def _digest(file: int, old: Header, signers: tuple[Secret, ...]) -> bytes:
    # What they all signed is not read anew: were the body exchanged by a recipient since, he would
    # be given a signature for it.
    with contextlib.suppress(Tampered):
        header.check_signed(old, tuple(map(identity.public_key, signers)))
        return old.digest
    digest = chunks.digest(file, old.room, old.body, lambda _: None)
    if old.digest and digest != old.digest:
        raise Tampered("the content is not what was signed; get the file again")
    return digest


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """A descriptor of the file that `path` names, and no other rewriting has."""
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


def _with_more_room(file: int, at: int, head: bytes, body: int, path: Path) -> None:
    with replacing(path) as copy:
        write_all(copy, head, 0)
        buffer = bytearray(chunks.CHUNK)
        for start in range(0, body, chunks.CHUNK):
            part = memoryview(buffer)[: min(chunks.CHUNK, body - start)]
            chunks.read_all(file, part, at + start)
            write_all(copy, part, len(head) + start)
    journal_of(path).unlink(missing_ok=True)
