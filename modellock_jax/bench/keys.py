"""Sign keys scored a second: one program over all keys beside a loop over a jitted function."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import modellock_jax as ml
from modellock_jax.attacks.keys.key_search import key_loss, random_keys
from modellock_jax.bench.timing import Row, alternate, matmul, row
from modellock_jax.models import cnn

__all__ = ["CHUNK", "FIRST", "IMAGES", "SURVIVORS", "measure"]

IMAGES, FIRST, SURVIVORS, CHUNK = 64, 8, 16, 4


def measure(quick: bool) -> list[Row]:
    """Measure keys a second three ways, with the floating-point operations the compiler counts.

    Args:
        quick: Whether to take small sizes and few rounds.

    Returns:
        The lines of the table.
    """
    keys, looped = (32, 4) if quick else (1024, 64)
    survivors = min(SURVIVORS, keys)
    model, lock = cnn(10), ml.sign_mask(256, per="unit")
    x = jax.random.uniform(jax.random.key(0), (IMAGES, 28, 28, 1))
    y = jax.random.randint(jax.random.key(1), (IMAGES,), 0, 10)
    params, rng = model.init(jax.random.key(2), x), jax.random.key(3)
    user = ml.user_forward(lock, model.forward)

    def search(**settings: Any) -> Callable[[], Any]:
        program = jax.jit(
            functools.partial(random_keys, lock, model.forward, keys=keys, **settings)
        )
        return lambda: program(params, x, y, rng)

    def one(rng: jax.Array, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return key_loss(user(lock.init(rng, params), params, x), y)

    rngs = jax.random.split(rng, looped)
    alone = jax.jit(one).lower(rngs[0], params, x, y).compile()
    # The compiler counts a loop's body once, so a chunk's cost is taken from a program of its own.
    chunk = jax.jit(jax.vmap(one, (0, None, None, None)))
    whole = chunk.lower(rngs[:CHUNK], params, x, y).compile()
    fewer = chunk.lower(rngs[:CHUNK], params, x[:FIRST], y[:FIRST]).compile()
    flops = {
        "one by one": _flops(alone),
        "one program, all images": _flops(whole) / CHUNK,
        "one program, early rejection": (
            _flops(fewer) + survivors / keys * _flops(whole)
        ) / CHUNK,
    }  # fmt: skip
    product, gflops, product_name = matmul(quick)
    contestants: dict[str, Callable[[], Any]] = {
        "one by one": lambda: [
            jax.block_until_ready(alone(rngs[i], params, x, y)) for i in range(looped)
        ],
        "one program, all images": search(first=IMAGES, survivors=1, chunk=CHUNK),
        "one program, early rejection": search(first=FIRST, survivors=survivors),
        "matmul": product,
    }
    seconds = alternate(contestants, 0.0 if quick else 30.0)
    peak = gflops(seconds["matmul"])
    per_key = {"one by one": seconds["one by one"] / looped}
    per_key |= {name: seconds[name] / keys for name in flops if name != "one by one"}
    rows, loop = [], per_key["one by one"]
    for name, taken in per_key.items():
        rate = 1 / float(np.median(taken))
        target = {"one program, all images": 1.5, "one program, early rejection": 20.0}.get(name)
        achieved = rate * flops[name] / 1e9
        note = f"{flops[name] / 1e6:.1f} MFLOP a key; {achieved:.0f} GFLOP/s, {product_name}: {peak:.0f}"
        rows.append(
            row("keys", f"{keys} sign keys, CNN, batch {IMAGES}", name, rate, "keys/s",
                limit="one by one", ratios=None if taken is loop else loop / taken, target=target,
                note=note, flops_per_key=flops[name], gflop_per_s=achieved, matmul_gflop_per_s=peak)
        )  # fmt: skip
    return rows


def _flops(compiled: Any) -> float:
    return float(compiled.cost_analysis()["flops"])
