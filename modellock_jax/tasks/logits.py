"""What tasks share that answer with logits: `[B, ..., C]`, one of C classes at every position."""

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Float, Integer

from modellock_jax.tasks.task import finite

__all__ = ["cross_entropy", "kl_divergence", "margin_loss"]


def cross_entropy(
    logits: Float[jax.Array, "batch *positions classes"], y: Integer[jax.Array, " batch *positions"]
) -> Float[jax.Array, " batch"]:
    """Return the mean cross-entropy of each example's positions; infinite if not finite.

    Args:
        logits: float `[B, ..., C]`.
        y: Labels, int `[B, ...]`.

    Returns:
        float `[B]`.

    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[3.0, 0.0], [jnp.nan, 0.0]])
    >>> [round(loss, 3) for loss in cross_entropy(logits, jnp.array([0, 0])).tolist()]
    [0.049, inf]
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), y)
    loss = jnp.where(jnp.isfinite(logits).all(-1), loss, jnp.inf)
    return loss if loss.ndim == 1 else loss.reshape(len(loss), -1).mean(-1)


def margin_loss(
    logits: Float[jax.Array, "batch *positions classes"], y: Integer[jax.Array, " batch *positions"]
) -> Float[jax.Array, ""]:
    """How far another class leads, in units of the batch's mean margin, through a sigmoid: a mean.

    A smooth count of errors. For locks that want a model to fail: cross-entropy makes few answers very
    wrong, this one makes many wrong. The unit, which counts as a constant in the gradient, keeps answers
    in reach whose logits grew.

    Args:
        logits: float `[B, ..., C]`.
        y: Labels, int `[B, ...]`.

    Returns:
        A float in (0, 1), or infinite if any logit is not finite.

    >>> import jax.numpy as jnp
    >>> round(float(margin_loss(jnp.array([[4.0, 0.0], [4.0, 0.0]]), jnp.array([0, 1]))), 3)
    0.5
    """
    true = jax.nn.one_hot(y, logits.shape[-1], dtype=jnp.bool_)
    other = jnp.where(true, -jnp.inf, logits).max(-1)
    own = jnp.where(true, logits, -jnp.inf).max(-1)
    lead = other - own
    unit = jnp.maximum(jnp.abs(lead).mean(), jnp.finfo(lead.dtype).tiny)
    harm = jax.nn.sigmoid(lead / lax.stop_gradient(unit)).mean()
    return jnp.where(jnp.isfinite(logits).all(), harm, jnp.inf)


def kl_divergence(
    logits: Float[jax.Array, "batch *positions classes"],
    answers: Float[jax.Array, "batch *positions classes"],
) -> Float[jax.Array, " batch"]:
    """Return the mean KL(answers || logits) of each example's positions.

    An example whose answer is not finite gives 0: it teaches nothing.

    Args:
        logits: float `[B, ..., C]`.
        answers: Another model's logits, float `[B, ..., C]`.

    Returns:
        float `[B]`.

    >>> import jax.numpy as jnp
    >>> one = jnp.array([[3.0, 0.0], [jnp.nan, 0.0]])
    >>> [round(apart, 3) for apart in kl_divergence(jnp.zeros((2, 2)), one).tolist()]
    [0.502, 0.0]
    """
    usable = finite(answers).reshape(-1, *(1,) * (answers.ndim - 1))
    target = jax.nn.log_softmax(jnp.where(usable, answers, 0))
    apart = jnp.where(usable, jnp.exp(target) * (target - jax.nn.log_softmax(logits)), 0)
    return apart.sum(-1) if apart.ndim == 2 else apart.sum(-1).reshape(len(apart), -1).mean(-1)
