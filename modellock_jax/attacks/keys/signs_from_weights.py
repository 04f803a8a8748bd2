"""Sign keys from the locked weights alone: no data, no labels, no device."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from modellock_jax.locks.sign import SignKey

__all__ = [
    "LAYERS",
    "LEVEL",
    "POWER",
    "ROUNDS",
    "TESTED",
    "TEST_POWER",
    "TRIES",
    "Grams",
    "Pair",
    "SignReading",
    "read_signs",
    "signs_from_weights",
]

TRIES = 99
"""With how many made-up sets of weights the evidence is compared."""
LEVEL = 1 / (1 + TRIES)
"""How often a key is read where there is none to be read: one draw in a hundred."""
ROUNDS, POWER, TEST_POWER = 5, 150, 40
TESTED, LAYERS = 256, 16  # units and layers that the tests look at; more take time and add nothing

Pair = tuple[
    Float[jax.Array | np.ndarray, "*stack inputs units"],
    Float[jax.Array | np.ndarray, "*stack units outputs"],
]
Grams = tuple[jax.Array, jax.Array]


class SignReading(NamedTuple):
    """What pairs of kernels say about a sign key, all signs negated or not.

    `signs`: int8 `[bits]`, +1 for a bit that no layer has; `certainty`: float32 `[bits]`, 0 for such a
    bit, of which only the order means something; `fit`: the share of the evidence that is for these
    signs, in [0, 1]; `p_value`: how probable evidence as good is where there is none, at least `LEVEL`.
    """

    signs: jax.Array
    certainty: jax.Array
    fit: float
    p_value: float


def signs_from_weights(pairs: Sequence[Pair], bits: int) -> SignKey | None:
    """Read a sign key off kernels that were trained together, all signs negated or not.

    Args:
        pairs: Of each layer the kernel `[..., in, n]` whose columns are multiplied by signs, column j
            by bit j mod `bits`, and the kernel `[..., n, out]` that reads them, as `sign_pairs` finds
            them; leading axes stack layers. float.
        bits: Length of the key, at least 1.

    Returns:
        The key, or its negative, which gives the same products; None if `read_signs` finds no evidence
        at the level of 1 %.

    Raises:
        ValueError: for shapes that do not fit, or no pair.

    Threat model: the attacker has the locked weights, and knows the scheme and the architecture.

    **Guarantees.** Of weights whose readers are in random order, as of untrained ones, it reads a key
    at most once in a hundred draws; so too of pairs that speak of different signs, if there are two
    or more.

    Training aligns the Gram matrices of a layer's incoming and outgoing weights through the odd half
    of its activation; a flip changes the signs of the first alone, so the key is the leading
    eigenvector of their product. Under an even activation, which no flip changes, nothing shows.

    Source: our own; we know of no one who has published it. The spectral method is that of Z2
    synchronization (Singer 2011).

    >>> import jax, modellock_jax as ml
    >>> plain = jax.random.normal(jax.random.key(0), (2, 50, 16))
    >>> signs = ml.sign_mask(16).init(jax.random.key(1), None).signs
    >>> found = signs_from_weights([(plain * signs, plain.mT)], 16)
    >>> abs(int(found.signs @ signs))
    16
    """
    reading = read_signs(pairs, bits)
    return None if reading is None or reading.p_value > LEVEL else SignKey(reading.signs)


def read_signs(pairs: Sequence[Pair], bits: int) -> SignReading | None:
    """Weigh all that `pairs` say about the signs, and how sure each is; as `signs_from_weights`.

    Two tests, of which the worse counts: the readers of each layer in random order fit worse, which
    holds its level for whatever weights that do not depend on each other; and, of two layers or more,
    layers under random signs of their own agree less, which holds it for signs without a common part, as
    under even activations.

    Args:
        pairs: Writers and readers, as `sign_pairs` finds them.
        bits: The length of the key, at least 1.

    Returns:
        The signs and how sure they are; None if there is no layer of finite weights, two columns or
        more, not all zero.

    Raises:
        ValueError: For `bits` below 1.
    """
    if bits < 1:
        raise ValueError(f"read_signs: bits must be at least 1, not {bits}")
    grams = [both for pair in _checked(pairs) for both in _grams_of(*pair)]
    if not grams:
        return None
    used = min(bits, max(len(g) for g, _ in grams))
    evidence = jnp.stack([_folded(g * h, used) for g, h in grams])
    signs, certainty, fit = _solve(evidence)
    few, rng = min(used, TESTED), np.random.default_rng(0)
    # At random, or they might be all of one kind, as every second layer's.
    some = rng.choice(len(grams), min(LAYERS, len(grams)), replace=False)
    grams, evidence = [grams[i] for i in some], evidence[some]
    as_good = int(_by_order(*_part(grams), _orders(rng, grams), few))
    if len(grams) > 1:
        signs_of_layers = rng.choice(np.array([-1, 1], np.float32), (TRIES, len(grams), few))
        as_good = max(as_good, int(_by_agreement(evidence[:, :few, :few], signs_of_layers)))
    rest = (0, bits - used)
    signs = jnp.pad(signs.astype(jnp.int8), rest, constant_values=1)
    return SignReading(signs, jnp.pad(certainty, rest), float(fit), (1 + as_good) / (1 + TRIES))


def _checked(pairs: Sequence[Pair]) -> list[tuple[jax.Array, jax.Array]]:
    if not len(pairs):
        raise ValueError("read_signs: needs at least one pair of kernels")
    arrays = [(jnp.asarray(w, jnp.float32), jnp.asarray(v, jnp.float32)) for w, v in pairs]
    for number, (w, v) in enumerate(arrays):
        fits = min(w.ndim, v.ndim) >= 2 and (*w.shape[:-2], w.shape[-1]) == v.shape[:-1]
        if not fits:
            raise ValueError(
                f"read_signs: pair {number} has shapes {list(w.shape)} and {list(v.shape)}; give "
                "[..., in, n] and [..., n, out]"
            )
    return arrays


def _grams_of(
    writer: Float[jax.Array, "*stack inputs units"],
    reader: Float[jax.Array, "*stack units outputs"],
) -> list[Grams]:
    """Return the two Gram matrices `[n, n]` of each layer that says something."""
    columns, rows = writer, reader.mT
    g = _grams(columns.reshape(-1, *columns.shape[-2:]))
    h = _grams(rows.reshape(-1, *rows.shape[-2:]))
    says = g.any((1, 2)) & h.any((1, 2))
    return [(a, b) for a, b, something in zip(g, h, says.tolist()) if something]


@jax.jit
def _grams(kernels: jax.Array) -> jax.Array:
    """Products of columns `[layers, n, n]` of kernels `[layers, in, n]`: no diagonals, norm one.

    Zero for a kernel that is zero or not finite, as a ciphertext's.
    """

    def one(kernel: jax.Array) -> jax.Array:
        kernel = jnp.where(jnp.isfinite(kernel).all(), kernel, 0)
        kernel = kernel / _or_one(jnp.abs(kernel).max())
        gram = _off_diagonal(jnp.matmul(kernel.T, kernel, precision="highest"))
        return gram / _or_one(jnp.linalg.norm(gram))

    return jax.vmap(one)(kernels)


def _or_one(size: jax.Array) -> jax.Array:
    """Return what to divide by: the size, or one for zero."""
    return jnp.where(size > 0, size, 1)


def _off_diagonal(matrix: jax.Array) -> jax.Array:
    return jnp.where(jnp.eye(len(matrix), dtype=bool), 0, matrix)


@partial(jax.jit, static_argnums=1)
def _folded(products: jax.Array, used: int) -> jax.Array:
    """Return the evidence of one layer `[used, used]` from products `[n, n]`, norm one or zero."""
    times = -(-len(products) // used)
    padded = jnp.pad(products, (0, times * used - len(products)))
    folded = _off_diagonal(padded.reshape(times, used, times, used).sum((0, 2)))
    return folded / _or_one(jnp.linalg.norm(folded))


def _cut(p: jax.Array, power: int) -> jax.Array:
    """Signs `[bits]` that nearly maximise s @ p @ s: those of the leading eigenvector, improved."""
    # Without a shift the power method may find the most negative eigenvalue.
    shift = jnp.abs(p).sum(1).max() / 4

    def iterate(_: int, v: jax.Array) -> jax.Array:
        v = p @ v + shift * v
        return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)

    def improve(_: int, s: jax.Array) -> jax.Array:
        new = _signs(p @ s)
        return jnp.where(new @ p @ new > s @ p @ s, new, s)

    start = jax.random.normal(jax.random.key(0), p.shape[:1], p.dtype)
    return lax.fori_loop(0, 20, improve, _signs(lax.fori_loop(0, power, iterate, start)))


def _signs(v: jax.Array) -> jax.Array:
    return jnp.where(v < 0, -1, 1).astype(v.dtype)


def _fit(p: jax.Array, signs: jax.Array) -> jax.Array:
    return signs @ p @ signs / _or_one(jnp.abs(p).sum())


@jax.jit
def _solve(evidence: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Signs, certainty and fit; a layer's weight is how far it agrees with the others' signs."""

    def reweigh(_: int, carry: Any) -> Any:
        weights, *_ = carry
        p = jnp.tensordot(weights, evidence, 1)
        signs = _cut(p, POWER)
        agree = jnp.einsum("i,cij,j->c", signs, evidence, signs)
        return jnp.maximum(agree, 0), signs, p

    one = jnp.ones_like(evidence[0, 0, 0])
    start = (jnp.broadcast_to(one, len(evidence)), jnp.ones_like(evidence[0, 0]), evidence[0])
    _, signs, p = lax.fori_loop(0, ROUNDS, reweigh, start)
    return signs, jnp.abs(p @ signs), _fit(p, signs)


