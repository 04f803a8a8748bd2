"""Sealed sets: a folder sealed file by file, under one manifest, one signature, one name."""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from modellock_jax.vault import chunks, envelope, folders, header, recipients, sources, writing
from modellock_jax.vault.body import Done, quiet
from modellock_jax.vault.chunks import Cipher
from modellock_jax.vault.errors import Tampered, Unreadable, VaultError
from modellock_jax.vault.files import canonical, printable, strict_json
from modellock_jax.vault.frames import clears_frames
from modellock_jax.vault.header import Header
from modellock_jax.vault.identity import PublicKey
from modellock_jax.vault.keys import Secret
from modellock_jax.vault.opened import BYTES, INDEX, SET, TENSORS, Sealed
from modellock_jax.vault.recipients import Recipient
from modellock_jax.vault.rewrite import AnyUnlocker, head_of, journal_of
from modellock_jax.vault.writing import Content, Cover

MANIFEST, LOCKED = "modellock.set", "modellock.set.json"
FORMAT, VERSION = "modellock-jax set", 1
LONGEST = 2**24  # bytes of a manifest's text
_BESIDE = {MANIFEST, "revoked.json", f"{MANIFEST}.revoked.json", journal_of(MANIFEST).name}

AnyPath = str | os.PathLike[str]


class Member(NamedTuple):
    """A file of a set: its path, its file id, plain bytes, kind, and the digest of its chunks."""

    path: str
    id: str
    size: int
    kind: str
    digest: str


def manifest_of(path: AnyPath) -> Path:
    """The file that names a folder's recipients: what is rewritten when they change."""
    return Path(path) / MANIFEST


def is_set(path: AnyPath) -> bool:
    """Whether a folder holds a sealed set."""
    return os.path.isdir(path) and os.path.lexists(manifest_of(path))


@clears_frames
def seal_set(
    folder: AnyPath,
    target: AnyPath,
    whom: Iterable[Recipient],
    *,
    expires: datetime | None = None,
    signers: Iterable[Secret] = (),
    name: str = "",
    serial: int = 0,
    done: Done = quiet,
) -> list[Member]:
    """Seal all files of a folder into a new one, as one set: a sharded model, an Orbax checkpoint.

    Each file keeps its path, which lies open, and is sealed as `envelope.seal_file` seals it, under a
    key of its own that comes from the set's; `modellock.set` lists them and names the recipients. An
    index of shards (`*.safetensors.index.json`) must agree with them. Raises `Unreadable` as
    `folders.walk` and `folders.check_indexes`, `FileExistsError` if `target` is there and not empty;
    else as `envelope.save`.

    **Guarantees.** As `envelope.save`; the signatures, name and serial number are the whole set's: with
    a signature required, a file of another release, a missing or another one is `Tampered`. `target`
    is absent until it is whole. In the open: paths, sizes, and how many files there are.

    >>> import tempfile
    >>> from modellock_jax.vault import identity, keys
    >>> secret = keys.generate()
    >>> with tempfile.TemporaryDirectory() as at:
    ...     os.mkdir(f"{at}/model")
    ...     _ = Path(f"{at}/model/config.json").write_text("{}")
    ...     _ = seal_set(f"{at}/model", f"{at}/sealed", [identity.public_key(secret)])
    ...     with open_set(f"{at}/sealed", secret) as opened:
    ...         with opened.member("config.json") as config:
    ...             opened.paths, bytes(next(config.plain()))
    (['config.json'], b'{}')
    """
    about = writing.cover(whom, expires, signers, name, serial)
    found = check_folder(folder)

    def content(path: str) -> contextlib.AbstractContextManager[Content]:
        return envelope.content_of(Path(folder) / path)

    return _write(found, {}, content, target, about, os.stat(folder).st_mode, done)


