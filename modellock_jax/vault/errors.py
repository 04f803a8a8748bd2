"""What can go wrong with a file that is kept under a key, each with its exit code."""

__all__ = ["Expired", "Tampered", "Unreadable", "VaultError", "WrongKey"]


class VaultError(Exception):
    """A fault that ends a command; `code` is the exit code. Its message holds no secret."""

    code = 2


class WrongKey(VaultError):
    """The file is as it was written, and is not for this key."""

    code = 3


class Tampered(VaultError):
    """The file is damaged: changed, cut off, put together from others, or stripped of something."""

    code = 4


class Expired(VaultError):
    """The file's time is over, or the key was revoked."""

    code = 5


class Unreadable(VaultError):
    """There is no such file, it cannot be read, or it is none of ours."""

    code = 6
