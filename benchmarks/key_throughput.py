"""How many sign keys a second one compiled program scores, beside slower ways to do the same.

    python benchmarks/key_throughput.py [--data mnist5k] [--keys 10240] [--json PATH]

The model is the study's CNN, trained here under `sign_mask(per='unit')`, 256 bits; each key is scored
by its loss on the same 64 labelled images. Rows: `random_keys` with early rejection (8 images, then
all 64 for the best 256 keys); the same program without rejection, every key on all images; one
compiled call a key, on fewer keys; and one key at a time uncompiled, operation by operation under
`jax.disable_jit()`, on very few keys. The last two are rates per key, so they stand for any number.
A rate is the best of `--rounds` rounds, in which the contestants take turns; compilation is apart.
"""

import argparse
import datetime
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from command import command
from rich.console import Console
from rich.table import Table

import modellock_jax as ml
from modellock_jax.attacks.keys.key_search import key_loss, random_keys
from modellock_jax.data import load
from modellock_jax.models import cnn
from modellock_jax.study.report import machine
from modellock_jax.train import fit

IMAGES, FIRST, SURVIVORS = 64, 8, 256


def contestants(data_name: str, keys: int, jitted: int, eager: int) -> dict[str, Any]:
    """By name: how many keys a call scores, the call, and the seconds of its compilation."""
    data, model, lock = load(data_name), cnn(10), ml.sign_mask(256, per="unit")
    start = model.init(jax.random.key(0), jnp.zeros((1, *data.train_x.shape[1:])))
    key = lock.init(jax.random.key(1), start)
    train = functools.partial(ml.owner_forward(lock, model.train), key)
    rng = jax.random.key(2)
    params, _ = fit(train, start, data.train_x[:4000], data.train_y[:4000], rng=rng, epochs=3)
    x, y = jnp.asarray(data.train_x[:IMAGES]), jnp.asarray(data.train_y[:IMAGES])
    rng, user = jax.random.key(3), ml.user_forward(lock, model.forward)

    def search(**settings: Any) -> tuple[Callable[[], Any], float]:
        draw = functools.partial(random_keys, lock, model.forward, keys=keys, **settings)
        begin = time.perf_counter()
        program = jax.jit(draw).lower(params, x, y, rng).compile()
        return lambda: jax.block_until_ready(
            program(params, x, y, rng)
        ), time.perf_counter() - begin

    def one(rng: jax.Array, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return key_loss(user(lock.init(rng, params), params, x), y)

    begin = time.perf_counter()
    alone = jax.jit(one).lower(rng, params, x, y).compile()
    compile_one = time.perf_counter() - begin
    rngs = jax.random.split(rng, max(jitted, eager))

    def one_by_one() -> None:
        for i in range(jitted):
            jax.block_until_ready(alone(rngs[i], params, x, y))

    def uncompiled() -> None:
        with jax.disable_jit():
            for i in range(eager):
                jax.block_until_ready(one(rngs[i], params, x, y))

    return {
        "early rejection, one program": (keys, *search(first=FIRST, survivors=SURVIVORS)),
        "all images, one program": (keys, *search(first=IMAGES, survivors=1, chunk=4)),
        "one compiled call a key": (jitted, one_by_one, compile_one),
        "uncompiled, a key at a time": (eager, uncompiled, 0.0),
    }


def main() -> None:
    """Measure, print, and write the rows where `--json` says."""
    parser = argparse.ArgumentParser(description="Measure how fast keys are scored.")
    parser.add_argument("--data", default="mnist5k", help="the data set")
    parser.add_argument("--keys", type=int, default=10_240, help="keys for the compiled programs")
    parser.add_argument("--jitted", type=int, default=200, help="keys for one compiled call a key")
    parser.add_argument("--eager", type=int, default=3, help="keys for the uncompiled loop")
    parser.add_argument("--rounds", type=int, default=2, help="rounds, of which the best counts")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    options = parser.parse_args()
    runs = contestants(options.data, options.keys, options.jitted, options.eager)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, (_, call, _) in runs.items():
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    rows = []
    for name, (count, _, compiled) in runs.items():
        best = min(seconds[name])
        row = {"way": name, "data": options.data, "images": IMAGES, "keys": count}
        rows.append(row | {"seconds": best, "compile_s": compiled, "keys_per_s": count / best})
    slow = rows[-1]["keys_per_s"]
    table = Table("", "keys", "seconds", "compile s", "keys/s", "times uncompiled")
    for row in rows:
        row["times_uncompiled"] = row["keys_per_s"] / slow
        numbers = (row[k] for k in ("seconds", "compile_s", "keys_per_s", "times_uncompiled"))
        table.add_row(row["way"], str(row["keys"]), *(f"{number:.2f}" for number in numbers))
    console, today = Console(), datetime.date.today().isoformat()
    console.print(table)
    console.print(f"{today}, {machine()}", highlight=False)
    if options.json is not None:
        about: dict[str, Any] = {"command": command(), "date": today}
        about |= {"machine": machine(), "rows": rows}
        options.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
