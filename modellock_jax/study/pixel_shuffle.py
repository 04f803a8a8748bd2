"""What finds the key of a `pixel_shuffle`: searches, chosen images, known pairs, logits.

`hill_climb` and `anneal` see the first training images, labelled or not; chosen images and known pairs
one image and its scrambled form. `pixel_shuffle_logit_oracle` sees the logits of one image for every
16 entries of the key, and asks again with 12, 8 and 4 while no key explains them, all images counted.

`--data=painted_mnist5k` is the papers' case of three channels.
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
from jax import lax

from modellock_jax.attacks.keys.chosen_image import (
    chosen_images,
    pixel_shuffle_chosen_image,
    pixel_shuffle_known_pairs,
)
from modellock_jax.attacks.keys.logit_oracle import pixel_shuffle_logit_oracle
from modellock_jax.attacks.keys.permutation_search import anneal, hill_climb
from modellock_jax.core.lock import Forward, Lock, Params, user_forward
from modellock_jax.data import Data
from modellock_jax.locks.pixel_shuffle import PixelKey
from modellock_jax.study._single import by_data, grid_of, key_value, mean, model_of, models_of, only
from modellock_jax.study.config import Settings
from modellock_jax.study.context import Context, prepare
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.record import Study
from modellock_jax.study.report import Grid, seeds_text
from modellock_jax.study.rows import Valued
from modellock_jax.study.scale import scale_of
from modellock_jax.study.store import Rows

__all__ = ["STUDY", "Config", "ShuffleRow"]


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The study's settings: `images` of a search, and steps of each; there are more in colour."""

    locks: tuple[str, ...] = ("pixel_shuffle(block=4)",)
    seeds: int = 1
    epochs: int = 12
    images: tuple[int, ...] = (100, 500)
    hill_steps: int = 20
    anneal_steps: int = 200


_CLOTHES: dict[str, Any] = {"epochs": 5, "learning_rate": 2e-3}
_COLOUR: dict[str, Any] = {"hill_steps": 50, "anneal_steps": 400}
_RECIPES = {
    "fashion_mnist": _CLOTHES,
    "painted_mnist5k": _COLOUR,
    "painted_fashion_mnist": _CLOTHES | _COLOUR,
}
_QUICK = {"epochs": 4, "images": (100,), "hill_steps": 10, "anneal_steps": 40}


class ShuffleRow(Valued):
    """One attack on the key of one seed."""

    lock: Annotated[str, "the lock's text"]
    seed: Annotated[int, "the seed of the model, the key and the attacker's draws, from 0"]
    no_key: Annotated[float, "test value without a key"]
    right_key: Annotated[float, "with the right key"]
    attack: Annotated[str, "the attack"]
    images: Annotated[int, "inputs that the attacker has, chooses, or asks a device"]
    seconds: Annotated[float, "how long the attack took, compilation included"]
    before: Annotated[float | None, "test value with the key that a search starts from"]
    after: Annotated[float, "with the key found; without a key if none was"]
    entries_right: Annotated[float, "share of the key's entries that are right; 0 without a key"]


def _units(context: Context) -> list[Unit]:
    """Return a row for each lock, seed and attack. Raises `ValueError` for another lock."""
    only(context.subjects, "pixel_shuffle", "pixel_shuffle")
    c = context.config
    attacks = [(name, 1) for name in _BY_ANSWERS]
    attacks += [(name, count) for count in c.images for name in ("hill_climb", "anneal")]
    attacks += [("hill_climb, no labels", min(c.images))] if c.images else []
    return [
        Unit(_shuffle_rows, (text, seed, *at), (_id(text, seed, *at),), models_of(text, seed))
        for text in context.subjects
        for seed in range(c.seeds)
        for at in attacks
    ]


def _id(text: str, seed: int, attack: str, images: int) -> str:
    return f"shuffle/{text}/{seed}/{attack}/{images}"


class _Attacked(NamedTuple):
    """A model under a pixel shuffle, and what its attackers have."""

    config: Config
    lock: Lock
    block: int
    forward: Forward
    params: Params
    key: PixelKey
    data: Data
    seed: int


class _Found(NamedTuple):
    """The key that a search starts from, if it does; the key found, or None; how many images it took."""

    first: PixelKey | None
    key: PixelKey | None
    images: int


