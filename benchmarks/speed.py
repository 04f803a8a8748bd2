"""How fast the locks are, beside what they compete with: one command, one run, one table.

    python benchmarks/speed.py [--json PATH]

Part 1 decrypts 16 MiB of float32 weights with `deep_lock` and, in turn with it, does the same number
of bytes with `stream_lock`, with AES-128-CTR and ChaCha20 of the package `cryptography` (OpenSSL),
and with a plain copy. Part 2 runs `owner_forward` and the plain forward of two small CNNs in turn: the
study's, `cnn(10)`, which takes about 10 microseconds an image on 2 cores, and `cnn(10, patch=4)`,
three times as long. A shuffle costs both the same, under a microsecond an image.

Every round runs each contestant once, back and forth, so a busy machine slows all of them alike; the
figures are medians over rounds (`best` is the fastest round), and ratios are taken within a round.
Every contestant allocates its own output, frees it after the clock stops, and has warmed up. Targets
are printed as met or missed and do not change the exit status. A ratio whose interval is wide means
a busy machine: run it again.
"""

import argparse
import datetime
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from rich.console import Console
from rich.table import Table

import modellock_jax as ml
from modellock_jax.models import cnn
from modellock_jax.study.report import machine

MIB = 2**20
TREES = {"16 leaves of 1 MiB": (16, MIB), "1 leaf of 16 MiB": (1, 16 * MIB)}
DECRYPT_TARGET = 0.8  # GB/s, on 2 CPU cores
FORWARD_TARGET = 1.05  # times the plain forward
CNNS = {"cnn(10)": 7, "cnn(10, patch=4)": 4}
BATCH = 256


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks of up to 30 MiB, whose pages otherwise fault in at every run."""
    np.ones(30 * MIB, np.uint8)


def alternate(
    contestants: dict[str, Callable[[], Any]], rounds: int, warm_up: int = 3
) -> dict[str, np.ndarray]:
    """Seconds that each contestant took in each round: one float64 `[rounds]` a name."""
    names = list(contestants)
    seconds = {name: np.zeros(rounds) for name in names}
    for i in range(-warm_up, rounds):
        for name in names if i % 2 else names[::-1]:
            start = time.perf_counter()
            out = contestants[name]()
            taken = time.perf_counter() - start
            del out
            if i >= 0:
                seconds[name][i] = taken
    return seconds


def median_with_interval(values: np.ndarray) -> tuple[float, float, float]:
    """The median, and the 5th and 95th percentile of the medians of 2,000 resamples."""
    picks = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.percentile(np.median(values[picks], axis=1), [5, 95])
    return float(np.median(values)), float(low), float(high)


def ciphers(leaves: int, size: int) -> dict[str, Callable[[], Any]]:
    """Part 1 on a tree of `leaves` leaves of `size` bytes."""
    rngs = jax.random.split(jax.random.key(0), leaves)
    params = {f"w{i:02d}": jax.random.normal(r, (size // 4,)) for i, r in enumerate(rngs)}
    secret = bytes(range(32))

    def opened(lock: ml.Lock) -> Callable[[], Any]:
        locked, key = jax.jit(lock.encrypt)(lock.init(jax.random.key(1), params), params)
        decrypt = jax.jit(lock.decrypt)
        return lambda: jax.block_until_ready(decrypt(key, locked))

    buffers = [np.asarray(leaf).view(np.uint8) for leaf in jax.tree.leaves(params)]

    def host(algorithm: Any, mode: Any) -> Callable[[], Any]:
        return lambda: [Cipher(algorithm, mode).decryptor().update(b.data) for b in buffers]

    return {
        "deep_lock": opened(ml.deep_lock()),
        "stream_lock": opened(ml.stream_lock()),
        "AES-128-CTR": host(algorithms.AES(secret[:16]), modes.CTR(secret[:16])),
        "ChaCha20": host(algorithms.ChaCha20(secret, secret[:16]), None),
        "np.copy": lambda: [np.copy(b) for b in buffers],
    }


def forwards(patch: int) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Part 2 on a CNN of that `patch`: by lock, the owner's forward and the plain one."""
    model = cnn(10, patch=patch)
    x = jax.random.uniform(jax.random.key(0), (BATCH, 28, 28, 1))
    params = model.init(jax.random.key(1), x)
    plain = jax.jit(model.forward)
    locks = {
        "sign_mask per channel": ml.sign_mask(),
        "sign_mask per unit": ml.sign_mask(per="unit"),
        f"pixel_shuffle({patch})": ml.pixel_shuffle(patch, channels=1),
    }

    def pair(lock: ml.Lock) -> tuple[Callable[[], Any], Callable[[], Any]]:
        owner, key = jax.jit(ml.owner_forward(lock, model.forward)), lock.init(jax.random.key(2), x)
        return (
            lambda: jax.block_until_ready(owner(key, params, x)),
            lambda: jax.block_until_ready(plain(params, x)),
        )

    return {name: pair(lock) for name, lock in locks.items()}


