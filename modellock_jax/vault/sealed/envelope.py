"""Sealed files: a checkpoint encrypted and authenticated, for named recipients."""

import os
from collections.abc import Iterable, Mapping
from datetime import datetime

import numpy as np

from modellock_jax.vault import _sources
from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault._sources import AnySource
from modellock_jax.vault._targets import AnyTarget, is_path
from modellock_jax.vault.issuing import revocation
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.identity import PublicKey
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.sealed import _header, _writing
from modellock_jax.vault.sealed._body import Done, quiet
from modellock_jax.vault.sealed._chunks import Cipher
from modellock_jax.vault.sealed._content import content_of, content_of_arrays
from modellock_jax.vault.sealed._header_fields import Header
from modellock_jax.vault.sealed._writing import Content
from modellock_jax.vault.sealed.opened import TENSORS, Sealed
from modellock_jax.vault.sealed.recipients import Recipient
from modellock_jax.vault.sealed.rewrite import AnyUnlocker, head_of, unlocker_for

__all__ = ["load", "open", "rotate", "seal"]


@clears_frames
def seal(
    content: Mapping[str, np.ndarray] | AnySource,
    target: AnyTarget,
    recipients: Iterable[Recipient],
    *,
    metadata: Mapping[str, str] | None = None,
    expires: datetime | None = None,
    signers: Iterable[Secret] = (),
    name: str = "",
    serial: int = 0,
    done: Done = quiet,
) -> str:
    """Seal named arrays, or a file of any kind and size, for some recipients.

    Args:
        content: Arrays of any shape by name, or a file as it is, whoever wrote it: its path, its bytes,
            or a binary file object, which is read once.
        target: A path, whose file is replaced, or a binary file object.
        recipients: Public keys and passphrases, at most 4,096, of which 8 passphrases; none twice.
        metadata: Texts that are kept inside, beside the arrays' names.
        expires: After it our tools do not open the file; needs a time zone.
        signers: They vouch for the whole content, and for `name` and `serial`.
        name: What the file is, for all to read and for `open(expect=)`.
        serial: Which version of it, from 1 upwards; 0 for none.
        done: Told the number of bytes after each piece.

    Returns:
        `"safetensors"` if that was sealed, or arrays; `"bytes"` for a file of another kind, which
        opens as a whole; of a GGUF file `open` gives tensors by name, too.

    Raises:
        ValueError: No recipients or one twice, a bad name, a date without a zone, metadata with a file.
        TypeError: A dtype that safetensors lacks, or content that is no source.
        Unreadable: A file that is not there, or a safetensors file that is not whole.
        OSError: The disk refuses.

    Threat model: the attacker has the file, and can write another in its place.

    **Guarantees.** Without a recipient's secret, nothing but sizes, name and serial number, key ids,
    the date and the signers. What `open` and `load` give is what was sealed, to the bit, or an error.
    A path is at every moment the old file or the whole new one; of the content nothing but ciphertext
    is written anywhere, a stream's neither. Not protected: a recipient can keep and pass on what they
    opened, whatever the date says. Without signers, any recipient can put other content, name and
    number in their place.

    Source: AES-256-GCM in chunks that know their place, after STREAM (Hoang et al. 2015), a key
    wrapped for each recipient, as age does.

    >>> import tempfile
    >>> from modellock_jax import vault
    >>> secret = vault.generate_key()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kind = seal({"w": np.arange(3.0)}, f"{folder}/m.sealed", [vault.public_key(secret)])
    ...     load(f"{folder}/m.sealed", secret)
    {'w': array([0., 1., 2.])}
    """
    about = _writing.cover(recipients, expires, signers, name, serial)
    if isinstance(content, Mapping):
        whole = content_of_arrays(content, metadata or {})
        _writing.seal(whole, target, about, done)
        return TENSORS
    if metadata:
        raise ValueError("metadata goes with arrays; a file is sealed as it is")
    with content_of(content) as found:
        _writing.seal(found, target, about, done)
    return found.kind


