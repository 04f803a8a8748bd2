"""Where a few weights were changed: scores without labels, most of them without any data.

A score is float32 `[P]`, one entry for each weight of each layer that `adv_params` may change, in
tree order and then in C order; the higher, the more suspect. `roc` compares it with the truth.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from modellock_jax.attacks.weights._layers import layer_values, map_layers, set_layer_values
from modellock_jax.core.lock import Params

__all__ = [
    "MIN_VOTES",
    "SCORES",
    "TOLERANCE",
    "Margin",
    "Roc",
    "changed_weights",
    "clamped",
    "filter_z",
    "heal",
    "range_position",
    "robust_distance",
    "roc",
    "shared_margin",
]

TOLERANCE = 1e-6
"""Two range positions closer than this are the same: some roundings of float32."""

MIN_VOTES = 16
"""Votes for one margin that chance does not give: unlocked models have ten at most."""


class Roc(NamedTuple):
    """A receiver operating characteristic, from the strictest threshold to the laxest.

    Attributes:
        fpr: False positive rates, float32 `[P + 1]`.
        tpr: True positive rates, float32 `[P + 1]`.
        auc: The area under the curve, float32 in [0, 1].
    """

    fpr: jax.Array
    tpr: jax.Array
    auc: jax.Array


class Margin(NamedTuple):
    """A margin that weights share.

    Attributes:
        margin: float32 in (0, 0.5].
        votes: How many weights share it, int32.
    """

    margin: jax.Array
    votes: jax.Array


def _edge_distance(params: Params) -> jax.Array:
    """Distance to the nearer end of the layer's range, in units of the range: [P], in [0, 0.5]."""

    def one(v: jax.Array) -> jax.Array:
        t = (v - v.min()) / jnp.maximum(v.max() - v.min(), jnp.finfo(v.dtype).tiny)
        return jnp.minimum(t, 1 - t)

    return map_layers(params, one)


def range_position(params: Params) -> jax.Array:
    """Score: how close a weight is to an end of its layer's range, `[P]`, in [0, 1].

    Threat model: the locked weights, nothing else.

    Args:
        params: The locked parameters, a tree of arrays.

    Returns:
        Scores, float32 `[P]`, in [0, 1].

    >>> import jax.numpy as jnp
    >>> range_position({"w": jnp.array([[0.0, 1.0], [2.0, 4.0]])}).tolist()
    [1.0, 0.5, 0.0, 1.0]
    """
    return 1 - 2 * _edge_distance(params)


def filter_z(params: Params) -> jax.Array:
    """Score: distance from the median of the weight's own filter (last axis), in robust deviations.

    The deviation is 1.4826 times the median absolute one, `[P]`, at least 0.

    Threat model: the locked weights, nothing else.

    Args:
        params: The locked parameters, a tree of arrays.

    Returns:
        Scores, float32 `[P]`, at least 0.
    """
    return map_layers(params, lambda v: jnp.abs(_robust_z(v, tuple(range(v.ndim - 1)))))


def robust_distance(params: Params, steps: int = 10) -> jax.Array:
    """Score: robust Mahalanobis distance, squared, of three z-scores of a weight, `[P]`.

    The z-scores, by median and median absolute deviation, are those in its layer, in its filter (last
    axis) and among the weights on the same input (all other axes fixed). The covariance is that of
    the half of all weights with the smallest distances, by `steps` concentration steps.

    Threat model: the locked weights, nothing else.

    Source: the minimum covariance determinant of Rousseeuw & Van Driessen (1999).

    Args:
        params: The locked parameters, a tree of arrays.
        steps: Concentration steps, at least 1.

    Returns:
        Scores, float32 `[P]`, at least 0.
    """
    z = jnp.stack(
        [
            map_layers(params, lambda v: _robust_z(v, None)),
            map_layers(params, lambda v: _robust_z(v, tuple(range(v.ndim - 1)))),
            map_layers(params, lambda v: _robust_z(v, -1)),
        ],
        axis=1,
    )

    def concentrate(_: Any, distance: jax.Array) -> jax.Array:
        near = (distance <= jnp.median(distance)).astype(jnp.float32)[:, None]
        mean = (near * z).sum(0, keepdims=True) / near.sum()
        around = z - mean
        covariance = (near * around).T @ around / near.sum() + 1e-6 * jnp.eye(3)
        return jnp.einsum("ni,ij,nj->n", around, jnp.linalg.inv(covariance), around)

    return jax.lax.fori_loop(0, steps, concentrate, (z * z).sum(1))


def _robust_z(v: jax.Array, axis: Any) -> jax.Array:
    away = v - jnp.median(v, axis, keepdims=True)
    deviation = 1.4826 * jnp.median(jnp.abs(away), axis, keepdims=True)
    return away / jnp.maximum(deviation, 1e-12)


def clamped(params: Params, margin: Any = 0.01) -> jax.Array:
    """Score: minus the distance to the value at which `adv_params` stops a weight, `[P]`.

    In units of the layer's range; weights above `-TOLERANCE` lie exactly at `min + margin * range` or
    `max - margin * range`. `margin` is the lock's setting, or what `shared_margin` finds.

    Args:
        params: The model's parameters, a tree of arrays.
        margin: The lock's setting, or what `shared_margin` finds.

    Returns:
        Scores, float32 `[P]`, at most 0.

    Threat model: the attacker knows the scheme, and so that steps of a whole range end at a bound.

    **Guarantees.** float32 layers, `step` at least 1: every weight that the lock changed scores above
    `-TOLERANCE`, since the lock leaves each layer its minimum and maximum.

    >>> import jax, modellock_jax as ml
    >>> params = {"kernel": jax.random.normal(jax.random.key(1), (8, 8))}
    >>> lock = ml.adv_params(count=3)
    >>> key = lock.init(jax.random.key(0), params)
    >>> locked, key = lock.encrypt(key, params, lambda p: (p["kernel"] ** 2).sum())
    >>> found = jax.numpy.flatnonzero(clamped(locked) > -TOLERANCE)
    >>> sorted(found.tolist()) == sorted(key.position.tolist())
    True
    """
    return -jnp.abs(_edge_distance(params) - margin)


