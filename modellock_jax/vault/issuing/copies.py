"""Copies of one checkpoint, each locked under a key of its user's own, and entered in a register."""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from modellock_jax.vault import _sources
from modellock_jax.vault._json import canonical
from modellock_jax.vault.issuing import revocation
from modellock_jax.vault.issuing.register import USER, Entry, Register, Writer, extending
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.secret import Secret, save_key
from modellock_jax.vault.locked import _file_schemes
from modellock_jax.vault.locked.files import Done, lock_file
from modellock_jax.vault.locked.sets import lock_set
from modellock_jax.vault.sealed._content import directory_of
from modellock_jax.vault.sealed.members import LOCKED
from modellock_jax.vault.sealed.sets import check_folder

__all__ = ["Issued", "issue", "unfinished", "user_secret"]

_Plain = str | os.PathLike[str] | bytes  # a path, or the file itself


class Issued(NamedTuple):
    """`entry`: of the register; `copy`: the user's locked file; `key`: their key file, mode 0600."""

    entry: Entry
    copy: Path
    key: Path


def user_secret(secret: Secret, register: str, user: str, salt: str) -> Secret:
    """Derive the key of a user's copy from the issuer's secret, the register's id and a line's salt.

    Args:
        secret: The issuer's.
        register: Its id.
        user: A name of the register.
        salt: Of the line, hex.

    Returns:
        The user's secret.

    **Guarantees.** The same again, so none is stored; and one user's key tells nothing of the
    issuer's or of another user's, if HMAC-SHA256 is pseudo-random. The salt is fresh for each copy,
    so that none has another's key, whatever became of the register's lines.
    """
    return Secret(secret.derive(32, "issued copy", register, user, salt))


def unfinished(folder: str | os.PathLike[str], users: Iterable[str], book: Register) -> list[Path]:
    """Return copies and keys of these users in a folder that no line of the register names.

    A command that was killed left them, or lines were lost. Nothing of ours gives them out again:
    the next copy has another key.

    Args:
        folder: Where copies are.
        users: Names of users.
        book: The register.

    Returns:
        Paths of copies and key files.
    """
    names, known = set(users), {entry.key for entry in book.entries}
    found = []
    for path in sorted(Path(folder).iterdir()):
        parts = re.fullmatch(rf"(.+)\.({identity.ID})\.(safetensors|set|key)", path.name)
        if parts and parts[1] in names and parts[2] not in known:
            found.append(path)
    return found


