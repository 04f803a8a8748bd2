"""Accuracy that cannot be fooled by NaN, over inputs and over keys."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax.bits import bits_as_floats, floats_as_bits


class Score(NamedTuple):
    """`accuracy`: share of inputs classified rightly; `non_finite`: share with a NaN or infinite
    logit. Both float32 in [0, 1]."""

    accuracy: jax.Array
    non_finite: jax.Array


def score(forward: Callable[[jax.Array], jax.Array], x: jax.Array, y: jax.Array) -> Score:
    """Score `forward(x) -> logits` `[B, classes]` on inputs `[N, ...]` and labels int `[N]`.

    **Guarantees.** An input with a non-finite logit counts as wrong: argmax of NaN is class 0, and
    would otherwise be right for one class.

    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[2.0, 1.0], [jnp.nan, 0.0], [0.0, 1.0]])
    >>> score(lambda x: logits[x], jnp.arange(3), jnp.array([0, 0, 1]))._asdict()
    {'accuracy': Array(0.6666667, dtype=float32), 'non_finite': Array(0.33333334, dtype=float32)}
    """
    logits = forward(x)
    finite = jnp.isfinite(logits).all(-1)
    right = finite & (logits.argmax(-1) == y)
    return Score(right.mean(dtype=jnp.float32), (~finite).mean(dtype=jnp.float32))


def over_keys(function: Callable[..., Any], *keys: Any, chunk: int = 16) -> Any:
    """`vmap(function)(*keys)` in chunks: one compiled program, memory for `chunk` keys at a time.

    `keys` are trees of arrays `[K, ...]`; so is the result.

    **Guarantees.** Every bit that `function` gets and gives is kept, NaN payloads included.

    >>> import jax.numpy as jnp
    >>> over_keys(lambda k: k * 2, jnp.arange(5), chunk=2).tolist()
    [0, 2, 4, 6, 8]
    """
    n = jax.tree.leaves(keys)[0].shape[0]
    chunk = min(chunk, n)
    turns = -(-n // chunk)
    batch, held = jax.vmap(function), floats_as_bits(keys)

    def turn(rows: jax.Array) -> Any:
        chosen = jax.tree.map(lambda leaf: leaf[rows], held)
        return floats_as_bits(batch(*bits_as_floats(chosen, keys)))

    # The last chunk is filled up with the last key: lax.map's own chunks refuse empty leaves.
    rows = jnp.minimum(jnp.arange(turns * chunk), n - 1).reshape(turns, chunk)
    found = jax.tree.map(
        lambda leaf: leaf.reshape(turns * chunk, *leaf.shape[2:])[:n], lax.map(turn, rows)
    )
    return bits_as_floats(found, jax.eval_shape(batch, *keys))
