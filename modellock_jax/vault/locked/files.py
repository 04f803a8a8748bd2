"""Locked files: a model file that still loads, its tensors under one of the package's locks."""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from modellock_jax._printing import printable
from modellock_jax.vault import _sources, _targets, _tensors
from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault._sources import AnySource, Reader
from modellock_jax.vault._targets import AnyTarget
from modellock_jax.vault._tensors import Directory
from modellock_jax.vault.keys.secret import KeySource, Secret
from modellock_jax.vault.locked import _bodies, _file_schemes, _format
from modellock_jax.vault.locked._bodies import Body
from modellock_jax.vault.locked._format import FIELD, MARK, LockedInfo
from modellock_jax.vault.locked._reading import body_of, opened, verified
from modellock_jax.vault.sealed import _header_fields
from modellock_jax.vault.sealed._content import directory_of

if TYPE_CHECKING:
    from modellock_jax.core.lock import Params

__all__ = ["LockedInfo", "load_locked", "lock_file", "locked_info", "unlock_file"]

Done = Callable[[int], None]  # told how many bytes are written
_Lists = Iterable[str | os.PathLike[str]]
_Piece = TypeVar("_Piece")


@clears_frames
def lock_file(
    source: AnySource,
    target: AnyTarget,
    secret: Secret,
    scheme: str,
    *,
    label: str = "locked file",
    done: Done = lambda _: None,
) -> LockedInfo:
    """Lock the tensors of a safetensors file, whoever wrote it; the new file still loads.

    The lock's key is derived from the secret, `label`, the lock with all its settings and 32 fresh
    bytes, so that no two files share one, under one label or not. The lock meets the tensors as a dict
    by name, so in the order of their names' code points; the bytes of the file keep their own order.
    Values of 64 bits go in as two uint32 along the last axis, bools as uint8. Names, shapes and types
    stay, and so does the metadata, with fields `modellock*` added. Bools may then hold bytes other
    than 0 and 1.

    Args:
        source: A path, bytes, or a binary file object.
        target: A path, whose file is replaced, or a binary file object.
        secret: The key that opens it.
        scheme: `"stream_lock"`, `"deep_lock(key_bits=256)"`, `"sign_flip(bits=8)+stream_lock"`;
            `modellock-jax explain --list` has all.
        label: What the key is for, such as the model's name.
        done: Told the number of bytes after each piece.

    Returns:
        The scheme, the key id and what the scheme is worth, as the file says.

    Raises:
        Unreadable: The source is no whole safetensors file.
        ValueError: A scheme that cannot lock a file, tensors that it cannot take, or a file that is
            locked or sealed already.

    Threat model: the attacker has the locked file and not the secret. What the lock is then worth
    depends on the scheme, and most schemes are broken: `LockedInfo.about` says by what.

    **Guarantees.** `unlock_file` gives the same file back, to the bit, or an error. No two files
    have one key. Nothing in the file tells more of the secret than the locked values do. A
    path is at every moment the old file or the whole new one, and a new one no more open to others than
    `source`. Not protected: names, shapes, types and metadata; a loader that does not check the
    tag loads locked or changed values without an error. Under `stream_lock` and `sign_flip` a file
    is read in pieces and may be larger than memory; under others it is held in memory, several times.

    >>> import tempfile
    >>> from safetensors.numpy import load_file, save_file
    >>> from modellock_jax import vault
    >>> secret = vault.generate_key()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"w": np.arange(3.0)}, f"{folder}/m.safetensors")
    ...     info = lock_file(f"{folder}/m.safetensors", f"{folder}/locked", secret, "stream_lock")
    ...     locked = load_file(f"{folder}/locked")["w"]
    ...     unlock_file(f"{folder}/locked", f"{folder}/m.safetensors", secret)
    ...     load_file(f"{folder}/m.safetensors")["w"], locked.tolist() == [0, 1, 2]
    (array([0., 1., 2.]), False)
    """
    scheme = _file_schemes.normalise(scheme)
    with _sources.hold_in_memory(source) as reader:
        directory = _plain(reader, printable(_sources.name_of(source)))
        _file_schemes.check_tensors(scheme, directory.tensors)
        nonce = os.urandom(32).hex()
        about, original = _file_schemes.about(scheme), directory.head[8:].decode()
        info = LockedInfo(about, scheme, secret.id, label, nonce, "", "0" * 64, "", original, "{}")
        info = info._replace(check=_format.check_of(info, secret))
        key_source = _format.source_of(info, secret)
        pieces, finish = _locked(scheme, key_source, directory, body_of(reader, directory))
        info = info._replace(finish=json.dumps(finish))
        length = len(_format.head(info))
        if length > _tensors.LONGEST:
            raise ValueError(
                f"{_sources.name_of(source)}: the head is too long to keep it twice; omit metadata"
            )

        def head(digests: bytes) -> bytes:
            nonlocal info
            info = info._replace(tag=_format.tag_of(info, digests, secret))
            return _format.head(info)

        _targets.write_behind(
            target, length, head, lambda: _told(pieces(), done, _size), reader.mode
        )
    return info


