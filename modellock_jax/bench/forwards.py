"""What a lock costs in the forward pass: the owner's and the user's, over the plain one."""

import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import modellock_jax as ml
from modellock_jax.bench.timing import Row, alternate, in_pairs, row
from modellock_jax.flax import from_linen
from modellock_jax.models import cnn

__all__ = ["CASES", "LONG", "contestants", "measure", "model"]


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


class _Convolutions(nn.Module):
    """Two convolutions of 3 x 3, each with pooling, and two dense layers: the papers' small CNN."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for features in (16, 32):
            x = nn.max_pool(nn.relu(nn.Conv(features, (3, 3))(x)), (2, 2), strides=(2, 2))
        return nn.Dense(10)(nn.relu(nn.Dense(128)(x.reshape(x.shape[0], -1))))


_MODULES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "CNN of 3 x 3": (_Convolutions, 4),
    "transformer block": (_Block, 4),
    "ResNet-18": (_ResNet18, 4),
}


def model(name: str) -> tuple[ml.Params, ml.Forward, int]:
    """Make parameters and forward on `[B, 28, 28, 1]` by name, and the block that suits a shuffle.

    Args:
        name: A model of `CASES`.

    Returns:
        The parameters, the forward, and the side of a block.
    """
    x = jnp.zeros((1, 28, 28, 1))
    if name == "CNN":
        made = cnn(10)
        return made.init(jax.random.key(0), x), made.forward, 7
    build, block = _MODULES[name]
    module = build()
    return jax.jit(module.init)(jax.random.key(0), x), from_linen(module), block


CASES = {
    "CNN": (1, 64, 256),
    "CNN of 3 x 3": (64, 256),
    "transformer block": (1, 64, 256),
    "ResNet-18": (1, 64),
}
_WITH_TARGET, _WITHOUT = 2.5, 0.4  # seconds of measuring beside the plain forward
LONG = 0.3  # seconds of a call that finds the caches much as any other leaves them


def contestants(name: str, batch: int) -> dict[str, Callable[[], Any]]:
    """Return the plain forward, the owner's under each lock that acts there, and the user's.

    Decrypting once leaves the user the owner's forward; the names say where every call decrypts. An
    argument that is added to the logits is the least that any key costs.

    Args:
        name: A model of `CASES`.
        batch: How many images, at least 1.

    Returns:
        Calls by name.
    """
    params, forward, block = model(name)
    x = jax.random.uniform(jax.random.key(1), (batch, 28, 28, 1))
    plain = jax.jit(forward)
    more, scalar = jax.jit(lambda k, p, x: forward(p, x) + k), jnp.zeros(())
    found: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain(params, x),
        "one scalar more": lambda: more(scalar, params, x),
    }
    acting = {
        "sign_mask per channel": ml.sign_mask(),
        "sign_mask per unit": ml.sign_mask(per="unit"),
        f"pixel_shuffle({block})": ml.pixel_shuffle(block, channels=1),
    }
    for lock_name, lock in acting.items():
        key = lock.init(jax.random.key(2), params)
        owner = jax.jit(ml.owner_forward(lock, forward))
        found[lock_name] = lambda f=owner, k=key: f(k, params, x)  # type: ignore[misc]
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
        found[f"{lock_name}, decrypt every call"] = lambda f=user, k=key, p=locked: f(k, p, x)  # type: ignore[misc]
        if lock_name == "stream_lock":
            found[f"{lock_name}, decrypt once"] = lambda p=opened: plain(p, x)  # type: ignore[misc]
    return found


def _target(lock: str, name: str, batch: int) -> float | None:
    if lock.startswith(("sign_mask", "pixel_shuffle")):
        return 1.02
    return 1.10 if (name, batch) == ("ResNet-18", 64) and lock.endswith("every call") else None


def _seconds(calls: dict[str, Callable[[], Any]], wanted: set[str], quick: bool) -> dict[str, Any]:
    """Of each lock, seconds `[rounds]` and those of the plain forward in the same rounds.

    Where a call is long, of those alone that are `wanted` because they have a target.
    """
    jax.block_until_ready(calls["plain"]())
    begin = time.perf_counter()
    jax.block_until_ready(calls["plain"]())
    if time.perf_counter() - begin < LONG:
        budget = {n: 0.0 if quick else _WITH_TARGET if n in wanted else _WITHOUT for n in calls}
        return in_pairs("plain", calls, budget, warm=True)
    taken = alternate(
        {n: calls[n] for n in calls if n == "plain" or n in wanted}, 60.0, max_rounds=12
    )
    plain = taken.pop("plain")
    return {name: (seconds, plain) for name, seconds in taken.items()}


def measure(quick: bool) -> list[Row]:
    """Measure milliseconds of each forward, and its ratio to the plain one in the same round.

    Args:
        quick: Whether to take small sizes and few rounds.

    Returns:
        The lines of the table.
    """
    rows = []
    for name, batches in {"CNN": (1,)}.items() if quick else CASES.items():
        for batch in batches:
            calls = contestants(name, batch)
            targets = {lock: _target(lock, name, batch) for lock in calls}
            found = _seconds(calls, {lock for lock in calls if targets[lock]}, quick)
            case = f"{name}, batch {batch}"
            plain = 1e3 * float(np.median(np.concatenate([limit for _, limit in found.values()])))
            rows.append(row("forwards", case, "plain", plain, "ms"))
            for lock, (taken, limit) in found.items():
                rows.append(
                    row("forwards", case, lock, 1e3 * float(np.median(taken)), "ms",
                        limit="plain", ratios=taken / limit, sense="<=", target=targets[lock])
                )  # fmt: skip
    return rows
