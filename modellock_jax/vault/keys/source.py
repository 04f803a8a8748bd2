"""Secret words for the locks of one label: the `rng` of a lock's `init`."""

import operator
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from modellock_jax.vault._frames import clears_frames

if TYPE_CHECKING:
    from modellock_jax.vault.keys.secret import Secret

__all__ = ["KeySource"]


class KeySource:
    """The secret words of one label, from `Secret.source`: the `rng` of a lock's `init`.

    **Guarantees.** All methods are pure: called again they return the same; who needs two draws
    splits. The words are the ChaCha20 stream (Nir & Langley 2018, RFC 8439), nonce and counter
    zero, of a key that HKDF-SHA256 derives for this label, these splits and this lock alone: as good
    as random to those without the secret, if HMAC-SHA256 and ChaCha20 are pseudo-random functions.

    Args:
        secret: Whose words they are.
        *path: The label, and after it one part a split.

    >>> from modellock_jax.vault.keys import Secret
    >>> Secret(bytes(32)).source("model 1").words(2).tolist()
    [2507637904, 259233950]
    """

    __slots__ = ("_path", "_secret")

    def __init__(self, secret: "Secret", *path: str) -> None:
        self._secret, self._path = secret, path

    @clears_frames
    def words(self, n: int, /) -> np.ndarray:
        """Return the first words.

        Args:
            n: How many, 0 to 2**36.

        Returns:
            uint32 `[n]`.

        Raises:
            ValueError: For another number.
        """
        key = algorithms.ChaCha20(self._secret.derive(32, "words", *self._path), bytes(16))
        stream = Cipher(key, mode=None).encryptor().update(bytes(4 * _count("words", n)))
        return np.frombuffer(stream, "<u4").astype(np.uint32)

    def split(self, n: int, /) -> list["KeySource"]:
        """Split the source.

        Args:
            n: How many, at least 0.

        Returns:
            Sources, independent of one another and of this one.

        Raises:
            ValueError: As `words`.
        """
        places = range(1, _count("split", n) + 1)
        return [KeySource(self._secret, *self._path, f"place {i} of {n}") for i in places]

    def for_lock(self, lock: str, /) -> "KeySource":
        """Return the source of one lock, named with all its settings, independent of every other's.

        Args:
            lock: The lock's name with all its settings.

        Returns:
            The source.
        """
        return KeySource(self._secret, *self._path, f"lock {lock}")

    def for_file(self, nonce: str, /) -> "KeySource":
        """Return the source of one file, which has a nonce of its own.

        Args:
            nonce: Of the file.

        Returns:
            The source.
        """
        return KeySource(self._secret, *self._path, f"file {nonce}")

    def __repr__(self) -> str:
        return f"KeySource(id={self._secret.id!r}, path={list(self._path)})"


def _count(where: str, n: int) -> int:
    if not 0 <= operator.index(n) <= 2**36:  # 2**32 blocks of 16 words: the counter ends there
        raise ValueError(f"KeySource.{where}: n must be from 0 to 2**36, not {n}")
    return operator.index(n)
