"""How every test and example is compiled, here and in the processes that they start."""

import os
import subprocess
import sys

# XLA's older emitters compile in half the time, and run slower.
QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def knows(flags):
    """Whether XLA knows these flags: it ends a process that has another."""
    code = "import jax; jax.devices()"
    child = {"env": os.environ | {"XLA_FLAGS": flags}, "capture_output": True}
    return subprocess.run([sys.executable, "-c", code], check=False, **child).returncode == 0


if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker has the environment of its parent
    flags = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()
    if knows(flags):
        os.environ["XLA_FLAGS"] = flags
    # Almost every program here runs once, on little data, and costs more to optimise than to run.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    # Nor does anybody read from which line each of its operations is.
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
