from . import checkpoint, errors, issuing, keys, locked, sealed
from .issuing.copies import issue
from .issuing.revocation import revoke
from .keys.identity import load_public_key, public_key, save_public_key
from .keys.secret import generate_key, load_key, save_key
from .locked.files import lock_file, unlock_file
from .locked.serving import open_locked
from .sealed.envelope import load, open, seal
from .sealed.recipients import Passphrase

__all__ = [
    "Passphrase",
    "checkpoint",
    "errors",
    "generate_key",
    "issue",
    "issuing",
    "keys",
    "load",
    "load_key",
    "load_public_key",
    "lock_file",
    "locked",
    "open",
    "open_locked",
    "public_key",
    "revoke",
    "save_key",
    "save_public_key",
    "seal",
    "sealed",
    "unlock_file",
]
