"""Attacks on `adv_params`: undo a few changed weights, with a few labelled inputs or none."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from modellock_jax.attacks.case import Case, Entry, Found, with_key
from modellock_jax.attacks.weights._layers import leaf_positions, map_layers, set_layer_values
from modellock_jax.attacks.weights.localise import TOLERANCE, clamped, shared_margin
from modellock_jax.core.bits import to_uint
from modellock_jax.core.lock import Forward, Params
from modellock_jax.locks.adv_params import AdvParamsKey, target_leaves
from modellock_jax.tasks import Task, classify
from modellock_jax.train import mean_loss

__all__ = ["ENTRIES", "RATE", "neutral_key", "restore", "selective"]

RATE = 0.1
"""Adam's learning rate, in standard deviations of the weight's layer."""


class _Pursuit(NamedTuple):
    flat: jax.Array  # float32 [P]
    support: jax.Array  # bool [P]: the weights that differ from the locked ones
    adam: Any


class _Best(NamedTuple):
    flat: jax.Array
    support: jax.Array
    loss: jax.Array  # on the inputs held out


def neutral_key(locked: Params, suspects: jax.Array, count: int = 48) -> AdvParamsKey:
    """Return a key that puts suspect weights to the median of their layer; needs no data at all.

    The key opens with `adv_params(count).decrypt`.

    Args:
        locked: The locked parameters, a tree of arrays.
        suspects: The weights that are suspect, bool `[P]`, as `clamped(locked) > -TOLERANCE`; of
            more than `count`, the first ones.
        count: The number of weights that the lock changes at most, at least 1.

    Returns:
        A key of `adv_params(count)`.
    """
    return _key(locked, map_layers(locked, jnp.median), suspects, count)


def restore(
    forward: Forward,
    locked: Params,
    suspects: jax.Array,
    x: Any,
    y: Any,
    *,
    count: int = 48,
    steps: int = 60,
    task: Task = classify(),
) -> AdvParamsKey:
    """Return the values of weights whose places are known, as a key for `adv_params(count)`.

    `suspects`: bool `[P]`; inputs x and truths y, `[B, ...]`. From the median of each layer,
    `steps` steps of Adam on the posterior: the task's loss on all inputs, and a normal prior with the
    layer's own median and deviation, so that a few inputs cannot lead astray. Jit with `forward`,
    `count` and `steps` closed over.

    Args:
        forward: `forward(params, x, tap)` of the architecture.
        locked: The locked parameters, a tree of arrays.
        suspects: bool `[P]`, the weights that are suspect.
        x: Inputs, a tree `[B, ...]`.
        y: Truths, a tree `[B, ...]`.
        count: The number of weights that the lock changes at most, at least 1.
        steps: How many steps are made, at least 1.
        task: What the model is for.

    Returns:
        A key of `adv_params(count)`.

    Threat model: the attacker has the locked weights, the scheme and a little labelled data, and has
    found the places, as with `clamped`.
    """
    suspects = _first(suspects, count)
    centre = map_layers(locked, jnp.median)
    start = jnp.where(suspects, centre, map_layers(locked, lambda v: v))
    state = _Pursuit(start, suspects, _adam.init(start))
    found = _refit(task, forward, locked, centre, state, (x, y), steps)
    return _key(locked, found.flat, suspects, count)


def selective(
    forward: Forward,
    locked: Params,
    x: Any,
    y: Any,
    *,
    count: int = 48,
    iterations: int = 24,
    new: int = 4,
    steps: int = 5,
    task: Task = classify(),
) -> AdvParamsKey:
    """Places and values of changed weights, from what lowers the loss: a key for `adv_params(count)`.

    Inputs x and truths y, `[B, ...]`, in random order; the last quarter is held out. Each of
    `iterations` steps adds the `new` weights for which the gradient promises most from a move to
    the median of the layer (g * w, centred), refits all chosen weights together by `steps` steps of
    Adam as `restore` does, and gives back all but the `count` that moved farthest. The iteration
    with the lowest loss on the inputs held out is returned, the locked model itself included;
    places that are not needed are -1. Jit with `forward` and the numbers closed over.

    Args:
        forward: `forward(params, x, tap)` of the architecture.
        locked: The locked parameters, a tree of arrays.
        x: Inputs, a tree `[B, ...]`, in random order; the last quarter is held out.
        y: Truths, a tree `[B, ...]`.
        count: The number of weights that the lock changes at most, at least 1.
        iterations: How often weights are added, at least 1.
        new: How many weights each adds, at least 1.
        steps: Of Adam in each, at least 1.
        task: What the model is for.

    Returns:
        A key of `adv_params(count)`.

    Raises:
        ValueError: For fewer than four inputs or numbers below 1.

    Threat model: the attacker has the locked weights and a little labelled data. Neither the lock's
    `step` and `margin` nor the clamped values are used.

    **Guarantees.** The loss on the inputs held out is never above that of the locked model. Weights
    whose loss is not finite are left as they are.

    Source: gradient support pursuit, Bahmani, Raj & Boufounos (2013), with abs(g * w) as the ranking.

    >>> import jax, modellock_jax as ml
    >>> forward = lambda params, x: x @ params["w"]
    >>> x, y = jax.random.normal(jax.random.key(0), (64, 3)), jax.numpy.arange(64) % 2
    >>> x = x.at[:, 0].set(4.0 * y - 2.0)
    >>> locked = {"w": jax.numpy.array([[-1.0, 1.0], [0.1, -0.1], [0.0, 9.0]])}
    >>> key = selective(forward, locked, x, y, count=1, new=1)
    >>> int(key.position[0])
    5
    """
    n = len(jax.tree.leaves(x)[0])
    held = n // 4
    if held < 1 or min(count, iterations, new, steps) < 1:
        raise ValueError(
            f"selective: needs four inputs or more and numbers of at least 1, not {n} inputs, "
            f"{count=}, {iterations=}, {new=}, {steps=}"
        )
    seen = jax.tree.map(lambda a: a[:-held], (x, y))
    rest = jax.tree.map(lambda a: a[-held:], (x, y))
    flat, centre, scale = (map_layers(locked, f) for f in (lambda v: v, jnp.median, jnp.std))
    new, count = min(new, flat.size), min(count, flat.size)

    def loss(flat: jax.Array, data: Any) -> jax.Array:
        return mean_loss(task.loss, forward, set_layer_values(flat, locked), *data)[0]

    def iterate(carry: tuple[_Pursuit, _Best], _: None) -> tuple[tuple[_Pursuit, _Best], None]:
        s, best = carry
        gain = jax.grad(loss)(s.flat, seen) * (s.flat - centre)
        gain, picks = lax.top_k(jnp.where(s.support | ~(gain > 0), -1.0, gain), new)
        support = s.support.at[picks].max(gain > 0)
        moved = jnp.where(support & ~s.support, centre, s.flat)
        s = _refit(task, forward, locked, centre, _Pursuit(moved, support, s.adam), seen, steps)
        far = jnp.where(s.support, jnp.abs(s.flat - flat) / jnp.maximum(scale, 1e-12), -1.0)
        support = s.support & (far >= lax.top_k(far, count)[0][-1])
        s = _Pursuit(jnp.where(support, s.flat, flat), support, s.adam)
        now = loss(s.flat, rest)
        better = now < best.loss
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), _Best(*s[:2], now), best)
        return (s, best), None

    none = jnp.zeros(flat.size, jnp.bool_)
    start = _Pursuit(flat, none, _adam.init(flat)), _Best(flat, none, loss(flat, rest))
    best = lax.scan(iterate, start, length=iterations)[0][1]
    return _key(locked, best.flat, best.support, count)


_adam = optax.adam(RATE)


def _refit(
    task: Task,
    forward: Forward,
    locked: Params,
    centre: jax.Array,
    state: _Pursuit,
    data: Any,
    steps: int,
) -> _Pursuit:
    """Adam on the weights in `state.support` alone, in units of each layer's deviation."""
    scale, support = map_layers(locked, jnp.std), state.support

    def posterior(flat: jax.Array) -> jax.Array:
        away = jnp.where(support, (flat - centre) / jnp.maximum(scale, 1e-12), 0.0)
        fit = mean_loss(task.loss, forward, set_layer_values(flat, locked), *data)[0]
        return fit + 0.5 * (away * away).sum() / len(jax.tree.leaves(data)[0])

    def step(carry: Any, _: None) -> tuple[Any, None]:
        flat, adam = carry
        gradient = jnp.where(support, jax.grad(posterior)(flat) * scale, 0.0)
        updates, adam = _adam.update(gradient, adam)
        return (flat + jnp.where(support, updates * scale, 0.0), adam), None

    flat, adam = lax.scan(step, (state.flat, state.adam), length=steps)[0]
    return _Pursuit(flat, support, adam)


