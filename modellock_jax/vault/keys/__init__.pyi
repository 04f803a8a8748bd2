from . import identity, secret, share_files, shares
from .identity import PublicKey, load_public_key, public_key, save_public_key
from .secret import KeySource, Secret, generate_key, load_key, save_key, save_key_pair

__all__ = [
    "KeySource",
    "PublicKey",
    "Secret",
    "generate_key",
    "identity",
    "load_key",
    "load_public_key",
    "public_key",
    "save_key",
    "save_key_pair",
    "save_public_key",
    "secret",
    "share_files",
    "shares",
]
