"""A lock of another package: a file outside of this one, announced by an entry point."""

from pathlib import Path

NAME = "toy_xor"
ENCRYPT = "lambda key, params, /, loss=None: (decrypt(key, params), key)"
SOURCE = '''
from typing import NamedTuple

import jax
import jax.numpy as jnp

import modellock_jax as ml
from modellock_jax.locks import Break, Files, Scheme, flip_one_bit

UINT = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


class ToyKey(NamedTuple):
    word: jax.Array


def toy_xor(rotate: int = 0) -> ml.Lock:
    """XOR every value with one secret word, rotated by so many bits."""

    def init(rng, params):
        if hasattr(rng, "words"):
            return ToyKey(jnp.asarray(rng.for_lock(f"toy_xor(rotate={rotate})").words(1), jnp.uint32))
        return ToyKey(jax.random.bits(rng, (1,), jnp.uint32))

    def decrypt(key, params):
        word = (key.word[0] << rotate) | (key.word[0] >> (31 - rotate) >> 1)

        def xor(leaf):
            kind = UINT[leaf.dtype.itemsize]
            bits = jax.lax.bitcast_convert_type(jnp.asarray(leaf), kind) ^ word.astype(kind)
            return jax.lax.bitcast_convert_type(bits, leaf.dtype)

        return jax.tree.map(xor, params)

    return ml.Lock(init, lambda key, params, /, loss=None: (decrypt(key, params), key), decrypt)


SCHEME = Scheme(
    name="toy_xor",
    factory=toy_xor,
    paper="a toy (2026)",
    acts="weights: every value XORed with one word",
    trained_under=False,
    protects="Every value is XORed with one secret word.",
    lies_open="Equal values stay equal.",
    broken=(Break(how="one known weight gives the word", source="its authors, 2026"),),
    near=flip_one_bit,
    bits=lambda params, sites, rotate=0: 32.0,
    files=Files(),
)
'''


def install(
    folder: Path, source: str = SOURCE, name: str = NAME, package: str = "toy_lock"
) -> Path:
    """Lay the package into a folder, which is then to come into the path of Python."""
    (folder / f"{package}.py").write_text(source)
    about = folder / f"{package}-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    points = f"[modellock_jax.locks]\n{name} = {package}:SCHEME\n"
    (about / "entry_points.txt").write_text(points)
    return folder
