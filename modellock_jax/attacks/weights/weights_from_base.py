"""Few changed weights, found and undone by a public base."""

import jax
import jax.numpy as jnp
from jax.scipy import stats

from modellock_jax.attacks._relation import columns_of, relation
from modellock_jax.attacks.case import Case, Entry, Found, with_weights
from modellock_jax.attacks.keys.signs_from_weights import LEVEL
from modellock_jax.attacks.weights._layers import layer_values, set_layer_values
from modellock_jax.core.lock import Params
from modellock_jax.locks.adv_params import target_leaves

__all__ = ["ENTRIES", "base_distance", "weights_from_base"]

_SPREAD = 0.95
"""Share of a layer's differences that are taken to be the base's own."""


def weights_from_base(locked: Params, base: Params, count: int = 48) -> Params | None:
    """Put a public base's values where weights differ most from it: the `count` largest `base_distance`.

    A weight that was not changed is taken back to the base, too, if it is among them, and that harms
    little.

    Args:
        locked: The locked parameters, a tree of arrays.
        base: Those of the model that the owner's was made from, of the same structure and shapes.
        count: How many the lock changes at most, which is public.

    Returns:
        Parameters like `locked`; None if at the level of 1 % the base is no relative.

    Raises:
        ValueError: For trees that do not fit each other, without layers, or `count` below 1.

    Threat model: the attacker has the locked weights, knows the scheme and the architecture, and has a
    public model from which the owner's was fine-tuned, or another that was.

    **Guarantees.** Changes at most `count` weights. Of a base whose units are in random order, as one
    that was trained apart, it takes values at most once in a hundred draws.

    Source: our own.

    >>> import jax, modellock_jax as ml
    >>> base = {"kernel": jax.random.normal(jax.random.key(0), (64, 64))}
    >>> params = {"kernel": base["kernel"] + jax.random.normal(jax.random.key(1), (64, 64)) / 100}
    >>> lock = ml.adv_params(count=8)
    >>> locked, _ = lock.encrypt(lock.init(jax.random.key(2), params), params,
    ...                          lambda p: (p["kernel"] ** 2).sum())
    >>> found = weights_from_base(locked, base, count=8)["kernel"]
    >>> bool(jax.numpy.allclose(found, params["kernel"], atol=0.1))
    True
    """
    if count < 1:
        raise ValueError(f"weights_from_base: count must be at least 1, not {count}")
    leaves = jax.tree.leaves(locked)
    axes = {i: leaves[i].ndim - 1 for i in target_leaves(locked)}
    if relation(columns_of("weights_from_base", locked, base, axes)) > LEVEL:
        return None
    distance = base_distance(locked, base)
    _, at = jax.lax.top_k(distance, min(count, distance.size))
    ours, theirs = (jnp.concatenate([v.ravel() for v in layer_values(p)]) for p in (locked, base))
    return set_layer_values(ours.at[at].set(theirs[at]), locked)


def base_distance(locked: Params, base: Params) -> jax.Array:
    """Score: how far a weight lies from a base's, in robust deviations of its layer, `[P]`.

    The deviation is that of normal noise with the same 95th percentile.

    Args:
        locked: The locked parameters, a tree of arrays.
        base: Those of the base, of the same structure and shapes.

    Returns:
        Scores as in `localise`, float32 `[P]`, at least 0.
    """

    def one(locked: jax.Array, base: jax.Array) -> jax.Array:
        away = jnp.abs(locked - base)
        spread = jnp.quantile(away, _SPREAD) / stats.norm.ppf((1 + _SPREAD) / 2)
        return (away / jnp.maximum(spread, jnp.finfo(away.dtype).tiny)).ravel()

    return jnp.concatenate([one(*both) for both in zip(layer_values(locked), layer_values(base))])


def _weights_from_base(case: Case) -> Found | None:
    params = weights_from_base(case.locked, case.public_base, case.settings.get("count", 48))
    return None if params is None else with_weights(case, params)


ENTRIES = (
    Entry("weights_from_base", _weights_from_base, ("adv_params",), ("public_base",), "weights"),
)
