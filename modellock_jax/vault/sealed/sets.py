"""Sealed sets: a folder sealed file by file, under one manifest, one signature, one name."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from modellock_jax._printing import printable
from modellock_jax.vault import _folders
from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault._json import canonical
from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.keys.identity import PublicKey
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.sealed import _chunks, _content, _header, _writing, envelope, recipients
from modellock_jax.vault.sealed._body import Done, quiet
from modellock_jax.vault.sealed._writing import Content, Cover
from modellock_jax.vault.sealed.members import (
    BESIDE,
    FORMAT,
    LOCKED,
    LONGEST,
    MANIFEST,
    VERSION,
    Member,
    OpenedSet,
    member_key,
    parse_listed,
)
from modellock_jax.vault.sealed.opened import INDEX, SET
from modellock_jax.vault.sealed.recipients import Recipient
from modellock_jax.vault.sealed.rewrite import AnyUnlocker

__all__ = ["inspect_set", "is_set", "open_set", "rotate_set", "seal_set"]

_AnyPath = str | os.PathLike[str]


def manifest_of(path: _AnyPath) -> Path:
    """Return the file that names a folder's recipients: what is rewritten when they change."""
    return Path(path) / MANIFEST


def is_set(path: _AnyPath) -> bool:
    """Whether a folder holds a sealed set.

    Args:
        path: Of the folder.

    Returns:
        True if its manifest is there, whole or not.
    """
    return os.path.isdir(path) and os.path.lexists(manifest_of(path))


@clears_frames
def seal_set(
    folder: _AnyPath,
    target: _AnyPath,
    whom: Iterable[Recipient],
    *,
    expires: datetime | None = None,
    signers: Iterable[Secret] = (),
    name: str = "",
    serial: int = 0,
    done: Done = quiet,
) -> list[Member]:
    """Seal all files of a folder into a new one, as one set: a sharded model, an Orbax checkpoint.

    Each file keeps its path, which lies open, and is sealed as `vault.seal` seals it, under a
    key of its own that comes from the set's; `modellock.set` lists them and names the recipients. An
    index of shards (`*.safetensors.index.json`) must agree with them.

    Args:
        folder: What is sealed.
        target: The new folder.
        whom: Recipients, as in `vault.seal`.
        expires: As in `vault.seal`.
        signers: As in `vault.seal`.
        name: As in `vault.seal`.
        serial: As in `vault.seal`.
        done: Told the number of bytes after each piece.

    Returns:
        The files of the set.

    Raises:
        Unreadable: For a file that cannot be sealed, or an index that does not agree with the
            shards.
        FileExistsError: If `target` is there and not empty.
        ValueError: As `vault.seal`.

    **Guarantees.** As `vault.seal`; the signatures, name and serial number are the whole set's: with
    a signature required, a file of another release, a missing or another one is `Tampered`. `target`
    is absent until it is whole. In the open: paths, sizes, and how many files there are.

    >>> import tempfile
    >>> from modellock_jax import vault
    >>> secret = vault.generate_key()
    >>> with tempfile.TemporaryDirectory() as at:
    ...     os.mkdir(f"{at}/model")
    ...     _ = Path(f"{at}/model/config.json").write_text("{}")
    ...     _ = seal_set(f"{at}/model", f"{at}/sealed", [vault.public_key(secret)])
    ...     with open_set(f"{at}/sealed", secret) as opened:
    ...         with opened.member("config.json") as config:
    ...             opened.paths, bytes(next(config.plain()))
    (['config.json'], b'{}')
    """
    about = _writing.cover(whom, expires, signers, name, serial)
    found = check_folder(folder)

    def content(path: str) -> contextlib.AbstractContextManager[Content]:
        return _content.content_of(Path(folder) / path)

    return _write(found, {}, content, target, about, os.stat(folder).st_mode, done)


def check_folder(folder: _AnyPath) -> _folders.Found:
    """Return what a folder that shall become a set holds. Raises `Unreadable` if it cannot."""
    found = _folders.walk(folder)
    if not found.files:
        raise Unreadable(f"{printable(folder)} has no files; name a folder that has")
    if made := {MANIFEST, LOCKED} & set(found.files):
        raise Unreadable(
            f"{printable(folder)} is a set already ({made.pop()}); open or unlock it first"
        )
    _folders.check_indexes(folder, found.files)
    return found


