"""What of a stream's place is known on the host: the nonce of a leaf, the key of a tree."""

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

__all__ = ["leaf_nonce", "tree_key"]


def leaf_nonce(path: str) -> np.ndarray:
    """Return the first two words of a leaf's nonce, uint32 `[2]`: 64 bits of SHA-256 of its path.

    The third is the upper half of the number of a block, 0 within the first 256 GiB of a leaf.

    Args:
        path: The leaf's, as "conv1/kernel".

    Returns:
        uint32 `[2]`.

    >>> leaf_nonce("params/Dense_0/kernel").tolist()
    [2814769714, 960786627]
    """
    return np.frombuffer(hashlib.sha256(path.encode()).digest()[:8], "<u4").astype(np.uint32)


def tree_key(key: bytes, nonce: bytes) -> bytes:
    """Return the key of a tree's streams, 32 bytes, for the lock's key and a nonce of 12 bytes.

    The first half of ChaCha20's block with the counter 0, as XChaCha20 derives its subkey.

    Args:
        key: 32 bytes.
        nonce: 12 bytes.

    Returns:
        32 bytes.
    """
    block = Cipher(algorithms.ChaCha20(key, bytes(4) + nonce), mode=None).encryptor()
    return block.update(bytes(64))[:32]