@clears_frames
def unlock_file(
    source: AnySource,
    target: AnyTarget,
    secret: Secret,
    *,
    revoked: _Lists = (),
    done: Done = lambda _: None,
) -> None:
    """Write the file that `lock_file` locked, to the bit; `lock_file` has an example.

    Args:
        source: A path, bytes, or a binary file object.
        target: A path, whose file is replaced, or a binary file object.
        secret: The key that it was locked with.
        revoked: Revocation lists, beside all that `revocation.refused` finds; their keys are refused.
        done: Told the number of bytes after each piece.

    Raises:
        WrongKey: It was locked with another secret; known before any tensor is read.
        Expired: The key was revoked; likewise.
        Tampered: Anything in it was changed, cut off or added.
        Unreadable: It is no locked file.

    **Guarantees.** Nothing is decrypted or written before all of the file was checked. A new file is no
    more open to others than `source`.
    """
    with verified(source, secret, revoked) as found:
        text = found.info.original.encode()
        head = len(text).to_bytes(8, "little") + text
        pieces = _told(opened(found, secret), done, len)
        _targets.write_pieces(target, itertools.chain([head], pieces), found.mode)


@clears_frames
def load_locked(
    source: AnySource, secret: Secret, *, like: "Params | None" = None, revoked: _Lists = ()
) -> "dict[str, np.ndarray] | Params":
    """Return the plain arrays of a locked file, by name or as a tree.

    Args:
        source: A path, bytes, or a binary file object.
        secret: The key that it was locked with.
        like: A tree with the file's names, shapes and dtypes; its leaves need no values.
        revoked: Revocation lists beside those that are found.

    Returns:
        A dict by name, or a tree like `like`.

    Raises:
        WrongKey: As `unlock_file` does; and `Expired`, `Tampered` and `Unreadable`.
        ValueError: Names, shapes or dtypes are not those of `like`.

    **Guarantees.** As `unlock_file`: bits are kept, 64-bit values too. Nothing is written anywhere.
    To keep the weights locked in memory until the model runs, see `vault.open_locked`.

    >>> import io
    >>> from safetensors.numpy import save
    >>> from modellock_jax import vault
    >>> secret, locked = vault.generate_key(), io.BytesIO()
    >>> info = lock_file(save({"w": np.arange(3.0)}), locked, secret, "stream_lock")
    >>> load_locked(locked.getvalue(), secret)
    {'w': array([0., 1., 2.])}
    """
    with verified(source, secret, revoked) as found:
        body, at = np.empty(found.body.size, np.uint8), 0
        for piece in opened(found, secret):
            body[at : at + piece.size] = piece
            at += piece.size
    arrays = {
        # Where the bytes of others put it out of step with its dtype, it is copied into step.
        tensor.name: np.require(_array(tensor, body), requirements=["ALIGNED", "WRITEABLE"])
        for tensor in found.directory.tensors
    }
    if like is None:
        return arrays
    from modellock_jax.vault import checkpoint

    return checkpoint.to_tree(arrays, like)


def locked_info(source: AnySource) -> LockedInfo:
    """Return what a locked file says of itself, without a key: not to be believed before it is unlocked.

    Args:
        source: A path, bytes, or a binary file object.

    Returns:
        Its scheme, key id, and what the scheme is worth.

    Raises:
        Unreadable: If it is no locked file.
        Tampered: If its head or its length is damaged.
    """
    with _sources.hold_in_memory(source) as reader:
        return _format.read_head(reader)[0]


def _locked(
    scheme: str, source: KeySource, directory: Directory, body: Body
) -> tuple[Callable[[], Iterator[tuple[bytes, np.ndarray]]], list[str]]:
    """Return what yields the locked pieces, each after its digest, and what finishes the lock's key."""
    if not directory.tensors:
        raise ValueError("the file has no tensors: there is nothing to lock")
    if _file_schemes.in_pieces(scheme, directory.tensors):
        change, finish = _file_schemes.change_of(scheme, source, None, directory.tensors)
        return lambda: body.changed(change), finish
    found = tuple(directory.tensors)
    locked, finish = _file_schemes.lock_body(scheme, source, found, body.whole())
    return lambda: _bodies.hashed(locked), finish


def _array(tensor: _tensors.Tensor, body: np.ndarray) -> np.ndarray:
    return body[tensor.begin : tensor.end].view(tensor.dtype).reshape(tensor.shape)


def _plain(reader: Reader, name: str) -> Directory:
    directory = directory_of(reader)
    mark = (directory.field(FIELD) or b"").decode()
    if mark == _header_fields.MARK:
        raise ValueError(f"{name} is sealed; open it first, lock the plain file, then seal that")
    if mark == MARK:
        raise ValueError(f"{name} is locked already; unlock it first, or chain locks as in A+B")
    if any(field.split(".")[0] == FIELD for field in directory.fields):
        raise ValueError(f"{name} has metadata named {FIELD!r}, which is ours; rename them first")
    return directory


def _size(hashed: tuple[bytes, np.ndarray]) -> int:
    return len(hashed[1])


def _told(pieces: Iterable[_Piece], done: Done, size: Callable[[_Piece], int]) -> Iterator[_Piece]:
    """Yield pieces, and say after each how large it was."""
    for piece in pieces:
        yield piece
        done(size(piece))
