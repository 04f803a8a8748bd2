"""The attackers of the study of evasion: whom they attack, and which model they differentiate."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from modellock_jax.attacks.case import Case, Found
from modellock_jax.attacks.evasion.methods import expectation
from modellock_jax.attacks.table import ATTACKS, attempt
from modellock_jax.core.lock import Key, Params, user_forward
from modellock_jax.study.cases import case_of
from modellock_jax.study.context import Context, rng_for
from modellock_jax.study.evasion_config import ATTACKERS, RECOVERIES
from modellock_jax.study.measures import agreement
from modellock_jax.study.training import PLAIN, lock_of, locked_models, trained

Classifier = Callable[[jax.Array], jax.Array]


def attackers(context: Context, text: str) -> list[str]:
    """Return who attacks the user of a lock, or of `PLAIN`: no one whose attacks on keys do not fit."""
    if text == PLAIN:
        return list(ATTACKERS)[:3]
    return [who for who in ATTACKERS if who not in RECOVERIES or _tried(context, text, who)]


def _tried(context: Context, text: str, who: str) -> list[str]:
    scheme = context.subjects[text].scheme
    return [name for name in RECOVERIES[who] if ATTACKS[name].fits(scheme)]


class Target(NamedTuple):
    """What the user of one lock and seed has: the parameters as they are shipped, and the key."""

    locked: Params
    key: Key
    user: Classifier


@functools.lru_cache(maxsize=2)
def target(context: Context, text: str, seed: int) -> Target:
    if text == PLAIN:
        locked, key = trained(context, PLAIN, seed)[0], ()
    else:
        _, locked, key = locked_models(context, text)[seed]
    # Partials are trees: jit takes their weights as arguments, not as constants to fold.
    return Target(locked, key, jax.tree_util.Partial(_answering(context, text), key, locked))


@functools.lru_cache(maxsize=2)
def _answering(context: Context, text: str) -> Callable[[Key, Params, jax.Array], jax.Array]:
    return user_forward(lock_of(context, text), context.model.forward)


class Recovered(NamedTuple):
    """A key that an attacker found, by which attack, and the share of it that is right."""

    key: Key
    by: str
    right: float


@functools.lru_cache(maxsize=4)
def recovered(context: Context, text: str, seed: int, who: str) -> Recovered | None:
    """Let an attacker of `RECOVERIES` look for the key by all means that they have.

    Of several keys they take the one that answers best on their own labelled inputs.
    """
    names = _tried(context, text, who)
    case = case_of(context, text, seed)[0]
    case = case.only(*{right for name in names for right in ATTACKS[name].needs})
    tries = {name: attempt(name, case) for name in names}
    found = {name: one for name, one in tries.items() if one is not None}
    if not found:
        return None
    by = max(found, key=lambda name: _own_value(context, case, found[name]))
    right = agreement(found[by].key, target(context, text, seed).key)
    return Recovered(found[by].key, by, float(right))


def _own_value(context: Context, case: Case, found: Found) -> float:
    """Return what a key is worth on the attacker's own labels; without any all are alike."""
    if "labels" not in case.rights or found.forward is None:
        return 0.0
    return float(context.measure(found.forward, *case.labels).value)


def model_of(context: Context, text: str, seed: int, who: str) -> Classifier:
    """Return the model that an attacker takes gradients of."""
    of = target(context, text, seed)
    if who == "known":
        return of.user
    if who == "surrogate":
        return target(context, PLAIN, seed).user
    if who == "expectation":
        draws = jax.random.split(rng_for(seed, "random keys"), context.config.keys)
        guesses = jax.vmap(lock_of(context, text).init, (0, None))(draws, of.locked)
        return jax.tree_util.Partial(_mean(context, text), guesses, of.locked)
    found = recovered(context, text, seed, who) if who in RECOVERIES else None
    if found is not None:
        return jax.tree_util.Partial(_answering(context, text), found.key, of.locked)
    return jax.tree_util.Partial(context.model.forward, of.locked)


@functools.lru_cache(maxsize=1)
def _mean(context: Context, text: str) -> Callable[[Key, Params, jax.Array], jax.Array]:
    """Return the answers with each of many keys, as `expectation` gives them."""
    answer = _answering(context, text)
    return lambda keys, params, x: expectation(lambda key, x: answer(key, params, x), keys)(x)


def noise(context: Context, seed: int, x: jax.Array) -> jax.Array:
    """Return the images with +-eps in every pixel, for each eps."""
    ball = jnp.array(context.config.eps)[:, None, None, None, None]
    signs = jax.random.rademacher(rng_for(seed, "noise"), x.shape, x.dtype)
    return jnp.clip(x[None] + ball * signs[None], 0, 1)


def images(context: Context) -> tuple[jax.Array, jax.Array]:
    """Return the images that are moved, and their labels."""
    n, data = context.config.images, context.data
    return jnp.asarray(data.test_x[:n]), jnp.asarray(data.test_y[:n])