def _first(suspects: jax.Array, count: int) -> jax.Array:
    """Return the first `count` of the suspects, bool `[P]`."""
    return suspects & (jnp.cumsum(suspects.astype(jnp.int32)) <= count)


def _key(locked: Params, flat: jax.Array, suspects: jax.Array, count: int) -> AdvParamsKey:
    """Return a key that puts the first `count` suspects to their values in `flat`."""
    picks = jnp.flatnonzero(suspects, size=count, fill_value=-1).astype(jnp.int32)
    leaf, position = leaf_positions(picks, locked)
    bits, leaves = jnp.zeros(count, jnp.uint32), jax.tree.leaves(locked)
    for i in target_leaves(locked):
        value = to_uint(flat[jnp.maximum(picks, 0)].astype(leaves[i].dtype)).astype(jnp.uint32)
        bits = jnp.where(leaf == i, value, bits)
    return AdvParamsKey(jnp.zeros(8, jnp.uint32), leaf, position, bits)


def _refitted(case: Case, key: AdvParamsKey) -> Found | None:
    # It opens the model in the owner's stead, but its values are estimates: not the owner's key.
    found = with_key(case, key)
    return None if found is None else found._replace(key=None)


def _suspects(case: Case) -> jax.Array:
    return clamped(case.locked, shared_margin(case.locked).margin) > -TOLERANCE


def _selective(case: Case, *, iterations: int = 24, steps: int = 5) -> Found | None:
    counts = {"count": case.settings.get("count", 48), "iterations": iterations, "steps": steps}
    pursue = jax.jit(partial(selective, case.model.forward, **counts, task=case.task))
    return _refitted(case, pursue(case.locked, *case.labels))


def _restore(case: Case, *, steps: int = 60) -> Found | None:
    count = case.settings.get("count", 48)
    refit = jax.jit(partial(restore, case.model.forward, count=count, steps=steps, task=case.task))
    return _refitted(case, refit(case.locked, _suspects(case), *case.labels))


def _neutral_key(case: Case) -> Found | None:
    count = case.settings.get("count", 48)
    return _refitted(case, neutral_key(case.locked, _suspects(case), count))


_AGAINST = ("adv_params",)
ENTRIES = (
    Entry("selective", _selective, _AGAINST, ("labels",), "weights"),
    Entry("restore", _restore, _AGAINST, ("labels",), "weights"),
    Entry("neutral_key", _neutral_key, _AGAINST, (), "weights"),
)
