"""Sign keys read off the weights alone, beside weights that hold none.

`trained`: the model under its key. Controls, of which no key should be read: `untrained`, the weights
that it started from; `shuffled`, every reader's rows in random order; `stream_lock`, a ciphertext.

`--model smollm2` and `--model efficientnet-lite0` take models that others trained, under a `sign_flip`;
values are the perplexity of a story of ours, and the share of images on which the answer is that of the
unlocked model.
"""

import dataclasses
import operator
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NotRequired

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.attacks.keys.sign_pairs import sign_pairs
from modellock_jax.attacks.keys.signs_from_weights import LEVEL, Pair, read_signs
from modellock_jax.attacks.keys.signs_of_model import pairs_by_bit, sign_votes
from modellock_jax.locks.sign import SignKey
from modellock_jax.locks.stream_lock import stream_lock
from modellock_jax.study import context as contexts
from modellock_jax.study import pretrained
from modellock_jax.study._signs import counted
from modellock_jax.study._single import (
    by_data,
    grid_of,
    key_value,
    listed,
    mean,
    model_of,
    models_of,
    only,
)
from modellock_jax.study.config import Settings
from modellock_jax.study.context import Context
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.pretrained import PRETRAINED
from modellock_jax.study.record import Study
from modellock_jax.study.report import Grid, seeds_text
from modellock_jax.study.rows import Valued
from modellock_jax.study.scale import scale_of
from modellock_jax.study.store import Rows
from modellock_jax.study.training import Owned

__all__ = ["STUDY", "Config", "ReadingRow"]

_CASES = ("trained", "untrained", "shuffled", "stream_lock")

_RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "resnet8": {"fashion_mnist": {"epochs": 1}},
    "vit": {"fashion_mnist": {"epochs": 3}},
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The study's settings."""

    locks: tuple[str, ...] = ("sign_mask(per='channel')",)


def _config(model: str = "cnn", **given: Any) -> Config:
    """Take fewer epochs of what trains for long, of which each has the steps of 15 on mnist5k."""
    found: Config = by_data(Config, _RECIPES.get(model, {}), model=model, **given)
    return found


class ReadingRow(Valued):
    """What was read off some weights, of one lock and seed."""

    lock: Annotated[str, "the lock's text"]
    seed: Annotated[int, "the seed of the model, the key and the controls, from 0"]
    case: Annotated[str, "the weights"]
    no_key: Annotated[float, "test value of the trained model without a key"]
    right_key: Annotated[float, "with the right key"]
    cpu_seconds: Annotated[float, "of all cores, the first with compilation"]
    read: Annotated[bool, "whether a key was read, at the level of 1 %"]
    p_value: NotRequired[Annotated[float, "of the weakest of the tests"]]
    fit: NotRequired[Annotated[float, "how well the signs explain the weights, to 1"]]
    in_use: NotRequired[Annotated[int, "signs of the key that some layer has"]]
    signs_right: NotRequired[Annotated[int, "of these, right, all negated or not"]]
    surest_wrong: NotRequired[Annotated[int, "of the three quarters that are most certain, wrong"]]
    accuracy: NotRequired[
        Annotated[
            float, "test value with these signs, the better of both sides if nothing shows it"
        ]
    ]


def _units(context: Context) -> list[Unit]:
    """Return the rows of each lock and seed together. Raises `ValueError` for another lock."""
    trained = context.config.model in PRETRAINED
    only(context.subjects, "signs_from_weights", "sign_flip" if trained else "sign_mask")
    return [
        Unit(
            _reading_rows,
            (text, seed),
            tuple(_id(text, seed, case) for case in _CASES),
            () if trained else models_of(text, seed),
        )
        for text in context.subjects
        for seed in range(context.config.seeds)
    ]


def _prepare(config: Config, folder: Path) -> Context:
    """Prepare what a study is about. Raises what all studies raise, and `pretrained.prepare`."""
    return (pretrained if config.model in PRETRAINED else contexts).prepare(config, folder)


def _weights_of(context: Context, text: str, seed: int) -> Owned:
    """Return weights before training, those under a key, and the key."""
    if context.config.model in PRETRAINED:
        return pretrained.locked_of(context, text, seed)
    return model_of(context, text, seed)


def _id(text: str, seed: int, case: str) -> str:
    return f"reading/{text}/{seed}/{case}"


def _reading_rows(context: Context, text: str, seed: int) -> list[Row]:
    """Read the weights of one model, and those of its controls."""
    settings, stream = context.subjects[text].settings, stream_lock()
    bits, value = settings["bits"], key_value(context, text)
    start, params, key = _weights_of(context, text, seed)
    about = {**context.about, "lock": text, "seed": seed}
    right = {"no_key": value(SignKey(jnp.ones(bits, jnp.int8)), params)}
    right |= {"right_key": value(key, params)}
    cipher, _ = stream.encrypt(stream.init(jax.random.key(4000 + seed), params), params)
    order, rows = np.random.default_rng(seed), []
    for case, weights in zip(_CASES, (params, start, params, cipher)):
        writers = sign_pairs(context.model.forward, weights, jnp.asarray(context.data.test_x[:1]))
        pairs: list[Pair] = pairs_by_bit(writers, bits, settings.get("per", "channel"))
        if case == "shuffled":
            pairs = [(w, order.permutation(np.asarray(v))) for w, v in pairs]
        begin = time.process_time()
        reading = read_signs(pairs, bits) if pairs else None
        row = {"id": _id(text, seed, case), "kind": "reading", **about, "case": case, **right}
        rows.append(row | {"cpu_seconds": time.process_time() - begin, "read": False})
        if reading is None:
            continue
        votes = sign_votes(writers, reading.signs)
        sides = (1, -1) if votes == 0 else (1 if votes > 0 else -1,)
        keys = [SignKey((side * reading.signs).astype(jnp.int8)) for side in sides]
        rows[-1] |= {"read": bool(reading.p_value <= LEVEL), "p_value": float(reading.p_value)}
        rows[-1] |= {"fit": float(reading.fit), **counted(reading, key.signs)}
        rows[-1] |= {"accuracy": context.best([value(k, params) for k in keys])}
    return rows


def _compiled_seconds(of: list[Row]) -> str:
    """Write the median over all seeds but the first, which compiles."""
    later = [row["cpu_seconds"] for row in of if row["seed"] > 0 and "fit" in row]
    return f"{np.median(later):.1f}" if later else ""


def _grids(rows: Rows, config: Config) -> list[Grid]:
    """One line for each lock and case."""
    scale = scale_of(rows)
    read = operator.itemgetter("read")

    cells: dict[str, Callable[[list[Row]], str]] = {
        "keys read": lambda of: f"{sum(row['read'] for row in of)} of {len(of)}",
        "of": lambda of: str(max((row["in_use"] for row in of if "in_use" in row), default="")),
        "signs right": listed("signs_right"),
        "wrong of the surest": listed("surest_wrong"),
        "no key": mean(scale, "no_key", counts=read),
        "found": mean(scale, "accuracy", counts=read),
        "right key": mean(scale, "right_key", counts=read),
        "CPU seconds": _compiled_seconds,
    }
    title = f"Signs from the weights alone: {config.data}, {config.model}, {seeds_text(config)}"
    return [grid_of(title, rows, "reading", ("lock", "case"), cells)]


STUDY = Study(
    name="signs_from_weights",
    about="sign keys read off the weights alone, with controls",
    config=_config,
    quick={"seeds": 1, "epochs": 6},
    prepare=_prepare,
    units=_units,
    kinds={"reading": ReadingRow},
    grids=_grids,
    drawings={},
)