def _shuffle_rows(context: Context, text: str, seed: int, attack: str, images: int) -> list[Row]:
    """Attack the key of one model."""
    subject, (_, params, key) = context.subjects[text], model_of(context, text, seed)
    case = _Attacked(
        context.config, subject.lock, subject.settings["block"], context.model.forward, params,
        key, context.data, seed,
    )  # fmt: skip
    value, no_key = key_value(context, text), float(context.score(params).value)
    begin = time.perf_counter()
    found = jax.block_until_ready((_BY_ANSWERS | _SEARCHES)[attack](case, images))
    row = {"id": _id(text, seed, attack, images), "kind": "shuffle", **context.about}
    row |= {"lock": text, "seed": seed, "no_key": no_key, "right_key": value(key, params)}
    row |= {"attack": attack, "images": found.images, "seconds": time.perf_counter() - begin}
    row |= {"before": None if found.first is None else value(found.first, params)}
    # An attack that gives up leaves the thief without a key.
    row |= {"after": no_key, "entries_right": 0.0}
    if found.key is not None:
        right = np.asarray(found.key.permutation == key.permutation)
        row |= {"after": value(found.key, params), "entries_right": float(right.mean())}
    return [row]


def _chosen(case: _Attacked, images: int) -> _Found:
    asked = chosen_images(case.block, case.data.train_x.shape[1:])
    scrambled = case.lock.scramble(case.key, asked)
    return _Found(None, pixel_shuffle_chosen_image(scrambled, case.block), len(asked))


def _known(case: _Attacked, images: int) -> _Found:
    image = jnp.asarray(case.data.train_x[:images])
    scrambled = case.lock.scramble(case.key, image)
    found = pixel_shuffle_known_pairs(image, scrambled, case.block)
    return _Found(None, None if found is None else found[0], images)


def _logits(case: _Attacked, images: int) -> _Found:
    asked, length = 0, len(case.key.permutation)
    device = partial(jax.jit(user_forward(case.lock, case.forward)), case.key, case.params)
    for entries in (16, 12, 8, 4):
        found = pixel_shuffle_logit_oracle(
            device, case.forward, case.params, case.block, case.data.train_x.shape[1:],
            jax.random.key(case.seed), entries=entries,
        )  # fmt: skip
        asked += -(-length // entries)
        if found is not None:
            return _Found(None, found.key, asked)
    return _Found(None, None, asked)


def _search(case: _Attacked, images: int, labels: bool, cooling: bool = False) -> _Found:
    x, y = jnp.asarray(case.data.train_x[:images]), jnp.asarray(case.data.train_y[:images])
    steps = case.config.anneal_steps if cooling else case.config.hill_steps
    if cooling:
        attack = anneal(case.lock, case.forward, steps, restarts=1, swaps=4, chunk=4)
    else:
        attack = hill_climb(case.lock, case.forward, restarts=1, swaps=64, chunk=4)

    @jax.jit
    def go(params: Params, x: jax.Array, y: jax.Array | None) -> tuple[PixelKey, PixelKey]:
        state = attack.init(jax.random.key(4000 + case.seed), params)
        last, _ = lax.scan(lambda s, _: attack.step(s, (x, y)), state, length=steps)
        return state.best, last.best

    first, best = go(case.params, x, y if labels else None)
    return _Found(first, best, images)


_BY_ANSWERS: dict[str, Callable[[_Attacked, int], _Found]] = {
    "pixel_shuffle_chosen_image": _chosen,
    "pixel_shuffle_known_pairs": _known,
    "pixel_shuffle_logit_oracle": _logits,
}
_SEARCHES: dict[str, Callable[[_Attacked, int], _Found]] = {
    "hill_climb": partial(_search, labels=True),
    "anneal": partial(_search, labels=True, cooling=True),
    "hill_climb, no labels": partial(_search, labels=False),
}


def _grids(rows: Rows, config: Config) -> list[Grid]:
    """One line for each lock, attack and number of images."""
    scale = scale_of(rows)

    cells: dict[str, Callable[[list[Row]], str]] = {
        "no key": mean(scale, "no_key"),
        "before": mean(scale, "before"),
        "after": mean(scale, "after"),
        "right key": mean(scale, "right_key"),
        "entries right, %": lambda of: f"{100 * np.mean([r['entries_right'] for r in of]):.1f}",
        "median seconds": lambda of: f"{np.median([row['seconds'] for row in of]):.1f}",
    }
    title = f"Keys of pixel shuffles: {config.data}, {config.model}, {seeds_text(config)}"
    return [grid_of(title, rows, "shuffle", ("lock", "attack", "images"), cells)]


STUDY = Study(
    name="pixel_shuffle",
    about="searches, chosen images and logits against the key of a pixel shuffle",
    config=functools.partial(by_data, Config, _RECIPES),
    quick=_QUICK,
    prepare=prepare,
    units=_units,
    kinds={"shuffle": ShuffleRow},
    grids=_grids,
    drawings={},
)
