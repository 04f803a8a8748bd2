"""The models of a study: trained once, kept in the run folder, and locked."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.core.lock import Key, Lock, Params, owner_forward
from modellock_jax.study.context import Context, rng_for
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.store import load_params, save_params
from modellock_jax.train import fit

__all__ = [
    "PLAIN",
    "Draws",
    "Locked",
    "Owned",
    "encrypting",
    "kept",
    "lock_of",
    "locked_models",
    "owned",
    "train",
    "trained",
    "trainings",
    "under",
]

PLAIN = "plain"
"""In place of a lock's text: the model without any."""

_NONE = Lock(lambda rng, params: ())


class Locked(NamedTuple):
    """The owner's parameters of one seed, what the lock makes of them, and the key."""

    params: Params
    locked: Params
    key: Key


class Draws(NamedTuple):
    """The generators of one model: of its weights, of its key, and of its batches."""

    init: jax.Array
    key: jax.Array
    fit: jax.Array


class Owned(NamedTuple):
    """Parameters before and after training, and the key that they were trained under."""

    start: Params
    params: Params
    key: Key


def lock_of(context: Context, text: str) -> Lock:
    """Return a lock by its text; of `PLAIN` one that does nothing.

    Args:
        context: The study.
        text: A lock's text, or `PLAIN`.

    Returns:
        The lock.
    """
    return _NONE if text == PLAIN else context.subjects[text].lock


def owned(context: Context, text: str, seed: int, draws: Draws) -> Owned:
    """Train a model under the lock `text`, or `PLAIN`; or read it from the run folder.

    Args:
        context: The study.
        text: The lock's text, or `PLAIN`.
        seed: Of the model and the key, from 0 on.
        draws: The generators of model, key and training.

    Returns:
        Parameters before and after training, and the key.
    """
    lock = lock_of(context, text)
    start = context.model.init(draws.init, context.example)
    key = jax.jit(lock.init)(draws.key, start)
    forward = functools.partial(owner_forward(lock, context.model.train), key)
    examples = context.data.train_x, context.data.train_y
    params = kept(context, f"{text}-{seed}", start, forward, examples, draws.fit)
    return Owned(start, params, key)


def kept(
    context: Context,
    name: str,
    start: Params,
    forward: Callable[..., Any],
    examples: tuple[np.ndarray, np.ndarray],
    rng: jax.Array,
) -> Params:
    """Train a model as the study says, or read it from the run folder.

    Args:
        context: The study.
        name: The model's in the run folder.
        start: Its parameters before training.
        forward: `forward(params, x)`, as in training.
        examples: Inputs `[N, ...]` and what is true of them `[N, ...]`.
        rng: The generator of the batches.

    Returns:
        The trained parameters.
    """
    file = context.folder / "models" / f"{name}.safetensors"
    params = load_params(file, start)
    if params is None:
        c = context.config
        params, _ = fit(
            forward,
            start,
            *examples,
            rng=rng,
            epochs=c.epochs,
            batch_size=c.batch_size,
            learning_rate=c.learning_rate,
            loss=context.task.loss,
            augment=context.task.augment,
            progress=f"training {name}",
        )
        save_params(file, params)
    return params


def trained(context: Context, text: str, seed: int) -> tuple[Params, Key]:
    """Train the model of one seed as the lock `text` wants it, and give the key it was trained under.

    `PLAIN` and locks that come after training: the plain model. It is read from the run folder, or
    trained and kept there.

    Args:
        context: The study.
        text: The lock's text, or `PLAIN`.
        seed: Of the model and the key, from 0 on.

    Returns:
        Parameters, a tree of arrays, and the key.
    """
    draws = Draws(*(rng_for(seed, purpose) for purpose in Draws._fields))
    found = owned(context, under(context, text), seed, draws)
    return found.params, found.key


def train(context: Context, text: str, seed: int) -> list[Row]:
    """Train a model for other units; no rows.

    Args:
        context: The study.
        text: The lock's text, or `PLAIN`.
        seed: Of the model and the key, from 0 on.

    Returns:
        An empty list.
    """
    trained(context, text, seed)
    return []


def trainings(context: Context, *texts: str) -> tuple[Unit, ...]:
    """Return the units that train the models of every seed for these locks, or `PLAIN`.

    Args:
        context: The study.
        *texts: Lock texts, or `PLAIN`.

    Returns:
        Units without rows.
    """
    names = dict.fromkeys(under(context, text) for text in texts)
    seeds = range(context.config.seeds)
    return tuple(Unit(train, (name, seed), ()) for name in names for seed in seeds)


def under(context: Context, text: str) -> str:
    """Return the lock that the model is trained under, or `PLAIN`.

    Args:
        context: The study.
        text: The lock's text, or `PLAIN`.

    Returns:
        The same text, or `PLAIN` for a lock that comes after training.
    """
    return text if text != PLAIN and context.subjects[text].trained_under else PLAIN


@functools.lru_cache(maxsize=1)
def locked_models(context: Context, text: str) -> list[Locked]:
    """Return the locked model of each seed.

    Args:
        context: The study.
        text: The lock's text.

    Returns:
        Plain and locked parameters with their key, one a seed.
    """
    lock, found = context.subjects[text].lock, []
    for seed in range(context.config.seeds):
        params, key = trained(context, text, seed)
        if not context.subjects[text].trained_under:
            key = jax.jit(lock.init)(rng_for(seed, "key"), params)
        found.append(Locked(params, *encrypting(context, text)(key, params)))
    return found


@functools.lru_cache(maxsize=1)
def encrypting(context: Context, text: str) -> Callable[[Key, Params], tuple[Params, Key]]:
    """Encrypt by the lock, with the harm done to the first training examples where it takes a loss.

    Args:
        context: The study.
        text: The lock's text.

    Returns:
        `f(key, params) -> (locked, key)`.
    """
    lock, model, harm = context.subjects[text].lock, context.model, context.task.harm
    sample = jnp.asarray(context.data.train_x[:512]), jnp.asarray(context.data.train_y[:512])

    @jax.jit
    def encrypt(key: Key, params: Params, x: jax.Array, y: jax.Array) -> tuple[Params, Key]:
        return lock.encrypt(key, params, lambda p: harm(model.forward(p, x), y))

    return lambda key, params: encrypt(key, params, *sample)
