"""`adv_params` at small steps, by either loss, and with one bit of its key off.

Where the clamp shows nothing, what finds the changed weights? Without data those that lie `farthest`
from the median of their filter are put to their layer's; with 1 % of the training inputs
`farthest, refitted` seeks their values, `selective` places and values, and `adv_params_descent` is the
paper's adaptive attacker.

The lock climbs the task's `harm`, a smooth count of errors; the paper climbs the `loss` of training.
"""

import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.attacks.weights import localise
from modellock_jax.attacks.weights.descent import adv_params_descent
from modellock_jax.attacks.weights.selective import neutral_key, restore, selective
from modellock_jax.core.lock import Key, Params
from modellock_jax.locks.adv_params import AdvParamsKey
from modellock_jax.study._single import (
    RECIPES,
    by_data,
    grid_of,
    key_value,
    mean,
    model_of,
    models_of,
    only,
)
from modellock_jax.study.adv_params import thief
from modellock_jax.study.config import Settings
from modellock_jax.study.context import Context, prepare
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.record import Study
from modellock_jax.study.report import Grid, interval, seeds_text
from modellock_jax.study.rows import Valued
from modellock_jax.study.scale import scale_of
from modellock_jax.study.store import Rows
from modellock_jax.study.training import PLAIN

__all__ = ["STUDY", "BitsRow", "Config", "StepsRow"]

_SCORES = ("range", "filter_z", "robust")
_BITS = 32  # of a float32 weight


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The study's settings.

    `climbs`: what the owner's search climbs; `budget`: the thief's share of the training inputs;
    `weights`: how many of the key's weights each bit is flipped in, one at a time, under the first lock.
    """

    locks: tuple[str, ...] = ("adv_params", "adv_params(step=0.25)", "adv_params(step=0.1)")
    seeds: int = 5
    climbs: tuple[str, ...] = ("harm", "loss")
    budget: float = 0.01
    weights: int = 6


class StepsRow(Valued):
    """All attacks on the locked model of one seed, whose owner climbed one loss."""

    lock: Annotated[str, "the lock's text"]
    climbs: Annotated[str, "what the owner's search climbed: harm or loss"]
    seed: Annotated[int, "the seed of the model, the key and the thief's draws, from 0"]
    no_key: Annotated[float, "test value without a key"]
    right_key: Annotated[float, "with the right key"]
    accuracy: Annotated[dict[str, float], "test value that the thief ends with, by attack"]
    changed: Annotated[int, "weights that encryption changed"]
    named: Annotated[dict[str, int], "of these, those that an attack names, by attack"]
    auc: Annotated[dict[str, float], "area under the curve of a score that needs no data, by score"]


class BitsRow(Valued):
    """Keys of one seed with one bit of one weight flipped, for each bit."""

    lock: Annotated[str, "the lock's text"]
    seed: Annotated[int, "the seed of the model and the key, from 0"]
    weights: Annotated[int, "weights of the key that were tried, one at a time"]
    right_key: Annotated[float, "test value with the right key"]
    accuracy: Annotated[list[float], "mean test value over these, from the lowest bit on"]
    worst: Annotated[list[float], "the lowest of them"]


def _units(context: Context) -> list[Unit]:
    """Return a row for each lock, loss and seed, and one of bits for each seed.

    Raises `ValueError` for another lock.
    """
    only(context.subjects, "adv_params_steps", "adv_params")
    seeds, first = range(context.config.seeds), next(iter(context.subjects))
    found = [
        Unit(
            _steps_rows,
            (text, climbs, seed),
            (f"steps/{text}/{climbs}/{seed}",),
            models_of(PLAIN, seed),
        )
        for text in context.subjects
        for climbs in context.config.climbs
        for seed in seeds
    ]
    return found + [
        Unit(_bits_rows, (first, seed), (f"bits/{first}/{seed}",), models_of(PLAIN, seed))
        for seed in seeds
    ]


@functools.lru_cache(maxsize=1)
def _encrypting(context: Context, text: str, climbs: str) -> Callable[..., tuple[Params, Key]]:
    """Compile the lock's encryption, which climbs `harm` or `loss` on 512 training inputs."""
    lock, task, forward = context.subjects[text].lock, context.task, context.model.forward

    def climbed(out: Any, y: jax.Array) -> jax.Array:
        return task.harm(out, y) if climbs == "harm" else task.loss(out, y).mean()

    @jax.jit
    def encrypt(key: Key, params: Params, x: jax.Array, y: jax.Array) -> tuple[Params, Key]:
        return lock.encrypt(key, params, lambda p: climbed(forward(p, x), y))

    sample = jnp.asarray(context.data.train_x[:512]), jnp.asarray(context.data.train_y[:512])
    return lambda key, params: encrypt(key, params, *sample)


def _locked(context: Context, text: str, climbs: str, seed: int) -> tuple[Params, Params, Key]:
    """Return the parameters of one seed, the same locked, and the key."""
    params = model_of(context, PLAIN, seed).params
    first = context.subjects[text].lock.init(jax.random.key(2000 + seed), params)
    return params, *_encrypting(context, text, climbs)(first, params)


