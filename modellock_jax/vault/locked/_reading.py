"""A locked file read again: checked as a whole, and opened piece by piece."""

import contextlib
import hmac
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from modellock_jax._printing import printable
from modellock_jax.vault import _sources
from modellock_jax.vault._json import strict_json
from modellock_jax.vault._sources import AnySource, Reader
from modellock_jax.vault._tensors import Directory
from modellock_jax.vault.errors import Tampered
from modellock_jax.vault.issuing import revocation
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.locked import _bodies, _file_schemes, _format
from modellock_jax.vault.locked._bodies import Body
from modellock_jax.vault.locked._format import LockedInfo


class Verified(NamedTuple):
    """A locked file that is whole and for this key: what its head says, and its locked bytes.

    `held`: these in memory; or None, and `body` reads them, whose pieces had `digests`.
    """

    info: LockedInfo
    directory: Directory
    body: Body
    digests: bytes
    held: np.ndarray | None
    mode: int

    @property
    def finish(self) -> list[str]:
        """What finishes the key of each link of the lock."""
        return list(strict_json(self.info.finish.encode()))


@contextlib.contextmanager
def verified(
    source: AnySource,
    secret: Secret,
    revoked: Iterable[str | os.PathLike[str]] = (),
    *,
    held: bool = False,
) -> Iterator[Verified]:
    """Give a locked file, checked as a whole and still locked, in memory if `held`.

    Raises as `unlock_file`.
    """
    with _sources.hold_in_memory(source) as reader:
        info, directory = _format.read_head(reader)
        _format.check_key(info, secret)
        revocation.check(reader.path, secret, revoked)
        body = body_of(reader, directory)
        if held or not _file_schemes.in_pieces(info.scheme, directory.tensors):
            whole = body.whole()
            digests = b"".join(digest for digest, _ in _bodies.hashed(whole))
        else:
            whole, digests = None, body.digests()
        if not hmac.compare_digest(
            _format.tag_of(info, digests, secret).encode(), info.tag.encode()
        ):
            name = printable(_sources.name_of(source))
            raise Tampered(f"{name} was changed after it was locked; get the file again")
        yield Verified(info, directory, body, digests, whole, reader.mode)


def opened(found: Verified, secret: Secret) -> Iterator[np.ndarray]:
    """Yield the plain pieces of a locked file."""
    source, tensors = _format.source_of(found.info, secret), found.directory.tensors
    scheme, finish = found.info.scheme, found.finish
    if found.held is None:
        change, _ = _file_schemes.change_of(scheme, source, finish, tensors)
        return found.body.opened(found.digests, change)
    return _bodies.pieces(
        _file_schemes.unlock_body(scheme, source, finish, tuple(tensors), found.held)
    )


def body_of(reader: Reader, directory: Directory) -> Body:
    return Body(reader, len(directory.head), directory.size - len(directory.head))
