"""Sign keys read off the weights alone, beside weights that hold none.

    python benchmarks/signs_from_weights.py [--data mnist5k] [--models mlp cnn] [--seeds 3] [--json PATH]

The study's models are trained here under `sign_mask(256)` per channel, each seed with weights, key
and batches of its own. Rows, of each model:

- `trained`: the model as it is. Controls, of which no key should be read: `untrained`, the weights it
  started from; `shuffled`, every reader's rows in random order; `stream_lock`, its ciphertext.

A row gives whether a key was read at the level of 1 %, the p-value and the fit; how many of the 256
signs are right, all negated or not, and how many of the 192 most certain are wrong; seconds of all
cores, the first with compilation; and test accuracy without a key, with the one read, and with the
right one.
"""

import argparse
import datetime
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from command import command
from owned import trained

import modellock_jax as ml
from modellock_jax.attacks.keys.sign_pairs import sign_pairs
from modellock_jax.attacks.keys.signs_from_weights import (
    LEVEL,
    Pair,
    read_signs,
)
from modellock_jax.attacks.keys.signs_of_model import head_votes, pairs_by_bit
from modellock_jax.data import load
from modellock_jax.models import MODELS
from modellock_jax.study.report import machine

BITS, SUREST = 256, 192


def rows_of(name: str, architecture: str, seed: int) -> Iterator[dict[str, Any]]:
    """Every row of one model."""
    data = load(name)
    model, lock, stream = MODELS[architecture](data.classes), ml.sign_mask(BITS), ml.stream_lock()
    x, y = jnp.asarray(data.test_x), jnp.asarray(data.test_y)
    start, params, key = trained(
        model, lock, data, seed, epochs=15, learning_rate=4e-3, title=f"{architecture} on {name}"
    )
    user = jax.jit(ml.user_forward(lock, model.forward))

    def accuracy(signs: jax.Array) -> float:
        return float((user(ml.SignKey(signs), params, x).argmax(-1) == y).mean())

    about = {"data": name, "model": architecture, "seed": seed}
    about |= {"no_key": accuracy(jnp.ones(BITS, jnp.int8)), "right_key": accuracy(key.signs)}
    cipher, _ = stream.encrypt(stream.init(jax.random.key(4000 + seed), params), params)
    order = np.random.default_rng(seed)
    for case, weights in (
        ("trained", params), ("untrained", start), ("shuffled", params), ("stream_lock", cipher)
    ):  # fmt: skip
        layers = sign_pairs(model.forward, weights, x[:1])
        pairs: list[Pair] = pairs_by_bit(layers, BITS, "channel")
        if case == "shuffled":
            pairs = [(w, order.permutation(np.asarray(v))) for w, v in pairs]
        begin = time.process_time()
        reading = read_signs(pairs, BITS)
        row = about | {"case": case, "cpu_seconds": time.process_time() - begin}
        if reading is None:
            yield row | {"read": False}
            continue
        same = np.asarray(reading.signs == key.signs)
        same = same if same.mean() > 0.5 else ~same
        row |= {"read": reading.p_value <= LEVEL, "p_value": reading.p_value, "fit": reading.fit}
        row |= {"signs_right": int(same.sum())}
        row |= {"surest_wrong": int((~same[np.argsort(reading.certainty)[-SUREST:]]).sum())}
        sign = -1 if head_votes(layers, reading.signs) < 0 else 1
        yield row | {"accuracy": accuracy((sign * reading.signs).astype(jnp.int8))}


def main() -> None:
    """Run every row, print them, and write them where `--json` says, model by model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", default=["mnist5k"])
    parser.add_argument("--models", nargs="+", default=["mlp", "cnn"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in arguments.data:
        for architecture in arguments.models:
            for seed in range(arguments.seeds):
                for row in rows_of(name, architecture, seed):
                    rows.append(row)
                    print(json.dumps(row), flush=True)
                if arguments.json is not None:
                    about = {"command": command(), "machine": machine()}
                    about |= {"date": datetime.date.today().isoformat()}
                    arguments.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
