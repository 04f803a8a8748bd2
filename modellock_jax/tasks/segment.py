"""Segmentation: a class for every pixel."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from modellock_jax.tasks.augment import random_gain
from modellock_jax.tasks.logits import cross_entropy, kl_divergence, margin_loss
from modellock_jax.tasks.task import Task

__all__ = ["Overlap", "segment"]


class Overlap(NamedTuple):
    """Pixels of each class, int32 `[classes]`: predicted and true, predicted, and true."""

    intersection: jax.Array
    predicted: jax.Array
    true: jax.Array


def segment(classes: int = 4) -> Task:
    """Segment images: logits `[B, H, W, classes]`, labels int `[B, H, W]`; mIoU in %.

    mIoU is the mean, over the classes that are predicted or true anywhere, of the pixels that are
    both by those that are either. `chance` is that of even guesses on classes of equal size.
    `augment` changes the brightness of each image and moves nothing, so that the labels stay true.

    Args:
        classes: The number of classes, at least 2.

    Returns:
        A task whose value is in [0, 100]; 100 is the best.

    Raises:
        ValueError: For less than two classes.

    **Guarantees.** A pixel with a logit that is not finite counts as predicted to be every class but the
    true one, which is worse than any answer. Tallies add up exactly.

    Source: the Jaccard index (1901), as in the PASCAL VOC challenge, Everingham et al. (2010).

    >>> import jax, jax.numpy as jnp
    >>> task, y = segment(2), jnp.array([[[0, 0], [1, 1]]])
    >>> predicted = jax.nn.one_hot(jnp.array([[[0, 1], [1, 1]]]), 2)
    >>> round(float(task.value(task.tally(predicted, y))), 2)  # (1/2 + 2/3) / 2
    58.33
    """
    if classes < 2:
        raise ValueError(f"segment: needs at least 2 classes, not {classes}")
    return Task(
        name="segment",
        unit="mIoU in %",
        loss=cross_entropy,
        harm=margin_loss,
        tally=_tally,
        value=_miou,
        chance=100 / (2 * classes - 1),
        best=100.0,
        augment=random_gain,
        match=kl_divergence,
    )


def _tally(logits: jax.Array, y: jax.Array) -> Overlap:
    classes = logits.shape[-1]
    true = jax.nn.one_hot(y, classes, dtype=jnp.bool_)
    sure = jnp.isfinite(logits).all(-1, keepdims=True)
    predicted = jnp.where(sure, jax.nn.one_hot(logits.argmax(-1), classes, dtype=jnp.bool_), ~true)
    places = tuple(range(y.ndim))
    return Overlap(*(m.sum(places, dtype=jnp.int32) for m in (predicted & true, predicted, true)))


def _miou(tally: Overlap) -> jax.Array:
    either = tally.predicted + tally.true - tally.intersection
    shares = tally.intersection.astype(jnp.float32) / jnp.maximum(either, 1).astype(jnp.float32)
    return 100 * jnp.mean(shares, where=either > 0)
