"""Training: each epoch is one jitted scan over optax steps, compiled once."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from modellock_jax._progress import bar
from modellock_jax.core.lock import Params
from modellock_jax.tasks.logits import cross_entropy
from modellock_jax.tasks.task import Out

__all__ = ["LossOfEach", "batches", "fit", "make_epoch", "mean_loss", "sgd_step"]

LossOfEach = Callable[[Out, Any], jax.Array]
"""`loss(out, y) -> [B]`, of each example: that of a `Task`."""


def mean_loss(
    loss: LossOfEach, forward: Callable[[Params, Any], Any], params: Params, x: Any, y: Any
) -> tuple[jax.Array, Params]:
    """Compute the mean loss of a batch.

    Args:
        loss: `loss(out, y) -> [B]`, of a `Task`.
        forward: `forward(params, x)` gives answers, or a tuple `(answers, params)` if it updates
            statistics; answers that are several arrays are a `NamedTuple`, a list or a dict.
        params: The model's parameters.
        x: Inputs, a tree `[B, ...]`.
        y: Truths, a tree `[B, ...]`.

    Returns:
        The mean, a float scalar, and the parameters with statistics updated.
    """
    out = forward(params, x)
    out, params = out if type(out) is tuple else (out, params)
    return loss(out, y).mean(), params


def sgd_step(
    forward: Callable[[Params, jax.Array], Any],
    optimizer: optax.GradientTransformation,
    params: Params,
    state: Any,
    x: Any,
    y: Any,
    loss: LossOfEach = cross_entropy,
) -> tuple[Params, Any, jax.Array]:
    """Take one optax step on one batch.

    Args:
        forward: As in `mean_loss`.
        optimizer: Any optax optimizer.
        params: The model's parameters.
        state: The optimizer's state.
        x: Inputs, a tree `[B, ...]`.
        y: Truths, a tree `[B, ...]`.
        loss: `loss(out, y) -> [B]`, of a `Task`.

    Returns:
        The new parameters, the optimizer's new state, and the batch's mean loss.
    """
    objective = functools.partial(mean_loss, loss, forward)
    (now, updated), gradient = jax.value_and_grad(objective, has_aux=True)(params, x, y)
    updates, state = optimizer.update(gradient, state, params)
    # `updated` holds the new statistics; their gradient, and so their update, is zero.
    return optax.apply_updates(updated, updates), state, now


def batches(rng: jax.Array, n: int, steps: int, batch_size: int) -> jax.Array:
    """Draw the indices of batches: one shuffled pass after another.

    Args:
        rng: A JAX PRNG key.
        n: The number of examples, at least 1.
        steps: The number of batches.
        batch_size: Of each, at least 1.

    Returns:
        int32 `[steps, batch_size]`, in [0, n).
    """
    passes = -(-steps * batch_size // n)
    shuffled = jax.vmap(lambda r: jax.random.permutation(r, n))(jax.random.split(rng, passes))
    return shuffled.reshape(-1)[: steps * batch_size].reshape(steps, batch_size)


def make_epoch(
    forward: Callable[[Params, jax.Array], Any],
    optimizer: optax.GradientTransformation,
    steps: int,
    batch_size: int,
    augment: Callable[[jax.Array, Any], Any] | None = None,
    loss: LossOfEach = cross_entropy,
) -> Callable[..., tuple[Params, Any, jax.Array]]:
    """Make what `fit` compiles: one epoch as one jitted scan over optax steps.

    Args:
        forward: As in `mean_loss`.
        optimizer: Any optax optimizer.
        steps: How many batches, at least 1.
        batch_size: Of how many examples each, at least 1.
        augment: `augment(rng, x) -> x`, applied to every batch of inputs; None for none.
        loss: `loss(out, y) -> [B]`, of a `Task`.

    Returns:
        `epoch(params, state, rng, x, y) -> (params, state, mean loss)` on trees `[N, ...]`. The given
        parameters and state are donated: their memory becomes that of the new ones.
    """

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def epoch(
        params: Params, state: Any, rng: jax.Array, x: Any, y: Any
    ) -> tuple[Params, Any, jax.Array]:
        def step(carry: Any, batch: Any) -> tuple[Any, jax.Array]:
            index, r = batch
            inputs, truths = jax.tree.map(lambda a: a[index], (x, y))
            inputs = inputs if augment is None else augment(r, inputs)
            params, state = carry
            params, state, now = sgd_step(forward, optimizer, params, state, inputs, truths, loss)
            return (params, state), now

        order, noise = jax.random.split(rng)
        index = batches(order, len(jax.tree.leaves(x)[0]), steps, batch_size)
        rngs = jax.random.split(noise, steps)
        (params, state), losses = lax.scan(step, (params, state), (index, rngs))
        return params, state, losses.mean()

    return epoch


def fit(
    forward: Callable[[Params, jax.Array], Any],
    params: Params,
    x: Any,
    y: Any,
    *,
    rng: jax.Array,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    decay: float = 0.0,
    loss: LossOfEach = cross_entropy,
    augment: Callable[[jax.Array, Any], Any] | None = None,
    progress: str | None = None,
) -> tuple[Params, jax.Array]:
    """Train with Adam under a cosine schedule; a key is baked in as `partial(owner_forward(..), key)`.

    Args:
        forward: `forward(params, x)` gives answers, or `(answers, params)` if it updates statistics.
        params: The parameters to begin with, a tree of arrays.
        x: Inputs, a tree `[N, ...]`.
        y: Truths, a tree `[N, ...]`.
        rng: A JAX PRNG key, for the order of the examples and for `augment`.
        epochs: How many passes over the data, at least 1.
        batch_size: At least 1; at most N are taken.
        learning_rate: That of the first step; it falls to 0.
        decay: Of the weights, times the rate, at each step (AdamW); 0 or more.
        loss: `loss(answers, y) -> [B]`, of a `Task`.
        augment: `augment(rng, x) -> x`, which changes each batch before `forward` sees it, of a `Task`.
        progress: The name of a bar on stderr, shown on a terminal only; None for no bar.

    Returns:
        The parameters, and the mean loss of each epoch, float32 `[epochs]`.

    Raises:
        ValueError: For an empty data set, another number of truths than of inputs, or settings below 1.

    **Guarantees.** Two calls with equal arguments give equal bits on one machine. The given arrays
    stay as they are; between epochs one copy of parameters and optimizer state is held, not two.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0]] * 8)
    >>> y = jnp.array([0, 1] * 8)
    >>> _, losses = fit(lambda w, x: x @ w, jnp.zeros((2, 2)), x, y, rng=jax.random.key(0),
    ...                 epochs=20, batch_size=8, learning_rate=0.1)
    >>> bool(losses[-1] < losses[0] / 2)
    True
    """
    x, y = jax.tree.map(jnp.asarray, (x, y))
    sizes = {len(leaf) for leaf in jax.tree.leaves((x, y))}
    n = min(sizes, default=0)
    if len(sizes) > 1:
        raise ValueError(f"fit: needs as many truths as inputs, not {sorted(sizes)}")
    if n == 0 or epochs < 1 or batch_size < 1:
        raise ValueError(
            f"fit: needs data, epochs and batch_size of at least 1, not {n} inputs, "
            f"{epochs} epochs, batches of {batch_size}"
        )
    batch_size = min(batch_size, n)
    steps = n // batch_size
    rate = optax.cosine_decay_schedule(learning_rate, steps * epochs)
    optimizer = optax.adamw(rate, weight_decay=decay) if decay else optax.adam(rate)
    epoch = make_epoch(forward, optimizer, steps, batch_size, augment, loss)
    params = jax.tree.map(jnp.array, params)  # the caller's are not donated
    state, losses = optimizer.init(params), []
    with bar() as shown:
        task = shown.add_task(progress or "", total=epochs, visible=progress is not None)
        for r in jax.random.split(rng, epochs):
            params, state, now = epoch(params, state, r, x, y)
            losses.append(jax.block_until_ready(now))
            shown.advance(task)
    return params, jnp.stack(losses)
