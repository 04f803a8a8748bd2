"""The issuer's register: who has which copy under which key, as a chain of signed lines."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from modellock_jax._atomic import need_directory, sync_directory, write_all
from modellock_jax._printing import printable
from modellock_jax.vault import _texts
from modellock_jax.vault._files import hold, open_to_read
from modellock_jax.vault.errors import Tampered, Unreadable, WrongKey
from modellock_jax.vault.issuing import _lines
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.identity import PublicKey
from modellock_jax.vault.keys.secret import Secret

__all__ = ["FORMAT", "USER", "Entry", "Register", "Writer", "extending", "read"]

FORMAT = "modellock-jax register"
USER = r"\w[\w.@+-]{0,49}"  # so that it is the beginning of a file's name on every system
_START = f'{{"extra":{{}},"format":"{FORMAT}"'.encode()
_FIRST = {"format", "id", "time", "signer", "extra"}
_HASH = "[0-9a-f]{64}"  # and any other 32 bytes
_TEXTS = {"user": USER, "key": identity.ID, "salt": _HASH, "scheme": "[ -~]{1,500}", "plain": _HASH}
_TEXTS |= {"copy": _HASH, "time": "[0-9T:+-]{25}", "supersedes": f"({identity.ID})?"}


class Entry(NamedTuple):
    """One copy that was issued.

    `number`: of its line, from 1; `user`; `key`: the id of their key;
    `salt`: 32 random bytes that the key was derived with, hex; `scheme`: of the lock; `plain`,
    `copy`: SHA-256 of the file before and after, hex; `time`: UTC, ISO; `supersedes`: the id of the
    user's key before, or empty.
    """

    number: int
    user: str
    key: str
    salt: str
    scheme: str
    plain: str
    copy: str
    time: str
    supersedes: str


class Register(NamedTuple):
    """The register of an issuer.

    `id`: 32 random hex digits; `signer`: who issues; `entries`: in order; `head`: a hash of all of
    it, 64 hex digits, to be remembered elsewhere.
    """

    id: str
    signer: PublicKey
    entries: tuple[Entry, ...]
    head: str

    @property
    def current(self) -> dict[str, Entry]:
        """By user the last copy that they were given."""
        return {entry.user: entry for entry in self.entries}


def read(
    path: str | os.PathLike[str], signed_by: PublicKey | None = None, head: str = ""
) -> Register:
    """Read a register and check every line of it.

    `signed_by`: the issuer's public key, without which a register that somebody else made is not
    told from theirs. `head`: one that was remembered, of the register as it is or as it once was.
    Raises `Tampered` if a line was changed, removed or put elsewhere, if `signed_by` or `head` does not
    fit; `Unreadable` if it is no register.

    Threat model: somebody who can write the file, and has not the issuer's secret.

    **Guarantees.** Each line holds a hash of the one before, and both signatures of the issuer. So
    any change is noticed but one: lines that are missing at the end, which only a remembered `head`
    tells. The names of the users lie open.
    """
    with os.fdopen(open_to_read(path), "rb") as file:
        data = file.read()
    found, heads = _parse(_whole(_texts.without_mark(data)), path)
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
        """Add a line and bring it to the disk; `Entry` has the arguments.

        Raises `ValueError` for a field of another form and for a key that has a line already, `OSError`.

        **Guarantees.** Killed at any moment, the register is the old one or has the whole line.
        """
        before = self.register.current.get(user)
        number, supersedes = len(self.register.entries) + 1, before.key if before else ""
        entry = Entry(number, user, key, salt, scheme, plain, copy, _lines.now(), supersedes)
        _check(entry)
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
    """Yield a register to add lines to, with its issuer's secret; it is made if there is none.

    Another process that wants to write waits. Raises as `read`, `WrongKey` if somebody else issues it,
    `FileNotFoundError` if its directory does not exist, `OSError` if it cannot be written.

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
                raise _no_register(path, text)
            _append(file, begin, whole := _first(secret))
        if new:
            sync_directory(target.parent)
        found, _ = _parse(whole, path)
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


def _parse(data: bytes, path: str | os.PathLike[str]) -> tuple[Register, list[str]]:
    """Return the register of these lines, and its heads after each of them."""
    if _texts.kind(data) != "register":
        raise _no_register(path, data)
    heads: list[str] = []
    entries: list[Entry] = []
    seen: set[str] = set()
    for number, line in enumerate(data.splitlines(keepends=True)):
        try:
            if number == 0:
                found = _register(_lines.parse(line))
            else:
                entries.append(_entry(_lines.parse(line, found.signer), number, heads[-1]))
                _check_apart(entries[-1], seen)
        except Unreadable as error:
            raise Unreadable(f"{printable(path)}: line {number + 1} {error}") from None
        except (KeyError, TypeError, ValueError) as error:
            why = error if type(error) is ValueError else "is not as it was written"
            raise Tampered(
                f"{printable(path)}: line {number + 1} {why}; a line was changed, removed "
                "or put elsewhere, so "
                "restore the register from a copy"
            ) from None
        heads.append(hashlib.sha256(line).hexdigest())
    return found._replace(entries=tuple(entries), head=heads[-1]), heads


def _register(fields: dict[str, Any]) -> Register:
    if (
        set(fields) != _FIRST
        or fields["format"] != FORMAT
        or not re.fullmatch("[0-9a-f]{32}", fields["id"])
    ):
        raise ValueError("lacks a field")
    _lines.check_time(fields["time"])
    return Register(fields["id"], _lines.signer_of(fields), (), "")


def _entry(fields: dict[str, Any], number: int, head: str) -> Entry:
    _extra, form, previous = (fields.pop(name) for name in ("extra", "format", "previous"))
    if form != FORMAT or previous != head:
        raise ValueError("does not follow the line before it")
    entry = Entry(**fields)
    if type(entry.number) is not int or entry.number != number:
        raise ValueError("has another number")
    _check(entry)
    return entry


def _check(entry: Entry) -> None:
    for name, form in _TEXTS.items():
        if not re.fullmatch(form, getattr(entry, name)):
            raise ValueError(f"has a field {name!r} that is not as it should be")


def _check_apart(entry: Entry, seen: set[str]) -> None:
    """Refuse a key or a salt that an earlier line has; adds those of this one to `seen`."""
    if seen & (own := {entry.key, entry.salt}):
        raise ValueError("has the key of an earlier line")
    seen |= own


def _no_register(path: str | os.PathLike[str], data: bytes) -> Unreadable:
    kind = _texts.kind(data)
    what = _texts.encoding_fault(data) or (
        f"is {_texts.KINDS[kind]} and no register; name a register"
        if kind
        else "is not a register of modellock-jax; name one, or issue a first copy"
    )
    return Unreadable(f"{printable(path)} {what}")