def shared_margin(params: Params) -> Margin:
    """Return the range position that most weights of all layers share, when the margin is not known.

    Trained float32 weights hardly ever have the same range position; weights that one lock stopped
    at its bounds all do. Without a lock `votes` stays near what chance gives, below about ten.

    Threat model: the locked weights, nothing else.

    Args:
        params: The locked parameters, a tree of arrays.

    Returns:
        The margin, and how many weights voted for it.
    """
    share = jnp.sort(_edge_distance(params))
    # A layer's own ends are at 0 by definition.
    first = jnp.searchsorted(share, share - TOLERANCE)
    votes = jnp.where(share > TOLERANCE, jnp.arange(share.size) - first + 1, 0)
    best = jnp.argmax(votes)
    return Margin(share[(best + first[best]) // 2], votes[best].astype(jnp.int32))


def heal(params: Params) -> Params:
    """Weights that `adv_params` stopped at its bounds, set to the median of their layer.

    If fewer than `MIN_VOTES` weights share a margin, the parameters come back as they are: no clamped
    weights were found. Pure; needs no data.

    Threat model: the locked weights and the scheme, not its settings.

    Args:
        params: The locked parameters, a tree of arrays.

    Returns:
        A tree like it.

    >>> import jax, modellock_jax as ml
    >>> params = {"kernel": jax.random.normal(jax.random.key(1), (64, 64))}
    >>> lock = ml.adv_params(count=24)
    >>> locked, _ = lock.encrypt(lock.init(jax.random.key(0), params), params,
    ...                          lambda p: (p["kernel"] ** 2).sum())
    >>> [int(changed_weights(heal(tree), params).sum()) for tree in (params, locked)]
    [0, 24]
    >>> [int(changed_weights(heal(tree), tree).sum()) for tree in (params, locked)]
    [0, 24]
    """
    margin = shared_margin(params)
    suspects = (clamped(params, margin.margin) > -TOLERANCE) & (margin.votes >= MIN_VOTES)
    return set_layer_values(
        jnp.where(suspects, map_layers(params, jnp.median), map_layers(params, lambda v: v)), params
    )


def changed_weights(locked: Params, params: Params) -> jax.Array:
    """Return the truth, for `roc`: which weights differ, bool `[P]`.

    Args:
        locked: The locked parameters, a tree of arrays.
        params: The plain ones, of its structure.

    Returns:
        bool `[P]`, of all weights in leaves of two axes or more.
    """
    pairs = zip(layer_values(locked), layer_values(params))
    return jnp.concatenate([(a != b).ravel() for a, b in pairs])


def roc(scores: Float[jax.Array, " weights"], changed: Bool[jax.Array, " weights"]) -> Roc:
    """Return the receiver operating characteristic of scores `[P]` against the truth, bool `[P]`.

    Equal scores count half in `auc`; NaN scores count as the lowest. With no changed weight, or
    nothing else, rates and area are NaN.

    Args:
        scores: float32 `[P]`, the higher, the more suspect.
        changed: The truth, bool `[P]`.

    Returns:
        The curve and the area under it; see `Roc`.

    >>> import jax.numpy as jnp
    >>> float(roc(jnp.array([3.0, 1.0, 2.0]), jnp.array([True, False, False])).auc)
    1.0
    >>> float(roc(jnp.zeros(3), jnp.array([True, False, False])).auc)
    0.5
    """
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    order = jnp.argsort(-scores, stable=True)
    ranked, truth = -scores[order], changed[order]
    # All of an equal score are taken together: the curve is read at the last of each.
    last = jnp.searchsorted(ranked, ranked, side="right")
    first = jnp.searchsorted(ranked, ranked, side="left")
    positive, negative = truth.sum(dtype=jnp.int32), (~truth).sum(dtype=jnp.int32)

    def rate(hits: jax.Array, of: jax.Array) -> jax.Array:
        counts = jnp.cumsum(hits.astype(jnp.int32)).astype(jnp.float32) / of.astype(jnp.float32)
        return jnp.concatenate([jnp.where(of > 0, jnp.zeros(1), jnp.nan), counts])

    tpr, fpr = rate(truth, positive), rate(~truth, negative)
    # Over the unchanged weights, not over the steps of `fpr`: a perfect ranking then sums ones,
    # which is exact on every machine.
    above = jnp.where(truth, 0.0, (tpr[first] + tpr[last]) / 2)
    auc = above.sum() / negative.astype(jnp.float32)
    return Roc(jnp.concatenate([fpr[:1], fpr[last]]), jnp.concatenate([tpr[:1], tpr[last]]), auc)


SCORES: dict[str, Callable[[Params], jax.Array]] = {
    "range": range_position,
    "filter_z": filter_z,
    "robust": robust_distance,
    "clamped": lambda params: clamped(params, shared_margin(params).margin),
}
"""By name: the scores that need no data and no settings of the lock."""
