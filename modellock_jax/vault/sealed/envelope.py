"""Sealed files: a checkpoint encrypted and authenticated, for named recipients."""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import numpy as np

from modellock_jax.vault import kinds, sources, tensors
from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.files import open_to_read, printable
from modellock_jax.vault.frames import clears_frames
from modellock_jax.vault.issuing import revocation
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.identity import PublicKey
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.sealed import header, writing
from modellock_jax.vault.sealed.body import Done, quiet
from modellock_jax.vault.sealed.chunks import Cipher
from modellock_jax.vault.sealed.header_fields import Header
from modellock_jax.vault.sealed.opened import BYTES, TENSORS, Sealed, bytes_of
from modellock_jax.vault.sealed.recipients import Recipient
from modellock_jax.vault.sealed.rewrite import AnyUnlocker, head_of, unlocker_for
from modellock_jax.vault.sealed.writing import Content
from modellock_jax.vault.sources import AnySource, Reader
from modellock_jax.vault.targets import AnyTarget
from modellock_jax.vault.tensors import Directory


@clears_frames
def save(
    arrays: Mapping[str, np.ndarray],
    target: AnyTarget,
    recipients: Iterable[Recipient],
    *,
    metadata: Mapping[str, str] | None = None,
    expires: datetime | None = None,
    signers: Iterable[Secret] = (),
    name: str = "",
    serial: int = 0,
    done: Done = quiet,
) -> None:
    """Seal named arrays of any shape into `target`, a path or a binary file object.

    `metadata` is kept with the arrays' names, inside. After `expires`, which needs a time zone, our
    tools do not open the file. `signers` vouch for the whole content, and for `name` and `serial`,
    which all can read: what it is and which version, for `open_sealed(expect=)`. Raises `ValueError`
    without recipients, with more than 4,096 or one of them twice, or with more than 8 passphrases, and
    for what `naming.check_name` refuses; `TypeError` for dtypes that safetensors lacks, `OSError` if
    the disk refuses.

    Threat model: the attacker has the file, and can write another in its place.

    **Guarantees.** Without a recipient's secret, nothing but sizes, name and serial number, key ids,
    the date and the signers. What `load` gives is what was saved, to the bit, or an error. A path is
    at every moment the old file or the whole new one; a file object gets ciphertext alone. Not
    protected: a recipient can keep and pass on what they opened, whatever the date says. Without
    signers, any recipient can put other content, name and number in their place.

    Source: AES-256-GCM in chunks that know their place, after STREAM (Hoang et al. 2015), a key
    wrapped for each recipient, as age does.

    >>> import tempfile
    >>> from modellock_jax.vault.keys import identity, secret as keys
    >>> secret = keys.generate()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save({"w": np.arange(3.0)}, f"{folder}/m.sealed", [identity.public_key(secret)])
    ...     load(f"{folder}/m.sealed", secret)
    {'w': array([0., 1., 2.])}
    """
    arrays = {key: np.asarray(array, order="C") for key, array in arrays.items()}
    about = writing.cover(recipients, expires, signers, name, serial)
    directory = tensors.lay_out(arrays, metadata or {})
    flat = (bytes_of(arrays[tensor.name]) for tensor in directory.tensors)
    content = Content(TENSORS, itertools.chain([directory.head], flat), directory.size)
    writing.seal(content, target, about, done)


@clears_frames
def seal_file(
    source: AnySource,
    target: AnyTarget,
    recipients: Iterable[Recipient],
    *,
    expires: datetime | None = None,
    signers: Iterable[Secret] = (),
    name: str = "",
    serial: int = 0,
    done: Done = quiet,
) -> str:
    """Seal a file of any kind and size, whoever wrote it, as `save` does arrays.

    `source`: a path, bytes, or a binary file object, which is read once. Gives the kind of what was
    sealed: `"safetensors"`, or `"bytes"` for any other file, which opens as a whole alone, without
    arrays by name. Raises `Unreadable` for a safetensors file that is not whole; else as `save`.

    **Guarantees.** As `save`; `Sealed.export` gives the same bytes back. Of the source nothing but
    ciphertext is written anywhere, a stream's neither.
    """
    about = writing.cover(recipients, expires, signers, name, serial)
    with content_of(source) as content:
        writing.seal(content, target, about, done)
    return content.kind


@contextlib.contextmanager
def content_of(source: AnySource) -> Iterator[Content]:
    """What `seal_file` makes of a source. Raises `Unreadable` for a damaged safetensors file."""
    called = sources.name_of(source)
    reader = sources.at_offsets(source)
    if reader is None:
        yield _content_of_stream(source, called)
        return
    with reader:
        kind = BYTES
        if kinds.is_safetensors(reader.read(kinds.START), called):
            directory_of(reader)
            kind = TENSORS
        yield Content(kind, reader.pieces(sources.PIECE), reader.size)


def _content_of_stream(source: Any, called: str) -> Content:
    pieces = sources.stream(source)
    start = sources.first(pieces, kinds.START)
    if not kinds.is_safetensors(start, called):
        return Content(BYTES, itertools.chain([start], pieces), None)
    length = 8 + int.from_bytes(start[:8], "little")
    if length <= tensors.LONGEST:
        start += sources.first(pieces, length - len(start))
    try:
        head = start[: tensors.head_length(start[:8], len(start))]
        size = tensors.parse(head).size
    except ValueError as error:
        raise _not_whole(called, error) from None

    def whole() -> Iterator[bytes]:
        found = 0
        for piece in itertools.chain([start], pieces):
            found += len(piece)
            yield piece
        if found != size:
            raise _not_whole(called, f"should have {size} bytes and has {found}")

    return Content(TENSORS, whole(), size)


