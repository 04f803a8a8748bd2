"""Locked sets: a folder whose safetensors files are locked, under one keyed manifest."""

import contextlib
import hashlib
import hmac
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from modellock_jax._atomic import replacing, write_all
from modellock_jax._printing import printable
from modellock_jax.vault import _folders, _kinds
from modellock_jax.vault._files import open_to_read
from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault._json import canonical, strict_json
from modellock_jax.vault.errors import Tampered, Unreadable, WrongKey
from modellock_jax.vault.issuing import revocation
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.locked import _file_schemes
from modellock_jax.vault.locked.files import lock_file, unlock_file
from modellock_jax.vault.sealed import _header_fields
from modellock_jax.vault.sealed.members import LOCKED, LONGEST
from modellock_jax.vault.sealed.sets import check_folder

__all__ = [
    "FORMAT",
    "VERSION",
    "LockedMember",
    "LockedSet",
    "is_locked_set",
    "lock_set",
    "read_locked_set",
    "unlock_set",
]

FORMAT, VERSION = "modellock-jax set of locked files", 1
_FIELDS = {"format", "version", "key_id", "nonce", "check", "scheme", "members", "empty"}
_FIELDS |= {"extra", "tag"}
_BESIDE = {LOCKED, "revoked.json", f"{LOCKED}.revoked.json"}

_AnyPath = str | os.PathLike[str]
_Done = Callable[[int], None]


class LockedMember(NamedTuple):
    """A file of a locked set: its path, whether it is locked or a copy, and its bytes' SHA-256."""

    path: str
    locked: bool
    size: int
    sha256: str


class LockedSet(NamedTuple):
    """What the manifest of a locked set tells everybody; `tag`: HMAC over all the rest."""

    key_id: str
    nonce: str
    check: str
    scheme: str
    members: tuple[LockedMember, ...]
    empty: tuple[str, ...]
    extra: tuple[tuple[str, str], ...] = ()
    tag: str = ""


def is_locked_set(path: _AnyPath) -> bool:
    """Whether a folder holds a locked set.

    Args:
        path: Of the folder.

    Returns:
        True if its manifest is there, whole or not.
    """
    return os.path.isdir(path) and os.path.lexists(Path(path) / LOCKED)


@clears_frames
def lock_set(
    folder: _AnyPath, target: _AnyPath, secret: Secret, scheme: str, *, done: _Done = lambda _: None
) -> LockedSet:
    """Lock each safetensors file of a folder into a new one, as `vault.lock_file`; copy the others.

    `modellock.set.json` lists all with their digests, under an HMAC.

    Args:
        folder: What is locked.
        target: The new folder.
        secret: The key that opens it.
        scheme: As in `vault.lock_file`.
        done: Told the number of bytes after each piece.

    Returns:
        What the set says of itself.

    Raises:
        Unreadable: As `sealed.seal_set`, and if there is nothing to lock.
        FileExistsError: If `target` is there and not empty.
        ValueError: As `vault.lock_file`.

    **Guarantees.** Each file has a lock's key of its own. `unlock_set` gives the folder back, or
    `Tampered` for a file that was changed, is missing, or is of another set, copies included. `target`
    is absent until it is whole. Not protected: what is copied lies open; else as `vault.lock_file`.
    """
    scheme = _file_schemes.normalise(scheme)
    found = check_folder(folder)
    models = {path for path in found.files if _is_model(Path(folder) / path)}
    if not models:
        raise Unreadable(f"{printable(folder)} has no safetensors file to lock; seal it instead")
    with _folders.creating_folder(target, os.stat(folder).st_mode) as temp:
        members = []
        for path in found.files:
            (temp / path).parent.mkdir(parents=True, exist_ok=True)
            if path in models:
                lock_file(Path(folder) / path, temp / path, secret, scheme, done=done)
            else:
                _copy(Path(folder) / path, temp / path, done)
            size, digest = _digest(temp / path)
            members.append(LockedMember(path, path in models, size, digest))
        for path in found.empty:
            (temp / path).mkdir(parents=True)
        nonce = os.urandom(16).hex()
        made = LockedSet(
            secret.id, nonce, _check(secret, nonce), scheme, tuple(members), found.empty
        )
        made = made._replace(tag=_tag(secret, made))
        with replacing(temp / LOCKED) as file:
            write_all(file, canonical(_document(made)) + b"\n", 0)
    return made


