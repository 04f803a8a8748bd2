"""The sweep: the fine-tuning thief with every setting, beside his twin who starts from nothing."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from modellock_jax.attacks.fine_tune import VARIANTS, Variant
from modellock_jax.attacks.sweep import OPTIMIZERS, RATES, Trial, best_so_far, trial
from modellock_jax.base import Params, user_forward
from modellock_jax.metrics import score
from modellock_jax.study import league
from modellock_jax.study.config import Config
from modellock_jax.study.report import Grid, interval, seeds_text
from modellock_jax.study.run import Bench, fresh, prepare, rng_for
from modellock_jax.study.store import Store
from modellock_jax.train import bar

SETTINGS: dict[str, Any] = {
    "locks": league.LOCKS,
    "budgets": (0.005, 0.01, 0.02, 0.05, 0.1),
    "thief_rates": (),  # the sweep has its own: `attacks.sweep.RATES`
    "thief_steps": 300,
    "thief_scores": 6,
}
"""What the sweep changes in a configuration."""

SCRATCH = "scratch"
PROGRAMS: tuple[tuple[Variant, str], ...] = tuple((v, o) for v in VARIANTS for o in OPTIMIZERS)


def run(config: Config, out: Path) -> Store:
    """Fine-tune every lock's models with every setting and budget, all seeds in one program.

    The twin starts from fresh weights, another draw in place of each variant, so that both have as
    many settings to choose from. Rows are kept as they are finished; running again skips them.
    Raises what `prepare` raises, and `ValueError` for a budget of less than two images.
    """
    bench = prepare(config)
    sizes = [round(budget * len(bench.data.train_x)) for budget in config.budgets]
    if min(sizes) < 2:
        raise ValueError(f"the sweep: a thief needs two images or more, not {min(sizes)}")
    store, thief = Store(out, config), _Thief(bench, max(sizes))
    names = (SCRATCH, *config.locks)
    with bar() as shown:
        task = shown.add_task("the sweep", total=len(names) * len(sizes))
        for name in names:
            ids = [_row_id(name, s, b) for s in range(config.seeds) for b in config.budgets]
            if any(row_id not in store.rows for row_id in ids):
                starts, about = _starts(bench, store, name)
                for budget, size in zip(config.budgets, sizes):
                    for seed, row in enumerate(thief.rows(starts, size, name == SCRATCH)):
                        row_id = _row_id(name, seed, budget)
                        if row_id not in store.rows:
                            begin = {"id": row_id, "kind": "sweep", "lock": name, "seed": seed}
                            store.add(begin | about[seed] | {"budget": budget, **row})
                    shown.advance(task)
    return store


def _row_id(name: str, seed: int, budget: float) -> str:
    return f"sweep/{name}/{seed}/{budget}"


def _starts(bench: Bench, store: Store, name: str) -> tuple[Params, list[dict[str, Any]]]:
    """What the thief starts from, a tree `[seeds, ...]`, and what opens it."""
    seeds = range(bench.config.seeds)
    if name == SCRATCH:
        # Nothing usable: `sanitise` puts a fresh draw in its place, another one for each generator.
        nothing = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), fresh(bench, 0))
        return _stack([nothing for _ in seeds]), [{} for _ in seeds]
    subject = next(s for s in bench.subjects if s.text == name)
    user = jax.jit(user_forward(subject.lock, bench.model.forward))
    found, about = [], []
    for _, locked, key in league.locked_models(bench, store, subject):
        right = league.accuracy_of(bench, partial(user, key, locked))
        about.append({"right_key": right, "no_key": float(bench.score(locked).accuracy)})
        found.append(locked)
    return _stack(found), about


def _stack(trees: list[Params]) -> Params:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


class _Thief:
    """The programs that all locks and budgets share, and the images of every seed's thief."""

    def __init__(self, bench: Bench, most: int):
        c = bench.config
        self.bench, self.stops = bench, c.thief_scores
        self.rngs = jnp.stack([rng_for(seed, "sweep") for seed in range(c.seeds)])
        n = len(bench.data.train_x)
        mine = jnp.stack(
            [jax.random.permutation(rng_for(s, "thief"), n)[:most] for s in range(c.seeds)]
        )
        self.x, self.y = (
            jnp.asarray(bench.data.train_x)[mine],
            jnp.asarray(bench.data.train_y)[mine],
        )
        options = {"steps": c.thief_steps, "batch_size": c.thief_batch, "stops": c.thief_scores}

        def program(variant: Variant, optimizer: str) -> Callable[..., Trial]:
            one = trial(bench.model, bench.shape, variant, optimizer, **options)
            rates = jax.vmap(one, (None, None, 0, None, None, None))
            return jax.jit(jax.vmap(rates, (0, 0, None, 0, 0, None)))

        self.programs = {at: program(*at) for at in PROGRAMS}

        @jax.jit
        def tests(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
            def one(params: Params) -> jax.Array:
                return score(lambda x: bench.model.forward(params, x), x, y).accuracy

            return jax.lax.map(one, params)

        self.tests = tests

    def rows(self, starts: Params, size: int, scratch: bool) -> list[dict[str, Any]]:
        """For each seed: test accuracy of what the thief holds at each stop, and how he came to it."""
        trials, labels = [], []
        for number, (variant, optimizer) in enumerate(PROGRAMS):
            label, rngs = str(variant), self.rngs
            if scratch:
                draw = number // len(OPTIMIZERS)
                label = f"draw {draw}"
                rngs = jax.vmap(jax.random.fold_in, (0, None))(rngs, draw)
            program = self.programs["all" if scratch else variant, optimizer]
            rates = jnp.array(RATES[optimizer], jnp.float32)
            found = program(rngs, starts, rates, self.x, self.y, jnp.int32(size))
            trials.append(jax.block_until_ready(found))
            labels += [f"{label}, {optimizer}, {rate:g}" for rate in RATES[optimizer]]
        everything = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, 1), *trials)
        held = [_held(everything, seed) for seed in range(self.bench.config.seeds)]
        return [self._row(size, labels, *one) for one in held]

    def _row(
        self, size: int, labels: list[str], mine: Trial, setting: jax.Array, stop: jax.Array
    ) -> dict[str, Any]:
        data = self.bench.data
        curve = self.tests(mine.params, jnp.asarray(data.test_x), jnp.asarray(data.test_y))
        return {
            "images": size,
            "curve": curve.tolist(),
            "accuracy": float(curve[-1]),
            "setting": labels[int(setting[-1])],
            "stop": int(stop[-1]) + 1,
            "held_out": float(mine.accuracy[-1]),
        }


