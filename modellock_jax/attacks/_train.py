"""How attacks that train choose their learning rate: by inputs that they hold out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from modellock_jax.attacks.attack import Attack, run_shuffled
from modellock_jax.attacks.case import Case, Found
from modellock_jax.core.lock import Params
from modellock_jax.train import random_shift

RATES, STEPS, BATCH = (1e-3, 5e-3), 300, 32


def fitted(
    case: Case,
    attack: Callable[[Any], Attack],
    start: Params,
    x: jax.Array,
    y: jax.Array,
    *,
    rates: tuple[float, ...] = RATES,
    steps: int = STEPS,
    batch_size: int = BATCH,
) -> Found:
    """Run `attack(rate)` with each rate; keep the one that does best on a fifth of x `[N, ...]`.

    That fifth is not trained on. y: labels int32 `[N]`, or answers `[N, classes]`.
    """
    held = max(1, len(x) // 5)
    start_rng, order = jax.random.split(case.rng)
    settings: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "augment": random_shift}

    @jax.jit
    def go(rate: jax.Array, start: Params, x: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
        learn = attack(rate)
        state, _ = run_shuffled(
            learn, learn.init(start_rng, start), x[held:], y[held:], order, **settings
        )
        classes = y[:held] if y.ndim == 1 else y[:held].argmax(-1)
        return state, (learn.forward(state, x[:held]).argmax(-1) == classes).mean()

    found = [go(jnp.float32(rate), start, x, y) for rate in rates]
    best = max(range(len(rates)), key=lambda i: float(found[i][1]))
    return Found(partial(attack(rates[best]).forward, found[best][0]))
