"""The main study: train, lock with each lock, open with right and wrong keys, and send in the thief."""

import functools
import operator
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax.attacks.attack import run_batches
from modellock_jax.attacks.weights.fine_tune import fine_tune
from modellock_jax.core.bits import to_uint
from modellock_jax.core.lock import Key, Params, user_forward
from modellock_jax.flax import sites
from modellock_jax.study import figures
from modellock_jax.study.config import QUICK, Config
from modellock_jax.study.context import Context, fresh, prepare, rng_for
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.main_grids import lock_grid, thief_grid
from modellock_jax.study.main_rows import LockRow, ThiefRow
from modellock_jax.study.record import Study
from modellock_jax.study.training import PLAIN, encrypting, locked_models, trained, trainings
from modellock_jax.tasks import Score

__all__ = ["SCRATCH", "STUDY", "lock_rows", "thief_rows", "units"]

SCRATCH = "scratch"


class _Programs(NamedTuple):
    """What is compiled once for all seeds of a lock."""

    score: Callable[[Key, Params], Score]
    decrypt: Callable[[Key, Params], Params]
    guess: Callable[[jax.Array, Params], Key]
    near: Callable[[jax.Array, Key], Key]


def units(context: Context) -> list[Unit]:
    """Return a row for each lock and seed, and one for each theft.

    Args:
        context: The study.

    Returns:
        Units of one row each.
    """
    c = context.config
    texts = {text: trainings(context, text, PLAIN) for text in context.subjects}
    found = [
        Unit(lock_rows, (text, seed), (f"lock/{text}/{seed}",), needs)
        for text, needs in texts.items()
        for seed in range(c.seeds)
    ]
    return found + [
        Unit(
            thief_rows,
            (text, seed, budget, rate),
            (f"thief/{text}/{seed}/{budget}/{rate}",),
            trainings(context, text) if text != SCRATCH else (),
        )
        for text in (SCRATCH, *texts)
        for seed in range(c.seeds)
        for budget in c.budgets
        for rate in c.thief_rates
    ]


@functools.lru_cache(maxsize=1)
def _programs(context: Context, text: str) -> _Programs:
    subject, data = context.subjects[text], context.data
    lock, spec = subject.lock, subject.spec
    user = user_forward(lock, context.model.forward)
    decrypt = jax.jit(lock.decrypt)

    @jax.jit
    def user_score(key: Key, locked: Params) -> Score:
        test_x, test_y = jnp.asarray(data.test_x), jnp.asarray(data.test_y)
        return context.measure(lambda x: user(key, locked, x), test_x, test_y)

    def key_score(key: Key, locked: Params) -> Score:
        # Without a part in the forward, the user's is the plain one on what decrypt gives.
        if subject.trained_under:
            return user_score(key, locked)
        return context.score(decrypt(key, locked))

    guess = jax.jit(jax.vmap(spec.guess, (0, None)))
    return _Programs(key_score, decrypt, guess, jax.jit(spec.near))


def lock_rows(context: Context, text: str, seed: int) -> list[Row]:
    """Open the model of one seed with all sorts of keys.

    Args:
        context: The study.
        text: The lock's text.
        seed: Of the model and the keys, from 0 on.

    Returns:
        One row.
    """
    c, subject, data = context.config, context.subjects[text], context.data
    programs, models = _programs(context, text), locked_models(context, text)
    params, locked, key = models[seed]
    plain = trained(context, PLAIN, seed)[0]
    guesses = programs.guess(jax.random.split(rng_for(seed, "wrong"), c.wrong_keys), locked)
    wrong = [jax.tree.map(operator.itemgetter(i), guesses) for i in range(c.wrong_keys)]
    near = programs.near(rng_for(seed, "near"), key)
    keys = [key, near, *(model.key for model in models), *wrong]
    found = [programs.score(k, locked) for k in keys]
    value = [float(one.value) for one in found]
    non_finite = [float(one.non_finite) for one in found]
    none = context.score(locked)
    opened = programs.decrypt(key, locked)
    first_key = jax.jit(subject.lock.init)(rng_for(seed, "key"), params)
    row = {
        "id": f"lock/{text}/{seed}",
        "kind": "lock",
        **context.about,
        "lock": text,
        "scheme": subject.scheme,
        "seed": seed,
        "trained_under": subject.trained_under,
        "plain": float(context.score(plain).value),
        "right": value[0],
        "right_is_plain": not subject.trained_under
        and _equal(context.answers(opened), context.answers(plain)),
        "near": value[1],
        "cross": value[2 : 2 + c.seeds],
        "wrong": value[2 + c.seeds :],
        "wrong_non_finite": sum(non_finite[2 + c.seeds :]) / c.wrong_keys,
        "none": float(none.value),
        "none_non_finite": float(none.non_finite),
        "prior": context.prior,
        "key_bits": subject.spec.bits(
            params, sites(context.model.forward, params, data.test_x[:1])
        ),
        "changed": int(_changed(locked, params)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(locked)),
        "encrypt_s": _seconds(encrypting(context, text), first_key, params),
        "decrypt_s": _seconds(programs.decrypt, key, locked),
    }
    return [row]