def directory_of(reader: Reader) -> Directory:
    """The directory of a safetensors file. Raises `Unreadable`, which names the kind of others."""
    kinds.need_safetensors(reader.read(kinds.START), reader.name)
    try:
        directory = tensors.parse(reader.read(tensors.head_length(reader.read(8), reader.size)))
        if directory.size != reader.size:
            raise ValueError(f"should have {directory.size} bytes and has {reader.size}")
    except ValueError as error:
        raise _not_whole(reader.name, error) from None
    return directory


def _not_whole(called: str, why: object) -> Unreadable:
    return Unreadable(f"{printable(called)} {why}; give a whole safetensors file")


@clears_frames
def open_sealed(
    source: AnySource,
    unlocker: AnyUnlocker,
    *,
    signed_by: Iterable[PublicKey] = (),
    expect: str | None = None,
    revoked: Iterable[str | os.PathLike[str]] = (),
    now: datetime | None = None,
    done: Done = quiet,
) -> Sealed:
    """Open a sealed file with a recipient's secret or passphrase; close it, or use it in `with`.

    `source`: a path, bytes, or a binary file object; a stream is copied, sealed as it is, into a
    nameless file in `$TMPDIR`. `unlocker`: it, or a function that chooses it by the `Header`.
    Every key of `signed_by` must have signed it; the whole body is then read and checked first.
    `expect`: `"NAME"`, `"NAME@SERIAL"` or `"NAME@SERIAL+"`, for that version or a later; without a
    signature nobody but its recipients vouches for the name. A key on a revocation list is refused:
    on those of `revoked`, and on all that `revocation.refused` finds. Raises `WrongKey`, `Tampered`,
    `Expired` and `Unreadable`, each with what to do.

    **Guarantees.** Nothing of a changed chunk is given out; a removed signature is not overlooked, nor
    a list that is present. Head and directory are read once. With `signed_by`, every later read
    gives what they signed or `Tampered`, whatever happens to the file.
    """
    return open_with_key(source, unlocker, signed_by, expect, revoked, now, done)[0]


def open_with_key(
    source: AnySource,
    unlocker: AnyUnlocker,
    signed_by: Iterable[PublicKey],
    expect: str | None,
    revoked: Iterable[str | os.PathLike[str]],
    now: datetime | None,
    done: Done,
) -> tuple[Sealed, bytes]:
    """As `open_sealed`, with the file's key, which the caller keeps hidden."""
    signed_by = tuple(signed_by)
    reader = sources.opened(source, header.check_start)
    try:
        made, at = head_of(reader)
        chosen = unlocker_for(unlocker, made)
        file_key = revocation.file_key_of(reader.path, made, chosen, revoked)
        header.check_date(made, now)
        header.check_signed(made, signed_by)
        header.check_expected(made, expect)
        key = header.file_key_use(file_key, made.file_id, "payload")
        sealed = Sealed(reader, made, Cipher(key, made.binding), at)
        if signed_by:
            sealed.check_digest(done)
        sealed.begin()
        return sealed, file_key
    except BaseException:
        reader.close()
        raise


@clears_frames
def rotate(
    sealed: Sealed,
    target: AnyTarget,
    recipients: Iterable[Recipient],
    *,
    expires: datetime | None = None,
    signers: Iterable[Secret] = (),
    name: str | None = None,
    serial: int | None = None,
    done: Done = quiet,
) -> None:
    """Seal the content of an open sealed file anew, under a fresh file key; raises as `save`.

    `name`, `serial`: the old ones unless given. If one of `signers` signed the old file, its content
    must be what they signed, else `Tampered`.

    **Guarantees.** Who could open the old file and is no recipient now cannot open the new one, even
    if they kept the old file's key. Plain values are written to no file.
    """
    old, signers = sealed.header, tuple(signers)
    about = cover_again(old, recipients, expires, signers, name, serial)
    before = {signature["id"] for signature in old.signatures}
    for public in (identity.public_key(one) for one in signers if one.id in before):
        header.check_signed(old, (public,))
        sealed.check_digest()
    writing.seal(Content(sealed.kind, sealed.plain(), sealed.size), target, about, done)


def cover_again(
    old: Header,
    recipients: Iterable[Recipient],
    expires: datetime | None,
    signers: Iterable[Secret],
    name: str | None,
    serial: int | None,
) -> writing.Cover:
    """As `writing.cover`, with the old name and serial number unless others are given."""
    named = old.name if name is None else name
    number = old.serial if serial is None else serial
    return writing.cover(recipients, expires, signers, named, number)


def load(
    source: AnySource,
    unlocker: AnyUnlocker,
    *,
    signed_by: Iterable[PublicKey] = (),
    expect: str | None = None,
    revoked: Iterable[str | os.PathLike[str]] = (),
) -> dict[str, np.ndarray]:
    """All arrays of a sealed file by name; `save` has an example, `open_sealed` the errors."""
    with open_sealed(
        source, unlocker, signed_by=signed_by, expect=expect, revoked=revoked
    ) as sealed:
        return sealed.load()


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[int]:
    """A descriptor of an existing file, closed at the end. Raises `Unreadable`."""
    file = open_to_read(path)
    try:
        yield file
    finally:
        os.close(file)