@clears_frames
def open(
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

    Args:
        source: A path, bytes, or a binary file object; a stream is copied, sealed as it is, into a
            nameless file in `$TMPDIR`.
        unlocker: A secret, a passphrase, or a function that chooses one by the `Header`.
        signed_by: Public keys that must all have signed it; the whole body is then checked first.
        expect: `"NAME"`, `"NAME@SERIAL"`, or `"NAME@SERIAL+"` for that version or a later; without a
            signature nobody but its recipients vouches for the name.
        revoked: Revocation lists, beside all that `revocation.refused` finds; their keys are refused.
        now: The time, for the file's date; that of the system unless given.
        done: Told the number of bytes after each piece that is checked.

    Returns:
        A reader, whose `names`, `array`, `load`, `export` and `check` give arrays one by one.

    Raises:
        WrongKey: It is not for this key.
        Tampered: It was changed, is not signed as asked, or is not the one expected.
        Expired: Its date is over, or the key was revoked.
        Unreadable: It is no sealed file, or cannot be read.

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
    """As `open`, with the file's key, which the caller keeps hidden."""
    signed_by = tuple(signed_by)
    reader = _sources.open_reader(source, _header.check_start)
    try:
        made, at = head_of(reader)
        chosen = unlocker_for(unlocker, made)
        file_key = revocation.file_key_of(reader.path, made, chosen, revoked)
        _header.check_date(made, now)
        _header.check_signed(made, signed_by)
        _header.check_expected(made, expect)
        key = _header.file_key_use(file_key, made.file_id, "payload")
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
    """Seal the content of an open sealed file anew, under a fresh file key.

    If one of `signers` signed the old file, its content must be what they signed.

    Args:
        sealed: An open sealed file.
        target: A path, whose file is replaced, or a binary file object.
        recipients: As in `seal`.
        expires: As in `seal`.
        signers: They vouch for the whole content, and for `name` and `serial`.
        name: The old one unless given.
        serial: The old one unless given.
        done: Told the number of bytes after each piece.

    Raises:
        ValueError: As `seal`.
        OSError: As `seal`.
        Tampered: If the content was changed, or is not what was signed.

    **Guarantees.** Who could open the old file and is no recipient now cannot open the new one, even
    if they kept the old file's key. Plain values are written to no file. A file object gets nothing
    before all was checked.
    """
    old, signers = sealed.header, tuple(signers)
    about = cover_again(old, recipients, expires, signers, name, serial)
    before = {signature["id"] for signature in old.signatures}
    for public in (identity.public_key(one) for one in signers if one.id in before):
        _header.check_signed(old, (public,))
        sealed.check_digest()
    if not is_path(target):
        sealed.check()  # the bytes of a file object cannot be taken back
    _writing.seal(Content(sealed.kind, sealed.plain(), sealed.size), target, about, done)


def cover_again(
    old: Header,
    recipients: Iterable[Recipient],
    expires: datetime | None,
    signers: Iterable[Secret],
    name: str | None,
    serial: int | None,
) -> _writing.Cover:
    """As `_writing.cover`, with the old name and serial number unless others are given."""
    named = old.name if name is None else name
    number = old.serial if serial is None else serial
    return _writing.cover(recipients, expires, signers, named, number)


def load(
    source: AnySource,
    unlocker: AnyUnlocker,
    *,
    signed_by: Iterable[PublicKey] = (),
    expect: str | None = None,
    revoked: Iterable[str | os.PathLike[str]] = (),
) -> dict[str, np.ndarray]:
    """Return all arrays of a sealed file by name; `seal` has an example.

    Args:
        source: As for `open`, which says more of each.
        unlocker: A secret, a passphrase, or a function that chooses one.
        signed_by: Public keys that must all have signed it.
        expect: The name, and perhaps the serial number, that it must have.
        revoked: Revocation lists beside those that are found.

    Returns:
        The arrays as they were sealed, to the bit, in the order of their bytes.

    Raises:
        WrongKey: As `open` does; and `Tampered`, `Expired` and `Unreadable`.
    """
    with open(source, unlocker, signed_by=signed_by, expect=expect, revoked=revoked) as sealed:
        return sealed.load()
