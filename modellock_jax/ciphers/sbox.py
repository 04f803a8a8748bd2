"""The S-box of AES in arithmetic on all bytes of an integer at once, for TPUs, where look-ups are dear.

A table's look-up takes memory there for each entry as if it were 128. Nothing here depends on secrets
but values: neither addresses nor branches.

Source: FIPS-197, 5.1.1 and 5.3.2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["substitute_bytes"]


@functools.partial(jax.jit, static_argnames="inverse")  # traced once for all of a shape
def substitute_bytes(uint: jax.Array, inverse: bool = False) -> jax.Array:
    """Replace every byte of unsigned integers by its entry in AES's S-box, or in the inverse of it.

    Args:
        uint: Unsigned integers of any shape and width.
        inverse: Whether by the inverse S-box, as decryption does.

    Returns:
        The same shape and dtype.

    >>> hex(substitute_bytes(jnp.uint32(0x00530001)))
    '0x63ed637c'
    """
    if inverse:
        affine = _rotated(uint, 1) ^ _rotated(uint, 3) ^ _rotated(uint, 6) ^ _each(uint, 0x05)
        return _inverse(affine)
    x = _inverse(uint)
    rotations = _rotated(x, 1) ^ _rotated(x, 2) ^ _rotated(x, 3) ^ _rotated(x, 4)
    return x ^ rotations ^ _each(uint, 0x63)


def _each(uint: jax.Array, byte: int) -> np.ndarray:
    """Return an integer of the same width whose every byte is `byte`."""
    return np.array(int.from_bytes(bytes([byte] * uint.dtype.itemsize)), uint.dtype)


def _rotated(x: jax.Array, by: int) -> jax.Array:
    """Rotate each byte to the left."""
    low = (1 << by) - 1
    return ((x << by) & _each(x, 0xFF ^ low)) | ((x >> (8 - by)) & _each(x, low))


def _inverse(x: jax.Array) -> jax.Array:
    """Return 1 / x in GF(2^8), and 0 for 0: x^254."""
    x2 = _product(x, x)
    x3 = _product(x2, x)
    x12 = _squared(x3, 2)
    x15 = _product(x12, x3)
    x252 = _product(_squared(x15, 4), x12)
    return _product(x252, x2)


def _squared(x: jax.Array, times: int) -> jax.Array:
    for _ in range(times):
        x = _product(x, x)
    return x


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Multiply in GF(2^8), modulo x^8 + x^4 + x^3 + x + 1."""
    total = jnp.zeros_like(a)
    for k in range(8):
        total ^= a & (((b >> k) & _each(a, 1)) * np.array(0xFF, a.dtype))
        carry = ((a >> 7) & _each(a, 1)) * np.array(0x1B, a.dtype)
        a = ((a & _each(a, 0x7F)) << 1) ^ carry
    return total
