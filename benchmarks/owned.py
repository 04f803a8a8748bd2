"""What an owner trains under a key, for the scripts that attack it."""

import functools

import jax
import jax.numpy as jnp

import modellock_jax as ml
from modellock_jax.data import Data
from modellock_jax.models import Model
from modellock_jax.tasks import random_shift
from modellock_jax.train import fit


def trained(
    model: Model,
    lock: ml.Lock,
    data: Data,
    seed: int,
    *,
    epochs: int,
    learning_rate: float,
    title: str,
) -> tuple[ml.Params, ml.Params, ml.Key]:
    """Train a model under a key, both drawn by the seed: parameters before and after, and the key."""
    start = model.init(jax.random.key(1000 + seed), jnp.zeros((1, *data.train_x.shape[1:])))
    key = lock.init(jax.random.key(2000 + seed), start)
    params, _ = fit(
        functools.partial(ml.owner_forward(lock, model.train), key),
        start,
        data.train_x,
        data.train_y,
        rng=jax.random.key(3000 + seed),
        epochs=epochs,
        batch_size=128,
        learning_rate=learning_rate,
        augment=random_shift,
        progress=f"training {title}, seed {seed}",
    )
    return start, params, key
