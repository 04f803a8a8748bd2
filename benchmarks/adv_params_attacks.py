"""What `adv_params` is worth against its attacks.

    python benchmarks/adv_params_attacks.py [--json PATH]

The study's CNN is trained on each data set with each seed, and locked as the study locks it. The
thief draws 1 % of the training images. Test accuracies: `plain`, `locked`; `descent`, the paper's
adaptive attacker; `selective`, which knows neither the lock's settings nor its clamped values;
`no_data`, clamped weights set to their layer's median, and `restore`, their values found with the
thief's images. `plain_selective` and `stream_selective` are controls: an unlocked model, and one
locked by `stream_lock`. `places` counts the changed weights that `selective` names, `clamped_places`
those at the clamped values, with the margin `margin` found from the weights (`votes` of them agree).
AUCs are those of scores that need no data. Seconds are without compilation. `step` is the
lock's setting: 1 is its default, with 0.25 hardly any weight ends at a clamped value.
"""

import argparse
import datetime
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from command import command
from flax import serialization
from rich.console import Console
from rich.table import Table

import modellock_jax as ml
from modellock_jax.attacks.weights import localise
from modellock_jax.attacks.weights.descent import adv_params_descent
from modellock_jax.attacks.weights.selective import (
    neutral_key,
    restore,
    selective,
)
from modellock_jax.data import Data, load
from modellock_jax.models import Model, cnn
from modellock_jax.study.report import machine
from modellock_jax.tasks import classify, margin_loss, measure, random_shift
from modellock_jax.train import fit

TRAINING = {"mnist5k": (15, 4e-3), "fashion_mnist": (10, 2e-3)}
"""Epochs and learning rate."""

AUCS = {
    "range": localise.range_position,
    "filter_z": localise.filter_z,
    "robust": localise.robust_distance,
    "clamped": localise.clamped,
}


def trained(name: str, data: Data, model: Model, seed: int, folder: Path | None) -> ml.Params:
    """The plain model of one seed, kept in the folder if there is one."""
    params = model.init(jax.random.key(1000 + seed), jnp.zeros((1, *data.train_x.shape[1:])))
    file = None if folder is None else folder / f"{name}-{seed}.msgpack"
    if file is not None and file.exists():
        return jax.tree.map(jnp.asarray, serialization.from_bytes(params, file.read_bytes()))
    epochs, rate = TRAINING[name]
    params, _ = fit(
        model.train, params, data.train_x, data.train_y, rng=jax.random.key(3000 + seed),
        epochs=epochs, batch_size=128, learning_rate=rate, augment=random_shift,
        progress=f"{name}, seed {seed}",
    )  # fmt: skip
    if file is not None:
        file.write_bytes(serialization.to_bytes(params))
    return params


def timed(function: Callable[..., Any]) -> Callable[..., tuple[Any, float]]:
    """A jitted function that gives its result and its seconds; compiled once, before the clock."""
    compiled: list[Any] = []

    def run(*args: Any) -> tuple[Any, float]:
        if not compiled:
            compiled.append(jax.jit(function).lower(*args).compile())
        start = time.perf_counter()
        found = jax.block_until_ready(compiled[0](*args))
        return found, time.perf_counter() - start

    return run


