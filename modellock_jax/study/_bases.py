"""The models of the study `public_base`: an owner's, made from a base, and bases of every kind."""

import math

import jax
import numpy as np

from modellock_jax.core.lock import Key, Lock, Params
from modellock_jax.study.context import Context, fresh, rng_for
from modellock_jax.study.training import kept

Examples = tuple[np.ndarray, np.ndarray]
"""Inputs `[N, ...]` and what is true of them."""

BASES = ("before fine-tuning", "untrained", "unrelated")


def noise_name(level: float) -> str:
    return f"noise {100 * level:g} %"


def other_seed(context: Context, seed: int) -> int:
    """Return the seed of a model that is no relative."""
    return (seed + 1) % max(2, context.config.seeds)


def tuned(context: Context, seed: int) -> tuple[Params, Params, Params]:
    """Return what `from_base` does where base and owner have half of the training set each."""
    data = context.data
    half = np.random.default_rng(seed).permutation(len(data.train_x)) < len(data.train_x) // 2
    base, own = ((data.train_x[part], data.train_y[part]) for part in (half, ~half))
    return from_base(context, seed, base, own)


def from_base(
    context: Context, seed: int, base: Examples, own: Examples
) -> tuple[Params, Params, Params]:
    """Return the weights before training, the base's, and the owner's; from the run folder if there."""
    found, forward = [fresh(context, seed)], context.model.train
    for name, examples in (("base", base), ("owner", own)):
        rng = rng_for(seed, name)
        found.append(kept(context, f"{name}-{seed}", found[-1], forward, examples, rng))
    return found[0], found[1], found[2]


def bases(context: Context, seed: int) -> dict[str, Params]:
    start, base, owner = tuned(context, seed)
    other = tuned(context, other_seed(context, seed))[2]
    found = {
        noise_name(level): noisy(owner, level, rng_for(seed, f"noise {level}"))
        for level in context.config.noise
    }
    return found | dict(zip(BASES, (base, start, other)))


def noisy(params: Params, level: float, rng: jax.Array) -> Params:
    leaves, tree = jax.tree.flatten(params)
    rngs = jax.random.split(rng, len(leaves))
    new = [a + level * a.std() * jax.random.normal(r, a.shape) for a, r in zip(leaves, rngs)]
    return jax.tree.unflatten(tree, new)


def distance(base: Params, owner: Params) -> float:
    pairs = zip(jax.tree.leaves(base), jax.tree.leaves(owner))
    return float(np.median([(a - b).std() / b.std() for a, b in pairs if b.std() > 0]))


def moved(lock: Lock, key: Key, params: Params, shape: tuple[int, ...]) -> Params:
    """Move a lock's shuffle of images into a dense first layer: the model then takes scrambled ones.

    Args:
        lock: `pixel_shuffle`.
        key: Its key.
        params: A model's parameters, with one leaf `[H * W * C, units]`.
        shape: Of one image, `(H, W, C)`.

    Returns:
        Parameters with `forward(moved, lock.scramble(key, x)) == forward(params, x)`, up to the order of
        one sum.

    Raises:
        ValueError: If there is no such leaf, or more than one.
    """
    leaves, tree = jax.tree.flatten(params)
    fits = [i for i, a in enumerate(leaves) if a.ndim == 2 and a.shape[0] == math.prod(shape)]
    if len(fits) != 1:
        raise ValueError(
            f"public_base: {len(fits)} leaves have the shape of a dense first layer, "
            f"[{math.prod(shape)}, units]; a shuffle is moved into one"
        )
    kernel = leaves[fits[0]]
    leaves[fits[0]] = lock.scramble(key, kernel.T.reshape(-1, *shape)).reshape(kernel.T.shape).T
    return jax.tree.unflatten(tree, leaves)
