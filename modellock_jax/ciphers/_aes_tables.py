"""The tables of AES, made from its field, and what is looked up in them."""

import jax
import jax.numpy as jnp
import numpy as np


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # FIPS-197, 5.1.1: invert in GF(2^8), then an affine map. Powers of 3 run through every unit.
    power, element = [], 1
    for _ in range(255):
        power.append(element)
        element ^= (element << 1) ^ (0x11B if element & 0x80 else 0)
    sbox = np.zeros(256, np.uint8)
    for i in range(256):
        inverse = 0 if i == 0 else power[-power.index(i) % 255]
        rotations = [(inverse << r | inverse >> (8 - r)) & 0xFF for r in range(5)]
        sbox[i] = 0x63 ^ np.bitwise_xor.reduce(rotations)
    # The powers of 2, which is power 25 of 3; they come round after 51.
    rcon = np.array([power[25 * i % 255] for i in range(51)], np.uint8)
    return sbox, np.argsort(sbox).astype(np.uint8), rcon


SBOX, INV_SBOX, RCON = _tables()
_LANES = [SBOX.astype(np.uint32) << (8 * lane) for lane in range(4)]
# Two bytes at a time.
PAIRS, INV_PAIRS = (
    (box.astype(np.uint16) | box[:, None].astype(np.uint16) << 8).reshape(-1)
    for box in (SBOX, INV_SBOX)
)


def _look_up(tables: list[np.ndarray], word: jax.Array) -> jax.Array:
    parts = [
        jnp.asarray(table).at[(word >> (8 * lane)) & 0xFF].get(mode="promise_in_bounds")
        for lane, table in enumerate(tables)
    ]
    return parts[0] | parts[1] | parts[2] | parts[3]


def sub_word(word: jax.Array) -> jax.Array:
    """Return the S-box on the four bytes of a word."""
    return _look_up(_LANES, word)


def sub_rotated_word(word: jax.Array) -> jax.Array:
    """Return the S-box on the four bytes of a word that is rotated by one byte, RotWord of FIPS-197."""
    return _look_up([_LANES[3], *_LANES[:3]], word)


def xtime(byte: jax.Array) -> jax.Array:
    return ((byte << 1) ^ ((byte >> 7) * 0x1B)) & 0xFF
