"""Keys of sign masks by gradient descent on the key, and exactly, through an unlocked device.

    python benchmarks/sign_mask_attacks.py [--data fashion_mnist mnist5k] [--seeds 3]
        [--attacks keys oracle] [--json PATH]

The study's CNN and MLP are trained here under `sign_mask(256)`, per unit and per channel. Rows:

- `relaxed_key` on 50 and 500 labelled training images, corrected by `linear_flips` on the same images
  and shifted copies; and on 2000 without labels.
- `tanh`: plain Adam, 150 steps, on tanh(theta), one start, 50 images: the yardstick.
- `sign_mask_oracle` on 4 to 128 queries: natural images, no labels, the device's logits.

`--attacks keys` leaves the last out, `--attacks oracle` all others.

A row gives test accuracy without the key, with the one found, and with the right one; the share of
all signs that are right, and of those that matter (negating one of them in the right key changes an
output on 2000 training images or the test images); and seconds, compilation included.
"""

import argparse
import datetime
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from command import command
from jax import lax
from owned import trained
from rich.console import Console
from rich.table import Table

import modellock_jax as ml
from modellock_jax.attacks.attack import run_shuffled
from modellock_jax.attacks.keys.key_search import key_loss
from modellock_jax.attacks.keys.oracle import sign_mask_oracle
from modellock_jax.attacks.keys.relaxation import relaxed_signs
from modellock_jax.attacks.keys.relaxed_key import best_key, relaxed_key
from modellock_jax.attacks.keys.sign_algebra import correct_signs
from modellock_jax.core.over_keys import over_keys
from modellock_jax.data import load
from modellock_jax.models import MODELS
from modellock_jax.study.report import machine
from modellock_jax.tasks import random_shift

BITS = 256
EPOCHS = {"mnist5k": 15, "fashion_mnist": 10}
KINDS: tuple[Literal["unit", "channel"], ...] = ("unit", "channel")
QUERIES = (4, 8, 16, 32, 64, 128)