def check_folder(folder: AnyPath) -> folders.Found:
    """What a folder that shall become a set holds. Raises `Unreadable` if it cannot."""
    found = folders.walk(folder)
    if not found.files:
        raise Unreadable(f"{printable(folder)} has no files; name a folder that has")
    if made := {MANIFEST, LOCKED} & set(found.files):
        raise Unreadable(
            f"{printable(folder)} is a set already ({made.pop()}); open or unlock it first"
        )
    folders.check_indexes(folder, found.files)
    return found


def _write(
    found: folders.Found,
    extra: dict[str, str],
    content: Callable[[str], contextlib.AbstractContextManager[Content]],
    target: AnyPath,
    about: Cover,
    mode: int,
    done: Done,
) -> list[Member]:
    key, set_id = os.urandom(32), header.new_id()
    stanzas = recipients.wrap_all(key, about.whom, set_id)
    members = []
    with folders.creating_folder(target, mode) as temp:
        for path in found.files:
            (temp / path).parent.mkdir(parents=True, exist_ok=True)
            member_id = header.new_id()
            with content(path) as what:
                made = writing.seal_under(
                    _member_key(key, member_id), member_id, (), what, temp / path, _OF_A_SET, done
                )
            size = chunks.plain_size(made.body) - INDEX
            members.append(Member(path, member_id.hex(), size, what.kind, made.digest.hex()))
        listed = [one._asdict() for one in members]
        fields = {"format": FORMAT, "version": VERSION, "members": listed}
        text = canonical(fields | {"empty": list(found.empty), "extra": extra})
        if len(text) > LONGEST:
            raise ValueError("too many files for one set; seal parts of the folder")
        what = Content(SET, [text], len(text))
        writing.seal_under(key, set_id, stanzas, what, temp / MANIFEST, about, quiet)
    return members


# A member's recipients, date, name and signatures are the set's.
_OF_A_SET = Cover((), "", (), "", 0, hashed=True)


def _member_key(key: bytes, member_id: bytes) -> bytes:
    return header.file_key_use(key, member_id, "member")


