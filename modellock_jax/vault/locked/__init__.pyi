from . import files, serving, sets
from .files import load_locked, lock_file, locked_info, unlock_file
from .serving import open_locked
from .sets import lock_set, unlock_set

__all__ = [
    "files",
    "load_locked",
    "lock_file",
    "lock_set",
    "locked_info",
    "open_locked",
    "serving",
    "sets",
    "unlock_file",
    "unlock_set",
]
