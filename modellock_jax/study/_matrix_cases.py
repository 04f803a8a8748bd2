"""The models of the matrix, and what each of its attackers holds of one."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.attacks.case import Case, Copy
from modellock_jax.core.lock import Forward, Key, Params, user_forward
from modellock_jax.data import Data, load
from modellock_jax.study._bases import Examples, from_base
from modellock_jax.study.attackers import Attacker
from modellock_jax.study.context import Context, fresh, rng_for
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.training import PLAIN, Draws, Locked, encrypting, lock_of, owned, under

_KEPT = 0.25  # of the training set, which the owner never sees
_JUDGES = 2000  # at most, so that rehearsals are quick


class Split(NamedTuple):
    """Whose each part is: the owner's, the public base's, the attacker's; and what judges rehearsals."""

    owner: Data
    base: Examples
    fresh: Examples
    judges: Examples
    size: int


@functools.lru_cache(maxsize=1)
def split(name: str) -> Split:
    """Split a data set, always alike. Test images choose nothing and train nothing."""
    data = load(name)
    x, y = data.train_x, data.train_y
    order = np.random.default_rng(0).permutation(len(x))
    rest = round(_KEPT * len(x))
    ends = np.cumsum([round(0.3 * rest), round(0.4 * rest)])
    base, mine, judges = (order[part] for part in np.split(np.arange(rest), ends))
    judges, owners = judges[:_JUDGES], np.sort(order[rest:])
    return Split(
        data._replace(train_x=x[owners], train_y=y[owners]),
        (x[base], y[base]),
        (x[mine], y[mine]),
        (x[judges], y[judges]),
        len(x),
    )


def twin_of(context: Context, text: str, attacker: Attacker) -> str:
    """Return which model the twin's device runs; to a twin without one the lock does not matter."""
    return under(context, text) if "device" in attacker.rights else PLAIN


@functools.lru_cache(maxsize=16)
def plain_models(context: Context, number: int) -> tuple[Params, Params]:
    """Return the public base and what its owner made of it, from the run folder if they are there."""
    own = context.data.train_x, context.data.train_y
    return from_base(context, number, split(context.config.data).base, own)[1:]


@functools.lru_cache(maxsize=16)
def locked_model(context: Context, text: str, number: int) -> Locked:
    """Return a model before and after its lock, with the key; `PLAIN`: without."""
    if text == PLAIN:
        return Locked(params := plain_models(context, number)[1], params, ())
    if context.subjects[text].trained_under:
        draws = Draws(*(rng_for(number, purpose) for purpose in Draws._fields))
        _, params, key = owned(context, text, number, draws)
    else:
        params = plain_models(context, number)[1]
        key = jax.jit(context.subjects[text].lock.init)(rng_for(number, "key"), params)
    return Locked(params, *encrypting(context, text)(key, params))


def train(context: Context, text: str, number: int) -> list[Row]:
    """Train a model for other units; no rows."""
    locked_model(context, text, number)
    return []


def trainings(context: Context, text: str, numbers: range) -> tuple[Unit, ...]:
    name = under(context, text)
    return tuple(Unit(train, (name, number), ()) for number in numbers)


@functools.lru_cache(maxsize=2)
def user_of(context: Context, text: str) -> Forward:
    """Return what the holder of a key runs, compiled once for all models."""
    if text == PLAIN:
        return jax.jit(lambda key, params, x: context.model.forward(params, x))
    return jax.jit(user_forward(context.subjects[text].lock, context.model.forward))


def images(context: Context, attacker: Attacker, number: int, draw: int) -> tuple[Any, Any]:
    """Return the labelled inputs of one theft; those of thief and twin are the same."""
    whole = split(context.config.data)
    x, y = (context.data.train_x, context.data.train_y) if attacker.owners else whole.fresh
    rng = np.random.default_rng([number, draw])
    mine = rng.permutation(len(x))[: attacker.count(whole.size)]
    return jnp.asarray(x[mine]), jnp.asarray(y[mine])


def thief(context: Context, text: str, attacker: Attacker, number: int, draw: int) -> Case:
    """Return the case of who holds the locked model of that number."""
    model = locked_model(context, text, number)
    return _case(context, text, attacker, number, draw, model.locked, f"thief/{text}")


def twin(context: Context, text: str, attacker: Attacker, number: int, draw: int) -> Case:
    """Return the case of who has the same, but weights that hold nothing: each attack begins afresh."""
    nothing = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), fresh(context, number))
    return _case(context, text, attacker, number, draw, nothing, "twin")


def _case(
    context: Context,
    text: str,
    attacker: Attacker,
    number: int,
    draw: int,
    locked: Params,
    who: str,
) -> Case:
    model, subject = locked_model(context, text, number), context.subjects.get(text)
    held: dict[str, Callable[[], Any]] = {
        "unlabelled": lambda: images(context, attacker, number, draw)[0],
        "labels": lambda: images(context, attacker, number, draw),
        "device": lambda: partial(user_of(context, text), model.key, model.locked),
        "chosen_input": lambda: partial(lock_of(context, text).scramble, model.key),
        "known_weights": lambda: _first_leaf(model.params),
        "public_base": lambda: plain_models(context, number)[0],
        "other_copy": lambda: _copy(context, text, number, "other copy"),
        "more_copies": lambda: [
            _copy(context, text, number, f"copy {which}").locked for which in (1, 2)
        ],
    }
    return Case(
        lock_of(context, text), context.model, locked,
        rng_for(number, f"{who}/{attacker.name}/{draw}"), context.example, task=context.task,
        scheme=subject.scheme if subject else "", settings=subject.settings if subject else {},
        **{name: held[name]() for name in attacker.rights},
    )  # fmt: skip


def _first_leaf(params: Params) -> Params:
    """Return parameters of which only the first leaf is known."""
    first, *others = jax.tree.leaves(params)
    known = [first, *(jnp.full_like(leaf, jnp.nan) for leaf in others)]
    return jax.tree.unflatten(jax.tree.structure(params), known)


def _copy(context: Context, text: str, number: int, which: str) -> Copy:
    """Return what the lock makes of the same model for another user."""
    params = locked_model(context, text, number).params
    key: Key = jax.jit(lock_of(context, text).init)(rng_for(number, which), params)
    return Copy(*encrypting(context, text)(key, params))
