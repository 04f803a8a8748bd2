"""Decryption just in time: memory and time of a transformer whose layers open where they are used."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

import modellock_jax as ml
from modellock_jax.bench.timing import MIB, Row, alternate, row

__all__ = ["DEPTH", "LOCKS", "TOKENS", "measure"]

DEPTH, _WIDTH, TOKENS = 12, 256, 64
_BATCHES = (1, 8, 64)
LOCKS: dict[str, Callable[[], ml.Lock]] = {
    "deep_lock": ml.deep_lock,
    "stream_lock": ml.stream_lock,
    "sign_flip": ml.sign_flip,
}


class _Layer(nn.Module):
    """A pre-norm transformer layer (Vaswani et al. 2017)."""

    @nn.compact
    def __call__(self, h: jax.Array, _: None) -> tuple[jax.Array, None]:
        h = h + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(h))
        return h + nn.Dense(_WIDTH)(nn.gelu(nn.Dense(4 * _WIDTH)(nn.LayerNorm()(h)))), None


class _Transformer(nn.Module):
    """Tokens `[B, T, 48]` to `[B, 10]` through one scan over the layers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scanned = nn.scan(
            _Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=DEPTH
        )
        h, _ = scanned(name="layers")(nn.Dense(_WIDTH)(x), None)
        return nn.Dense(10)(h.mean(1))


def _held(program: Any) -> int:
    return int(program.memory_analysis().temp_size_in_bytes)


def measure(quick: bool) -> list[Row]:
    """Measure memory as the compiler counts it, and seconds, over those of the plain forward.

    Args:
        quick: Whether to take small sizes and few rounds.

    Returns:
        The lines of the table.
    """
    module, rows = _Transformer(), []
    forward = ml.from_linen(module)
    for batch in (1,) if quick else _BATCHES:
        x = jax.random.normal(jax.random.key(0), (batch, TOKENS, 48))
        params = jax.jit(module.init)(jax.random.key(1), x)
        plain = jax.jit(forward).lower(params, x).compile()
        calls: dict[str, Callable[[], Any]] = {"plain": lambda f=plain, p=params, x=x: f(p, x)}  # type: ignore[misc]
        held = {"plain": _held(plain)}
        for name in ("stream_lock",) if quick else LOCKS:
            lock = LOCKS[name]()
            key = lock.init(jax.random.key(2), params)
            locked = jax.jit(lambda k, p, e=lock.encrypt: e(k, p)[0])(key, params)
            for way, stacked in {
                "all at the start": None,
                "layer by layer": lambda path: path.startswith("params/layers/"),
            }.items():
                user = jax.jit(ml.user_forward(lock, forward, stacked))
                program = user.lower(key, locked, x).compile()
                label = f"{name}, {way}"
                held[label] = _held(program)
                calls[label] = lambda f=program, k=key, p=locked, x=x: f(k, p, x)  # type: ignore[misc]
        case = f"{DEPTH}-layer transformer, batch {batch}"
        for label, size in held.items():
            target = 1.2 if label.endswith("layer by layer") else None
            ratios = np.full(1, size / held["plain"])
            rows.append(
                row("layers", f"{case}, temporary memory", label, size / MIB, "MiB",
                    limit="plain", ratios=ratios, sense="<=", target=target)
            )  # fmt: skip
        seconds = alternate(calls, 0.0 if quick else 3.0, min_rounds=3)
        for label, taken in seconds.items():
            rows.append(
                row("layers", f"{case}, time", label, 1e3 * float(np.median(taken)), "ms",
                    limit="plain", ratios=taken / seconds["plain"])
            )  # fmt: skip
    return rows