def _write(
    found: _folders.Found,
    extra: dict[str, str],
    content: Callable[[str], contextlib.AbstractContextManager[Content]],
    target: _AnyPath,
    about: Cover,
    mode: int,
    done: Done,
) -> list[Member]:
    key, set_id = os.urandom(32), _header.new_id()
    stanzas = recipients.wrap_all(key, about.whom, set_id)
    members = []
    with _folders.creating_folder(target, mode) as temp:
        for path in found.files:
            (temp / path).parent.mkdir(parents=True, exist_ok=True)
            member_id = _header.new_id()
            with content(path) as what:
                made = _writing.seal_under(
                    member_key(key, member_id), member_id, (), what, temp / path, _OF_A_SET, done
                )
            size = _chunks.plain_size(made.body) - INDEX
            members.append(Member(path, member_id.hex(), size, what.kind, made.digest.hex()))
        listed = [one._asdict() for one in members]
        fields = {"format": FORMAT, "version": VERSION, "members": listed}
        text = canonical(fields | {"empty": list(found.empty), "extra": extra})
        if len(text) > LONGEST:
            raise ValueError("too many files for one set; seal parts of the folder")
        what = Content(SET, [text], len(text))
        _writing.seal_under(key, set_id, stanzas, what, temp / MANIFEST, about, quiet)
    return members


# A member's recipients, date, name and signatures are the set's.
_OF_A_SET = Cover((), "", (), "", 0, hashed=True)


@clears_frames
def open_set(
    folder: _AnyPath,
    unlocker: AnyUnlocker,
    *,
    signed_by: Iterable[PublicKey] = (),
    expect: str | None = None,
    revoked: Iterable[_AnyPath] = (),
    now: datetime | None = None,
) -> "OpenedSet":
    """Open a sealed set.

    Args:
        folder: A sealed set.
        unlocker: As in `vault.open`.
        signed_by: As in `vault.open`.
        expect: As in `vault.open`.
        revoked: As in `vault.open`.
        now: As in `vault.open`.

    Returns:
        The set, to be closed, or used in `with`.

    Raises:
        WrongKey: As `vault.open`.
        Expired: As `vault.open`.
        Tampered: As `vault.open`; it names the paths if a file is missing or another is there too.
        Unreadable: If the folder is no sealed set.

    **Guarantees.** A member opens only if it is of this very set. With `signed_by`, each member's
    content is checked against what was signed before any of it is given out, and at every read.
    """
    signed_by = tuple(signed_by)
    path = manifest_of(folder)
    if not os.path.lexists(path):
        raise Unreadable(f"{printable(folder)} has no {MANIFEST}; name a folder that was sealed")
    sealed, key = envelope.open_with_key(path, unlocker, signed_by, expect, revoked, now, quiet)
    with sealed:
        if sealed.kind != SET or sealed.size > LONGEST:
            raise Unreadable(
                f"{printable(path)} is not the manifest of a set; name a sealed folder"
            )
        listed = parse_listed(b"".join(map(bytes, sealed.plain())))
    opened = OpenedSet(Path(folder), sealed.header, listed, bool(signed_by), key)
    opened.check_files()
    return opened


@clears_frames
def rotate_set(
    opened: OpenedSet,
    target: _AnyPath,
    whom: Iterable[Recipient],
    *,
    expires: datetime | None = None,
    signers: Iterable[Secret] = (),
    name: str | None = None,
    serial: int | None = None,
    done: Done = quiet,
) -> list[Member]:
    """Seal an open set anew into a new folder, under fresh keys, as `rotate` does a file.

    Args:
        opened: An open set.
        target: The new folder.
        whom: Recipients, as in `vault.seal`.
        expires: As in `vault.seal`.
        signers: As in `rotate`.
        name: The old one unless given.
        serial: The old one unless given.
        done: Told the number of bytes after each piece.

    Returns:
        The files of the new set.

    Raises:
        ValueError: If who signed the set before signs, and it was not opened with `signed_by`; else
            as `vault.seal`.
        FileExistsError: If `target` is there and not empty.
        Tampered: If anything was changed.
    """
    old, signers = opened.header, tuple(signers)
    about = envelope.cover_again(old, whom, expires, signers, name, serial)
    before = {signature["id"] for signature in old.signatures}
    if not opened.signed and any(one.id in before for one in signers):
        raise ValueError("who signed the set before signs what they signed: open it with signed_by")

    @contextlib.contextmanager
    def content(path: str) -> Iterator[Content]:
        with opened.member(path) as sealed:
            yield Content(sealed.kind, sealed.plain(), sealed.size)

    found = _folders.Found(tuple(opened.members), tuple(opened.empty))
    mode = os.stat(opened.folder).st_mode
    return _write(found, opened.extra, content, target, about, mode, done)


def inspect_set(folder: _AnyPath) -> dict[str, Any]:
    """Return what a folder tells without a key.

    Args:
        folder: A sealed set.

    Returns:
        How many files it has, of how many bytes.

    Raises:
        OSError: If it cannot be read.
    """
    files = [path for path in _folders.walk(folder).files if path not in BESIDE]
    return {"files": len(files), "bytes": sum((Path(folder) / p).stat().st_size for p in files)}