def issue(
    source: _Plain,
    folder: str | os.PathLike[str],
    users: Iterable[str],
    secret: Secret,
    register: str | os.PathLike[str],
    scheme: str = "stream_lock",
    *,
    again: bool = False,
    revocations: str | os.PathLike[str] | None = None,
    done: Done = lambda _: None,
) -> list[Issued]:
    """Lock a copy of a file or a folder for each user, under a key of their own.

    Writes `folder/USER.KEYID.safetensors`, or of a folder the locked set `folder/USER.KEYID.set`,
    and, to be given to them over another way, their key file `folder/USER.KEYID.key`; then a line of
    `register`.

    Args:
        source: A plain safetensors file, as for `lock_file`, or a folder.
        folder: Where copies and keys go; it is made if there is none.
        users: Their names, which become parts of file names.
        secret: The issuer's: it signs, and users' keys come from it.
        register: The file with a line for each copy.
        scheme: As for `lock_file`.
        again: Users who have a copy get another, under a new key; the old one is noted as superseded.
        revocations: With `again`, a list that then revokes the old keys.
        done: Told the number of bytes after each piece.

    Returns:
        Of each user the copy's path, the key's, and the line of the register.

    Raises:
        ValueError: A name that is no file name, a user who has a copy already, or none with `again`.
        TypeError: `users` is one text, and no list.
        Unreadable: The source is no whole safetensors file.
        WrongKey: Somebody else issues this register.
        OSError: The disk refuses.

    Threat model: users who each have their own copy and key. What a copy is worth without its key
    depends on the scheme: `LockedInfo.about` says it.

    **Guarantees.** No two copies have one key, whether lines of the register were lost, it was copied
    or put back from a backup, or a command was killed. Killed at any moment, the register is whole,
    and whoever is in it has their copy and their key; the same command again, without them, completes
    the rest, and what the killed one left in the folder is what `unfinished` finds. Not protected: a
    user holds the plain weights and can pass them on, and nothing in them says whose they were;
    users who compare plain weights see that they are the same.

    >>> import tempfile
    >>> import numpy as np
    >>> from safetensors.numpy import save_file
    >>> from modellock_jax import vault
    >>> master = vault.generate_key()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"w": np.arange(3.0)}, f"{folder}/m")
    ...     one, two = issue(f"{folder}/m", folder, ["alice", "bob"], master, f"{folder}/register")
    ...     vault.unlock_file(one.copy, f"{folder}/again", vault.load_key(one.key))
    ...     one.entry.user, one.entry.key != two.entry.key, master.id == one.entry.key
    ('alice', True, False)
    """
    if isinstance(users, str):
        raise TypeError("issue: `users` is a list of names, and not one text")
    users, folder = list(users), Path(folder)
    _check(users)
    if revocations is not None and not again:
        raise ValueError("only issuing again revokes a key; omit the revocation list")
    scheme = _file_schemes.normalise(scheme)
    plain = _digest(source)
    with extending(register, secret) as writer:
        _check_new(users, writer, again)
        if revocations is not None:
            old = [writer.register.current[user].key for user in users]
            revocation.revoke(revocations, old, secret, dry_run=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        return [
            _one(source, folder, user, secret, writer, scheme, plain, revocations, done)
            for user in users
        ]


def _one(
    source: _Plain,
    folder: Path,
    user: str,
    secret: Secret,
    writer: Writer,
    scheme: str,
    plain: str,
    revocations: str | os.PathLike[str] | None,
    done: Done,
) -> Issued:
    old = writer.register.current.get(user)
    salt = os.urandom(32).hex()
    own = user_secret(secret, writer.register.id, user, salt)
    of_folder = not isinstance(source, bytes) and os.path.isdir(source)
    kind, key = "set" if of_folder else "safetensors", folder / f"{user}.{own.id}.key"
    copy = listed = folder / f"{user}.{own.id}.{kind}"
    if not isinstance(source, bytes) and of_folder:
        lock_set(source, copy, own, scheme, done=done)
        listed = copy / LOCKED  # which has the digests of all the rest
    else:
        lock_file(source, copy, own, scheme, done=done)
    save_key(own, key)
    if old is not None and revocations is not None:
        revocation.revoke(revocations, [old.key], secret, f"superseded by {own.id}")
    # Last, so that a user is in the register when all that is theirs is there.
    return Issued(writer.add(user, own.id, salt, scheme, plain, _sha256(listed)), copy, key)


def _check(users: list[str]) -> None:
    if not users:
        raise ValueError("name a user to issue a copy to")
    for user in users:
        if not re.fullmatch(USER, user):
            raise ValueError(
                f"the user {user[:80]!r} cannot be a file's name; write up to 50 letters, digits and "
                "._@+-, a letter or digit first"
            )
    if len(set(users)) != len(users):
        raise ValueError("a user is named twice; name each once")


def _check_new(users: list[str], writer: Writer, again: bool) -> None:
    current = writer.register.current
    there = [user for user in users if (user in current) != again]
    if there and again:
        raise ValueError(f"{_some(there)}: has no copy yet, so issue a first one instead")
    if there:
        raise ValueError(
            f"{_some(there)}: has a copy already; omit the name, or issue again on purpose"
        )


def _some(users: list[str]) -> str:
    more = f" and {len(users) - 5} more" if len(users) > 5 else ""
    return ", ".join(users[:5]) + more


def _digest(source: _Plain) -> str:
    """SHA-256 of a file; of a folder, of the canonical JSON of its files' digests by path."""
    if not isinstance(source, bytes) and os.path.isdir(source):
        digests = {one: _sha256(Path(source) / one) for one in check_folder(source).files}
        return hashlib.sha256(canonical(digests)).hexdigest()
    with _sources.open_reader(source) as reader:
        directory_of(reader)
        whole = hashlib.sha256()
        for piece in reader.pieces(_sources.PIECE):
            whole.update(piece)
        return whole.hexdigest()


def _sha256(path: str | os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
