"""Language modelling: the next token at every place of a text."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from modellock_jax.tasks.augment import unchanged
from modellock_jax.tasks.logits import cross_entropy, kl_divergence, margin_loss
from modellock_jax.tasks.task import Task

__all__ = ["LogLoss", "next_token"]


class LogLoss(NamedTuple):
    """`nats`: float32, the sum of -log p of the tokens that came; `tokens`: int32, how many."""

    nats: jax.Array
    tokens: jax.Array


def next_token(vocabulary: int = 256) -> Task:
    """Predict the next token everywhere: logits `[B, T, vocabulary]`, tokens int `[B, T]`; perplexity.

    The perplexity is the exponential of the mean -log p: as many tokens as a model hesitates
    between, 1 at best, `vocabulary` for one that knows nothing, and more for one that is sure and
    wrong.

    Args:
        vocabulary: The number of tokens there are, at least 2.

    Returns:
        A task whose value is the perplexity, of which 1 is the best.

    Raises:
        ValueError: For less than two tokens.

    **Guarantees.** A token with a logit that is not finite had probability 0, so that the perplexity
    of the whole is infinite; so it is where it is more than float32 can hold. Rule a token out by a
    large negative logit, not by -inf. Tallies add up but for rounding.

    >>> import jax.numpy as jnp
    >>> task = next_token(4)
    >>> tally = task.tally(jnp.zeros((2, 3, 4)), jnp.ones((2, 3), jnp.int32))
    >>> round(float(task.value(tally)), 4), task.chance, task.best
    (4.0, 4.0, 1.0)
    """
    if vocabulary < 2:
        raise ValueError(f"next_token: needs at least 2 tokens, not {vocabulary}")
    return Task(
        name="next_token",
        unit="perplexity",
        loss=cross_entropy,
        harm=margin_loss,
        tally=_tally,
        value=_perplexity,
        chance=float(vocabulary),
        best=1.0,
        augment=unchanged,
        match=kl_divergence,
    )


def _tally(logits: jax.Array, y: jax.Array) -> LogLoss:
    logits = logits.astype(jnp.float32)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    nats = jnp.where(jnp.isfinite(logits).all(-1), nats, jnp.inf)
    return LogLoss(nats.sum(), jnp.int32(y.size))


def _perplexity(tally: LogLoss) -> jax.Array:
    return jnp.exp(tally.nats / tally.tokens.astype(jnp.float32))
