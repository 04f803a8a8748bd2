"""How attacks that train choose their learning rate: by inputs that they hold out."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from modellock_jax.attacks._programs import KEPT
from modellock_jax.attacks.attack import Attack, run_shuffled
from modellock_jax.attacks.case import Case, Found
from modellock_jax.core.lock import Params
from modellock_jax.tasks import Task, merit

RATES, STEPS, BATCH = (1e-3, 5e-3), 300, 32


def task_score(task: Task, out: Any, y: Any) -> jax.Array:
    """How well `out` answers on labelled inputs: the higher, the better."""
    return merit(task, task.value(task.tally(out, y)))


def fit_best_rate(
    case: Case,
    attack: Callable[[Any, Any], Attack],
    score: Callable[[Any, Any], jax.Array],
    start: Params,
    x: Any,
    y: Any,
    *,
    rates: tuple[float, ...] = RATES,
    steps: int = STEPS,
    batch_size: int = BATCH,
) -> Found:
    """Run `attack(rate, example)` with each rate; keep the best on a fifth of x `[N, ...]`.

    That fifth, on which `score(out, y)` is highest, is not trained on; of a single rate nothing is
    held out. y `[N, ...]`: truths or answers.
    """
    held = max(1, len(jax.tree.leaves(x)[0]) // 5) if len(rates) > 1 else 0
    program = _program(attack, score, case.task.augment, steps, batch_size, held)
    found = [program(jnp.float32(rate), case.rng, start, x, y) for rate in rates]
    best = max(range(len(rates)), key=lambda i: float(found[i][1]))
    return Found(partial(attack(rates[best], case.example).forward, found[best][0]))


@lru_cache(maxsize=KEPT)
def _program(
    attack: Callable[[Any, Any], Attack],
    score: Callable[[Any, Any], jax.Array],
    augment: Callable[[jax.Array, Any], Any],
    steps: int,
    batch_size: int,
    held: int,
) -> Callable[..., tuple[Any, jax.Array]]:
    """Return what trains with one rate, and gives the last state and its score on what is held out."""

    @jax.jit
    def go(rate: jax.Array, rng: jax.Array, start: Params, x: Any, y: Any) -> Any:
        learn, (start_rng, order) = attack(rate, x), jax.random.split(rng)
        kept_x, kept_y = jax.tree.map(lambda a: a[:held], (x, y))
        x, y = jax.tree.map(lambda a: a[held:], (x, y))
        state, _ = run_shuffled(
            learn, learn.init(start_rng, start), x, y, order,
            steps=steps, batch_size=batch_size, augment=augment,
        )  # fmt: skip
        if not held:
            return state, jnp.float32(0)
        reached = score(learn.forward(state, kept_x), kept_y)
        return state, jnp.where(jnp.isnan(reached), -jnp.inf, reached)

    return go