def rows(name: str, seeds: int, steps: list[float], folder: Path | None) -> Any:
    """A row for each seed and `step` of one data set."""
    data = load(name)
    model, n = cnn(data.classes), len(data.train_x)
    test_x, test_y = jnp.asarray(data.test_x), jnp.asarray(data.test_y)
    owner_x, owner_y = jnp.asarray(data.train_x[:512]), jnp.asarray(data.train_y[:512])
    test = jax.jit(lambda p, x, y: measure(classify(), partial(model.forward, p), x, y).value / 100)
    pursue = timed(partial(selective, model.forward))
    refit = timed(partial(restore, model.forward))
    descend = timed(partial(adv_params_descent, model.forward))
    decrypt = jax.jit(ml.adv_params().decrypt)
    aucs = jax.jit(lambda p, t: {k: localise.roc(f(p), t).auc for k, f in AUCS.items()})
    shared_margin = jax.jit(localise.shared_margin)
    neutral = jax.jit(neutral_key)

    def accuracy(params: ml.Params) -> float:
        return float(test(params, test_x, test_y))

    def opened(key: ml.AdvParamsKey, locked: ml.Params) -> float:
        return accuracy(decrypt(key, locked))

    for step in steps:
        lock = ml.adv_params(step=step)

        @jax.jit
        def encrypt(key: Any, params: Any, x: Any, y: Any, lock: Any = lock) -> Any:
            return lock.encrypt(key, params, lambda p: margin_loss(model.forward(p, x), y))

        for seed in range(seeds):
            params = trained(name, data, model, seed, folder)
            key = lock.init(jax.random.key(2000 + seed), params)
            locked, key = encrypt(key, params, owner_x, owner_y)
            mine = jax.random.permutation(jax.random.key(4000 + seed), n)[: round(0.01 * n)]
            x, y = jnp.asarray(data.train_x[mine]), jnp.asarray(data.train_y[mine])
            truth = localise.changed_weights(locked, params)
            margin = shared_margin(locked)
            suspects = localise.clamped(locked, margin.margin) > -localise.TOLERANCE
            descended, descent_s = descend(locked, x, y, jax.random.key(5000 + seed))
            found, selective_s = pursue(locked, x, y)
            restored, restore_s = refit(locked, suspects, x, y)
            row = {
                "data": name, "step": step, "seed": seed, "images": len(x),
                "plain": accuracy(params), "locked": accuracy(locked),
                "descent": accuracy(descended), "selective": opened(found, locked),
                "no_data": opened(neutral(locked, suspects), locked),
                "restore": opened(restored, locked),
                "changed": int(truth.sum()),
                "places": int(localise.changed_weights(locked, decrypt(found, locked))[truth].sum()),
                "clamped_places": int((suspects & truth).sum()),
                "clamped_false": int((suspects & ~truth).sum()),
                "margin": float(margin.margin), "votes": int(margin.votes),
            }  # fmt: skip
            row |= {f"auc_{k}": float(auc) for k, auc in aucs(locked, truth).items()}
            row |= {"descent_s": descent_s, "selective_s": selective_s, "restore_s": restore_s}
            if step == 1.0:
                stream = ml.stream_lock()
                other, _ = stream.encrypt(stream.init(jax.random.key(seed), params), params)
                row["plain_selective"] = opened(pursue(params, x, y)[0], params)
                row["plain_votes"] = int(shared_margin(params).votes)
                row["stream_selective"] = opened(pursue(other, x, y)[0], other)
            yield row


def main() -> None:
    """Run every row, print the table, and write the rows where `--json` says."""
    parser = argparse.ArgumentParser(description="Measure the attacks on adv_params.")
    parser.add_argument("--data", nargs="*", default=list(TRAINING), choices=list(TRAINING))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=float, nargs="*", default=[1.0, 0.25])
    parser.add_argument("--keep", type=Path, help="keep the trained models in this folder")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    options = parser.parse_args()
    found = []
    about = {"command": command(), "seeds": options.seeds}
    about |= {"date": datetime.date.today().isoformat(), "machine": machine()}
    for name in options.data:
        for row in rows(name, options.seeds, options.steps, options.keep):
            found.append(row)
            if options.json is not None:
                options.json.write_text(json.dumps(about | {"rows": found}, indent=1) + "\n")
    columns = ["data", "step", "seed", "plain", "locked", "descent", "selective", "no_data",
               "restore", "places", "clamped_places", "auc_range", "auc_filter_z", "auc_robust",
               "auc_clamped", "plain_selective", "stream_selective", "selective_s"]  # fmt: skip
    table = Table(*columns)
    for row in found:
        values = [row.get(c, "") for c in columns]
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in values))
    Console(width=200).print(table)
    print(about["date"], about["machine"])


if __name__ == "__main__":
    main()