@clears_frames
def open_set(
    folder: AnyPath,
    unlocker: AnyUnlocker,
    *,
    signed_by: Iterable[PublicKey] = (),
    expect: str | None = None,
    revoked: Iterable[AnyPath] = (),
    now: datetime | None = None,
) -> "OpenedSet":
    """Open a sealed set; `envelope.open_sealed` has the arguments and the errors.

    Raises `Tampered`, which names the paths, if a file is missing or another is there too.

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
        listed = _parse(b"".join(map(bytes, sealed.plain())))
    opened = OpenedSet(Path(folder), sealed.header, listed, bool(signed_by), key)
    opened.check_files()
    return opened


class Listed(NamedTuple):
    """What a manifest lists: members by path, empty folders, and fields of later releases."""

    members: dict[str, Member]
    empty: list[str]
    extra: dict[str, str]


def _parse(text: bytes) -> Listed:
    try:
        fields = strict_json(text)
        if fields["format"] != FORMAT or fields["version"] != VERSION:
            raise Unreadable(f"a set of another version; this release reads {VERSION} alone")
        members = [Member(**one) for one in fields["members"]]
        empty = fields["empty"]
        folders.check_paths([one.path for one in members], empty)
        for one in members:
            digits = re.fullmatch("[0-9a-f]{32}", one.id) and re.fullmatch(
                "[0-9a-f]{64}", one.digest
            )
            if not digits or type(one.size) is not int or one.kind not in (TENSORS, BYTES):
                raise ValueError("has a member without proper id, size or digest")
        header.check_extra(fields["extra"])
        if {MANIFEST, LOCKED} & {one.path for one in members} or set(fields) != _FIELDS:
            raise ValueError("has a field or a member that none has")
    except (KeyError, TypeError, ValueError):
        raise Tampered("the manifest is not as it was written; get the set again") from None
    return Listed({one.path: one for one in members}, empty, fields["extra"])


_FIELDS = {"format", "version", "members", "empty", "extra"}


class OpenedSet(contextlib.AbstractContextManager["OpenedSet"]):
    """An open set: `header`, the manifest's; `paths`, of its files; made by `open_set`.

    `signed`: whether a signature was asked for, so that members are held to what was signed.
    """

    def __init__(
        self,
        folder: Path,
        made: Header,
        listed: Listed,
        signed: bool,
        key: bytes,
    ) -> None:
        self.folder, self.header = folder, made
        self.members, self.empty, self.extra = listed
        self.signed = signed
        self._key: Callable[[bytes], bytes] = lambda member_id: _member_key(key, member_id)

    @property
    def paths(self) -> list[str]:
        """Of all files, below the folder, with `/`."""
        return list(self.members)

    @property
    def size(self) -> int:
        """Plain bytes of all files."""
        return sum(one.size for one in self.members.values())

    def check_files(self) -> None:
        """Raises `Tampered` if a file is missing, or one is there that is not of the set."""

        def known(path: str) -> bool:
            return path in _BESIDE or re.fullmatch(r"\.modellock-[0-9a-f]+\.tmp", path) is not None

        missing, other = folders.check_same(self.folder, self.members, known)
        for paths, what in ((missing, "missing or no plain files"), (other, "not of this set")):
            if paths:
                shown = ", ".join(map(printable, paths[:5]))
                raise Tampered(f"{len(paths)} are {what}: {shown}; get the whole set again")

    @clears_frames
    def member(self, path: str, done: Done = quiet) -> Sealed:
        """Open one file of the set; to be closed. Raises `KeyError` for an unknown path, `Tampered`."""
        if path not in self.members:
            raise KeyError(f"there is no file {path!r} in this set")
        one, reader = self.members[path], sources.opened(self.folder / path)
        try:
            made, at = head_of(reader)
            body = chunks.sealed_size(INDEX + one.size)
            if (made.file_id.hex(), made.digest.hex(), made.body) != (one.id, one.digest, body):
                raise Tampered("is of another set, or of another release of it")
            key = self._key(made.file_id)
            header.check_mac(made, key)
            payload = header.file_key_use(key, made.file_id, "payload")
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
        """Decrypt everything, and give nothing. Raises `Tampered`."""
        for path in self.members:
            with self.member(path) as sealed:
                sealed.check(done)

    def export(self, target: AnyPath, done: Done = quiet) -> None:
        """Write the folder that was sealed, whole or not at all. Raises `Tampered`, `OSError`."""
        with folders.creating_folder(target, os.stat(self.folder).st_mode) as temp:
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


@clears_frames
def rotate_set(
    opened: OpenedSet,
    target: AnyPath,
    whom: Iterable[Recipient],
    *,
    expires: datetime | None = None,
    signers: Iterable[Secret] = (),
    name: str | None = None,
    serial: int | None = None,
    done: Done = quiet,
) -> list[Member]:
    """Seal an open set anew into a new folder, under fresh keys, as `envelope.rotate` does a file."""
    old, signers = opened.header, tuple(signers)
    about = envelope.cover_again(old, whom, expires, signers, name, serial)
    before = {signature["id"] for signature in old.signatures}
    if not opened.signed and any(one.id in before for one in signers):
        raise ValueError("who signed the set before signs what they signed: open it with signed_by")

    @contextlib.contextmanager
    def content(path: str) -> Iterator[Content]:
        with opened.member(path) as sealed:
            yield Content(sealed.kind, sealed.plain(), sealed.size)

    found = folders.Found(tuple(opened.members), tuple(opened.empty))
    mode = os.stat(opened.folder).st_mode
    return _write(found, opened.extra, content, target, about, mode, done)


def inspect_set(folder: AnyPath) -> dict[str, Any]:
    """What a folder tells without a key: how many files, of how many bytes. Raises `OSError`."""
    files = [path for path in folders.walk(folder).files if path not in _BESIDE]
    return {"files": len(files), "bytes": sum((Path(folder) / p).stat().st_size for p in files)}
