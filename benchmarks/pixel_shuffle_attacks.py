"""What finds the key of a pixel shuffle with blocks of 4 x 4: searches, chosen images, logits.

    python benchmarks/pixel_shuffle_attacks.py [--data mnist5k fashion_mnist] [--colour] [--seeds 3]
        [--images 100 500] [--json PATH]

The study's CNN is trained here under the lock. `hill_climb` and `anneal` (attacks/key_search.py) see
the first `--images` labelled training images; `chosen image` and `known pair` see one image and its
scrambled form; `logit oracle` sees the logits of one image for every 16 entries, and tries again with
12, 8 and 4 while no key explains the answers, all images counted; `without labels` is `hill_climb` on
the entropy of its predictions. A row gives the test accuracy under the key that the
search started from, the one it found, and the owner's; the share of the key's entries that are right;
and seconds, compilation included. `no key` is the thief's plain forward.

`--colour` paints the digits and clothes, so that a block has 48 entries (203 bits, the paper's case):
each image gets a hue of its own, by a generator of fixed seed, and grey levels become shades of it by
a fixed mix of channels. These are not natural colour images; none come with the data sets used here.
"""

import argparse
import datetime
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from command import command
from jax import lax
from owned import trained
from rich.console import Console
from rich.table import Table

import modellock_jax as ml
from modellock_jax.attacks.keys.chosen_image import (
    chosen_images,
    pixel_shuffle_chosen_image,
    pixel_shuffle_known_pairs,
)
from modellock_jax.attacks.keys.logit_oracle import pixel_shuffle_logit_oracle
from modellock_jax.attacks.keys.permutation_search import anneal, hill_climb
from modellock_jax.data import Data, load
from modellock_jax.models import cnn
from modellock_jax.study.report import machine

BLOCK = 4
EPOCHS = {"mnist5k": 12, "fashion_mnist": 5}
HILL_STEPS, ANNEAL_STEPS = {1: 20, 3: 50}, {1: 200, 3: 400}  # by channels


def painted(data: Data) -> Data:
    """The images in colour, `[N, H, W, 3]`: a hue for each image, and shades by a fixed mix."""
    rng = np.random.default_rng(0)
    mix = np.eye(3, dtype=np.float32) * 0.7 + 0.1

    def paint(x: np.ndarray) -> np.ndarray:
        hue = rng.uniform(0.3, 1, (len(x), 1, 1, 3)).astype(np.float32)
        ground = rng.uniform(0, 0.3, (len(x), 1, 1, 3)).astype(np.float32)
        levels = (x * hue + (1 - x) * ground) @ mix
        return np.round(255 * levels).astype(np.float32) / np.float32(255)

    return data._replace(train_x=paint(data.train_x), test_x=paint(data.test_x))


