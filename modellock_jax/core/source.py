"""Where keys come from: JAX PRNG keys in studies, a host's secret words where they protect something."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

__all__ = ["Rng", "Source", "for_lock", "random_words", "split"]


class Source(Protocol):
    """A host-side stream of secret words, such as `vault.keys.KeySource`."""

    def words(self, n: int, /) -> Any:
        """Return the next `n` words, uint32 `[n]`.

        Args:
            n: How many, at least 0.

        Returns:
            uint32 `[n]`.
        """

    def split(self, n: int, /) -> list["Source"]:
        """Return `n` independent sources.

        Args:
            n: How many, at least 1.

        Returns:
            Sources, each of words of its own.
        """

    def for_lock(self, lock: str, /) -> "Source":
        """Return the source for one lock, whose words no other lock gets.

        Args:
            lock: The lock's name with all its settings.

        Returns:
            The source for that lock.
        """


Rng = Any
"""A JAX PRNG key (studies only) or a `Source` (keys that protect something)."""


def random_words(rng: Rng, n: int, lock: str) -> jax.Array:
    """Draw random words for one lock.

    Args:
        rng: A JAX PRNG key, or a host `Source`.
        n: How many, at least 0.
        lock: The lock with all settings that its key depends on, as a text. Exact twins, which open one
            another's models with one key, name themselves alike.

    Returns:
        uint32 `[n]`; from a host `Source` those of `lock`.
    """
    if hasattr(rng, "words"):
        return jnp.asarray(rng.for_lock(lock).words(n), jnp.uint32)
    return jax.random.bits(rng, (n,), jnp.uint32)


def for_lock(rng: Rng, lock: str) -> Rng:
    """Return a host `Source` for one lock, named with all settings; a JAX PRNG key stays as it is.

    Args:
        rng: A JAX PRNG key, or a `Source`.
        lock: The lock's name with all its settings.

    Returns:
        The source for that lock, or the JAX PRNG key.
    """
    return rng.for_lock(lock) if hasattr(rng, "words") else rng


def split(rng: Rng, n: int) -> list[Rng]:
    """Split one JAX PRNG key or host `Source` into `n` independent ones.

    Args:
        rng: A JAX PRNG key, or a `Source`.
        n: How many, at least 1.

    Returns:
        `n` of the same kind.
    """
    return rng.split(n) if hasattr(rng, "words") else list(jax.random.split(rng, n))
