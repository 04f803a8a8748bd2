"""Training: each epoch is one jitted scan over optax steps, compiled once."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from modellock_jax.core.lock import Params


def cross_entropy(
    forward: Callable[[Params, jax.Array], Any], params: Params, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, Params]:
    """Mean cross-entropy of `forward(params, x)` on labels y, int `[B]`, and the new parameters.

    `forward` returns logits `[B, classes]`, or `(logits, params)` if it updates statistics.
    """
    out = forward(params, x)
    logits, params = out if isinstance(out, tuple) else (out, params)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), params


def margin_loss(logits: jax.Array, y: Any) -> jax.Array:
    """How far another class leads, in units of the batch's mean margin, through a sigmoid: a mean.

    Logits `[B, classes]`, labels int `[B]`; in (0, 1), a smooth count of errors. For locks that want
    the loss to grow: cross-entropy makes few images very wrong, this one makes many images wrong.
    The unit, which counts as a constant in the gradient, keeps images in reach whose logits grew.

    >>> round(float(margin_loss(jnp.array([[4.0, 0.0], [4.0, 0.0]]), jnp.array([0, 1]))), 3)
    0.5
    """
    true = jax.nn.one_hot(y, logits.shape[-1], dtype=jnp.bool_)
    other = jnp.where(true, -jnp.inf, logits).max(-1)
    own = jnp.where(true, logits, -jnp.inf).max(-1)
    lead = other - own
    unit = jnp.maximum(jnp.abs(lead).mean(), jnp.finfo(lead.dtype).tiny)
    return jax.nn.sigmoid(lead / lax.stop_gradient(unit)).mean()


def sgd_step(
    forward: Callable[[Params, jax.Array], Any],
    optimizer: optax.GradientTransformation,
    params: Params,
    state: Any,
    x: jax.Array,
    y: jax.Array,
) -> tuple[Params, Any, jax.Array]:
    """One optax step on one batch: new parameters, new optimizer state, the batch's loss."""
    objective = functools.partial(cross_entropy, forward)
    (loss, updated), gradient = jax.value_and_grad(objective, has_aux=True)(params, x, y)
    updates, state = optimizer.update(gradient, state, params)
    # `updated` holds the new statistics; their gradient, and so their update, is zero.
    return optax.apply_updates(updated, updates), state, loss


def batches(rng: jax.Array, n: int, steps: int, batch_size: int) -> jax.Array:
    """Indices int32 `[steps, batch_size]` below n: one shuffled pass after another."""
    passes = -(-steps * batch_size // n)
    shuffled = jax.vmap(lambda r: jax.random.permutation(r, n))(jax.random.split(rng, passes))
    return shuffled.reshape(-1)[: steps * batch_size].reshape(steps, batch_size)


def one_epoch(
    forward: Callable[[Params, jax.Array], Any],
    optimizer: optax.GradientTransformation,
    steps: int,
    batch_size: int,
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Callable[..., tuple[Params, Any, jax.Array]]:
    """What `fit` compiles: `epoch(params, state, rng, x, y)` gives parameters, state and mean loss.

    Images x `[N, ...]`, labels y int32 `[N]`; `steps` shuffled batches of `batch_size`. The given
    parameters and state are donated: their memory becomes that of the new ones.
    """

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def epoch(
        params: Params, state: Any, rng: jax.Array, x: jax.Array, y: jax.Array
    ) -> tuple[Params, Any, jax.Array]:
        def step(carry: Any, batch: Any) -> tuple[Any, jax.Array]:
            index, r = batch
            images = x[index] if augment is None else augment(r, x[index])
            params, state = carry
            params, state, loss = sgd_step(forward, optimizer, params, state, images, y[index])
            return (params, state), loss

        order, noise = jax.random.split(rng)
        index = batches(order, len(x), steps, batch_size)
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
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    progress: str | None = None,
) -> tuple[Params, jax.Array]:
    """Train with Adam under a cosine schedule; a key is baked in as `partial(owner_forward(..), key)`.

    `forward(params, x)` gives logits, or `(logits, params)` if it updates statistics; x `[N, ...]`,
    y int32 `[N]`. `augment(rng, x)` changes each batch before `forward` sees it. `progress` names a
    bar on stderr, shown on a terminal only. Returns the parameters and the mean loss of each epoch,
    float32 `[epochs]`. Raises `ValueError` for an empty data set or settings below 1.

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
    if len(x) == 0 or epochs < 1 or batch_size < 1:
        raise ValueError(
            f"fit: needs data, epochs and batch_size of at least 1, not {len(x)} inputs, "
            f"{epochs} epochs, batches of {batch_size}"
        )
    batch_size = min(batch_size, len(x))
    steps = len(x) // batch_size
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps * epochs))
    x, y = jnp.asarray(x), jnp.asarray(y)

    epoch = one_epoch(forward, optimizer, steps, batch_size, augment)
    params = jax.tree.map(jnp.array, params)  # the caller's are not donated
    state, losses = optimizer.init(params), []
    with bar() as shown:
        task = shown.add_task(progress or "", total=epochs, visible=progress is not None)
        for r in jax.random.split(rng, epochs):
            params, state, loss = epoch(params, state, r, x, y)
            losses.append(jax.block_until_ready(loss))
            shown.advance(task)
    return params, jnp.stack(losses)


def random_shift(rng: jax.Array, x: jax.Array, pixels: int = 2) -> jax.Array:
    """Shift each image by up to `pixels` in each direction, zeros coming in: `[B, H, W, C]`.

    >>> import jax, jax.numpy as jnp
    >>> moved = random_shift(jax.random.key(0), jnp.ones((3, 6, 6, 1)))
    >>> moved.shape, bool((moved.sum((1, 2, 3)) >= 16).all())
    ((3, 6, 6, 1), True)
    """
    padded = jnp.pad(x, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    corners = jax.random.randint(rng, (x.shape[0], 2), 0, 2 * pixels + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (corner[0], corner[1], 0), x.shape[1:])

    return jax.vmap(crop)(padded, corners)


def bar() -> Progress:
    """A progress bar on stderr that stays silent when stderr is not a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
