"""How attacks that train choose their learning rate: by inputs that they hold out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from modellock_jax.attacks.attack import Attack, run_shuffled
from modellock_jax.attacks.case import Case, Found
from modellock_jax.core.lock import Params
from modellock_jax.tasks import Task, merit

RATES, STEPS, BATCH = (1e-3, 5e-3), 300, 32


def task_score(task: Task) -> Callable[[Any, Any], jax.Array]:
    """How well `out` answers on labelled inputs: the higher, the better."""
    return lambda out, y: merit(task, task.value(task.tally(out, y)))


def fit_best_rate(
    case: Case,
    attack: Callable[[Any], Attack],
    score: Callable[[Any, Any], jax.Array],
    start: Params,
    x: Any,
    y: Any,
    *,
    rates: tuple[float, ...] = RATES,
    steps: int = STEPS,
    batch_size: int = BATCH,
) -> Found:
    """Run `attack(rate)` with each rate; keep the one that does best on a fifth of x `[N, ...]`.

    That fifth, on which `score(out, y)` is highest, is not trained on. y `[N, ...]`: truths or answers.
    """
    held = max(1, len(jax.tree.leaves(x)[0]) // 5)
    start_rng, order = jax.random.split(case.rng)
    settings: dict[str, Any] = {
        "steps": steps,
        "batch_size": batch_size,
        "augment": case.task.augment,
    }

    @jax.jit
    def go(rate: jax.Array, start: Params, x: Any, y: Any) -> tuple[Any, jax.Array]:
        learn = attack(rate)
        kept_x, kept_y = jax.tree.map(lambda a: a[:held], (x, y))
        x, y = jax.tree.map(lambda a: a[held:], (x, y))
        state, _ = run_shuffled(learn, learn.init(start_rng, start), x, y, order, **settings)
        reached = score(learn.forward(state, kept_x), kept_y)
        return state, jnp.where(jnp.isnan(reached), -jnp.inf, reached)

    found = [go(jnp.float32(rate), start, x, y) for rate in rates]
    best = max(range(len(rates)), key=lambda i: float(found[i][1]))
    return Found(partial(attack(rates[best]).forward, found[best][0]))