def _part(grams: Sequence[Grams]) -> tuple[jax.Array, jax.Array]:
    """Return the Gram matrices of the first units, one shape for all layers."""
    most = min(TESTED, max(len(g) for g, _ in grams))

    def one(gram: jax.Array) -> jax.Array:
        gram = gram[:most, :most]
        return jnp.pad(gram, (0, most - len(gram)))

    return jnp.stack([one(g) for g, _ in grams]), jnp.stack([one(h) for _, h in grams])


def _orders(rng: np.random.Generator, grams: Sequence[Grams]) -> np.ndarray:
    """Random orders of each layer's first units, `[TRIES, layers, units]`."""
    most = min(TESTED, max(len(g) for g, _ in grams))
    orders = np.tile(np.arange(most), (TRIES, len(grams), 1))
    for number, (g, _) in enumerate(grams):
        orders[:, number, : len(g)] = rng.permuted(orders[:, number, : len(g)], axis=1)
    return orders


@partial(jax.jit, static_argnums=3)
def _by_order(g: jax.Array, h: jax.Array, orders: jax.Array, used: int) -> jax.Array:
    """In how many of the orders of their readers layers fit as well."""

    def fit(order: jax.Array) -> jax.Array:
        shuffled = jax.vmap(lambda gram, o: gram[o][:, o])(h, order)
        p = jax.vmap(lambda products: _folded(products, used))(g * shuffled).sum(0)
        return _fit(p, _cut(p, TEST_POWER))

    start = jnp.broadcast_to(jnp.arange(orders.shape[2]), orders.shape[1:])
    fits = lax.map(fit, jnp.concatenate([start[None], orders]))
    return (fits[1:] >= fits[0]).sum()


@jax.jit
def _by_agreement(evidence: jax.Array, signs: jax.Array) -> jax.Array:
    """Under how many random signs of their own layers agree as well."""

    def agreement(signs: jax.Array) -> jax.Array:
        flipped = evidence * signs[:, :, None] * signs[:, None]
        together = _cut(flipped.sum(0), TEST_POWER)
        return jax.vmap(_fit, (0, None))(flipped, together).mean()

    found = lax.map(agreement, jnp.concatenate([jnp.ones_like(signs[:1]), signs]))
    return (found[1:] >= found[0]).sum()
