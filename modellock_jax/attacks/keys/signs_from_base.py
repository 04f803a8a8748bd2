"""Sign keys by the direction of locked columns beside those of a public base."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.attacks._relation import columns_of, relation
from modellock_jax.attacks.case import Case, Entry, Found, with_key
from modellock_jax.attacks.keys.signs_from_weights import LEVEL
from modellock_jax.core.lock import Params
from modellock_jax.core.outputs import Outputs, output_axes
from modellock_jax.locks.sign import SignKey

__all__ = ["ENTRIES", "ROUNDS", "BaseReading", "read_signs_from_base", "signs_from_base"]

ROUNDS = 10
"""How often layers are weighed anew by the signs of all of them."""


class BaseReading(NamedTuple):
    """What a public base says about a sign key.

    Attributes:
        signs: int8 `[bits]`, +1 for a bit that no column has.
        log_odds: float32 `[bits]`, natural logarithm of how much more probable a sign is than its
            opposite, at least 0: as it is where the base differs by normal noise.
        p_value: How probable columns as alike are where the base is no relative, at least `LEVEL`.
    """

    signs: jax.Array
    log_odds: jax.Array
    p_value: float


def signs_from_base(
    locked: Params, base: Params, bits: int = 256, outputs: Outputs | None = None
) -> SignKey | None:
    """Read the key of `sign_flip(bits)` off the directions of columns beside those of a public base.

    Args:
        locked: The locked parameters, a tree of arrays.
        base: Those of the model that the owner's was made from, of the same structure and shapes.
        bits: The length of the key, at least 1.
        outputs: As of `sign_flip`.

    Returns:
        The key, +1 for bits that no column has; None if `read_signs_from_base` finds at the level of
        1 % that the base is no relative.

    Raises:
        ValueError: For trees that do not fit each other, or on which the lock does not act.

    Threat model: the attacker has the locked weights, knows the scheme and the architecture, and has a
    public model from which the owner's was fine-tuned, or another that was.

    **Guarantees.** Of a base whose units are in random order, as one that was trained apart, it reads a
    key at most once in a hundred draws.

    A flip turns the direction of a column around, and fine-tuning turns it little: the sign of the
    product of both columns is the key's. Weights trained under `sign_mask` from a base whose columns
    were negated first are those that `sign_flip` gives of the base's fine-tuned ones; trained from the
    base as it is they show no key. Models of the same data may share directions of all their units; then
    `read_signs_from_base` is right more often than chance even of a base that is no relative.

    Source: the direction similarity of ArrowMatch (USENIX Security 2025); weights and test are ours.

    >>> import jax, modellock_jax as ml
    >>> base = {"kernel": jax.random.normal(jax.random.key(0), (50, 16))}
    >>> tuned = {"kernel": base["kernel"] + jax.random.normal(jax.random.key(1), (50, 16))}
    >>> lock = ml.sign_flip(16)
    >>> locked, key = lock.encrypt(lock.init(jax.random.key(2), tuned), tuned)
    >>> bool((signs_from_base(locked, base, 16).signs == key.signs).all())
    True
    """
    reading = read_signs_from_base(locked, base, bits, outputs)
    return None if reading.p_value > LEVEL else SignKey(reading.signs)


def read_signs_from_base(
    locked: Params, base: Params, bits: int = 256, outputs: Outputs | None = None
) -> BaseReading:
    """Weigh what all columns say about the signs, and how sure each is; as `signs_from_base`.

    A locked column is taken for `sign * slope * column of the base + noise`, slope and noise being the
    layer's; all columns of a bit vote by their log-odds. The slope is found from the signs of all layers
    together, so that a layer that was trained anew counts nothing.

    Args:
        locked: The locked parameters, a tree of arrays.
        base: Those of a public model, of the same structure and shapes.
        bits: The length of the key, at least 1.
        outputs: As of `sign_flip`.

    Returns:
        The signs, how sure they are, and whether the base is a relative.

    Raises:
        ValueError: As of `signs_from_base`.
    """
    if bits < 1:
        raise ValueError(f"signs_from_base: bits must be at least 1, not {bits}")
    axes = output_axes("signs_from_base", locked, outputs)
    layers = columns_of("signs_from_base", locked, base, axes)
    votes = _votes([_products(*layer) for layer in layers], bits)
    signs = jnp.asarray(np.where(votes < 0, -1, 1), jnp.int8)
    return BaseReading(signs, jnp.asarray(np.abs(votes), jnp.float32), relation(layers))


class _Products(NamedTuple):
    """Of a layer: the products of its columns `[n]`, both kernels' squared norms, its entries."""

    columns: np.ndarray
    locked: float
    base: float
    entries: int


def _products(locked: np.ndarray, base: np.ndarray) -> _Products:
    columns = np.einsum("ij,ij->j", locked, base)
    return _Products(columns, np.vdot(locked, locked), np.vdot(base, base), locked.size)


def _votes(layers: Sequence[_Products], bits: int) -> np.ndarray:
    """Log-odds that a bit is +1, `[bits]`: expectation maximisation over signs, slopes and noises."""
    layer = np.repeat(np.arange(len(layers)), [len(one.columns) for one in layers])
    bit = np.concatenate([np.arange(len(one.columns)) % bits for one in layers])
    products = np.concatenate([one.columns for one in layers]).astype(float)
    locked, base, entries = (np.array([one[field] for one in layers], float) for field in (1, 2, 3))
    tiny, mean, votes = np.finfo(np.float32).tiny, np.sign(products), np.zeros(bits)
    for _ in range(ROUNDS):
        agreement = np.maximum(np.bincount(layer, mean * products, len(layers)), 0)
        slope = agreement / np.maximum(base, tiny)
        # Not below the roundings of equal kernels.
        noise = np.maximum(np.maximum(locked - slope * agreement, 1e-6 * locked) / entries, tiny)
        votes[:] = np.bincount(bit, (2 * slope / noise)[layer] * products, bits)
        mean = np.tanh(votes / 2)[bit]
    return votes


def _signs_from_base(case: Case) -> Found | None:
    bits, outputs = case.settings.get("bits", 256), case.settings.get("outputs")
    return with_key(case, signs_from_base(case.locked, case.public_base, bits, outputs))


ENTRIES = (Entry("signs_from_base", _signs_from_base, ("sign_flip",), ("public_base",), "key"),)
