"""The issuer's register: who has which copy under which key, as a chain of signed lines."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from modellock_jax._atomic import need_directory, sync_directory, write_all
from modellock_jax._printing import printable
from modellock_jax.vault import _texts
from modellock_jax.vault._files import hold, open_to_read
from modellock_jax.vault.errors import Tampered, WrongKey
from modellock_jax.vault.issuing import _lines
from modellock_jax.vault.issuing._register_text import (
    FORMAT,
    USER,
    Entry,
    Register,
    check,
    no_register,
    parse,
)
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.identity import PublicKey
from modellock_jax.vault.keys.secret import Secret

__all__ = ["FORMAT", "USER", "Entry", "Register", "Writer", "extending", "read"]

_START = f'{{"extra":{{}},"format":"{FORMAT}"'.encode()


def read(
    path: str | os.PathLike[str], signed_by: PublicKey | None = None, head: str = ""
) -> Register:
    """Read a register and check every line of it.

    Args:
        path: Of the register.
        signed_by: The issuer's public key, without which a register that somebody else made is not
            told from theirs.
        head: One that was remembered, of the register as it is or as it once was; "" for none.

    Returns:
        Its lines.

    Raises:
        Tampered: If a line was changed, removed or put elsewhere, or `signed_by` or `head` does not
            fit.
        Unreadable: If it is no register.

    **Guarantees.** Each line holds a hash of the one before, and both signatures of the issuer. So
    any change is noticed but one: lines that are missing at the end, which only a remembered `head`
    tells. The names of the users lie open.
    """
    with os.fdopen(open_to_read(path), "rb") as file:
        data = file.read()
    found, heads = parse(_whole(_texts.without_mark(data)), path)
    if signed_by is not None and not _lines.same(found.signer, signed_by):
        raise Tampered(
            f"{printable(path)} is signed by {found.signer.id}, and not by {signed_by.id}"
        )
    if head and head not in heads:
        raise Tampered(
            f"{printable(path)} was never at the head {head[:16]!r}: its end was cut off, "
            "or it is another register"
        )
    return found


class Writer:
    """A register that no other process writes; made by `extending`."""

    def __init__(self, file: int, at: int, secret: Secret, found: Register) -> None:
        self._file, self._at, self._secret = file, at, secret
        self.register = found

    def add(self, user: str, key: str, salt: str, scheme: str, plain: str, copy: str) -> Entry:
        """Add a line and bring it to the disk.

        Args:
            user: Who gets the copy.
            key: The id of their key.
            salt: 32 random bytes that the key was derived with, hex.
            scheme: The lock's text.
            plain: SHA-256 of the file before, hex.
            copy: SHA-256 of the file after, hex.

        Returns:
            The line.

        Raises:
            ValueError: For a field of another form, and for a key that has a line already.
            OSError: If the disk refuses.

        **Guarantees.** Killed at any moment, the register is the old one or has the whole line.
        """
        before = self.register.current.get(user)
        number, supersedes = len(self.register.entries) + 1, before.key if before else ""
        entry = Entry(number, user, key, salt, scheme, plain, copy, _lines.now(), supersedes)
        check(entry)
        if any(key == other.key or salt == other.salt for other in self.register.entries):
            raise ValueError(f"key {key} was issued before; every copy has a key of its own")
        fields = {"format": FORMAT, "previous": self.register.head} | entry._asdict()
        line = _lines.line(fields, self._secret)
        _append(self._file, self._at, line)
        self._at += len(line)
        entries, head = (*self.register.entries, entry), hashlib.sha256(line).hexdigest()
        self.register = self.register._replace(entries=entries, head=head)
        return entry


@contextlib.contextmanager
def extending(path: str | os.PathLike[str], secret: Secret) -> Iterator[Writer]:
    """Yield a register to add lines to; it is made if there is none.

    Another process that wants to write waits.

    Args:
        path: Of the register.
        secret: Its issuer's.

    Yields:
        The register, open.

    Raises:
        WrongKey: If somebody else issues it.
        FileNotFoundError: If its directory does not exist.
        OSError: If it cannot be written.
        Tampered: As `read`.
        Unreadable: As `read`.

    **Guarantees.** Lines are only ever added. What a killed process wrote of a line is no line: readers
    pass it over, and the next writer removes it.

    >>> import tempfile
    >>> from modellock_jax import vault
    >>> secret = vault.generate_key()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with extending(f"{folder}/r", secret) as writer:
    ...         key, salt = "0123456789abcdef" * 2, "2" * 64
    ...         _ = writer.add("alice", key, salt, "stream_lock()", "0" * 64, "1" * 64)
    ...     read(f"{folder}/r", vault.public_key(secret)).current["alice"].key
    '0123456789abcdef0123456789abcdef'
    """
    target = Path(os.path.realpath(path))
    need_directory(target)
    new = not target.exists()
    # It names users, so it is for its owner's eyes.
    file = os.open(target, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        hold(file, path)
        with open(file, "rb", closefd=False) as stream:
            data = stream.read()
        text = _texts.without_mark(data)
        begin = len(data) - len(text)
        if not (whole := _whole(text)):
            if not _START.startswith(text[: len(_START)]):
                raise no_register(path, text)
            _append(file, begin, whole := _first(secret))
        if new:
            sync_directory(target.parent)
        found, _ = parse(whole, path)
        if not _lines.same(found.signer, identity.public_key(secret)):
            raise WrongKey(
                f"{printable(path)} is the register of key {found.signer.id} and not of "
                f"{secret.id}; use its "
                "issuer's key, or begin another register"
            )
        yield Writer(file, begin + len(whole), secret, found)
    finally:
        os.close(file)


def _append(file: int, at: int, line: bytes) -> None:
    try:
        os.ftruncate(file, at)  # away with what a killed process left
        write_all(file, line, at)
        os.fsync(file)
    except BaseException:
        os.ftruncate(file, at)
        raise


def _whole(data: bytes) -> bytes:
    """All whole lines: what follows was being written when the writer was killed."""
    return data[: data.rfind(b"\n") + 1]


def _first(secret: Secret) -> bytes:
    signer = identity.document(identity.public_key(secret))
    fields = {"format": FORMAT, "id": os.urandom(16).hex(), "signer": signer}
    return _lines.line(fields | {"time": _lines.now()}, secret)
