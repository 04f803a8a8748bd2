"""Seals, locks, rotations and rewrites in children that are killed; a program, which never imports JAX.

Each line of its input is a JSON task: what to do to which path, and when to die: after `delay`
seconds, or within the step number `step` of those that touch the disk, or never. Each line of its
output says how the child ended, and after how many seconds.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from helpers.sealed import ALICE, BOB, adding, public, secret
from modellock_jax.vault.keys.identity import public_key
from modellock_jax.vault.locked.files import lock_file
from modellock_jax.vault.sealed import _chunks, envelope, rewrite

CHUNK = 2**15
MANY = 400  # recipients that no longer fit into the head's first room
CLASSIC = [public_key(secret(f"classic {i}"), classic=True) for i in range(1, MANY)]
STEPS = ("open", "pwrite", "fsync", "replace", "unlink")


def arrays(seed: int) -> dict[str, np.ndarray]:
    """Half a megabyte, whose sizes do not tell the seed."""
    return {"a": np.full(2**16, seed, np.int32), "b": np.full((64, 1000), -seed, np.int32)}


FOLDER = tempfile.TemporaryDirectory()
PLAIN = Path(FOLDER.name) / "plain.safetensors"
save_file(arrays(1), PLAIN)


def rotated(path: str) -> None:
    with envelope.open(path, ALICE) as sealed:
        envelope.rotate(sealed, path, [public(ALICE), public(BOB)])


TASKS = {
    "seal": lambda path: envelope.seal(arrays(1), path, [public(ALICE), public(BOB)]),
    "lock": lambda path: lock_file(PLAIN, path, ALICE, "stream_lock"),
    "rewrap": lambda path: rewrite.rewrite(path, ALICE, adding(public(BOB))),
    "rotate": rotated,
    "grow": lambda path: rewrite.rewrite(path, ALICE, adding(public(BOB), *CLASSIC)),
}


def die_within(step: int) -> None:
    """Have the process killed half way through its so-manieth step that touches the disk."""
    left = step

    def dying(name):
        real = getattr(os, name)

        def call(*args, **options):
            nonlocal left
            left -= 1
            if left == 0:
                if name == "pwrite":
                    real(args[0], memoryview(args[1])[: len(args[1]) // 2], args[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return call

    for name in STEPS:
        setattr(os, name, dying(name))


def child(task: dict) -> None:
    if "step" in task:
        die_within(task["step"])
    if "limit" in task:  # bytes of a file: the disk is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (task["limit"], task["limit"]))
    try:
        TASKS[task["task"]](task["path"])
    except OSError as error:
        os._exit(error.errno or 255)
    except BaseException:
        os._exit(255)
    os._exit(0)


@contextlib.contextmanager
def asking(program: str):
    """A function that has a task done in a child of a program beside this one.

    It says how that ended, and after how many seconds.
    """
    command = [sys.executable, "-m", f"helpers.{program}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:

        def ask(task: str, path: Path, **when: float) -> tuple[int, float]:
            line = json.dumps({"task": task, "path": str(path)} | when)
            print(line, file=process.stdin, flush=True)
            return tuple(json.loads(process.stdout.readline()))

        yield ask
        process.stdin.close()


def main() -> None:
    assert "jax" not in sys.modules
    _chunks.CHUNK = CHUNK
    for line in sys.stdin:
        task = json.loads(line)
        start = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            child(task)
        if "delay" in task:
            time.sleep(task["delay"])
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        seconds = time.perf_counter() - start
        print(json.dumps([os.waitstatus_to_exitcode(status), seconds]), flush=True)


if __name__ == "__main__":
    main()
