"""Models that others trained as what a study is about: a language model and an image classifier."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax import tasks
from modellock_jax.core.lock import Params
from modellock_jax.data import Data, load
from modellock_jax.data.painted import painted
from modellock_jax.data.story import TEXT, stretches
from modellock_jax.models import Model
from modellock_jax.models.pretrained import efficientnet_lite0, smollm2
from modellock_jax.study.config import Settings
from modellock_jax.study.context import Context, assemble, rng_for
from modellock_jax.study.training import Owned
from modellock_jax.tasks import Task

__all__ = ["PRETRAINED", "locked_of", "prepare"]

_WINDOW, _IMAGES, _SIDE = 256, 32, 224


class _Trained(NamedTuple):
    model: Model
    params: Params
    task: Task
    data: Data


def _smollm2(name: str) -> _Trained:
    """Cut the story, whatever the data set, into windows of 256 of its tokens."""
    sizes, model, params, tokenizer = smollm2()
    tokens = np.array(tokenizer.encode(TEXT).ids, np.int32)
    x, y = stretches(tokens, _WINDOW, _WINDOW + 1)
    data = Data(x, y, x, y, sizes.vocab_size, "next_token")
    return _Trained(model, params, tasks.next_token(sizes.vocab_size), data)


def _efficientnet(name: str) -> _Trained:
    """Paint grey images and enlarge them; what is true of each is what the model says of it."""
    model, params = efficientnet_lite0()
    grey = painted(load(name)).test_x[:_IMAGES]
    times = _SIDE // grey.shape[1]
    x = (255 * grey.repeat(times, 1).repeat(times, 2) - 127) / 128
    y = np.asarray(jax.jit(model.forward)(params, jnp.asarray(x)).argmax(-1), np.int32)
    return _Trained(model, params, tasks.classify(1000), Data(x, y, x, y, 1000, "classify"))


PRETRAINED: dict[str, Callable[[str], _Trained]] = {
    "smollm2": _smollm2,
    "efficientnet-lite0": _efficientnet,
}
"""By the name of the model on the command line: it, its task and its data, from the data set's name."""


def prepare(config: Settings, folder: Path) -> Context:
    """Read a model that others trained, and the data that it is tried on.

    SmolLM2-135M reads windows of 256 tokens of a story of ours, whatever the data set.
    EfficientNet-Lite0 looks at 32 grey test images of the data set, painted and enlarged, which are of
    none of its classes: what is true of each is what the model says of it.

    Args:
        config: The study's settings, with a model of `PRETRAINED`.
        folder: That of the run, which need not exist.

    Returns:
        Model, task, data and locks, for the study's units.

    Raises:
        ImportError: Without the packages of the model.
        ValueError: For a lock or a data set that does not fit.
    """
    model, _, task, data = _trained(config.model, config.data)
    return assemble(config, folder, model, task, data)


@functools.lru_cache(maxsize=1)
def _trained(model: str, data: str) -> _Trained:
    return PRETRAINED[model](data)


def locked_of(context: Context, text: str, seed: int) -> Owned:
    """Lock the model under the key of one seed.

    Args:
        context: Of the study.
        text: A lock that acts after training.
        seed: Of the key, from 0.

    Returns:
        Random parameters, the locked ones, and the key.
    """
    lock = context.subjects[text].lock
    params = _trained(context.config.model, context.config.data).params
    key = lock.init(rng_for(seed, "key"), params)
    start = context.model.init(rng_for(seed, "init"), context.example)
    return Owned(start, *jax.jit(lock.encrypt)(key, params))
