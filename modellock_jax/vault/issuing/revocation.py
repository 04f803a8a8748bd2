"""Revocation lists: which keys our tools shall refuse, signed by who issued them."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from modellock_jax._atomic import need_directory, replacing, write_all
from modellock_jax._printing import printable
from modellock_jax.vault import _texts
from modellock_jax.vault._files import hold, open_to_read
from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault.errors import Expired, Tampered, Unreadable, WrongKey
from modellock_jax.vault.issuing import _lines
from modellock_jax.vault.issuing._revocation_text import (
    LONGEST,
    REASON,
    RevocationList,
    Revoked,
    decode,
    encode,
    is_reason,
)
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.identity import PublicKey
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.sealed import _header
from modellock_jax.vault.sealed._header_fields import Header
from modellock_jax.vault.sealed.recipients import Unlocker

__all__ = ["LISTS", "RevocationList", "read", "refused", "revoke", "update"]

LISTS = "MODELLOCK_REVOKED"
_BESIDE = "revoked.json"

_AnyPath = str | os.PathLike[str]


def revoke(
    path: _AnyPath, ids: Iterable[str], secret: Secret, reason: str = "", *, dry_run: bool = False
) -> RevocationList:
    """Put keys on a list, which is made if there is none, and sign it anew.

    A key that is on the list stays as it is; if all are, nothing is written.

    Args:
        path: The list; our tools find `revoked.json` beside a file, and what `$MODELLOCK_REVOKED` names.
        ids: Of recipients, as `recipients list` shows them, or of locked files' keys, 32 hex digits.
        secret: Who signs the list, the same one each time.
        reason: A single line of at most 200 characters.
        dry_run: Check everything and write nothing.

    Returns:
        The list as it is now.

    Raises:
        ValueError: No id, or a reason of another form.
        WrongKey: Somebody else signed the list.
        Tampered: The list was changed.
        OSError: It cannot be written.

    Threat model: the holder of a key who uses our tools, on a machine where the list is present.

    **Guarantees.** `path` is at every moment the old list or the whole new one; of two at a time none
    is lost. Nobody without the signer's secret can make, extend or shorten a list of theirs. Not
    protected: who copied the file's key or the plain values keeps them; a reader without the list, or
    with an old one, is not told; copies that are offline open as before; other programs do not look.

    >>> import tempfile
    >>> from modellock_jax import vault
    >>> secret = vault.generate_key()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = revoke(f"{folder}/revoked.json", ["0123456789abcdef" * 2], secret, "laptop stolen")
    ...     found = read(f"{folder}/revoked.json")
    >>> found.serial, found.revoked[0].reason
    (1, 'laptop stolen')
    """
    ids = list(dict.fromkeys(ids))
    _check_asked(ids, reason)
    with _only_one(path) as target:
        me = identity.public_key(secret)
        old = read(target) if os.path.lexists(target) else RevocationList(0, "", me, (), {})
        if not _lines.same(old.signer, me):
            raise WrongKey(
                f"{printable(path)} is the list of key {old.signer.id} and not of "
                f"{secret.id}; extend it with "
                "its signer's key, or begin another list"
            )
        time = _lines.now()
        new = tuple(Revoked(one, time, reason) for one in ids if one not in old.ids)
        if not new:
            return old
        made = RevocationList(old.serial + 1, time, me, old.revoked + new, old.extra)
        text = encode(made, secret)
        if len(text) > LONGEST:
            raise ValueError(f"{printable(path)} has no room for more keys; begin another list")
        if not dry_run:
            _write(target, text)
        return made


def _check_asked(ids: list[str], reason: str) -> None:
    if wrong := [one for one in ids if not re.fullmatch(identity.ID, one)]:
        raise ValueError(f"{wrong[0]!r} is no key id, which has 32 hex digits; see `inspect FILE`")
    if not ids:
        raise ValueError("name the id of a key to revoke; `inspect FILE` shows them")
    if not is_reason(reason):
        raise ValueError(f"the reason must be one line of at most {REASON} characters")


def read(path: _AnyPath) -> RevocationList:
    """Read a list and check its signature; whether its signer is the right one, it cannot know.

    Args:
        path: Of the list.

    Returns:
        The list.

    Raises:
        Tampered: If it was changed or cut off.
        Unreadable: If it is no list.
    """
    return decode(_bytes_of(path), path)


def update(path: _AnyPath, newer: _AnyPath) -> RevocationList:
    """Put a newer list in the place of a reader's, and give what is then there.

    Args:
        path: Of the reader's list, which may be absent.
        newer: Path of the newer one.

    Returns:
        The list that is there.

    Raises:
        Tampered: If `newer` is older, lacks a key that the reader's list refuses, or has another
            signer; else as `read`.
        Unreadable: As `read`.

    **Guarantees.** Whatever is offered, no key that the reader's list refuses is let in again.
    """
    data = _texts.without_mark(_bytes_of(newer))
    new = decode(data, newer)
    with _only_one(path) as target:
        old = read(target) if os.path.lexists(target) else None
        if old is not None and not _lines.same(old.signer, new.signer):
            raise Tampered(
                f"{printable(newer)} is signed by {new.signer.id}, and {printable(path)} by "
                f"{old.signer.id}; ask the issuer"
            )
        if old is not None and (new.serial < old.serial or not new.ids >= old.ids):
            raise Tampered(
                f"{printable(newer)} (number {new.serial}) is older than {printable(path)} "
                f"(number {old.serial}), or lacks "
                "keys that it refuses; ask the issuer for the newest"
            )
        _write(target, data)
    return new


def refused(
    path: _AnyPath | None, lists: Iterable[_AnyPath] = (), made: Header | None = None
) -> dict[str, str]:
    """Return the ids of the keys that may not open a file, each with a sentence on why.

    Looked at are `lists`, those that the environment variable MODELLOCK_REVOKED names (like PATH),
    and beside the file, or where a link to it leads, `revoked.json` and `NAME.revoked.json`. All of
    them count, so that an old list does not hide a newer one.

    Args:
        path: Of the file; None for one without a path.
        lists: Paths of lists.
        made: The header of a sealed file; None for another file.

    Returns:
        Sentences by key id.

    Raises:
        Unreadable: As `read`; for an empty entry of the variable, and beside a signed file for a
            list of somebody who did not sign it.
        Tampered: As `read`.

    **Guarantees.** No list that is named or present is passed over: it counts, or is an error that
    says why it was read. Whoever names a list vouches for it, whoever signed it.
    """
    found: dict[str, str] = {}
    for place, why in _places(path, lists).items():
        try:
            one = read(place)
        except (Unreadable, Tampered) as error:
            raise type(error)(f"{error}; {why}" if why else str(error)) from None
        foreign = made is not None and made.signatures and not _is_signed_by(made, one.signer)
        if foreign and path is not None and why == _beside(path):
            raise Unreadable(
                f"{printable(place)} is a list of {one.signer.id}, who did not sign "
                f"{printable(path)}; {why}, or name it by "
                f"--revoked or ${LISTS} if you want it to count"
            )
        for key in one.revoked:
            because = f" ({key.reason})" if key.reason else ""
            found.setdefault(
                key.id,
                f"key {key.id} was revoked on {key.time}{because}, says {printable(place)}, "
                f"number {one.serial}, "
                f"signed by {one.signer.id}; ask the issuer for a new key",
            )
    return found


def check(path: _AnyPath | None, secret: Secret, lists: Iterable[_AnyPath] = ()) -> None:
    """Raise `Expired` if a key may not open the file `path`, by whichever id; else as `refused`."""
    _check(refused(path, lists), *secret.ids.values())


@clears_frames
def file_key_of(
    path: _AnyPath | None, made: Header, unlocker: Unlocker, lists: Iterable[_AnyPath] = ()
) -> bytes:
    """Return the key of a sealed file, 32 bytes, for a recipient who was not revoked.

    Raises `WrongKey`, `Tampered`, `Expired`; else as `refused`.
    """
    name, file_key = _header.opened_by(made, unlocker)
    ids = unlocker.ids.values() if isinstance(unlocker, Secret) else ()
    _check(refused(path, lists, made), name, *ids)
    return file_key


def _check(found: dict[str, str], *names: str) -> None:
    for name in names:
        if name in found:
            raise Expired(found[name])


def _places(path: _AnyPath | None, lists: Iterable[_AnyPath]) -> dict[Path, str]:
    """Return the lists to be read, each once, and why: whose fault it is if one cannot be."""
    named = os.environ.get(LISTS)
    entries = [] if named is None else named.split(os.pathsep)
    if not all(entries):
        raise Unreadable(
            f"${LISTS} has an empty entry; name revocation lists, with {os.pathsep} between "
            "them, or "
            "unset it"
        )
    found = dict.fromkeys(map(Path, lists), "")
    for entry in entries:
        found.setdefault(Path(entry), f"${LISTS} names it: correct it there, or put the list there")
    known = set(map(os.path.realpath, found))
    if path is None:  # what came through a pipe lies nowhere
        return found
    for target in dict.fromkeys((Path(path), Path(os.path.realpath(path)))):
        for place in (target.with_name(f"{target.name}.{_BESIDE}"), target.with_name(_BESIDE)):
            if os.path.lexists(place) and os.path.realpath(place) not in known:
                known.add(os.path.realpath(place))
                found[place] = _beside(path)
    return found


def _beside(path: _AnyPath) -> str:
    return (
        f"it was read because it lies beside {printable(path)}, where lists are looked for: "
        "put the right list "
        "there, or move what is no list of the file's issuer"
    )


def _is_signed_by(made: Header, signer: PublicKey) -> bool:
    with contextlib.suppress(Tampered):
        _header.check_signed(made, (signer,))
        return True
    return False


@contextlib.contextmanager
def _only_one(path: _AnyPath) -> Iterator[Path]:
    """Yield the file that a path names, while no other process changes a list in its directory."""
    target = Path(os.path.realpath(path))
    need_directory(target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        hold(directory, path)
        yield target
    finally:
        os.close(directory)


def _bytes_of(path: _AnyPath) -> bytes:
    with os.fdopen(open_to_read(path), "rb") as file:
        return file.read(LONGEST + 1)


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as file:
        write_all(file, data, 0)
