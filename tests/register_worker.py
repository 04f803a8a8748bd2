"""Registers for tests, and their writing in children that are killed; a program like `crash_worker`."""

import os
from pathlib import Path

import crash_worker
from sealed import BOB, OWNER

from modellock_jax.vault import register, revocation

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


TASKS = {"add": add, "revoke": lambda path: revocation.revoke(path, [BOB.id], OWNER)}

if __name__ == "__main__":
    crash_worker.TASKS = TASKS
    crash_worker.STEPS = (*crash_worker.STEPS, "ftruncate")
    crash_worker.main()
