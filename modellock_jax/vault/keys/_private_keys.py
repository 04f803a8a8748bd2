"""The private keys that follow from a secret, each by HKDF under a label of its own."""

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

if TYPE_CHECKING:
    from modellock_jax.vault.keys.secret import Secret


def x25519(secret: "Secret") -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(secret.derive(32, "x25519"))


def mlkem768(secret: "Secret") -> MLKEM768PrivateKey:
    return MLKEM768PrivateKey.from_seed_bytes(secret.derive(64, "mlkem768"))


def ed25519(secret: "Secret") -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(secret.derive(32, "ed25519"))


def mldsa65(secret: "Secret") -> MLDSA65PrivateKey:
    return MLDSA65PrivateKey.from_seed_bytes(secret.derive(32, "mldsa65"))
