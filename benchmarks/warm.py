"""Runs pytest again and again: each run is a fork of this process, which has imported what is large.

A line of stdin is a JSON list: the file for what is printed, the seconds after which a run ends, and
the words for pytest. A line of stdout is the exit status, -1 for a run that did not end. Nothing of the
package itself is imported before the fork, and no device is asked for: JAX has no threads yet.
"""

import importlib
import json
import os
import signal
import sys
import time

import pytest

LARGE = (
    "chex", "flax.linen", "flax.nnx", "hypothesis", "jaxtyping", "optax", "orbax.checkpoint",
    "safetensors.flax", "scipy.special",
)  # fmt: skip


def run(output: str, seconds: float, words: list[str]) -> int:
    """Fork, run pytest there, and return how it ended."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        null = os.open(os.devnull, os.O_RDONLY)
        for into, of in ((0, null), (1, file), (2, file)):
            os.dup2(of, into)
        code = int(pytest.main(words))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status) % 256
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -1
        time.sleep(0.02)


def main() -> None:
    """Serve until stdin ends."""
    for name in LARGE:
        importlib.import_module(name)
    for line in sys.stdin:
        print(run(*json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
