"""Unsigned numbers of 64 bits as two of 32: JAX has no others by default."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Wide"]

_HALF = np.uint32(0xFFFF)


class Wide(NamedTuple):
    """`high * 2^32 + low`, uint32 of one shape; arithmetic is modulo 2^64.

    >>> import jax.numpy as jnp
    >>> big = Wide.of(jnp.uint32(2**31)) * (2**20 + 1) + Wide.of(jnp.uint32(5))
    >>> int(big.high) * 2**32 + int(big.low) == 2**31 * (2**20 + 1) + 5
    True
    """

    high: jax.Array
    low: jax.Array

    @classmethod
    def of(cls, low: Any) -> "Wide":
        """Widen numbers below 2^32.

        Args:
            low: Integers `[...]`.

        Returns:
            The same numbers.
        """
        low = jnp.asarray(low, jnp.uint32)
        return cls(jnp.zeros_like(low), low)

    @classmethod
    def of_int(cls, number: int) -> "Wide":
        """Widen any int from 0 to 2^64 - 1.

        Args:
            number: The int.

        Returns:
            The same number, scalars.
        """
        return cls(jnp.uint32(number >> 32), jnp.uint32(number & 0xFFFFFFFF))

    def __add__(self, other: Any) -> "Wide":
        low = self.low + other.low
        return Wide(self.high + other.high + (low < self.low).astype(jnp.uint32), low)

    def __mul__(self, times: Any) -> "Wide":
        """Multiply by an int from 0 to 2^64 - 1."""
        low, high = (np.uint32(times >> shift & 0xFFFFFFFF) for shift in (0, 32))
        return Wide(self.low * high + self.high * low + _upper(self.low, low), self.low * low)

    def __rshift__(self, bits: int) -> "Wide":
        """Shift by 0 to 31 bits."""
        if bits == 0:
            return self
        low = self.low >> np.uint32(bits) | self.high << np.uint32(32 - bits)
        return Wide(self.high >> np.uint32(bits), low)


def _upper(a: jax.Array, b: np.uint32) -> jax.Array:
    """Return the upper 32 bits of a product."""
    a0, a1, b0, b1 = a & _HALF, a >> 16, b & _HALF, b >> np.uint32(16)
    middle = a1 * b0 + (a0 * b0 >> 16)
    return a1 * b1 + (middle >> 16) + ((middle & _HALF) + a0 * b1 >> 16)
