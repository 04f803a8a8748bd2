"""How often evidence as good comes about where there is no sign key."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.attacks.keys._consensus import together
from modellock_jax.attacks.keys._evidence import folded, gram, unit, usable

__all__ = ["LAYERS", "TESTED", "TRIES", "as_good_by_chance"]

TRIES = 99
"""With how many made-up sets of weights the evidence is compared."""
TESTED, LAYERS, POWER = 256, 8, 40  # units and layers looked at; more take time and add nothing

Layer = tuple[jax.Array, jax.Array]


def as_good_by_chance(layers: Sequence[Layer], evidence: jax.Array) -> int:
    """Return how many of the made-up sets are as good, by the worse of the two tests.

    Args:
        layers: Kernels `[in, n]` and `[n, out]`, of which none is without evidence.
        evidence: Of each layer about each two bits, `[layers, bits, bits]`.

    Returns:
        Of 0 to `TRIES`.
    """
    few, rng = min(evidence.shape[1], TESTED), np.random.default_rng(0)
    # At random, or they might be all of one kind, as every second layer's.
    some = rng.choice(len(layers), min(LAYERS, len(layers)), replace=False)
    as_good = int(_by_order(*_in_orders([layers[i] for i in some], rng), few))
    if len(layers) == 1:
        return as_good
    signs = rng.choice(np.array([-1, 1], np.float32), (TRIES, len(some), few))
    return max(as_good, int(_by_agreement(evidence[some][:, :few, :few], signs)))


@partial(jax.jit, static_argnums=2)
def _few_grams(writer: jax.Array, reader: jax.Array, most: int) -> Layer:
    """Return the Gram matrices of a layer's first units, with zeros after them."""
    rest = [(0, most - min(most, writer.shape[1]))] * 2
    w, v = usable(writer[:, :most]), usable(reader[:most]).T
    return jnp.pad(gram(w), rest), jnp.pad(gram(v), rest)


def _in_orders(
    layers: Sequence[Layer], rng: np.random.Generator
) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """Return the Gram matrices of layers, and random orders `[TRIES, layers, units]` of their units."""
    most = min(TESTED, max(w.shape[1] for w, _ in layers))
    g, h = zip(*(_few_grams(*layer, most) for layer in layers))
    orders = np.tile(np.arange(most), (TRIES, len(layers), 1))
    for number, (w, _) in enumerate(layers):
        part = orders[:, number, : w.shape[1]]
        part[:] = rng.permuted(part, axis=1)
    return jnp.stack(g), jnp.stack(h), orders


@partial(jax.jit, static_argnums=3)
def _by_order(g: jax.Array, h: jax.Array, orders: jax.Array, used: int) -> jax.Array:
    """In how many of the orders of their readers layers agree as well."""

    def agreement(order: jax.Array) -> jax.Array:
        # Whole rows are taken quicker than columns, and the matrix is symmetric.
        shuffled = jax.vmap(lambda gram, o: gram[o].T[o])(h, order)
        evidence = jax.vmap(lambda products: unit(folded(products, used)))(g * shuffled)
        return together(evidence, POWER)[2]

    start = jnp.broadcast_to(jnp.arange(orders.shape[2]), orders.shape[1:])
    found = lax.map(agreement, jnp.concatenate([start[None], orders]))
    return (found[1:] >= found[0]).sum()


@jax.jit
def _by_agreement(evidence: jax.Array, signs: jax.Array) -> jax.Array:
    """Under how many random signs of their own layers agree as well."""

    def agreement(signs: jax.Array) -> jax.Array:
        return together(evidence * signs[:, :, None] * signs[:, None], POWER)[2]

    found = lax.map(agreement, jnp.concatenate([jnp.ones_like(signs[:1]), signs]))
    return (found[1:] >= found[0]).sum()
