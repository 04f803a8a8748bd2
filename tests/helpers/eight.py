"""Programs on eight simulated devices, in an interpreter of their own."""

import json
import os
import subprocess
import sys


def answer_of(worker, **environment):
    """What a program that sees eight devices prints, as JSON."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    run = subprocess.run(
        [sys.executable, "-c", worker],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {
            "XLA_FLAGS": flags,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join(sys.path),
            **environment,
        },
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)
