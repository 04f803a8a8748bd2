"""The search of `adv_params` itself, turned against it."""

from functools import partial
from typing import Any

import jax

from modellock_jax.attacks.case import Case, Entry, Found, with_weights
from modellock_jax.core.lock import Forward, Params
from modellock_jax.locks.adv_params import adv_params
from modellock_jax.tasks import Task, classify
from modellock_jax.train import mean_loss

__all__ = ["ENTRIES", "adv_params_descent"]


def adv_params_descent(
    forward: Forward,
    locked: Params,
    x: Any,
    y: Any,
    rng: jax.Array,
    count: int = 48,
    task: Task = classify(),
) -> Params:
    """Return the paper's adaptive attacker: the lock's own search on the thief's data, descending.

    In an open layer the weight is stepped for which gradient times change promises most, by a whole
    range against the sign of the gradient, and clamped; at most `count` weights. The loss is the
    task's. Jit with `forward` and `count` closed over.

    Args:
        forward: `forward(params, x, tap)` of the architecture.
        locked: The locked parameters, a tree of arrays.
        x: Inputs, a tree `[B, ...]`.
        y: Truths, a tree `[B, ...]`.
        rng: Draws the random half of the layers of every iteration.
        count: The number of weights that the lock changes at most, at least 1.
        task: What the model is for.

    Returns:
        The parameters with up to `count` weights changed back.

    Threat model: the attacker has the locked weights, the scheme and a little labelled data.

    Source: Xue et al. (2021), through Malhotra (2023), who reports a recovery to 56-64 % accuracy.
    """
    # It is the lock itself on the negated loss; the thief has no reason to leave out weights.
    lock = adv_params(count, pool=1.0)

    def negated(params: Params) -> jax.Array:
        return -mean_loss(task.loss, forward, params, x, y)[0]

    return lock.encrypt(lock.init(rng, locked), locked, negated)[0]


def _descent(case: Case) -> Found:
    count = case.settings.get("count", 48)
    descend = jax.jit(partial(adv_params_descent, case.model.forward, count=count, task=case.task))
    return with_weights(case, descend(case.locked, *case.labels, case.rng))


ENTRIES = (Entry("adv_params_descent", _descent, ("adv_params",), ("labels",), "weights"),)
