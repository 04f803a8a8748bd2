"""What `adv_params` is worth against the attacks on it, and whether they need the lock at all.

The thief has 1 % of the training inputs. `adv_params_descent` is the paper's adaptive attacker;
`selective` knows neither the lock's settings nor its clamped values; `neutral_key` has no data, and
puts clamped weights to their layer's median; `restore` finds their values on the thief's inputs.

Controls, on which `selective` has nothing to find: the model without a lock, and under `stream_lock`.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.attacks.weights import localise
from modellock_jax.attacks.weights.descent import adv_params_descent
from modellock_jax.attacks.weights.selective import neutral_key, restore, selective
from modellock_jax.core.lock import Key, Params
from modellock_jax.locks.adv_params import AdvParamsKey
from modellock_jax.locks.stream_lock import stream_lock
from modellock_jax.study._single import RECIPES, by_data, grid_of, mean, model_of, models_of, only
from modellock_jax.study.config import Settings
from modellock_jax.study.context import Context, prepare
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.record import Study
from modellock_jax.study.report import Grid, seeds_text
from modellock_jax.study.rows import Valued
from modellock_jax.study.scale import scale_of
from modellock_jax.study.store import Rows
from modellock_jax.study.training import PLAIN, encrypting

__all__ = ["STUDY", "AdvParamsRow", "Config", "ControlRow", "thief"]

_AUCS: dict[str, Callable[[Params], jax.Array]] = {
    "range": localise.range_position,
    "filter_z": localise.filter_z,
    "robust": localise.robust_distance,
    "clamped": localise.clamped,
}
"""Scores of weights that need no data."""


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The study's settings; `budget` is the thief's share of the training inputs, in (0, 1].

    At a `step` of 1 the lock clamps what it changes; with 0.25 hardly any weight ends at a clamp.
    """

    locks: tuple[str, ...] = ("adv_params", "adv_params(step=0.25)")
    budget: float = 0.01


_QUICK = {"seeds": 1, "epochs": 4, "locks": ("adv_params",)}
"""What `--quick` changes."""


class AdvParamsRow(Valued):
    """All attacks on the locked model of one seed."""

    lock: Annotated[str, "the lock's text"]
    seed: Annotated[int, "the seed of the model, the key and the thief's draws, from 0"]
    images: Annotated[int, "inputs that the thief has"]
    no_key: Annotated[float, "test value without a key"]
    right_key: Annotated[float, "with the right key"]
    accuracy: Annotated[dict[str, float], "test value that the thief ends with, by attack"]
    seconds: Annotated[dict[str, float], "how long an attack took, compilation apart"]
    changed: Annotated[int, "weights that encryption changed"]
    places: Annotated[int, "of these, that `selective` names"]
    clamped_places: Annotated[int, "of these, at a clamped value"]
    clamped_false: Annotated[int, "weights at such a value that were not changed"]
    margin: Annotated[float, "the clamp's margin, as found from the weights"]
    votes: Annotated[int, "weights that agree on it"]
    auc: Annotated[dict[str, float], "area under the curve of a score that needs no data, by score"]


class ControlRow(Valued):
    """`selective` where there is nothing to find, of one seed."""

    seed: Annotated[int, "the seed of the model and the thief's draws, from 0"]
    plain: Annotated[float, "test value of the model without a lock"]
    plain_selective: Annotated[float, "the same after `selective`"]
    plain_votes: Annotated[int, "weights that agree on a clamp's margin"]
    stream_selective: Annotated[float, "test value after `selective`, locked by `stream_lock`"]


def _units(context: Context) -> list[Unit]:
    """Return a row for each lock and seed, and one of controls for each seed.

    Raises `ValueError` for another lock.
    """
    only(context.subjects, "adv_params", "adv_params")
    seeds = range(context.config.seeds)
    found = [
        Unit(_adv_params_rows, (text, seed), (f"adv_params/{text}/{seed}",), models_of(PLAIN, seed))
        for text in context.subjects
        for seed in seeds
    ]
    return found + [
        Unit(_control_rows, (seed,), (f"control/{seed}",), models_of(PLAIN, seed)) for seed in seeds
    ]


class _Programs(NamedTuple):
    """What is compiled once for all models: attacks give their result and their seconds."""

    descend: Callable[..., tuple[Params, float]]
    selective: Callable[..., tuple[AdvParamsKey, float]]
    restore: Callable[..., tuple[AdvParamsKey, float]]
    neutral: Callable[[Params, jax.Array], AdvParamsKey]
    margin: Callable[[Params], localise.Margin]
    aucs: Callable[[Params, jax.Array], dict[str, jax.Array]]


@functools.lru_cache(maxsize=1)
def _programs(context: Context, count: int) -> _Programs:
    forward = context.model.forward
    settings: dict[str, Any] = {"count": count, "task": context.task}
    return _Programs(
        _timed(partial(adv_params_descent, forward, **settings)),
        _timed(partial(selective, forward, **settings)),
        _timed(partial(restore, forward, **settings)),
        jax.jit(partial(neutral_key, count=count)),
        jax.jit(localise.shared_margin),
        jax.jit(lambda p, t: {name: localise.roc(f(p), t).auc for name, f in _AUCS.items()}),
    )