@functools.lru_cache(maxsize=1)
def _programs(context: Context, count: int) -> dict[str, Callable[..., Any]]:
    """Compile the attacks and scores, once for all models."""
    forward = context.model.forward
    settings: dict[str, Any] = {"count": count, "task": context.task}
    return {
        "descent": jax.jit(partial(adv_params_descent, forward, **settings)),
        "selective": jax.jit(partial(selective, forward, **settings)),
        "restore": jax.jit(partial(restore, forward, **settings)),
        "neutral": jax.jit(partial(neutral_key, count=count)),
        "farthest": jax.jit(lambda p: _farthest(localise.filter_z(p), count)),
        "aucs": jax.jit(
            lambda p, t: {n: localise.roc(localise.SCORES[n](p), t).auc for n in _SCORES}
        ),
    }


def _farthest(scores: jax.Array, count: int) -> jax.Array:
    return scores >= jax.lax.top_k(scores, count)[0][-1]


def _steps_rows(context: Context, text: str, climbs: str, seed: int) -> list[Row]:
    """Attack the locked model of one seed."""
    lock, settings = context.subjects[text].lock, context.subjects[text].settings
    programs, (x, y) = _programs(context, settings["count"]), thief(context, seed)
    params, locked, key = _locked(context, text, climbs, seed)
    truth = localise.changed_weights(locked, params)
    suspects = localise.clamped(locked, localise.shared_margin(locked).margin)
    clamped, farthest = suspects > -localise.TOLERANCE, programs["farthest"](locked)

    def value(params: Params) -> float:
        return float(context.score(params).value)

    keys: dict[str, AdvParamsKey] = {
        "neutral_key": programs["neutral"](locked, clamped),
        "farthest": programs["neutral"](locked, farthest),
        "farthest, refitted": programs["restore"](locked, farthest, x, y),
        "restore": programs["restore"](locked, clamped, x, y),
        "selective": programs["selective"](locked, x, y),
    }
    opened = {name: lock.decrypt(found, locked) for name, found in keys.items()}
    opened["adv_params_descent"] = programs["descent"](locked, x, y, jax.random.key(5000 + seed))
    named = {n: localise.changed_weights(locked, p)[truth].sum() for n, p in opened.items()}
    return [
        {
            "id": f"steps/{text}/{climbs}/{seed}",
            "kind": "steps",
            **context.about,
            "lock": text,
            "climbs": climbs,
            "seed": seed,
            "no_key": value(locked),
            "right_key": value(lock.decrypt(key, locked)),
            "accuracy": {name: value(p) for name, p in opened.items()},
            "changed": int(truth.sum()),
            "named": {name: int(n) for name, n in named.items()},
            "auc": {name: float(auc) for name, auc in programs["aucs"](locked, truth).items()},
        }
    ]


def _bits_rows(context: Context, text: str, seed: int) -> list[Row]:
    """Flip every bit of some of the key's weights, one bit of one weight at a time."""
    _, locked, key = _locked(context, text, context.config.climbs[0], seed)
    value = key_value(context, text)
    used = np.flatnonzero(np.asarray(key.leaf) >= 0)[: context.config.weights]

    def off(bit: int, which: int) -> float:
        bits = key.bits.at[which].set(key.bits[which] ^ jnp.uint32(1 << bit))
        return value(key._replace(bits=bits), locked)

    values = np.array([[off(bit, int(which)) for which in used] for bit in range(_BITS)])
    row: Row = {"id": f"bits/{text}/{seed}", "kind": "bits", **context.about, "lock": text}
    row |= {"seed": seed, "weights": len(used), "right_key": value(key, locked)}
    return [row | {"accuracy": values.mean(1).tolist(), "worst": values.min(1).tolist()}]


def _grids(rows: Rows, config: Config) -> list[Grid]:
    """One line for each lock and loss, and one for each bit."""
    scale = scale_of(rows)

    attacks = list(dict.fromkeys(name for row in rows.of("steps") for name in row["accuracy"]))
    cells = {
        "no key": mean(scale, "no_key"),
        **{name: mean(scale, "accuracy", name) for name in attacks},
    }
    cells |= {"right key": mean(scale, "right_key")}
    cells |= {f"AUC, {name}": partial(_auc, name) for name in _SCORES}
    about = f"{config.data}, {config.model}, {seeds_text(config)}"
    title = f"adv_params by step and loss: {about}, thieves with {100 * config.budget:g} % of the inputs"
    bits = rows.of("bits")
    lines = [
        [str(bit), _part(bit), *_of_bit(scale.text, bits, bit)] for bit in reversed(range(_BITS))
    ]
    return [
        grid_of(title, rows, "steps", ("lock", "climbs"), cells),
        Grid("One bit of the key off", ["bit", "part", "mean [95 %]", "worst"], lines, []),
    ]


def _auc(name: str, rows: list[Row]) -> str:
    return f"{np.mean([row['auc'][name] for row in rows]):.3f}"


def _part(bit: int) -> str:
    """Which part of a float32 number a bit is in."""
    return "sign" if bit == 31 else "exponent" if bit >= 23 else "mantissa"


def _of_bit(text: Callable[[float], str], rows: list[Row], bit: int) -> list[str]:
    mean, low, high = interval([row["accuracy"][bit] for row in rows])
    return [f"{text(mean)} [{text(low)}, {text(high)}]", text(min(r["worst"][bit] for r in rows))]


STUDY = Study(
    name="adv_params_steps",
    about="adv_params at small steps, by either loss, and with one bit of the key off",
    config=functools.partial(by_data, Config, RECIPES),
    quick={"seeds": 1, "epochs": 4, "locks": ("adv_params",), "weights": 1},
    prepare=prepare,
    units=_units,
    kinds={"steps": StepsRow, "bits": BitsRow},
    grids=_grids,
    drawings={},
)
