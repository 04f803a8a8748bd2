"""What a lock costs in the forward pass: the owner's and the user's, over the plain one."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import modellock_jax as ml
from modellock_jax.adapters import from_linen
from modellock_jax.models import cnn
from modellock_jax.study.bench_timing import Row, alternate, row


class _ResNet18(nn.Module):
    """ResNet-18 (He et al. 2016) for small images: stem 3 x 3, group norm."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def unit(x: jax.Array, features: int, size: int, stride: int = 1) -> jax.Array:
            x = nn.Conv(features, (size, size), strides=stride, use_bias=False)(x)
            return nn.GroupNorm(num_groups=8)(x)

        x = nn.relu(unit(x, 64, 3))
        for stage in range(4):
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                features = 64 * 2**stage
                h = unit(nn.relu(unit(x, features, 3, stride)), features, 3)
                x = nn.relu(h + (x if x.shape == h.shape else unit(x, features, 1, stride)))
        return nn.Dense(10)(x.mean((1, 2)))


class _Block(nn.Module):
    """A patch embedding and one pre-norm transformer block (Vaswani et al. 2017) of width 192."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(192, (4, 4), strides=4)(x)
        x = x.reshape(x.shape[0], -1, 192)
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=4)(h, h)
        x = x + nn.Dense(192)(nn.gelu(nn.Dense(768)(nn.LayerNorm()(x))))
        return nn.Dense(10)(x.mean(1))


def model(name: str) -> tuple[ml.Params, ml.Forward, int]:
    """Parameters and forward on `[B, 28, 28, 1]` by name, and the block that suits a shuffle."""
    x = jnp.zeros((1, 28, 28, 1))
    if name == "CNN":
        made = cnn(10)
        return made.init(jax.random.key(0), x), made.forward, 7
    module = _ResNet18() if name == "ResNet-18" else _Block()
    return jax.jit(module.init)(jax.random.key(0), x), from_linen(module), 4


CASES = {"CNN": (1, 64, 256), "transformer block": (1, 64, 256), "ResNet-18": (1, 64)}


def contestants(name: str, batch: int) -> dict[str, Callable[[], Any]]:
    """The plain forward, the owner's under each lock that acts there, and the user's.

    Decrypting once leaves the user the owner's forward; the names say where every call decrypts.
    """
    params, forward, block = model(name)
    x = jax.random.uniform(jax.random.key(1), (batch, 28, 28, 1))
    plain = jax.jit(forward)
    runs: dict[str, Callable[[], Any]] = {"plain": lambda: plain(params, x)}
    acting = {
        "sign_mask per channel": ml.sign_mask(),
        "sign_mask per unit": ml.sign_mask(per="unit"),
        f"pixel_shuffle({block})": ml.pixel_shuffle(block, channels=1),
    }
    for lock_name, lock in acting.items():
        key = lock.init(jax.random.key(2), params)
        owner = jax.jit(ml.owner_forward(lock, forward))
        runs[lock_name] = lambda f=owner, k=key: f(k, params, x)  # type: ignore[misc]
    locks = {
        "deep_lock": ml.deep_lock(),
        "stream_lock": ml.stream_lock(),
        "sign_flip": ml.sign_flip(),
    }
    for lock_name, lock in locks.items():
        key = lock.init(jax.random.key(2), params)
        locked = jax.jit(lambda k, p, e=lock.encrypt: e(k, p)[0])(key, params)
        user = jax.jit(ml.user_forward(lock, forward))
        opened = jax.jit(lock.decrypt)(key, locked)
        runs[f"{lock_name}, decrypt every call"] = lambda f=user, k=key, p=locked: f(k, p, x)  # type: ignore[misc]
        if lock_name == "stream_lock":
            runs[f"{lock_name}, decrypt once"] = lambda p=opened: plain(p, x)  # type: ignore[misc]
    return runs


def measure(quick: bool) -> list[Row]:
    """Milliseconds of each forward, and its ratio to the plain one in the same round."""
    rows = []
    for name, batches in {"CNN": (1,)}.items() if quick else CASES.items():
        for batch in batches:
            slow = (name, batch) == ("ResNet-18", 64)
            budget = 0.0 if quick else 45.0 if slow else 12.0
            seconds = alternate(contestants(name, batch), budget)
            for lock, taken in seconds.items():
                target = None
                if lock.startswith(("sign_mask", "pixel_shuffle")):
                    target = 1.02
                elif slow and lock.endswith("every call"):
                    target = 1.10
                ratios = None if lock == "plain" else taken / seconds["plain"]
                rows.append(
                    row("forwards", f"{name}, batch {batch}", lock, 1e3 * float(np.median(taken)),
                        "ms", limit="plain", ratios=ratios, sense="<=", target=target)
                )  # fmt: skip
    return rows
