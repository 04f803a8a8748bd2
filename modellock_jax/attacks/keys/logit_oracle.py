"""The key of a pixel shuffle from the logits of an unlocked device alone."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.attacks.case import Case, Entry, Found, with_key
from modellock_jax.attacks.keys.chosen_image import block_counts, from_blocks, image_shape
from modellock_jax.core.lock import Forward, Params
from modellock_jax.locks.pixel_shuffle import PixelKey

__all__ = ["ENTRIES", "OracleKey", "pixel_shuffle_logit_oracle"]

_GREY, _STRONGEST, _RANGE = 0.5, 0.002, 200.0  # of the images that the logit oracle is asked


class OracleKey(NamedTuple):
    """What `pixel_shuffle_logit_oracle` finds.

    Attributes:
        key: The key found.
        queries: How many images were asked, int.
        misfit: The largest difference of a log-probability to the oracle's.
    """

    key: PixelKey
    queries: int
    misfit: float


def pixel_shuffle_logit_oracle(
    oracle: Callable[[jax.Array], jax.Array],
    forward: Forward,
    params: Params,
    block: int,
    shape: tuple[int, int, int],
    rng: jax.Array,
    *,
    entries: int = 16,
    images: int = 1,
    beam: int = 64,
    tolerance: float = 2e-5,
) -> OracleKey | None:
    """Return the key through an unlocked device that shows logits only: one image for 16 entries.

    The images are grey, which no shuffle changes, but for `entries` entries that differ a little in
    every block, by a random sign there and each less than the one before (0.002 to 0.00001). Their
    places follow from the strongest to the weakest: all are tried on the attacker's own copy of the
    model, what the weaker ones add is noise of a known covariance, and the `beam` partial keys that fit
    best are kept. A block of more than `entries` entries takes several rounds of `images` images.

    Args:
        oracle: `oracle(x)` of floats `[images, H, W, C]` in [0, 1] gives the user's logits or
            log-probabilities `[images, classes]`.
        forward: `forward(params, x, tap)` of the architecture.
        params: The parameters, which a shuffle leaves in the open.
        block: The side of a block, which divides H and W.
        shape: `(H, W, C)` of an image.
        rng: A JAX PRNG key.
        entries: How many entries are placed in a round, at least 1.
        images: How many images a round asks, at least 1.
        beam: How many partial keys are kept, at least 1.
        tolerance: The largest misfit of a key that explains the answers.

    Returns:
        The key and what it took; None if the answer of the best key is off by more than
        `tolerance`.

    Raises:
        ValueError: For settings below 1 or a block that does not divide the sides.

    Threat model: the attacker has the model's parameters, which a shuffle leaves in the open, and a
    device of the same model with the key inside that takes float images; not the scrambled images.

    **Guarantees.** A key that explains every answer, or None. Every query is counted. Where it
    fails, ask for fewer `entries` or more `images`. Images rounded to 8 bits lose the weak entries.

    >>> import jax, modellock_jax as ml
    >>> def forward(params, x, tap=ml.untapped):
    ...     return tap("dense", x.reshape(len(x), -1) @ params)
    >>> params = jax.random.normal(jax.random.key(0), (16, 10))
    >>> lock = ml.pixel_shuffle(2, channels=1)
    >>> key = lock.init(jax.random.key(1), params)
    >>> device = jax.tree_util.Partial(ml.owner_forward(lock, forward), key, params)
    >>> found = pixel_shuffle_logit_oracle(
    ...     device, forward, params, 2, (4, 4, 1), jax.random.key(2))
    >>> found.queries, bool((found.key.permutation == key.permutation).all())
    (1, True)
    """
    blocks, n = block_counts("pixel_shuffle_logit_oracle", block, shape)
    if min(entries, images, beam) < 1:
        raise ValueError(
            "pixel_shuffle_logit_oracle: entries, images and beam must be at least 1, not "
            f"{entries}, {images}, {beam}"
        )
    groups = np.array_split(np.arange(n), -(-n // entries))
    permutation, misfits = np.full(n, -1), []
    for group, r in zip(groups, jax.random.split(rng, len(groups))):
        count = len(group)
        size = _STRONGEST * _RANGE ** -np.linspace(0, 1, count, dtype=np.float32)
        sign = np.asarray(jax.random.rademacher(r, (images, blocks, count), jnp.float32))
        levels = np.pad(_GREY + sign * size, ((0, 0), (0, 0), (0, 1)), constant_values=_GREY)
        lit = np.full(n, count)
        lit[group] = np.arange(count)
        answers = oracle(jnp.asarray(from_blocks(levels[:, :, lit], block, shape)))
        free = jnp.asarray(permutation < 0)
        order, misfit = _place(forward, block, shape, beam, params, levels, free, answers)
        misfits.append(float(misfit))
        found = np.asarray(order)
        permutation[found < count] = group[found[found < count]]
    misfit = float(np.max(misfits))
    if not misfit <= tolerance:
        return None
    return OracleKey(PixelKey(jnp.asarray(permutation, jnp.int32)), images * len(groups), misfit)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _place(
    forward: Forward,
    block: int,
    shape: tuple[int, int, int],
    beam: int,
    params: Params,
    levels: jax.Array,
    free: jax.Array,
    answers: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Which lit entry lies at each place, int32 `[n]`, and how badly that fits the answers.

    `levels` `[images, blocks, count + 1]`: the lit entries in order, and grey; `free` bool `[n]`: the
    places still unknown; `answers` `[images, classes]`. A beam search over entries; the number
    `count` stands for none.
    """
    count, n = levels.shape[2] - 1, free.shape[0]
    target = jax.nn.log_softmax(answers).reshape(-1)

    def outputs(orders: jax.Array) -> jax.Array:
        """Log-probabilities `[orders, images * classes]` of the images shuffled in these ways."""
        parts = jnp.moveaxis(levels[:, :, orders], 2, 0)
        x = from_blocks(parts, block, shape).reshape(-1, *shape)
        return jax.nn.log_softmax(forward(params, x)).reshape(orders.shape[0], -1)

    def with_entry(order: jax.Array, entry: jax.Array) -> jax.Array:
        return jnp.where(jnp.eye(n, dtype=bool), entry, order[None])

    # What the entries not yet placed do to the outputs is noise, with this mean and covariance.
    nothing = jnp.full(n, count, jnp.int32)
    entries = jnp.arange(count, dtype=jnp.int32)
    alone = lax.map(lambda e: outputs(with_entry(nothing, e)), entries)
    alone = alone - outputs(nothing[None])[None]
    share = free.astype(alone.dtype)
    share = share / share.sum()
    mean = jnp.einsum("kid,i->kd", alone, share)
    spread = (alone - mean[:, None]) * jnp.sqrt(share)[None, :, None]
    covariance = jnp.einsum("kid,kie->kde", spread, spread)
    mean, covariance = (jnp.cumsum(a[::-1], 0)[::-1] - a for a in (mean, covariance))
    size, axes = jnp.linalg.eigh(covariance)
    size = jnp.maximum(size, 1e-6 * size[:, -1:] + 1e-12)
    whiten = axes / jnp.sqrt(size)[:, None, :]

    def extend(carry: Any, noise: Any) -> tuple[Any, None]:
        entry, mean, whiten = noise

        def tried(one: Any) -> tuple[jax.Array, jax.Array]:
            order, valid = one
            placed = with_entry(order, entry)
            error = jnp.square((target[None] - outputs(placed) - mean[None]) @ whiten).sum(-1)
            usable = free & (order == count) & valid & jnp.isfinite(error)
            return placed, jnp.where(usable, error, jnp.inf)

        placed, error = lax.map(tried, carry)
        error, best = lax.top_k(-error.reshape(-1), beam)
        return (placed.reshape(-1, n)[best], jnp.isfinite(error)), None

    start = jnp.tile(nothing, (beam, 1)), jnp.arange(beam) == 0
    (orders, alive), _ = lax.scan(extend, start, (entries, mean, whiten))
    worst = jnp.abs(outputs(orders[:1])[0] - target).max()
    return orders[0], jnp.where(alive[0], worst, jnp.inf)


def _logit_oracle(case: Case, **settings: Any) -> Found | None:
    found = pixel_shuffle_logit_oracle(
        case.device, case.model.forward, case.locked, case.settings["block"], image_shape(case),
        case.rng, **settings,
    )  # fmt: skip
    return with_key(case, None if found is None else found.key)


ENTRIES = (
    Entry("pixel_shuffle_logit_oracle", _logit_oracle, ("pixel_shuffle",), ("device",), "key"),
)
