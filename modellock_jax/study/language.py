"""A language model that others trained as what a study is about, and a story of ours to read."""

import functools
from pathlib import Path

import jax
import numpy as np

from modellock_jax import tasks
from modellock_jax.data import Data
from modellock_jax.data.story import TEXT
from modellock_jax.models.pretrained import Pretrained, smollm2
from modellock_jax.study.config import Settings
from modellock_jax.study.context import Context, assemble, rng_for
from modellock_jax.study.training import Owned

__all__ = ["MODEL", "locked_of", "prepare"]

MODEL = "smollm2"
"""The name of the model on the command line."""
_WINDOW = 256


def prepare(config: Settings, folder: Path) -> Context:
    """Read SmolLM2-135M, and cut the story into windows of 256 of its tokens.

    Args:
        config: The study's settings; its data set is not looked at.
        folder: That of the run, which need not exist.

    Returns:
        Model, task, data and locks, for the study's units.

    Raises:
        ImportError: Without the packages of the model.
        ValueError: For a lock that does not fit.
    """
    sizes, model, _, tokenizer = _pretrained()
    tokens = np.array(tokenizer.encode(TEXT).ids, np.int32)
    rows = tokens[: len(tokens) // (_WINDOW + 1) * (_WINDOW + 1)].reshape(-1, _WINDOW + 1)
    x, y = rows[:, :-1], rows[:, 1:]
    data = Data(x, y, x, y, sizes.vocab_size, "next_token")
    return assemble(config, folder, model, tasks.next_token(sizes.vocab_size), data)


@functools.cache
def _pretrained() -> Pretrained:
    return smollm2()


def locked_of(context: Context, text: str, seed: int) -> Owned:
    """Lock the model under the key of one seed.

    Args:
        context: Of the study.
        text: A lock that acts after training.
        seed: Of the key, from 0.

    Returns:
        Random parameters, the locked ones, and the key.
    """
    lock, params = context.subjects[text].lock, _pretrained().params
    key = lock.init(rng_for(seed, "key"), params)
    start = context.model.init(rng_for(seed, "init"), context.example)
    return Owned(start, *jax.jit(lock.encrypt)(key, params))
