"""Locked files: a model file that still loads, its tensors under one of the package's locks."""

import hashlib
import hmac
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from modellock_jax.vault import chunks, file_schemes, header, revocation, sources, tensors
from modellock_jax.vault.envelope import read_directory
from modellock_jax.vault.errors import Tampered, Unreadable, WrongKey
from modellock_jax.vault.files import (
    canonical,
    mode_of,
    open_to_read,
    replacing,
    strict_json,
    write_all,
)
from modellock_jax.vault.frames import clears_frames
from modellock_jax.vault.keys import KeySource, Secret
from modellock_jax.vault.tensors import METADATA, Directory

MARK, VERSION = "modellock-jax locked file", "2"
_MARK = "modellock"  # the metadata field; the others are `modellock.NAME`

Done = Callable[[int], None]  # told how many bytes are written


class LockedInfo(NamedTuple):
    """What a locked file tells everybody, as text.

    `about`: the threat model in words; `scheme`: the lock with all its settings; `key_id`: of the
    secret; `label`: of the lock's key; `nonce`: 32 fresh bytes, `check`: 16 bytes that a right key
    gives, `tag`: 32 bytes over all else and the locked values, all three in hex; `finish`: what
    finishes the key of each link of the lock, a JSON list of hex; `original`: the head of the plain
    file, JSON.
    """

    about: str
    scheme: str
    key_id: str
    label: str
    nonce: str
    check: str
    tag: str
    finish: str
    original: str


@clears_frames
def lock_file(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    secret: Secret,
    scheme: str,
    *,
    label: str = "locked file",
    done: Done = lambda _: None,
) -> LockedInfo:
    """Lock the tensors of a safetensors file, whoever wrote it; the new file still loads.

    `scheme`: `"stream_lock"`, `"deep_lock(key_bits=256)"`, `"sign_flip(bits=8)+stream_lock"`;
    `file_schemes.ABOUT` has all. The lock's key is derived from the secret, `label`, the lock with
    all its settings and 32 fresh bytes, so that no two files share one, under one label or not.
    The lock meets the tensors as a dict by name, so in the order of their names' code points; the
    bytes of the file keep their own order. Values of 64 bits go in as two uint32 along the last
    axis, bools as uint8. Names, shapes and types stay, and so does the metadata, with fields
    `modellock*` added. Bools may then hold bytes other than 0 and 1.

    Raises `Unreadable` unless `source` is a whole safetensors file, `ValueError` for a scheme that
    cannot lock a file, tensors that it cannot take, a file that is locked or sealed already.

    Threat model: the attacker has the locked file and not the secret. What the lock is then worth
    depends on the scheme, and most schemes are broken: `LockedInfo.about` says by what.

    **Guarantees.** `unlock_file` gives the same file back, to the bit, or an error. No two files
    have one key. Nothing in the file tells more of the secret than the locked values do. `path` is
    at every moment the old file or the whole new one, and a new one no more open to others than
    `source`. Not protected: names, shapes, types and metadata; a loader that does not check the
    tag loads locked or changed values without an error. The whole file is held in memory, several
    times.

    >>> import tempfile
    >>> from safetensors.numpy import load_file, save_file
    >>> from modellock_jax.vault import keys
    >>> secret = keys.generate()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"w": np.arange(3.0)}, f"{folder}/m.safetensors")
    ...     info = lock_file(f"{folder}/m.safetensors", f"{folder}/l.safetensors", secret, "stream_lock")
    ...     locked = load_file(f"{folder}/l.safetensors")["w"]
    ...     unlock_file(f"{folder}/l.safetensors", f"{folder}/m.safetensors", secret)
    ...     load_file(f"{folder}/m.safetensors")["w"], locked.tolist() == [0, 1, 2]
    (array([0., 1., 2.]), False)
    """
    scheme = file_schemes.settled(scheme)
    directory, body, mode = _read_plain(source)
    file_schemes.check_tensors(scheme, directory.tensors)
    nonce = os.urandom(32).hex()
    about, original = file_schemes.about(scheme), directory.head[8:].decode()
    info = LockedInfo(about, scheme, secret.id, label, nonce, "", "", "", original)
    info = info._replace(check=_check(info, secret))
    body, finish = file_schemes.lock_body(
        scheme, _source(secret, info), tuple(directory.tensors), body
    )
    info = info._replace(finish=json.dumps(finish))
    info = info._replace(tag=_tag(info, body, secret))
    head = _head(info)
    if len(head) > tensors.LONGEST:
        raise ValueError(f"{source}: the head is too long to keep it twice; leave metadata away")
    _write(path, mode, head, body, done)
    return info


@clears_frames
def unlock_file(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    secret: Secret,
    *,
    revoked: Iterable[str | os.PathLike[str]] = (),
    done: Done = lambda _: None,
) -> None:
    """Write the file that `lock_file` locked, to the bit; `lock_file` has an example.

    A key on a revocation list is refused: on those of `revoked`, and on all that
    `revocation.refused` finds.

    Raises `WrongKey` if it was locked with another secret, and `Expired` if that was revoked, before
    any tensor is read; `Tampered` if anything in it was changed, cut off or added; `Unreadable` if it
    is no locked file.

    **Guarantees.** Nothing is decrypted or written before all of the file was checked. A new file is no
    more open to others than `source`.
    """
    file = open_to_read(source)
    try:
        info, directory = _read_head(file, source)
        _check_key(info, secret)
        revocation.check(source, secret, revoked)
        body, mode = _read_body(file, directory), mode_of(file)
    finally:
        os.close(file)
    if not hmac.compare_digest(_tag(info, body, secret).encode(), info.tag.encode()):
        raise Tampered(f"{source} was changed after it was locked; get the file again")
    finish = strict_json(info.finish.encode())
    source_of_key = _source(secret, info)
    body = file_schemes.unlock_body(
        info.scheme, source_of_key, finish, tuple(directory.tensors), body
    )
    text = info.original.encode()
    _write(path, mode, len(text).to_bytes(8, "little") + text, body, done)