def _held(trials: Trial, seed: int) -> tuple[Trial, jax.Array, jax.Array]:
    """What the thief of one seed holds after each stop, `[stops]`, with its setting and stop."""
    mine = jax.tree.map(lambda leaf: leaf[seed], trials)
    setting, stop = best_so_far(mine.accuracy, mine.loss)
    return jax.tree.map(lambda leaf: leaf[setting, stop], mine), setting, stop


def grid(store: Store, config: Config) -> Grid:
    """For each lock and budget: what the thief reached, what the stolen weights gave him."""
    title = f"Was stealing worth anything? {config.data}, {config.model}, {seeds_text(config)}"
    header = ["start", "no key", "right key"]
    table = Grid(title, header + [f"{100 * b:g} % of the data" for b in config.budgets], [], [])
    rows = {(r["lock"], r["seed"], r["budget"]): r for r in store.of("sweep")}
    seeds = range(config.seeds)
    for name in (SCRATCH, *config.locks):
        if any((name, s, b) not in rows for s in seeds for b in config.budgets):
            continue
        cells = []
        for budget in config.budgets:
            reached = [100 * rows[name, s, budget]["accuracy"] for s in seeds]
            scratch = [100 * rows[SCRATCH, s, budget]["accuracy"] for s in seeds]
            mean, low, high = interval(reached)
            if name == SCRATCH:
                cells.append(f"{mean:.1f} [{low:.1f}, {min(high, 100):.1f}]")
            else:
                more, low, high = interval([a - b for a, b in zip(reached, scratch)])
                cells.append(
                    f"{mean:.1f}: {verdict(low, high)}, {more:+.1f} [{low:+.1f}, {high:+.1f}]"
                )
        about = ["", ""]
        if name != SCRATCH:
            own = [rows[name, s, config.budgets[0]] for s in seeds]
            about = [
                f"{100 * sum(r[field] for r in own) / len(own):.1f}"
                for field in ("no_key", "right_key")
            ]
        table.rows.append([name, *about, *cells])
    settings = len(VARIANTS) * sum(map(len, RATES.values()))
    table.notes.extend(
        [
            f"Test accuracy in %. Each thief tries {settings} settings ({', '.join(VARIANTS)}; Adam and "
            f"SGD, three rates each), {config.thief_steps} steps of {config.thief_batch} images, and "
            f"keeps which of them and which of {config.thief_scores} stops did best on a fifth of his "
            "own images, which he held out; test images choose nothing.",
            "After the colon: whether stealing the weights was worth anything, and the advantage over "
            "scratch in points, the same images and as many settings (four draws in place of the "
            "variants), with the 95 % interval of paired differences over seeds. `yes`: the interval "
            "lies above 0; `harm`: below; `no`: within 3 points of it; `unclear`: none of these.",
        ]
    )
    return table


def verdict(low: float, high: float, points: float = 3.0) -> str:
    """Whether stealing was worth anything, by the interval of the advantage in points.

    >>> [verdict(*interval) for interval in [(0.1, 9.0), (-9.0, -0.1), (-1.0, 2.0), (-1.0, 9.0)]]
    ['yes', 'harm', 'no', 'unclear']
    """
    if low > 0:
        return "yes"
    if high < 0:
        return "harm"
    return "no" if max(-low, high) <= points else "unclear"
