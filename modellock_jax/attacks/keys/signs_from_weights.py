"""Sign keys from the locked weights alone: no data, no labels, no device."""

import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from modellock_jax.attacks.keys._by_chance import TESTED, TRIES, as_good_by_chance
from modellock_jax.attacks.keys._consensus import fit, together
from modellock_jax.attacks.keys._evidence import evidence
from modellock_jax.locks.sign import SignKey

__all__ = [
    "LEVEL",
    "OUTPUTS",
    "POWER",
    "PRODUCTS",
    "Pair",
    "SignReading",
    "read_signs",
    "signs_from_weights",
]

LEVEL = 1 / (1 + TRIES)
"""How often a key is read where there is none to be read: one draw in a hundred."""
POWER = 150
PRODUCTS, OUTPUTS = 5e10, 1024
"""How many multiplications are spent on all units and outputs; beyond, on neighbours and on so many."""

Pair = tuple[
    Float[jax.Array | np.ndarray, "*stack inputs units"],
    Float[jax.Array | np.ndarray, "*stack units outputs"],
]


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
    layers = [layer for pair in _checked(pairs) for layer in _layers(*pair)]
    used = min(bits, max(w.shape[1] for w, _ in layers))
    cost = sum(w.shape[1] ** 2 * (len(w) + v.shape[1]) for w, v in layers)
    wide = sys.maxsize
    if cost > PRODUCTS:
        wide = used * -(-TESTED // used)
        layers = [(w, v[:, :: -(-v.shape[1] // OUTPUTS)]) for w, v in layers]
    found = [evidence(*layer, used, min(wide, layer[0].shape[1])) for layer in layers]
    says = [i for i, one in enumerate(found) if one.any()]
    if not says:
        return None
    of_layers = jnp.stack([found[i] for i in says])
    signs, certainty, explained = _solve(of_layers)
    as_good = as_good_by_chance([layers[i] for i in says], of_layers)
    rest = (0, bits - used)
    signs = jnp.pad(signs.astype(jnp.int8), rest, constant_values=1)
    return SignReading(
        signs, jnp.pad(certainty, rest), float(explained), (1 + as_good) / (1 + TRIES)
    )


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


def _layers(writer: jax.Array, reader: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Return kernels `[in, n]` and `[n, out]` without leading axes."""
    if writer.ndim == 2:
        return [(writer, reader)]  # no copies
    columns = writer.reshape(-1, *writer.shape[-2:])
    return [*zip(columns, reader.reshape(-1, *reader.shape[-2:]))]


@jax.jit
def _solve(of_layers: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Signs, certainty and fit."""
    signs, p, _ = together(of_layers, POWER)
    return signs, jnp.abs(p @ signs), fit(p, signs)
