"""Write a lock of your own: a factory that returns a `Lock`. Here: leaves rolled by a secret shift.

    python examples/lock_of_your_own.py

It is a skeleton and protects nothing: an attacker tries all shifts.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import modellock_jax as ml


class RollKey(NamedTuple):
    """`shift`: int32, how far every leaf is rolled."""

    shift: jax.Array


def roll(most: int = 1000) -> ml.Lock:
    """Roll the entries of every leaf by a secret shift below `most`."""

    def init(rng, params):
        return RollKey(jax.random.randint(rng, (), 1, most, jnp.int32))

    def rolled(params, shift):
        return jax.tree.map(
            lambda leaf: jnp.roll(leaf.reshape(-1), shift).reshape(leaf.shape), params
        )

    def encrypt(key, params, /, loss=None):
        return rolled(params, key.shift), key

    def decrypt(key, locked):
        return rolled(locked, -key.shift)

    return ml.Lock(init, encrypt, decrypt)


def main():
    params = {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.arange(4.0)}
    lock = ml.chain(roll(), ml.only(ml.stream_lock(), lambda path: path == "bias"))
    locked, key = jax.jit(lock.encrypt)(lock.init(jax.random.key(0), params), params)
    opened = jax.jit(lock.decrypt)(key, locked)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), opened, params)
    print("comes back:", same, " changed:", bool((locked["kernel"] != params["kernel"]).any()))
    return same


if __name__ == "__main__":
    main()
