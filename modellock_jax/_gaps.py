"""What some file systems cannot do, and how they say so."""

import contextlib
import errno
from collections.abc import Container, Iterator

_UNKNOWN = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
NO_LINKS = _UNKNOWN | {errno.EPERM, errno.EACCES, errno.EMLINK}
NO_SYNC = _UNKNOWN | {errno.EINVAL}
NO_SYNC_OF_FOLDERS = NO_SYNC | {errno.EPERM, errno.EACCES, errno.EBADF}
NO_MODES = _UNKNOWN | {errno.EPERM, errno.EINVAL}
NO_LOCKS = _UNKNOWN | {errno.ENOLCK, errno.EINVAL}


@contextlib.contextmanager
def tolerate(numbers: Container[int | None]) -> Iterator[None]:
    """Go on where the system says with one of these numbers that it has no such thing."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise
