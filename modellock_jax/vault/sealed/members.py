"""The members of a sealed set: what a manifest lists, and an open set that holds to it."""

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from modellock_jax._printing import printable
from modellock_jax.vault import _folders, _sources
from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault._json import strict_json
from modellock_jax.vault.errors import Tampered, Unreadable, VaultError
from modellock_jax.vault.sealed import _chunks, _header, _header_fields
from modellock_jax.vault.sealed._body import Done, quiet
from modellock_jax.vault.sealed._chunks import Cipher
from modellock_jax.vault.sealed._header_fields import Header
from modellock_jax.vault.sealed.opened import BYTES, INDEX, TENSORS, Sealed
from modellock_jax.vault.sealed.rewrite import head_of, journal_of

__all__ = ["Member", "OpenedSet"]

MANIFEST, LOCKED = "modellock.set", "modellock.set.json"
FORMAT, VERSION = "modellock-jax set", 1
LONGEST = 2**24  # bytes of a manifest's text
BESIDE = {MANIFEST, "revoked.json", f"{MANIFEST}.revoked.json", journal_of(MANIFEST).name}

_AnyPath = str | os.PathLike[str]


class Member(NamedTuple):
    """A file of a set: its path, its file id, plain bytes, kind, and the digest of its chunks."""

    path: str
    id: str
    size: int
    kind: str
    digest: str


def member_key(key: bytes, member_id: bytes) -> bytes:
    """Return the file key of a member, from the manifest's."""
    return _header.file_key_use(key, member_id, "member")


class _Listed(NamedTuple):
    """What a manifest lists: members by path, empty folders, and fields of later releases."""

    members: dict[str, Member]
    empty: list[str]
    extra: dict[str, str]


def parse_listed(text: bytes) -> _Listed:
    """Return what the text of a manifest lists. Raises `Tampered`, `Unreadable` for another version."""
    try:
        fields = strict_json(text)
        if fields["format"] != FORMAT or fields["version"] != VERSION:
            raise Unreadable(f"a set of another version; this release reads {VERSION} alone")
        members = [Member(**one) for one in fields["members"]]
        empty = fields["empty"]
        _folders.check_paths([one.path for one in members], empty)
        for one in members:
            digits = re.fullmatch("[0-9a-f]{32}", one.id) and re.fullmatch(
                "[0-9a-f]{64}", one.digest
            )
            if not digits or type(one.size) is not int or one.kind not in (TENSORS, BYTES):
                raise ValueError("has a member without proper id, size or digest")
        _header_fields.check_extra(fields["extra"])
        if {MANIFEST, LOCKED} & {one.path for one in members} or set(fields) != _FIELDS:
            raise ValueError("has a field or a member that none has")
    except (KeyError, TypeError, ValueError):
        raise Tampered("the manifest is not as it was written; get the set again") from None
    return _Listed({one.path: one for one in members}, empty, fields["extra"])


_FIELDS = {"format", "version", "members", "empty", "extra"}


class OpenedSet(contextlib.AbstractContextManager["OpenedSet"]):
    """An open set: `header`, the manifest's; `paths`, of its files; made by `open_set`.

    `signed`: whether a signature was asked for, so that members are held to what was signed.
    """

    def __init__(
        self,
        folder: Path,
        made: Header,
        listed: _Listed,
        signed: bool,
        key: bytes,
    ) -> None:
        self.folder, self.header = folder, made
        self.members, self.empty, self.extra = listed
        self.signed = signed
        self._key: Callable[[bytes], bytes] = lambda member_id: member_key(key, member_id)

    @property
    def paths(self) -> list[str]:
        """Of all files, below the folder, with `/`."""
        return list(self.members)

    @property
    def size(self) -> int:
        """Plain bytes of all files."""
        return sum(one.size for one in self.members.values())

    def check_files(self) -> None:
        """Look for files that are missing, or are not of the set.

        Raises:
            Tampered: Names them.
        """

        def known(path: str) -> bool:
            return path in BESIDE or re.fullmatch(r"\.modellock-[0-9a-f]+\.tmp", path) is not None

        missing, other = _folders.check_same(self.folder, self.members, known)
        for paths, what in ((missing, "missing or no plain files"), (other, "not of this set")):
            if paths:
                shown = ", ".join(map(printable, paths[:5]))
                raise Tampered(f"{len(paths)} are {what}: {shown}; get the whole set again")

    @clears_frames
    def member(self, path: str, done: Done = quiet) -> Sealed:
        """Open one file of the set; to be closed.

        Args:
            path: As in `members`.
            done: Told the number of bytes after each piece that is checked.

        Returns:
            The file, open.

        Raises:
            KeyError: For an unknown path.
            Tampered: If it was changed.
        """
        if path not in self.members:
            raise KeyError(f"there is no file {path!r} in this set")
        one, reader = self.members[path], _sources.open_reader(self.folder / path)
        try:
            made, at = head_of(reader)
            body = _chunks.sealed_size(INDEX + one.size)
            if (made.file_id.hex(), made.digest.hex(), made.body) != (one.id, one.digest, body):
                raise Tampered("is of another set, or of another release of it")
            key = self._key(made.file_id)
            _header.check_mac(made, key)
            payload = _header.file_key_use(key, made.file_id, "payload")
            sealed = Sealed(reader, made, Cipher(payload, made.binding), at)
            if self.signed:
                sealed.check_digest(done)
            sealed.begin()
            if sealed.kind != one.kind:
                raise Tampered("is of another kind than the set says")
            return sealed
        except VaultError as error:
            reader.close()
            kind = type(error) if isinstance(error, Tampered) else Tampered
            raise kind(f"{printable(path)} {error}; get the whole set again") from None
        except BaseException:
            reader.close()
            raise

    def check(self, done: Done = quiet) -> None:
        """Decrypt everything, and give nothing.

        Args:
            done: Told the number of bytes after each piece.

        Raises:
            Tampered: If anything was changed.
        """
        for path in self.members:
            with self.member(path) as sealed:
                sealed.check(done)

    def export(self, target: _AnyPath, done: Done = quiet) -> None:
        """Write the folder that was sealed, whole or not at all.

        Args:
            target: The new folder.
            done: Told the number of bytes after each piece.

        Raises:
            Tampered: If anything was changed.
            OSError: If the disk refuses.
        """
        with _folders.creating_folder(target, os.stat(self.folder).st_mode) as temp:
            for path in self.empty:
                (temp / path).mkdir(parents=True)
            for path in self.members:
                (temp / path).parent.mkdir(parents=True, exist_ok=True)
                with self.member(path) as sealed:
                    sealed.export(temp / path, done)

    def close(self) -> None:
        """Forget the key; no member can be opened afterwards. Again is no fault."""
        self._key = _closed

    def __exit__(self, *_: object) -> None:
        self.close()


def _closed(_: bytes) -> bytes:
    raise ValueError("the set is closed")