def _equal(a: Any, b: Any) -> bool:
    """Whether two answers are equal in all that they hold."""
    return all(bool((x == y).all()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


@jax.jit
def _changed(locked: Params, params: Params) -> jax.Array:
    differ = jax.tree.map(lambda a, b: (to_uint(a) != to_uint(b)).sum(), locked, params)
    return jax.tree.reduce(jnp.add, differ)


def _seconds(function: Callable[..., Any], *args: Any) -> float:
    """Return the best of three runs, or of one that is long, of a function that has been compiled."""
    taken: list[float] = []
    while len(taken) < 3 and sum(taken) < 0.5:
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        taken.append(time.perf_counter() - start)
    return min(taken)


@functools.lru_cache(maxsize=1)
def _thief(context: Context) -> Any:
    """Return the thief's program: size and rate are traced, so that one serves all budgets."""
    c, d = context.config, context.data
    data, n = (
        tuple(jnp.asarray(a) for a in (d.train_x, d.train_y, d.test_x, d.test_y)),
        len(d.train_x),
    )

    @jax.jit
    def steal(rng: jax.Array, state: Any, size: jax.Array, rate: jax.Array, data: Any) -> jax.Array:
        """Return what it reaches on the way, [thief_scores]."""
        x, y, test_x, test_y = data
        attack = fine_tune(context.model, rate, context.example, task=context.task)
        data_rng, order_rng, shift_rng = jax.random.split(rng, 3)
        mine = jax.random.permutation(data_rng, n)
        per_score = c.thief_steps // c.thief_scores
        shape = (c.thief_scores, per_score, c.thief_batch)
        index = mine[jax.random.randint(order_rng, shape, 0, size)]
        shifts = jax.random.split(shift_rng, shape[:2])

        def stretch(state: Any, batch: Any) -> tuple[Any, jax.Array]:
            index, shifts = batch
            images = jax.vmap(context.task.augment)(shifts, x[index])
            state, _ = run_batches(attack, state, (images, y[index]))
            found = context.measure(lambda x: attack.forward(state, x), test_x, test_y)
            return state, found.value

        return lax.scan(stretch, state, (index, shifts))[1]

    return functools.partial(steal, data=data)


def thief_rows(context: Context, text: str, seed: int, budget: float, rate: float) -> list[Row]:
    """Fine-tune a locked model, or fresh weights, with a share of the data.

    Args:
        context: The study.
        text: The lock's text, or `SCRATCH`.
        seed: Of the model, the key and the thief, from 0 on.
        budget: The share of the training data that the thief has, in (0, 1].
        rate: The thief's learning rate, above 0.

    Returns:
        One row.
    """
    size = max(1, round(budget * len(context.data.train_x)))
    # The same images for every lock of a seed: the rows compare locks, not draws.
    thief_rng, init_rng = jax.random.split(rng_for(seed, "thief"))
    scratch = text == SCRATCH
    start = fresh(context, seed) if scratch else locked_models(context, text)[seed].locked
    state = fine_tune(context.model, rate, context.example, task=context.task).init(init_rng, start)
    curve = _thief(context)(thief_rng, state, jnp.int32(size), jnp.float32(rate)).tolist()
    row = {
        "id": f"thief/{text}/{seed}/{budget}/{rate}",
        "kind": "thief",
        **context.about,
        "lock": text,
        "seed": seed,
        "budget": budget,
        "images": size,
        "rate": rate,
        "curve": curve,
        "best": context.best(curve),
    }
    return [row]


STUDY = Study(
    name="main",
    about="who opens what, and the fine-tuning thief",
    config=Config,
    quick=QUICK,
    prepare=prepare,
    units=units,
    kinds={"lock": LockRow, "thief": ThiefRow},
    grids=lambda rows, config: [lock_grid(rows, config), thief_grid(rows, config)],
    drawings=figures.LOCKS,
)
