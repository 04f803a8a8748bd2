"""Accuracy that cannot be fooled by NaN, over inputs and over keys."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


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

    >>> import jax.numpy as jnp
    >>> over_keys(lambda k: k * 2, jnp.arange(5), chunk=2).tolist()
    [0, 2, 4, 6, 8]
    """
    return lax.map(lambda key: function(*key), keys, batch_size=chunk)
