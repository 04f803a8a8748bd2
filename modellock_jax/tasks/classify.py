"""Classification: one class for each input."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from modellock_jax.tasks.augment import random_shift
from modellock_jax.tasks.logits import cross_entropy, kl_divergence, margin_loss
from modellock_jax.tasks.task import Task, share

__all__ = ["Counts", "classify"]


class Counts(NamedTuple):
    """How many inputs were classified correctly, and how many there were, int32."""

    correct: jax.Array
    total: jax.Array


def classify(classes: int = 10) -> Task:
    """Classify inputs: logits `[B, classes]`, labels int `[B]`; accuracy in %.

    `augment` shifts images by up to two pixels.

    Args:
        classes: The number of classes, at least 2.

    Returns:
        A task whose value is in [0, 100]; 100 is the best.

    Raises:
        ValueError: For less than two classes.

    **Guarantees.** An input with a logit that is not finite counts as wrong: argmax of NaN is class
    0, and would otherwise be right for one class. Tallies add up exactly.

    >>> import jax.numpy as jnp
    >>> task = classify(4)
    >>> tally = task.tally(jnp.eye(4), jnp.array([0, 1, 2, 0]))
    >>> float(task.value(tally)), task.chance, task.best
    (75.0, 25.0, 100.0)
    """
    if classes < 2:
        raise ValueError(f"classify: needs at least 2 classes, not {classes}")
    return Task(
        name="classify",
        unit="accuracy in %",
        loss=cross_entropy,
        harm=margin_loss,
        tally=_tally,
        value=_accuracy,
        chance=100 / classes,
        best=100.0,
        augment=random_shift,
        match=kl_divergence,
    )


def _tally(logits: jax.Array, y: jax.Array) -> Counts:
    right = jnp.isfinite(logits).all(-1) & (logits.argmax(-1).astype(y.dtype) == y)
    return Counts(right.sum(dtype=jnp.int32), jnp.int32(right.size))


def _accuracy(tally: Counts) -> jax.Array:
    return 100 * share(tally.correct, tally.total)