def locked_info(path: str | os.PathLike[str]) -> LockedInfo:
    """What a locked file says of itself, without a key: not to be believed before it is unlocked.

    Raises `Unreadable` if it is no locked file, `Tampered` if its head or its length is damaged.
    """
    file = open_to_read(path)
    try:
        return _read_head(file, path)[0]
    finally:
        os.close(file)


def _read_plain(path: str | os.PathLike[str]) -> tuple[Directory, np.ndarray, int]:
    file = open_to_read(path)
    try:
        directory = read_directory(file, path)
        body, mode = _read_body(file, directory), mode_of(file)
    finally:
        os.close(file)
    mark = directory.metadata.get(_MARK)
    if mark == header.MARK:
        raise ValueError(f"{path} is sealed; open it first, lock the plain file, then seal that")
    if mark == MARK:
        raise ValueError(f"{path} is locked already; unlock it first, or chain locks as in A+B")
    if any(name.split(".")[0] == _MARK for name in directory.metadata):
        raise ValueError(f"{path} has metadata named {_MARK!r}, which is ours; rename them first")
    return directory, body, mode


def _read_head(file: int, path: str | os.PathLike[str]) -> tuple[LockedInfo, Directory]:
    size = os.fstat(file).st_size
    head = b""
    try:
        head = os.pread(file, tensors.head_length(os.pread(file, 8, 0), size), 0)
        directory = tensors.parse(head)
    except ValueError as error:
        if MARK.encode() in head:
            raise Tampered(f"the head of {path} {error}; get the file again") from None
        raise Unreadable(f"{path} {error}; name a file that modellock-jax locked") from None
    found = directory.metadata
    if found.get(_MARK) == header.MARK:
        raise Unreadable(f"{path} is sealed, not locked; use `open` instead of `unlock`")
    if found.get(_MARK) != MARK:
        raise Unreadable(f"{path} is not a locked file; name one that modellock-jax locked")
    if found.get(f"{_MARK}.version") != VERSION:
        raise Unreadable(f"{path} is not of version {VERSION}, which this release reads")
    try:
        info = LockedInfo(*(found[f"{_MARK}.{name}"] for name in LockedInfo._fields))
        whole = _head(info) == head
    except (KeyError, ValueError):
        whole = False
    if not whole:
        raise Tampered(f"the head of {path} is not as it was written; get the file again")
    if size != directory.size:
        raise Tampered(
            f"{path} has {size} bytes and should have {directory.size}: cut off, or added to"
        )
    return info, directory


def _head(info: LockedInfo) -> bytes:
    """The one head of a locked file; what is not ours in it comes from the original."""
    ours = {f"{_MARK}.{name}": text for name, text in info._asdict().items()}
    ours |= {_MARK: MARK, f"{_MARK}.version": VERSION}
    # No secret is in it: it tells damage, which the holder of no key can see, from a wrong key.
    ours[f"{_MARK}.checksum"] = hashlib.sha256(canonical(ours)).hexdigest()
    table = strict_json(info.original.encode())
    table = {METADATA: table.pop(METADATA, {}) | ours, **table}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _check(info: LockedInfo, secret: Secret) -> str:
    return secret.derive(16, "locked file check", info.label, info.nonce, info.scheme).hex()


def _check_key(info: LockedInfo, secret: Secret) -> None:
    if hmac.compare_digest(_check(info, secret).encode(), info.check.encode()):
        return
    if info.key_id == secret.id:
        raise Tampered(f"the head was changed: it names key {secret.id} and was not made by it")
    raise WrongKey(f"not for this key: locked with {info.key_id[:16]!r}, and this is {secret.id}")


def _tag(info: LockedInfo, body: np.ndarray, secret: Secret) -> str:
    """HMAC-SHA256 over what the head is made of and a hash of hashes of the locked values."""
    parts = [body[start : start + chunks.CHUNK] for start in range(0, body.size, chunks.CHUNK)]
    with ThreadPoolExecutor(chunks.THREADS) as pool:
        hashes = pool.map(lambda part: hashlib.sha256(part).digest(), parts)
        digest = hashlib.sha256(b"".join(hashes)).hexdigest()
    message = canonical(info._replace(tag="")._asdict() | {"mark": MARK, "body": digest})
    key = secret.derive(32, "locked file tag", info.label, info.nonce, info.scheme)
    return hmac.digest(key, message, "sha256").hex()


def _source(secret: Secret, info: LockedInfo) -> KeySource:
    return secret.source(info.label).for_file(f"{info.nonce} {info.scheme}")


def _read_body(file: int, directory: Directory) -> np.ndarray:
    body = np.empty(directory.size - len(directory.head), np.uint8)
    sources.read_all(file, body, len(directory.head))
    return body


def _write(
    path: str | os.PathLike[str], mode: int, head: bytes, body: np.ndarray, done: Done
) -> None:
    with replacing(path, mode) as file:
        write_all(file, head, 0)
        for start in range(0, body.size, chunks.CHUNK):
            part = body[start : start + chunks.CHUNK]
            write_all(file, part, len(head) + start)
            done(part.size)
