"""The AES key schedule from bytes of it that are known here and there."""

import jax.numpy as jnp
import numpy as np

from modellock_jax.ciphers import aes

__all__ = ["fill_in"]


def fill_in(
    known: np.ndarray, there: np.ndarray, first: int, n: int
) -> tuple[np.ndarray, int] | None:
    """Find a block of a schedule from single bytes.

    Each word is the one before it XOR the one `n` before it, and of some the S-box is taken on the way:
    any two bytes of such a triple give the third, until nothing new comes.

    Args:
        known: The words, uint8 `[words, 4]`.
        there: Which of their bytes are known, bool `[words, 4]`.
        first: The number of the first word in the schedule.
        n: Words of the master key, 4 or 8.

    Returns:
        A whole block of the schedule, uint8 `[n, 4]`, and its number; None where too little is known.
    """
    w, has = known.copy(), there.copy()
    number = first + np.arange(n, len(w))
    rotated, substituted = number % n == 0, (n == 8) & (number % 8 == 4)
    through = (rotated | substituted)[:, None]
    lanes = np.where(rotated[:, None], (np.arange(4) + 1) % 4, np.arange(4))
    source = np.arange(n - 1, len(w) - 1)[:, None], lanes
    constant = np.zeros((number.size, 4), np.uint8)
    constant[rotated, 0] = np.asarray(aes.rcon(jnp.asarray(number[rotated] // n)))

    def stepped() -> np.ndarray:
        return np.where(through, aes.SBOX[w[source]], w[source]) ^ constant

    count = -1
    while has.sum() > count:
        count = has.sum()
        new = has[:-n] & has[source] & ~has[n:]
        w[n:] = np.where(new, w[:-n] ^ stepped(), w[n:])
        has[n:] |= new
        # Anew, since what was found may be what another triple begins with.
        new = has[n:] & has[source] & ~has[:-n]
        w[:-n] = np.where(new, w[n:] ^ stepped(), w[:-n])
        has[:-n] |= new
        made = w[n:] ^ w[:-n] ^ constant
        new = has[n:] & has[:-n] & ~has[source]
        w[source] = np.where(new, np.where(through, aes.INV_SBOX[made], made), w[source])
        has[source] |= new
    for at in range(-first % n, len(w) - n + 1, n):
        if has[at : at + n].all():
            return w[at : at + n], (first + at) // n
    return None
