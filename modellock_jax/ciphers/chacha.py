"""ChaCha20 (RFC 8439) in-graph: additions, rotations and XOR, so constant-time by construction."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_CONSTANTS = np.frombuffer(b"expand 32-byte k", "<u4")


def _rotate(word: jax.Array, bits: int) -> jax.Array:
    return (word << bits) | (word >> (32 - bits))


def _quarter(
    a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    a = a + b
    d = _rotate(d ^ a, 16)
    c = c + d
    b = _rotate(b ^ c, 12)
    a = a + b
    d = _rotate(d ^ a, 8)
    c = c + d
    b = _rotate(b ^ c, 7)
    return a, b, c, d


@jax.jit
def blocks(key: jax.Array, nonces: jax.Array, counters: jax.Array) -> jax.Array:
    """The key stream blocks of ChaCha20, any number at once and in any order.

    `key`: uint32 `[8]`; `nonces`: uint32 `[3]` or `[3, N]`, one for all or one per block;
    `counters`: uint32 `[N]`. Returns uint32 `[N, 16]`, little-endian words as in RFC 8439.
    """
    n = counters.shape[0]
    nonces = jnp.broadcast_to(nonces.reshape(3, -1), (3, n))
    columns = jnp.concatenate([jnp.asarray(_CONSTANTS), key])
    start = jnp.concatenate(
        [jnp.broadcast_to(columns[:, None], (12, n)), counters[None], nonces]
    ).reshape(4, 4, n)

    def double_round(_: int, rows: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        a, b, c, d = _quarter(*rows)
        # Turning the rows brings the diagonals under one another: the same code does both halves.
        b, c, d = jnp.roll(b, -1, 0), jnp.roll(c, -2, 0), jnp.roll(d, -3, 0)
        a, b, c, d = _quarter(a, b, c, d)
        return a, jnp.roll(b, 1, 0), jnp.roll(c, 2, 0), jnp.roll(d, 3, 0)

    rows = lax.fori_loop(0, 10, double_round, (start[0], start[1], start[2], start[3]))
    return (jnp.stack(rows) + start).reshape(16, n).T
