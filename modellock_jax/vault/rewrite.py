"""The head of a sealed file rewritten in place: recipients, date and signatures, not the body."""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from modellock_jax.vault import chunks, header, tensors
from modellock_jax.vault.errors import Unreadable, VaultError
from modellock_jax.vault.files import open_to_read, replacing, sync_directory, write_all
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


def head_of(file: int, path: str | os.PathLike[str]) -> tuple[Header, int]:
    """The header of an open sealed file, and where its body begins. Raises `Unreadable`, `Tampered`.

    A rewriting that was cut off after its journal was whole counts as done.
    """
    size = os.fstat(file).st_size
    try:
        length = tensors.head_length(os.pread(file, 8, 0), size)
    except ValueError as error:
        raise Unreadable(f"{path} {error}; name a file that modellock-jax sealed") from None
    made = None
    with contextlib.suppress(OSError, VaultError):
        head = journal_of(path).read_bytes()
        if len(head) == length:
            made = header.decode(head, size)
    return made or header.decode(os.pread(file, length, 0), size), length


def journal_of(path: str | os.PathLike[str]) -> Path:
    """Where the new head of a file lies while it is written into the file."""
    return Path(path).with_name(f".{Path(path).name}.modellock-journal")


def rewrite(
    path: str | os.PathLike[str],
    unlocker: Unlocker,
    change: Change,
    signers: Iterable[Secret] = (),
    dry_run: bool = False,
) -> Header:
    """Put what `change` makes of the header and the file's key in its place, MAC and signatures anew.

    Gives the new header, which with `dry_run` is not written. Raises as `open_sealed`, and
    `ValueError` if the file was signed and nobody signs now.

    **Guarantees.** The body is not touched, so the time does not depend on the size, as long as the
    head has room. Killed at any moment, the file opens with the old head or with the new one.
    """
    signers = tuple(signers)
    file = open_to_read(path, write=True)
    try:
        old, at = head_of(file, path)
        file_key = header.file_key_of(old, unlocker)
        new = change(old, file_key)
        if not new.stanzas:
            raise ValueError("the last recipient cannot be removed; delete the file instead")
        if signers:
            new = new._replace(digest=chunks.digest(file, at, new.body, lambda _: None))
        elif old.signatures:
            names = ", ".join(signature["id"] for signature in old.signatures)
            raise ValueError(
                f"{path} is signed by {names}, and a change undoes that: sign the new head, or rotate"
            )
        new = header.finish(new, file_key, signers)
        if dry_run:
            return new
        try:
            head = header.encode(new, at)
        except ValueError:
            _with_more_room(file, at, new, path)
            return new
        journal = journal_of(path)
        with replacing(journal) as copy:
            write_all(copy, head, 0)
        write_all(file, head, 0)
        os.fsync(file)
        journal.unlink()
        sync_directory(journal.parent)
        return new
    finally:
        os.close(file)


def _with_more_room(file: int, at: int, new: Header, path: str | os.PathLike[str]) -> None:
    head = header.encode(new)
    with replacing(path) as copy:
        write_all(copy, head, 0)
        buffer = bytearray(chunks.CHUNK)
        for start in range(0, new.body, chunks.CHUNK):
            part = memoryview(buffer)[: min(chunks.CHUNK, new.body - start)]
            chunks.read_all(file, part, at + start)
            write_all(copy, part, len(head) + start)
