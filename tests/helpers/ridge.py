"""Small models trained under a lock in closed form, and the digits they are trained on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import modellock_jax as ml
from modellock_jax.data import load

HIDDEN = 96


def forward(params, x, tap=ml.untapped):
    h = jax.nn.relu(tap("dense", x.reshape(len(x), -1) @ params["w"] + params["b"][None]))
    return tap("head", h @ params["v"])


@functools.cache
def digits():
    return load("digits")


@functools.cache
def owner(lock, seed=0):
    """A model trained under a key in closed form: random features, and a ridge regression."""
    data = digits()
    rngs = jax.random.split(jax.random.key(seed), 3)
    params = {
        "w": jax.random.normal(rngs[0], (64, HIDDEN)) / 4,
        "b": jax.random.normal(rngs[1], (HIDDEN,)),
        "v": jnp.zeros((HIDDEN, 10)),
    }
    key = jax.jit(lock.init)(rngs[2], params)
    x = np.asarray(jax.jit(lock.scramble)(key, jnp.asarray(data.train_x))).reshape(-1, 64)
    h = lock.mask(key, "dense", jnp.asarray(x @ np.asarray(params["w"]) + np.asarray(params["b"])))
    h = np.maximum(np.asarray(h), 0)
    target = np.eye(10)[data.train_y] - 0.1
    v = np.linalg.solve(h.T @ h + 0.1 * np.eye(HIDDEN), h.T @ target)
    # The head's own signs are undone, as training under the key would; logits, not probabilities.
    v = lock.mask(key, "head", jnp.asarray(8 * v, jnp.float32))
    return params | {"v": v}, key


def images(count):
    data = digits()
    return jnp.asarray(data.train_x[:count]), jnp.asarray(data.train_y[:count])


def accuracy(logits):
    return float((logits.argmax(-1) == digits().test_y).mean())


def opened(lock, key, params):
    """Accuracy with a key."""
    x = jnp.asarray(digits().test_x)
    return accuracy(jax.jit(ml.user_forward(lock, forward))(key, params, x))