def rows_of(
    name: str, architecture: str, per: Literal["unit", "channel"], seed: int, attacks: list[str]
) -> Iterator[dict[str, Any]]:
    """Every row of one model."""
    data = load(name)
    model, lock = MODELS[architecture](data.classes), ml.sign_mask(BITS, per=per)
    title, rate = f"{architecture} on {name}, per {per}", 4e-3 if name == "mnist5k" else 2e-3
    _, params, key = trained(
        model, lock, data, seed, epochs=EPOCHS[name], learning_rate=rate, title=title
    )
    user = jax.jit(ml.user_forward(lock, model.forward))
    test_x, test_y = jnp.asarray(data.test_x), jnp.asarray(data.test_y)

    def accuracy(key: ml.SignKey) -> float:
        return float((user(key, params, test_x).argmax(-1) == test_y).mean())

    mine = jax.random.permutation(jax.random.key(4000 + seed), len(data.train_x))[:2000]
    train_x, train_y = jnp.asarray(data.train_x)[mine], jnp.asarray(data.train_y)[mine]

    @jax.jit
    def matters(params: Any) -> jax.Array:
        """Which signs change an output when negated, bool `[BITS]`."""
        x = jnp.concatenate([train_x, test_x[:2000]])
        one_off = ml.SignKey(key.signs[None] * (1 - 2 * jnp.eye(BITS, dtype=jnp.int8)))
        right = user(key, params, x)
        return over_keys(lambda k: (user(k, params, x) != right).any(), one_off, chunk=4)

    live = matters(params)
    about = {"data": name, "model": architecture, "per": per, "seed": seed}
    about |= {"no_key": accuracy(ml.SignKey(jnp.ones(BITS, jnp.int8))), "right_key": accuracy(key)}
    about |= {"signs_that_matter": int(live.sum())}

    def row(attack: str, count: int, attempt: Callable[[], ml.SignKey | None]) -> dict[str, Any]:
        begin = time.perf_counter()
        found = jax.block_until_ready(attempt())
        result: dict[str, Any] = {"attack": attack, "images": count}
        result["seconds"] = time.perf_counter() - begin
        # An attack that gives up leaves the thief without a key.
        result["accuracy"] = about["no_key"] if found is None else accuracy(found)
        right = None if found is None else found.signs == key.signs
        result["signs_right"] = None if right is None else float(right.mean())
        result["live_signs_right"] = None if right is None else float(right[live].mean())
        return about | result

    def relaxed(count: int, restarts: int, steps: int, labels: bool = True) -> ml.SignKey:
        relaxation = relaxed_signs(lock, BITS)
        attack = relaxed_key(relaxation, model.forward, steps, restarts=restarts)

        @jax.jit
        def go(params: Any, x: jax.Array, y: jax.Array | None, rng: jax.Array) -> ml.SignKey:
            state = attack.init(rng, params)
            kinds: dict[str, Any] = {"steps": steps, "augment": random_shift}
            state, _ = run_shuffled(attack, state, x, y, jax.random.fold_in(rng, 1), **kinds)
            found = best_key(relaxation, state)
            if y is None:
                return found
            return correct_signs(lock, model.forward, params, found, x, y).best

        y = train_y[:count] if labels else None
        return go(params, train_x[:count], y, jax.random.key(5000 + seed))

    def tanh(count: int) -> ml.SignKey:
        optimizer = optax.adam(0.1)
        x, y = train_x[:count], train_y[:count]

        @jax.jit
        def go(theta: jax.Array) -> jax.Array:
            def step(carry: Any, _: None) -> tuple[Any, None]:
                theta, state = carry
                gradient = jax.grad(
                    lambda t: key_loss(user(ml.SignKey(jnp.tanh(t)), params, x), y)
                )(theta)
                updates, state = optimizer.update(gradient, state)
                return (optax.apply_updates(theta, updates), state), None

            return lax.scan(step, (theta, optimizer.init(theta)), length=150)[0][0]

        theta = go(0.1 * jax.random.normal(jax.random.key(5000 + seed), (BITS,)))
        return ml.SignKey(jnp.where(theta < 0, -1, 1).astype(jnp.int8))

    def asked(count: int) -> ml.SignKey | None:
        found = sign_mask_oracle(
            functools.partial(user, key, params),
            lock,
            BITS,
            model.forward,
            params,
            train_x[:count],
            jax.random.key(5000 + seed),
        )
        return None if found is None else found.key

    if "keys" in attacks:
        yield row("tanh", 50, lambda: tanh(50))
        yield row("relaxed_key", 50, lambda: relaxed(50, 8, 400))
        yield row("relaxed_key", 500, lambda: relaxed(500, 4, 1600))
        yield row("relaxed_key, no labels", 2000, lambda: relaxed(2000, 16, 800, labels=False))
    if "oracle" in attacks:
        for count in QUERIES:
            yield row("sign_mask_oracle", count, functools.partial(asked, count))


def main() -> None:
    """Run every row, print the table, and write the rows where `--json` says, model by model."""
    parser = argparse.ArgumentParser(description="Recover the keys of sign masks.")
    parser.add_argument("--data", nargs="*", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--models", nargs="*", default=["cnn", "mlp"], choices=["cnn", "mlp"])
    kinds = ["keys", "oracle"]
    parser.add_argument("--attacks", nargs="*", default=kinds, choices=kinds)
    parser.add_argument("--seeds", type=int, default=3, help="models of each kind")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    options = parser.parse_args()
    about: dict[str, Any] = {"command": command()}
    about |= {"date": datetime.date.today().isoformat(), "machine": machine()}
    rows: list[dict[str, Any]] = []
    columns = ["data", "model", "per", "seed", "attack", "images", "seconds", "no_key", "accuracy"]
    columns += ["right_key", "signs_right", "live_signs_right", "signs_that_matter"]
    console = Console(width=170)
    for seed in range(options.seeds):
        for name in options.data:
            for architecture in options.models:
                for per in KINDS:
                    fresh = list(rows_of(name, architecture, per, seed, options.attacks))
                    rows += fresh
                    table = Table(*columns)
                    for row in fresh:
                        cells = (row[column] for column in columns)
                        table.add_row(
                            *(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells)
                        )
                    console.print(table)
                    if options.json is not None:
                        options.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    console.print(about["date"], about["machine"], highlight=False)


if __name__ == "__main__":
    main()
