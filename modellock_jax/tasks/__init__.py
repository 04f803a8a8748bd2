"""Tasks: what a model is for, as pure functions on what it answers and what is true."""

from collections.abc import Callable

from modellock_jax.tasks.augment import random_shift, unchanged
from modellock_jax.tasks.classify import classify
from modellock_jax.tasks.logits import cross_entropy, kl_divergence, margin_loss
from modellock_jax.tasks.next_token import next_token
from modellock_jax.tasks.segment import segment
from modellock_jax.tasks.task import Score, Task, finite, measure, merit

TASKS: dict[str, Callable[[int], Task]] = {
    "classify": classify,
    "next_token": next_token,
    "segment": segment,
}
"""A task from its number of classes, or of tokens, by name."""

__all__ = [
    "TASKS",
    "Score",
    "Task",
    "classify",
    "cross_entropy",
    "finite",
    "kl_divergence",
    "margin_loss",
    "measure",
    "merit",
    "next_token",
    "random_shift",
    "segment",
    "unchanged",
]
