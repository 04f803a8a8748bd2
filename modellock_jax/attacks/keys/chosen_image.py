"""The key of a pixel shuffle from images: chosen ones, known ones, or logits alone.

The permutation is the same in every block and image, so what one image shows of it is all there is.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.core.lock import Forward, Params
from modellock_jax.locks.pixel_shuffle import PixelKey

_GREY, _STRONGEST, _RANGE = 0.5, 0.002, 200.0  # of the images that the logit oracle is asked


class OracleKey(NamedTuple):
    """`key`: the key found; `queries`: images that it took, int; `misfit`: the largest difference of
    a log-probability to the oracle's."""

    key: PixelKey
    queries: int
    misfit: float


def chosen_images(block: int, image_shape: tuple[int, int, int]) -> jax.Array:
    """Images whose shuffled form shows the key: uint8 `[Q, H, W, C]` for `image_shape` (H, W, C).

    Entry j of a block holds a digit of j in base 256, block after block the next one, so that one
    image is enough unless a block has more than 256 entries and there is no other block to hold the
    second digit. Raises `ValueError` if `block` does not divide the sides.

    >>> chosen_images(2, (2, 4, 1))[..., 0].tolist()
    [[[0, 1, 0, 1], [2, 3, 2, 3]]]
    """
    blocks, n = _blocks_of("chosen_images", block, image_shape)
    queries = -(-_digits(n) // blocks)
    place = np.arange(queries * blocks) % _digits(n)
    digits = np.arange(n)[None] // 256 ** place[:, None] % 256
    parts = digits.reshape(queries, blocks, n).astype(np.uint8)
    return jnp.asarray(_join(parts, block, image_shape))


def pixel_shuffle_chosen_image(scrambled: jax.Array, block: int) -> PixelKey | None:
    """The key from the shuffled form of `chosen_images(block, image_shape)`, uint8 `[Q, H, W, C]`.

    Returns None if no shuffle makes these images: another transform did, or another block. Raises
    `ValueError` if `block` does not divide the sides.

    Threat model: the attacker can have one image of their choice scrambled by the key's owner, as
    a preprocessing service or camera does, and sees the result. The model is not needed.

    **Guarantees.** Exact, with one image wherever `chosen_images` makes one.

    >>> import jax, modellock_jax as ml
    >>> lock, images = ml.pixel_shuffle(2, channels=3), chosen_images(2, (4, 4, 3))
    >>> key = lock.init(jax.random.key(0), None)
    >>> found = pixel_shuffle_chosen_image(lock.scramble(key, images), 2)
    >>> len(images), bool((found.permutation == key.permutation).all())
    (1, True)
    """
    height, width, channels = scrambled.shape[1:]
    chosen = chosen_images(block, (height, width, channels))
    known = pixel_shuffle_known_pairs(chosen, scrambled, block)
    return None if known is None else known[0]


def pixel_shuffle_known_pairs(
    plain: jax.Array, scrambled: jax.Array, block: int
) -> tuple[PixelKey, np.ndarray] | None:
    """The key from images and their shuffled forms, both `[B, H, W, C]`, of one dtype.

    Entry i of a shuffled block can only be an entry j that equals it in every block of every image.
    Returns the key, and which of its entries have one candidate only, bool `[block * block * C]`;
    those that are alike throughout take their candidates in order. Returns None if no permutation
    fits. Raises `ValueError` if the shapes differ or `block` does not divide the sides. On the host.

    Threat model: the attacker sees some natural images before and after scrambling; no model.

    **Guarantees.** The key scrambles the given images exactly as the owner's does. One natural image
    often suffices; borders that are black in all images cannot be told apart, and matter as little.

    >>> import jax, modellock_jax as ml
    >>> lock, key = ml.pixel_shuffle(2, channels=1), ml.PixelKey(jax.numpy.array([3, 1, 2, 0]))
    >>> image = jax.numpy.array([[1, 2], [3, 3]]).reshape(1, 2, 2, 1)
    >>> found, sure = pixel_shuffle_known_pairs(image, lock.scramble(key, image), 2)
    >>> found.permutation.tolist(), sure.tolist()
    ([2, 1, 3, 0], [False, True, False, True])
    """
    if plain.shape != scrambled.shape or plain.ndim != 4:
        raise ValueError(
            "pixel_shuffle_known_pairs: plain and scrambled must both be [B, H, W, C], not "
            f"{list(plain.shape)} and {list(scrambled.shape)}"
        )
    # An entry's history: its values in all blocks and images. Equal histories sort side by side.
    n = _blocks_of("pixel_shuffle_known_pairs", block, plain.shape[1:])[1]
    before, after = (_cut(np.asarray(x), block).reshape(-1, n) for x in (plain, scrambled))
    first, second = np.lexsort(before), np.lexsort(after)
    before, after = before[:, first], after[:, second]
    if not (before == after).all():
        return None
    permutation = np.empty(len(first), np.int32)
    permutation[second] = first
    differs = np.concatenate([[True], (before[:, 1:] != before[:, :-1]).any(0), [True]])
    sure = np.empty(len(first), bool)
    sure[second] = differs[1:] & differs[:-1]
    return PixelKey(jnp.asarray(permutation)), sure


def pixel_shuffle_logit_oracle(
    oracle: Callable[[jax.Array], jax.Array],
    forward: Forward,
    params: Params,
    block: int,
    image_shape: tuple[int, int, int],
    rng: jax.Array,
    *,
    entries: int = 16,
    images: int = 1,
    beam: int = 64,
    tolerance: float = 2e-5,
) -> OracleKey | None:
    """The key through an unlocked device that shows logits only: one image for 16 entries.

    `oracle(x)` takes floats `[images, H, W, C]` in [0, 1] and gives the user's logits or
    log-probabilities `[images, classes]`. The images are grey, which no shuffle changes, but for
    `entries` entries that differ a little in every block, by a random sign there and each less than
    the one before (0.002 to 0.00001). Their places follow from the strongest to the weakest: all are
    tried on the attacker's own copy of the model, what the weaker ones add is noise of a known
    covariance, and the `beam` partial keys that fit best are kept. A block of more than `entries`
    entries takes several rounds of `images` images. Returns None if the answer of the best key is
    off by more than `tolerance`. Raises `ValueError` for settings below 1 or a block that does not
    divide the sides.

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
    blocks, n = _blocks_of("pixel_shuffle_logit_oracle", block, image_shape)
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
        answers = oracle(jnp.asarray(_join(levels[:, :, lit], block, image_shape)))
        free = jnp.asarray(permutation < 0)
        order, misfit = _place(forward, block, image_shape, beam, params, levels, free, answers)
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
    image_shape: tuple[int, int, int],
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
        x = _join(parts, block, image_shape).reshape(-1, *image_shape)
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


def _digits(n: int) -> int:
    return next(count for count in range(1, 9) if 256**count >= n)


def _blocks_of(name: str, block: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """How many blocks an image has, and how many entries a block."""
    height, width, channels = shape
    if block < 1 or height % block or width % block:
        raise ValueError(f"{name}: block {block} does not divide images of {height} x {width}")
    return height * width // block**2, block * block * channels


def _cut(x: Any, block: int) -> Any:
    """Images `[..., H, W, C]` as blocks `[..., blocks, entries]`, in the order of the scheme."""
    *lead, height, width, channels = x.shape
    x = x.reshape(*lead, height // block, block, width // block, block, channels)
    return x.swapaxes(-4, -3).reshape(*lead, -1, block * block * channels)


def _join(parts: Any, block: int, shape: tuple[int, int, int]) -> Any:
    """The inverse of `_cut` for images of that shape."""
    height, width, channels = shape
    lead = parts.shape[:-2]
    parts = parts.reshape(*lead, height // block, width // block, block, block, channels)
    return parts.swapaxes(-4, -3).reshape(*lead, *shape)
