"""A nonce for each leaf of a tree, on the host."""

import hashlib

import numpy as np


def leaf_nonce(path: str) -> np.ndarray:
    """What a leaf's nonce is before the key's nonce is added by XOR, uint32 `[3]`.

    The first 96 bits of SHA-256 of its path, as little-endian words.

    >>> leaf_nonce("params/Dense_0/kernel").tolist()
    [2814769714, 960786627, 1308113423]
    """
    return np.frombuffer(hashlib.sha256(path.encode()).digest()[:12], "<u4")
