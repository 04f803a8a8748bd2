"""What a study is about: the data, the model, the locks, and the draws of each seed."""

import dataclasses
import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modellock_jax.core.lock import Lock, Params
from modellock_jax.data import Data, load
from modellock_jax.locks import LockText, parse
from modellock_jax.locks.patch_shuffle import patch_side
from modellock_jax.models import MODELS, Model
from modellock_jax.study.config import Config
from modellock_jax.tasks import classify, measure


class Score(NamedTuple):
    """`accuracy`: share of inputs classified rightly; `non_finite`: share with a NaN or infinite
    logit. Both float32 in [0, 1]."""

    accuracy: jax.Array
    non_finite: jax.Array


def score(forward: Callable[[jax.Array], jax.Array], x: jax.Array, y: jax.Array) -> Score:
    """The score of a classifier, see `tasks.measure`."""
    found = measure(classify(), forward, x, y)
    return Score(found.value / 100, found.non_finite)


class Subject(NamedTuple):
    """A lock under study: its text as it was given, and what that says of inputs of a `shape`."""

    text: str
    spec: LockText
    lock: Lock

    @property
    def scheme(self) -> str:
        """The name of the lock; of a chain the names of its links, joined by `+`."""
        return self.spec.name

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of the lock; none of a chain, whose links have their own."""
        return self.spec.links[0].settings if len(self.spec.links) == 1 else {}

    @property
    def trained_under(self) -> bool:
        """Whether the key acts in training: on inputs or pre-activations."""
        return any(scheme.trained_under for scheme in self.spec.schemes)


def subject_of(text: str, shape: tuple[int, ...]) -> Subject:
    """A lock for inputs of this shape. Raises `ValueError` for a text without one.

    >>> subject_of("pixel_shuffle", (28, 28, 1)).settings
    {'block': 14, 'channels': 1, 'image_shape': (28, 28, 1)}
    """
    spec = parse(text).complete(shape)
    return Subject(text, spec, spec.lock)


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """What all units of a study share in one process; the run folder is for trained models."""

    config: Config
    folder: Path
    data: Data
    model: Model
    shape: tuple[int, ...]
    subjects: dict[str, Subject]
    """By their texts."""

    logits: Callable[[Params], jax.Array]
    """The plain forward on the whole test set, compiled once for all locks."""

    score: Callable[[Params], Score]
    """Its score."""


def prepare(config: Config, folder: Path) -> Context:
    """Check the whole configuration before anything is written.

    Raises `ValueError` for an unknown data set, model, lock or setting, one that does not fit the
    images or the model, or a lock named twice; `ConnectionError` if the data set cannot be had.
    """
    if config.model not in MODELS:
        raise ValueError(f"there is no model {config.model!r}; the models are {', '.join(MODELS)}")
    if config.seeds < 1:
        raise ValueError(f"a study needs at least one seed, not {config.seeds}")
    for text in config.locks:
        if config.locks.count(text) > 1:
            raise ValueError(f"the lock {text!r} is named twice; name each lock once")
    data = load(config.data)
    shape = data.train_x.shape[1:]
    options = {"patch": patch_side(shape)}
    factory = MODELS[config.model]
    known = inspect.signature(factory).parameters
    model = factory(data.classes, **{k: v for k, v in options.items() if k in known})
    subjects = {text: subject_of(text, shape) for text in config.locks}
    params = jax.eval_shape(lambda rng: model.init(rng, jnp.zeros((1, *shape))), jax.random.key(0))
    for subject in subjects.values():
        jax.eval_shape(subject.lock.init, jax.random.key(0), params)

    @jax.jit
    def logits(params: Params) -> jax.Array:
        return model.forward(params, jnp.asarray(data.test_x))

    @jax.jit
    def plain_score(params: Params) -> Score:
        return score(
            lambda x: model.forward(params, x), jnp.asarray(data.test_x), jnp.asarray(data.test_y)
        )

    return Context(config, folder, data, model, shape, subjects, logits, plain_score)


def rng_for(seed: int, purpose: str) -> jax.Array:
    """A generator for one purpose of one seed, by the hash of both, so that none is used twice."""
    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    return jax.random.key(int.from_bytes(digest[:4]))


def fresh(context: Context, seed: int) -> Params:
    """The untrained model of one seed."""
    return context.model.init(rng_for(seed, "init"), jnp.zeros((1, *context.shape)))