def measure() -> list[dict[str, Any]]:
    """Every row of both parts."""
    keep_freed_memory()
    rows: list[dict[str, Any]] = []
    for case, (leaves, size) in TREES.items():
        seconds = alternate(ciphers(leaves, size), rounds=21)
        for name, taken in seconds.items():
            ratio, low, high = median_with_interval(seconds["deep_lock"] / taken)
            rate, best = (leaves * size / 1e9 / float(f(taken)) for f in (np.median, np.min))
            row: dict[str, Any] = {"part": "decrypt", "case": case, "name": name}
            row |= {"gb_per_s": rate, "best_gb_per_s": best}
            row |= {"times_deep_lock": ratio, "low": low, "high": high}
            if name == "deep_lock":
                row |= {"target": DECRYPT_TARGET, "met": rate >= DECRYPT_TARGET}
            rows.append(row)
    for case, patch in CNNS.items():
        for name, (owner, plain) in forwards(patch).items():
            seconds = alternate({"owner": owner, "plain": plain}, rounds=301, warm_up=20)
            ratio, low, high = median_with_interval(seconds["owner"] / seconds["plain"])
            row = {"part": "owner_forward", "case": case, "name": name}
            row |= {f"{side}_ms": 1e3 * float(np.median(taken)) for side, taken in seconds.items()}
            row |= {"times_plain": ratio, "low": low, "high": high}
            rows.append(row | {"target": FORWARD_TARGET, "met": ratio <= FORWARD_TARGET})
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print both tables."""
    verdicts = {True: "met", False: "missed", None: ""}
    speed = Table("", "GB/s", "best", "times deep_lock [5, 95 %]", f">= {DECRYPT_TARGET} GB/s")
    cost = Table("", "owner ms", "plain ms", "ratio [5, 95 %]", f"<= {FORWARD_TARGET}")
    speed.title, cost.title = "Decrypt 16 MiB of float32", f"owner_forward, batch {BATCH}"
    for table in (speed, cost):
        table.title_justify = "left"
        for column in table.columns[1:]:
            column.justify = "right"
    for row in rows:
        verdict = verdicts[row.get("met")]
        span = f"\\[{row['low']:.3f}, {row['high']:.3f}]"
        if row["part"] == "decrypt":
            if row["name"] == "deep_lock":
                speed.add_section()
                speed.add_row(row["case"])
            ratio = f"{row['times_deep_lock']:.3f} {span}"
            rates = f"{row['gb_per_s']:.2f}", f"{row['best_gb_per_s']:.2f}"
            speed.add_row(f"  {row['name']}", *rates, ratio, verdict)
        else:
            if row["name"] == "sign_mask per channel":
                cost.add_section()
                cost.add_row(row["case"])
            times = f"{row['owner_ms']:.2f}", f"{row['plain_ms']:.2f}"
            cost.add_row(f"  {row['name']}", *times, f"{row['times_plain']:.3f} {span}", verdict)
    console.print(speed)
    console.print(cost)


def main() -> None:
    """Measure, print, and write the rows where `--json` says."""
    parser = argparse.ArgumentParser(description="Measure the speed of the locks.")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    path = parser.parse_args().json
    packages = ("modellock-jax", "jaxlib", "numpy", "cryptography")
    versions = {name: version(name) for name in packages}
    today, console = datetime.date.today().isoformat(), Console()
    rows = measure()
    show(rows, console)
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    console.print(f"{today}, {machine()}, {listed}", highlight=False)
    if path is not None:
        about = {"date": today, "machine": machine(), "versions": versions}
        path.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
