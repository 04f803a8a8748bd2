"""Registers for tests, and their writing in children that are killed; a program like `crash_worker`."""

import os
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from helpers import crash_worker
from helpers.sealed import BOB, OWNER
from modellock_jax.vault.issuing import copies, register, revocation

COPY = {"scheme": "stream_lock()", "plain": "0" * 64, "copy": "1" * 64}


def add(path: str) -> None:
    with register.extending(path, OWNER) as writer:
        writer.add("bob", os.urandom(16).hex(), os.urandom(32).hex(), **COPY)


def file_of(path: Path, users: list[str]) -> Path:
    """A register with a line for each of these users, in order."""
    with register.extending(path, OWNER) as writer:
        for user in users:
            writer.add(user, os.urandom(16).hex(), os.urandom(32).hex(), **COPY)
    return path


PLAIN = os.path.join(crash_worker.FOLDER.name, "small.safetensors")
save_file({"w": np.arange(6, dtype="f4")}, PLAIN)


def issue(path: str) -> None:
    copies.issue(PLAIN, f"{path}.copies", ["carol"], OWNER, path)


TASKS = {
    "add": add,
    "issue": issue,
    "revoke": lambda path: revocation.revoke(path, [BOB.id], OWNER),
}

if __name__ == "__main__":
    crash_worker.TASKS = TASKS
    crash_worker.STEPS = (*crash_worker.STEPS, "ftruncate")
    crash_worker.main()
