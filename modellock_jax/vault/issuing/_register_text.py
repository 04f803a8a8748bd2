"""What the lines of a register hold, and how each follows the one before it."""

import hashlib
import os
import re
from typing import Any, NamedTuple

from modellock_jax._printing import printable
from modellock_jax.vault import _texts
from modellock_jax.vault.errors import Tampered, Unreadable
from modellock_jax.vault.issuing import _lines
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.identity import PublicKey

FORMAT = "modellock-jax register"
USER = r"\w[\w.@+-]{0,49}"  # so that it is the beginning of a file's name on every system
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


def parse(data: bytes, path: str | os.PathLike[str]) -> tuple[Register, list[str]]:
    """Return the register of these lines, and its heads after each of them."""
    if _texts.kind(data) != "register":
        raise no_register(path, data)
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
    check(entry)
    return entry


def check(entry: Entry) -> None:
    for name, form in _TEXTS.items():
        if not re.fullmatch(form, getattr(entry, name)):
            raise ValueError(f"has a field {name!r} that is not as it should be")


def _check_apart(entry: Entry, seen: set[str]) -> None:
    """Refuse a key or a salt that an earlier line has; adds those of this one to `seen`."""
    if seen & (own := {entry.key, entry.salt}):
        raise ValueError("has the key of an earlier line")
    seen |= own


def no_register(path: str | os.PathLike[str], data: bytes) -> Unreadable:
    kind = _texts.kind(data)
    what = _texts.encoding_fault(data) or (
        f"is {_texts.KINDS[kind]} and no register; name a register"
        if kind
        else "is not a register of modellock-jax; name one, or issue a first copy"
    )
    return Unreadable(f"{printable(path)} {what}")
