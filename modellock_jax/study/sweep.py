"""The sweep: the fine-tuning thief with every setting, beside a twin who starts from nothing."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any, NotRequired, TypedDict

import jax
import jax.numpy as jnp

from modellock_jax.attacks.weights.fine_tune import VARIANTS, Variant
from modellock_jax.attacks.weights.localise import MIN_VOTES, shared_margin
from modellock_jax.attacks.weights.sweep import OPTIMIZERS, RATES, Trial, best_so_far, trial
from modellock_jax.core.lock import Params, user_forward
from modellock_jax.study import attack_figures, league
from modellock_jax.study.cases import value_of
from modellock_jax.study.config import QUICK, Config
from modellock_jax.study.context import Context, fresh, prepare, rng_for
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.record import Study
from modellock_jax.study.rows import Valued
from modellock_jax.study.sweep_grids import SCRATCH, grids
from modellock_jax.study.training import locked_models, trainings
from modellock_jax.tasks import merit

__all__ = ["PROGRAMS", "SETTINGS", "SPARE", "STUDY", "Held", "SweepRow", "sweep_rows", "units"]

SETTINGS: dict[str, Any] = {
    "locks": league.LOCKS,
    "budgets": (0.005, 0.01, 0.02, 0.05, 0.1),
    "thief_rates": (),  # the sweep has its own: `attacks.sweep.RATES`
    "thief_steps": 300,
    "thief_scores": 6,
}
"""What the sweep changes in a configuration."""

SPARE = 400  # images that rehearsals are judged on
PROGRAMS: tuple[tuple[Variant, str], ...] = tuple((v, o) for v in VARIANTS for o in OPTIMIZERS)


class Held(TypedDict):
    """What the thief holds in the end, by one way to choose."""

    accuracy: Annotated[float, "test value"]
    setting: Annotated[str, "the variant, the optimizer and the learning rate"]
    stop: Annotated[int, "which stop it is from; 0 is the start"]
    curve: Annotated[list[float], "test value of what would be held at each stop"]


class SweepRow(Valued):
    """All settings of the fine-tuning thief on the model of one seed, with one budget."""

    lock: Annotated[str, 'the lock\'s text, or "scratch": fresh weights']
    seed: Annotated[int, "the seed of the model and of the thief's draws, from 0"]
    right_key: NotRequired[Annotated[float, "test value with the right key"]]
    no_key: NotRequired[Annotated[float, "without a key"]]
    budget: Annotated[float, "the thief's share of the training set, in (0, 1)"]
    images: Annotated[int, "how many inputs that is"]
    held_out: Annotated[Held, "chosen by a fifth of the thief's inputs"]
    rehearsed: NotRequired[Annotated[Held, "chosen on the other seeds' models"]]


def units(context: Context) -> list[Unit]:
    """Rows for each lock and budget, all seeds in one program.

    The twin starts from fresh weights, another draw in place of each variant, so that both have as many
    settings to choose from.

    Args:
        context: The study.

    Returns:
        Units, in the order of the rows.

    Raises:
        ValueError: For a budget of less than two images, or of all.
    """
    c, sizes = context.config, _sizes(context)
    if min(sizes) < 2 or max(sizes) >= len(context.data.train_x):
        raise ValueError(
            f"the sweep: a thief owns two images or more, and not all of them; not {min(sizes)} to "
            f"{max(sizes)} of {len(context.data.train_x)}"
        )
    return [
        Unit(
            sweep_rows,
            (text, budget),
            tuple(_row_id(text, seed, budget) for seed in range(c.seeds)),
            trainings(context, text) if text != SCRATCH else (),
        )
        for text in (SCRATCH, *context.subjects)
        for budget in c.budgets
    ]


def sweep_rows(context: Context, text: str, budget: float) -> list[Row]:
    """Fine-tune the models of every seed with every setting.

    Args:
        context: The study.
        text: The lock's text, or `SCRATCH`.
        budget: The share of the training data that the thief has, in (0, 1].

    Returns:
        A row for each seed.
    """
    size = round(budget * len(context.data.train_x))
    starts, about = _starts(context, text)
    return [
        {"id": _row_id(text, seed, budget), "kind": "sweep", "lock": text, "seed": seed}
        | about[seed]
        | {"budget": budget, **context.about, **row}
        for seed, row in enumerate(_thief(context).rows(starts, size, text == SCRATCH))
    ]


def _sizes(context: Context) -> list[int]:
    return [round(budget * len(context.data.train_x)) for budget in context.config.budgets]


def _row_id(name: str, seed: int, budget: float) -> str:
    return f"sweep/{name}/{seed}/{budget}"


@functools.lru_cache(maxsize=1)
def _starts(context: Context, text: str) -> tuple[Params, list[dict[str, Any]]]:
    """Return what the thief starts from, a tree `[seeds, ...]`, and what opens it."""
    seeds = range(context.config.seeds)
    if text == SCRATCH:
        # Nothing usable: `sanitise` puts a fresh draw in its place, another one for each generator.
        nothing = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), fresh(context, 0))
        return _stack([nothing for _ in seeds]), [{} for _ in seeds]
    user = jax.jit(user_forward(context.subjects[text].lock, context.model.forward))
    found, about = [], []
    for _, locked, key in locked_models(context, text):
        right = value_of(context, partial(user, key, locked))
        about.append({"right_key": right, "no_key": float(context.score(locked).value)})
        found.append(locked)
    return _stack(found), about


def _stack(trees: list[Params]) -> Params:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


class _Thief:
    """The programs that all locks and budgets share, and the images of every seed's thief."""

    def __init__(self, context: Context):
        c, most = context.config, max(_sizes(context))
        self.context, self.stops = context, c.thief_scores
        self.rngs = jnp.stack([rng_for(seed, "sweep") for seed in range(c.seeds)])
        n = len(context.data.train_x)
        order = jnp.stack([jax.random.permutation(rng_for(s, "thief"), n) for s in range(c.seeds)])
        x, y = jnp.asarray(context.data.train_x), jnp.asarray(context.data.train_y)
        mine, spare = order[:, :most], order[:, most : most + SPARE]
        self.x, self.y, self.spare_x, self.spare_y = x[mine], y[mine], x[spare], y[spare]
        options: dict[str, Any] = {
            "steps": c.thief_steps,
            "batch_size": c.thief_batch,
            "stops": c.thief_scores,
            "task": context.task,
        }

        def program(variant: Variant, optimizer: str) -> Callable[..., Trial]:
            one = trial(context.model, context.example, variant, optimizer, **options)
            rates = jax.vmap(one, (None, None, 0, None, None, None))
            return jax.jit(jax.vmap(rates, (0, 0, None, 0, 0, None)))

        self.programs = {at: program(*at) for at in PROGRAMS}

        def value(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
            return context.measure(lambda x: context.model.forward(params, x), x, y).value

        def in_turn(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
            return jax.lax.map(lambda p: value(p, x, y), params)

        self.tests = jax.jit(in_turn)
        self.rehearse = jax.jit(
            lambda params, x, y: jax.lax.map(
                lambda one: jax.lax.map(lambda p: in_turn(p, *one[1:]), one[0]), (params, x, y)
            )
        )
        self.healable = jax.jit(
            lambda starts: (jax.vmap(lambda p: shared_margin(p).votes)(starts) >= MIN_VOTES).any()
        )

    def rows(self, starts: Params, size: int, scratch: bool) -> list[dict[str, Any]]:
        """For each seed, by each way to choose: what the thief holds at each stop, and its setting."""
        todo: list[tuple[str, jax.Array, tuple[Variant, str]]] = []
        for number, (variant, optimizer) in enumerate(PROGRAMS):
            if scratch:
                draw = number // len(OPTIMIZERS)
                rngs = jax.vmap(jax.random.fold_in, (0, None))(self.rngs, draw)
                todo.append((f"draw {draw}", rngs, ("all", optimizer)))
            elif variant != "healed" or self.healable(starts):
                todo.append((variant, self.rngs, (variant, optimizer)))

        def train(one: tuple[str, jax.Array, tuple[Variant, str]]) -> Trial:
            _, rngs, at = one
            rates = jnp.array(RATES[at[1]], jnp.float32)
            found = self.programs[at](rngs, starts, rates, self.x, self.y, jnp.int32(size))
            return jax.block_until_ready(found)

        # Two at a time: one program alone does not keep two cores busy.
        with ThreadPoolExecutor(2) as pool:
            trials = list(pool.map(train, todo))
        found = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, 1), *trials)
        labels = [f"{name}, {at[1]}, {r:g}" for name, _, at in todo for r in RATES[at[1]]]
        rehearsed = self.rehearse(found.params, self.spare_x, self.spare_y)
        rows, task = [], self.context.task
        for seed in range(self.context.config.seeds):
            mine = jax.tree.map(lambda leaf, s=seed: leaf[s], found)
            row: dict[str, Any] = {"images": size}
            row["held_out"] = self._held(mine.params, labels, merit(task, mine.value), mine.loss)
            if len(rehearsed) > 1:
                others = merit(task, jnp.delete(rehearsed, seed, axis=0).mean(0))
                row["rehearsed"] = self._held(mine.params, labels, others, -others)
            rows.append(row)
        return rows

    def _held(
        self, params: Params, labels: list[str], merit: jax.Array, loss: jax.Array
    ) -> dict[str, Any]:
        setting, stop = best_so_far(merit, loss)
        held = jax.tree.map(lambda leaf: leaf[setting, stop], params)
        data = self.context.data
        curve = self.tests(held, jnp.asarray(data.test_x), jnp.asarray(data.test_y))
        return {
            "accuracy": float(curve[-1]),
            "setting": labels[int(setting[-1])],
            "stop": int(stop[-1]),
            "curve": curve.tolist(),
        }


@functools.lru_cache(maxsize=1)
def _thief(context: Context) -> _Thief:
    return _Thief(context)


STUDY = Study(
    name="sweep",
    about="the fine-tuning thief with every setting",
    config=functools.partial(Config, **SETTINGS),
    quick=QUICK,
    prepare=prepare,
    units=units,
    kinds={"sweep": SweepRow},
    grids=grids,
    drawings=attack_figures.SWEEP,
)
