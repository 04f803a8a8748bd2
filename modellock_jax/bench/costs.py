"""What a lock costs before and beside its run: compile time and count, peak memory, import time."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from modellock_jax.bench.ciphers import LOCKS, programs, weights
from modellock_jax.bench.timing import MIB, Row, alternate, row

__all__ = ["measure", "measure_gpu"]

_PROBE = """
import time
start = time.perf_counter()
import jax
between = time.perf_counter()
import modellock_jax
for name in modellock_jax.__all__:
    getattr(modellock_jax, name)
print(between - start, time.perf_counter() - between)
"""


def measure(quick: bool) -> list[Row]:
    """Measure compilation and memory of each lock's decrypt on float32, and the package's import.

    Args:
        quick: Whether to take small sizes and few rounds.

    Returns:
        The lines of the table.
    """
    leaves, size = (2, 2**14) if quick else (16, MIB)
    params, rows = weights("float32", leaves, size), []
    for name in LOCKS:
        decrypt, key, locked = programs(name, params)["decrypt"]
        begin = time.perf_counter()
        compiled = decrypt.lower(key, locked).compile()
        taken = time.perf_counter() - begin
        # Another key of the same shape must find the same program.
        for other in (key, jax.tree.map(lambda leaf: leaf + 0, key)):
            jax.block_until_ready(decrypt(other, locked))
        count, memory = decrypt._cache_size(), compiled.memory_analysis()
        case = f"decrypt {leaves * size / MIB:g} MiB of float32"
        rows.append(row("costs", case, f"{name}, to compile", taken, "s"))
        rows.append(
            row("costs", case, f"{name}, programs for two keys", count, "", sense="<=", target=1)
        )
        held = memory.temp_size_in_bytes / MIB
        rows.append(row("costs", case, f"{name}, temporary memory", held, "MiB"))
    resident = _peak_resident()
    if resident is not None:
        rows.append(row("costs", "this process", "peak resident memory", resident, "MiB"))
    probe = [sys.executable, "-c", _PROBE]
    for _ in range(1 if quick else 3):
        done = subprocess.run(probe, capture_output=True, text=True, check=True)
        of_jax, ours = map(float, done.stdout.split())
        rows.append(
            row("costs", f"import, beside {of_jax:.2f} s of jax", "modellock_jax", ours, "s")
        )
    return rows


def _peak_resident() -> float | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) / 1024 if lines else None


def measure_gpu(quick: bool) -> list[Row]:
    """Measure each lock's decrypt over a device copy of the same bytes; without a GPU, say so.

    Args:
        quick: Whether to take small sizes and few rounds.

    Returns:
        The lines of the table.
    """
    case = "decrypt float32, over a device copy"
    if jax.default_backend() != "gpu":
        return [row("gpu", case, "every lock", None, "GB/s", note="no GPU: not measured")]
    leaves, size = (2, 2**14) if quick else (16, 16 * MIB)
    params = weights("float32", leaves, size)
    copy = jax.jit(lambda p: jax.tree.map(lambda a: a.copy(), p))
    contestants: dict[str, Any] = {"device copy": lambda: copy(params)}
    for name in LOCKS:
        decrypt, key, locked = programs(name, params)["decrypt"]
        contestants[name] = lambda f=decrypt, k=key, p=locked: f(k, p)
    seconds = alternate(contestants, 0.0 if quick else 20.0)
    rows = []
    for name, taken in seconds.items():
        rate = leaves * size / 1e9 / float(np.median(taken))
        ratios = None if name == "device copy" else seconds["device copy"] / taken
        target = 0.5 if name == "stream_lock" else None
        rows.append(
            row("gpu", case, name, rate, "GB/s", limit="device copy", ratios=ratios, target=target)
        )
    return rows