def rows_of(name: str, colour: bool, seed: int, counts: list[int]) -> Iterator[dict[str, Any]]:
    """Every row of one model."""
    data = painted(load(name)) if colour else load(name)
    shape = data.train_x.shape[1:]
    model, lock = cnn(data.classes), ml.pixel_shuffle(BLOCK, channels=shape[-1])
    rate = 4e-3 if name == "mnist5k" else 2e-3
    _, params, key = trained(
        model, lock, data, seed, epochs=EPOCHS[name], learning_rate=rate, title=name
    )
    user = jax.jit(ml.user_forward(lock, model.forward))
    test = jnp.asarray(data.test_x)

    def accuracy(key: ml.PixelKey) -> float:
        return float((user(key, params, test).argmax(-1) == data.test_y).mean())

    plain = float((jax.jit(model.forward)(params, test).argmax(-1) == data.test_y).mean())
    about = {"data": name, "channels": shape[-1], "seed": seed, "no_key": plain}
    about["right_key"] = accuracy(key)

    def row(attack: str, attempt: Callable[[], tuple[Any, Any, int]]) -> dict[str, Any]:
        begin = time.perf_counter()
        first, found, images = attempt()
        found = jax.block_until_ready(found)
        result = {"attack": attack, "images": images, "seconds": time.perf_counter() - begin}
        result["before"] = None if first is None else accuracy(first)
        # An attack that gives up leaves the thief without a key.
        result["after"] = plain if found is None else accuracy(found)
        right = 0.0 if found is None else float((found.permutation == key.permutation).mean())
        return about | result | {"entries_right": right}

    def chosen() -> tuple[Any, Any, int]:
        images = chosen_images(BLOCK, shape)
        found = pixel_shuffle_chosen_image(lock.scramble(key, images), BLOCK)
        return None, found, len(images)

    def known() -> tuple[Any, Any, int]:
        image = jnp.asarray(data.train_x[:1])
        found = pixel_shuffle_known_pairs(image, lock.scramble(key, image), BLOCK)
        return None, None if found is None else found[0], 1

    def oracle() -> tuple[Any, Any, int]:
        asked, n = 0, len(key.permutation)
        for entries in (16, 12, 8, 4):
            found = pixel_shuffle_logit_oracle(
                functools.partial(user, key, params),
                model.forward,
                params,
                BLOCK,
                shape,
                jax.random.key(seed),
                entries=entries,
            )
            asked += -(-n // entries)
            if found is not None:
                return None, found.key, asked
        return None, None, asked

    def climbed(attack: Any, count: int, steps: int, labels: bool) -> tuple[Any, Any, int]:
        x, y = jnp.asarray(data.train_x[:count]), jnp.asarray(data.train_y[:count])

        @jax.jit
        def go(params: Any, x: jax.Array, y: jax.Array | None) -> tuple[Any, Any]:
            state = attack.init(jax.random.key(4000 + seed), params)
            last, _ = lax.scan(lambda s, _: attack.step(s, (x, y)), state, length=steps)
            return state.best, last.best

        return *go(params, x, y if labels else None), count

    yield row("chosen image", chosen)
    yield row("known pair", known)
    yield row("logit oracle", oracle)
    hill, cool = HILL_STEPS[shape[-1]], ANNEAL_STEPS[shape[-1]]
    climb = hill_climb(lock, model.forward, restarts=1, swaps=64, chunk=4)
    annealing = anneal(lock, model.forward, cool, restarts=1, swaps=4, chunk=4)
    for count in counts:
        yield row("hill climb", functools.partial(climbed, climb, count, hill, True))
        yield row("anneal", functools.partial(climbed, annealing, count, cool, True))
    few = min(counts)
    yield row("without labels", functools.partial(climbed, climb, few, hill, False))


def main() -> None:
    """Run every row, print the table, and write the rows where `--json` says, model by model."""
    parser = argparse.ArgumentParser(description="Attack a pixel shuffle.")
    parser.add_argument("--data", nargs="*", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--colour", action="store_true", help="also on painted images")
    parser.add_argument("--seeds", type=int, default=3, help="models for each data set")
    parser.add_argument("--images", type=int, nargs="*", default=[100, 500])
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    options = parser.parse_args()
    about: dict[str, Any] = {"command": command()}
    about |= {"colour": options.colour, "seeds": options.seeds, "images": options.images}
    about |= {"date": datetime.date.today().isoformat(), "machine": machine()}
    rows: list[dict[str, Any]] = []
    columns = ["data", "channels", "seed", "attack", "images", "seconds", "no_key", "before"]
    columns += ["after", "right_key", "entries_right"]
    console = Console(width=140)
    for seed in range(options.seeds):
        for colour in (False, True) if options.colour else (False,):
            for name in options.data:
                fresh = list(rows_of(name, colour, seed, options.images))
                rows += fresh
                table = Table(*columns)
                for row in fresh:
                    cells = (row[column] for column in columns)
                    table.add_row(*(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells))
                console.print(table)
                if options.json is not None:
                    options.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    console.print(about["date"], about["machine"], highlight=False)


if __name__ == "__main__":
    main()