@clears_frames
def unlock_set(
    folder: _AnyPath,
    target: _AnyPath,
    secret: Secret,
    *,
    revoked: Iterable[_AnyPath] = (),
    done: _Done = lambda _: None,
) -> LockedSet:
    """Give back, in a new folder, the one that was locked.

    Args:
        folder: A locked set.
        target: The new folder.
        secret: The key that it was locked with.
        revoked: Revocation lists, beside all that `revocation.refused` finds.
        done: Told the number of bytes after each piece.

    Returns:
        What the set says of itself.

    Raises:
        WrongKey: If it was locked with another secret.
        Expired: If the key was revoked.
        Tampered: If anything in it was changed, cut off or added.
        Unreadable: If it is no locked set.
        FileExistsError: If `target` is there and not empty.

    **Guarantees.** Nothing is given out unless the whole set is as it was locked.
    """
    made = read_locked_set(folder)
    if not hmac.compare_digest(_check(secret, made.nonce), made.check):
        if made.key_id == secret.id:
            raise Tampered(f"{printable(folder)}: its manifest was changed; get the set again")
        raise WrongKey(f"not for this key: locked with {made.key_id}, and this is {secret.id}")
    if not hmac.compare_digest(_tag(secret, made), made.tag):
        raise Tampered(f"{printable(folder)}: its manifest was changed; get the set again")
    revocation.check(Path(folder) / LOCKED, secret, revoked)
    _check_files(Path(folder), made)
    with _folders.creating_folder(target, os.stat(folder).st_mode) as temp:
        for path in made.empty:
            (temp / path).mkdir(parents=True, exist_ok=True)
        for one in made.members:
            (temp / one.path).parent.mkdir(parents=True, exist_ok=True)
            # A copy of our own, so that what was checked is what is unlocked.
            _copy(Path(folder) / one.path, temp / one.path, done)
            if _digest(temp / one.path) != (one.size, one.sha256):
                raise Tampered(
                    f"{printable(one.path)} was changed, or is of another set; get the set again"
                )
            if one.locked:
                unlock_file(temp / one.path, temp / one.path, secret)
    return made


def read_locked_set(folder: _AnyPath) -> LockedSet:
    """Return what a locked set says of itself, without a key: not to be believed before it is unlocked.

    Args:
        folder: A locked set.

    Returns:
        Its scheme, key id and files.

    Raises:
        Unreadable: If it is none.
        Tampered: If its manifest is damaged.
    """
    path = Path(folder) / LOCKED
    with os.fdopen(open_to_read(path), "rb") as file:
        data = file.read(LONGEST + 1)
    try:
        fields = strict_json(data) if len(data) <= LONGEST else {}
        if fields.get("format") != FORMAT:
            raise Unreadable(f"{printable(path)} is not the manifest of a locked set; get it again")
        if fields["version"] != VERSION:
            raise Unreadable(
                f"{printable(path)} is not of version {VERSION}, the only one read here"
            )
        members = tuple(LockedMember(**one) for one in fields["members"])
        empty = tuple(fields["empty"])
        _folders.check_paths([one.path for one in members], empty)
        texts = [fields[name] for name in ("key_id", "nonce", "check", "scheme", "tag")]
        _header_fields.check_extra(fields["extra"])
        proper = all(isinstance(one, str) and printable(one, 1000) == one for one in texts)
        if not proper or set(fields) != _FIELDS or not all(map(_proper, members)):
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Tampered(f"{printable(path)} is not as it was written; get the set again") from None
    key_id, nonce, check, scheme, tag = texts
    extra = tuple(fields["extra"].items())
    return LockedSet(key_id, nonce, check, scheme, members, empty, extra, tag)


def _proper(one: LockedMember) -> bool:
    hexadecimal = isinstance(one.sha256, str) and re.fullmatch("[0-9a-f]{64}", one.sha256)
    return bool(hexadecimal) and type(one.size) is int and type(one.locked) is bool


def _document(made: LockedSet) -> dict[str, Any]:
    fields = made._asdict() | {"members": [one._asdict() for one in made.members]}
    return (
        {"format": FORMAT, "version": VERSION}
        | fields
        | {"empty": list(made.empty), "extra": dict(made.extra)}
    )


def _check(secret: Secret, nonce: str) -> str:
    return secret.derive(16, "locked set check", nonce).hex()


def _tag(secret: Secret, made: LockedSet) -> str:
    key = secret.derive(32, "locked set tag", made.nonce)
    return hmac.digest(key, canonical(_document(made._replace(tag=""))), "sha256").hex()


def _check_files(folder: Path, made: LockedSet) -> None:
    def known(path: str) -> bool:
        return path in _BESIDE

    files = {one.path for one in made.members}
    missing, other = _folders.check_same(folder, files, known)
    other = [path for path in other if path not in made.empty]
    for paths, what in ((missing, "missing or no plain files"), (other, "not of this set")):
        if paths:
            shown = ", ".join(map(printable, paths[:5]))
            raise Tampered(f"{len(paths)} are {what}: {shown}; get the whole set again")


def _is_model(path: Path) -> bool:
    with open(path, "rb") as file:
        return _kinds.is_safetensors(file.read(_kinds.START), path)


def _copy(source: Path, target: Path, done: _Done) -> None:
    with os.fdopen(open_to_read(source), "rb") as file, contextlib.ExitStack() as stack:
        new = stack.enter_context(replacing(target, os.fstat(file.fileno()).st_mode & 0o666))
        with os.fdopen(os.dup(new), "wb") as copy:
            shutil.copyfileobj(file, copy, 2**20)
        done(os.fstat(new).st_size)


def _digest(path: Path) -> tuple[int, str]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return os.fstat(file.fileno()).st_size, digest