def _timed(function: Callable[..., Any]) -> Callable[..., tuple[Any, float]]:
    """Jit a function so that it gives its result and its seconds, without those of compilation."""
    compiled: list[Any] = []

    def run(*args: Any) -> tuple[Any, float]:
        if not compiled:
            compiled.append(jax.jit(function).lower(*args).compile())
        begin = time.perf_counter()
        found = jax.block_until_ready(compiled[0](*args))
        return found, time.perf_counter() - begin

    return run


def thief(context: Context, seed: int) -> tuple[jax.Array, jax.Array]:
    """Draw the thief's share of the training inputs.

    Args:
        context: Of the study; its configuration names the `budget`.
        seed: Of the draw, from 0.

    Returns:
        Inputs `[N, ...]` and truths `[N, ...]`.
    """
    data = context.data
    size = max(1, round(context.config.budget * len(data.train_x)))
    mine = jax.random.permutation(jax.random.key(4000 + seed), len(data.train_x))[:size]
    return jnp.asarray(data.train_x)[mine], jnp.asarray(data.train_y)[mine]


def _adv_params_rows(context: Context, text: str, seed: int) -> list[Row]:
    """Attack the locked model of one seed."""
    lock, settings = context.subjects[text].lock, context.subjects[text].settings
    programs, (x, y) = _programs(context, settings["count"]), thief(context, seed)
    params = model_of(context, PLAIN, seed).params
    first_key = lock.init(jax.random.key(2000 + seed), params)
    locked, key = encrypting(context, text)(first_key, params)
    truth = localise.changed_weights(locked, params)
    margin = programs.margin(locked)
    suspects = localise.clamped(locked, margin.margin) > -localise.TOLERANCE

    def opened(key: Key) -> float:
        return float(context.score(lock.decrypt(key, locked)).value)

    descended, descent_s = programs.descend(locked, x, y, jax.random.key(5000 + seed))
    pursued, selective_s = programs.selective(locked, x, y)
    restored, restore_s = programs.restore(locked, suspects, x, y)
    named = localise.changed_weights(locked, lock.decrypt(pursued, locked))
    return [
        {
            "id": f"adv_params/{text}/{seed}",
            "kind": "adv_params",
            **context.about,
            "lock": text,
            "seed": seed,
            "images": len(x),
            "no_key": float(context.score(locked).value),
            "right_key": opened(key),
            "accuracy": {
                "adv_params_descent": float(context.score(descended).value),
                "selective": opened(pursued),
                "neutral_key": opened(programs.neutral(locked, suspects)),
                "restore": opened(restored),
            },
            "seconds": {
                "adv_params_descent": descent_s,
                "selective": selective_s,
                "restore": restore_s,
            },
            "changed": int(truth.sum()),
            "places": int(named[truth].sum()),
            "clamped_places": int((suspects & truth).sum()),
            "clamped_false": int((suspects & ~truth).sum()),
            "margin": float(margin.margin),
            "votes": int(margin.votes),
            "auc": {name: float(auc) for name, auc in programs.aucs(locked, truth).items()},
        }
    ]


def _control_rows(context: Context, seed: int) -> list[Row]:
    """Let `selective` loose on a model without a lock, and on a ciphertext."""
    subject = next(iter(context.subjects.values()))
    programs, (x, y) = _programs(context, subject.settings["count"]), thief(context, seed)
    params, stream = model_of(context, PLAIN, seed).params, stream_lock()
    cipher, _ = stream.encrypt(stream.init(jax.random.key(seed), params), params)

    def pursued(params: Params) -> float:
        key = programs.selective(params, x, y)[0]
        return float(context.score(subject.lock.decrypt(key, params)).value)

    row = {"id": f"control/{seed}", "kind": "control", **context.about, "seed": seed}
    row |= {"plain": float(context.score(params).value), "plain_selective": pursued(params)}
    row |= {"plain_votes": int(programs.margin(params).votes)}
    return [row | {"stream_selective": pursued(cipher)}]


def _grids(rows: Rows, config: Config) -> list[Grid]:
    """One line for each lock, and one of controls."""
    scale = scale_of(rows)

    def total(field: str) -> Callable[[list[Row]], str]:
        return lambda of: f"{sum(row[field] for row in of)} of {sum(r['changed'] for r in of)}"

    names = ("adv_params_descent", "selective", "neutral_key", "restore")
    cells = {
        "no key": mean(scale, "no_key"),
        **{name: mean(scale, "accuracy", name) for name in names},
    }
    cells |= {"right key": mean(scale, "right_key"), "named": total("places")}
    cells |= {"at the clamp": total("clamped_places")}
    cells |= {f"AUC, {name}": partial(_auc, name) for name in _AUCS}
    about = f"{config.data}, {config.model}, {seeds_text(config)}"
    title = (
        f"adv_params under attack: {about}, thieves with {100 * config.budget:g} % of the inputs"
    )
    controls = {
        name: mean(scale, name) for name in ("plain", "plain_selective", "stream_selective")
    }
    return [
        grid_of(title, rows, "adv_params", ("lock",), cells),
        grid_of("Nothing to find: selective", rows, "control", ("seed",), controls),
    ]


def _auc(name: str, rows: list[Row]) -> str:
    return f"{np.mean([row['auc'][name] for row in rows]):.3f}"


STUDY = Study(
    name="adv_params",
    about="the attacks on adv_params, with controls",
    config=functools.partial(by_data, Config, RECIPES),
    quick=_QUICK,
    prepare=prepare,
    units=_units,
    kinds={"adv_params": AdvParamsRow, "control": ControlRow},
    grids=_grids,
    drawings={},
)
