"""Sealed files: a checkpoint encrypted and authenticated, for named recipients."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from modellock_jax.vault import chunks, header, recipients, revocation, tensors
from modellock_jax.vault.chunks import Chunk, Cipher
from modellock_jax.vault.errors import Tampered, Unreadable
from modellock_jax.vault.files import open_to_read, replacing, write_all
from modellock_jax.vault.frames import clears_frames
from modellock_jax.vault.header import Header
from modellock_jax.vault.identity import PublicKey
from modellock_jax.vault.keys import Secret
from modellock_jax.vault.opened import Done, Sealed, bytes_of, quiet
from modellock_jax.vault.recipients import Recipient, Unlocker
from modellock_jax.vault.rewrite import head_of
from modellock_jax.vault.tensors import Directory, Tensor


@clears_frames
def save(
    arrays: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    recipients: Iterable[Recipient],
    *,
    metadata: Mapping[str, str] | None = None,
    expires: datetime | None = None,
    signers: Iterable[Secret] = (),
    done: Done = quiet,
) -> None:
    """Seal named arrays of any shape into `path`, for each of `recipients`.

    `metadata` is kept with the names, inside. After `expires`, which needs a time zone, our tools do
    not open the file. `signers` vouch for the whole content. Raises `ValueError` without recipients
    or with more than 8 passphrases, `TypeError` for dtypes that safetensors lacks, `OSError` if the
    disk refuses.

    Threat model: the attacker has the file, and can write another in its place.

    **Guarantees.** Without a recipient's secret, nothing but sizes, key ids, the date and the
    signers. What `load` gives is what was saved, to the bit, or an error. `path` is at every moment
    the old file or the whole new one. Not protected: a recipient can keep and pass on what he
    opened, whatever the date says.

    Source: AES-256-GCM in chunks that know their place, after STREAM (Hoang et al. 2015), a key
    wrapped for each recipient, as age does.

    >>> import tempfile
    >>> from modellock_jax.vault import identity, keys
    >>> secret = keys.generate()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save({"w": np.arange(3.0)}, f"{folder}/m.sealed", [identity.public_key(secret)])
    ...     load(f"{folder}/m.sealed", secret)
    {'w': array([0., 1., 2.])}
    """
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    directory = tensors.lay_out(arrays, metadata or {})
    flat = {name: bytes_of(array) for name, array in arrays.items()}

    def read(tensor: Tensor, start: int, length: int) -> Any:
        return flat[tensor.name][start : start + length]

    _seal(directory, read, path, recipients, expires, signers, done)


@clears_frames
def seal_file(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    recipients: Iterable[Recipient],
    *,
    expires: datetime | None = None,
    signers: Iterable[Secret] = (),
    done: Done = quiet,
) -> None:
    """Seal a safetensors file, of any size and whoever wrote it, as `save` does arrays.

    Raises `Unreadable` if it is not a whole safetensors file; else as `save`.

    **Guarantees.** As `save`; `Sealed.export` gives the same bytes back, order and metadata too.
    """
    with reading(source) as file:
        directory = read_directory(file, source)
        start = len(directory.head)

        def read(tensor: Tensor, offset: int, length: int) -> Any:
            data = bytearray(length)
            chunks.read_all(file, data, start + tensor.begin + offset)
            return data

        _seal(directory, read, path, recipients, expires, signers, done)


def read_directory(file: int, path: str | os.PathLike[str]) -> Directory:
    """The directory of an open safetensors file. Raises `Unreadable`."""
    size = os.fstat(file).st_size
    try:
        head = os.pread(file, tensors.head_length(os.pread(file, 8, 0), size), 0)
        directory = tensors.parse(head)
        if directory.size != size:
            raise ValueError(f"should have {directory.size} bytes and has {size}")
    except ValueError as error:
        raise Unreadable(f"{path} {error}; give a whole safetensors file") from None
    return directory


def _seal(
    directory: Directory,
    read: Callable[[Tensor, int, int], Any],
    path: str | os.PathLike[str],
    whom: Iterable[Recipient],
    expires: datetime | None,
    signers: Iterable[Secret],
    done: Done,
) -> None:
    if expires is not None and expires.utcoffset() is None:
        raise ValueError("expires: give a date and time with a time zone")
    parts, whom, signers = chunks.of_directory(directory), tuple(whom), tuple(signers)
    if not whom:
        raise ValueError("a sealed file needs a recipient; give a public key or a passphrase")
    file_key, file_id = os.urandom(32), header.new_id()
    made = Header(
        file_id,
        chunks.sealed_size(parts),
        bytes(32) if signers else b"",
        expires.astimezone(UTC).isoformat(timespec="seconds") if expires else "",
        recipients.wrap_all(file_key, whom, file_id),
    )
    made = header.finish(made, file_key, signers)
    cipher = Cipher(header.file_key_use(file_key, file_id, "payload"), made.binding)
    named = {f"tensor/{t.name}": t for t in directory.tensors}
    first = {"length": len(directory.head).to_bytes(chunks.LENGTH, "little")}
    first["directory"] = directory.head

    def part(chunk: Chunk) -> Any:
        if chunk.name in first:
            return first[chunk.name][chunk.start : chunk.start + chunk.length]
        return read(named[chunk.name], chunk.start, chunk.length)

    with replacing(path) as file:
        chunks.seal_all(cipher, parts, part, file, made.room, done)
        if signers:
            made = made._replace(digest=chunks.digest(file, made.room, made.body, quiet))
            made = header.finish(made, file_key, signers)
        write_all(file, header.encode(made), 0)


@clears_frames
def open_sealed(
    path: str | os.PathLike[str],
    unlocker: Unlocker,
    *,
    signed_by: Iterable[PublicKey] = (),
    revoked: Iterable[str | os.PathLike[str]] = (),
    now: datetime | None = None,
    done: Done = quiet,
) -> Sealed:
    """Open a sealed file with a recipient's secret or passphrase; close it, or use it in `with`.

    Every key of `signed_by` must have signed it; the whole body is then read and checked first.
    A key on a revocation list is refused: on those of `revoked`, and on all that
    `revocation.refused` finds. Raises `WrongKey`, `Tampered`, `Expired` and `Unreadable`, each with
    what to do.

    **Guarantees.** Nothing of a changed chunk is given out; a removed signature is not overlooked, nor
    a list that is present.
    """
    file = open_to_read(path)
    try:
        made, at = head_of(file, path)
        file_key = revocation.file_key_of(path, made, unlocker, revoked)
        header.check_date(made, now)
        signed_by = tuple(signed_by)
        header.check_signed(made, signed_by)
        if signed_by and chunks.digest(file, at, made.body, done) != made.digest:
            raise Tampered("the content is not what was signed; get the file again")
        key = header.file_key_use(file_key, made.file_id, "payload")
        return Sealed(file, at, made, Cipher(key, made.binding))
    except BaseException:
        os.close(file)
        raise


@clears_frames
def rotate(
    sealed: Sealed,
    path: str | os.PathLike[str],
    recipients: Iterable[Recipient],
    *,
    expires: datetime | None = None,
    signers: Iterable[Secret] = (),
    done: Done = quiet,
) -> None:
    """Seal the content of an open sealed file anew, under a fresh file key; raises as `save`.

    **Guarantees.** Who could open the old file and is no recipient now cannot open the new one, even
    if he kept the old file's key. Plain values are written to no file.
    """

    def read(tensor: Tensor, start: int, length: int) -> Any:
        data = bytearray(length)
        sealed.read(tensor, start, memoryview(data))
        return data

    _seal(sealed.directory, read, path, recipients, expires, signers, done)


def load(
    path: str | os.PathLike[str],
    unlocker: Unlocker,
    *,
    signed_by: Iterable[PublicKey] = (),
    revoked: Iterable[str | os.PathLike[str]] = (),
) -> dict[str, np.ndarray]:
    """All arrays of a sealed file by name; `save` has an example, `open_sealed` the errors."""
    with open_sealed(path, unlocker, signed_by=signed_by, revoked=revoked) as sealed:
        return sealed.load()


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[int]:
    """A descriptor of an existing file, closed at the end. Raises `Unreadable`."""
    file = open_to_read(path)
    try:
        yield file
    finally:
        os.close(file)
