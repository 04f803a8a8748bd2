"""Register and list writes in children that are killed, as `crash_worker` does it; a program."""

import crash_worker
from sealed import BOB, OWNER

from modellock_jax.vault import register, revocation

COPY = {"scheme": "stream_lock()", "plain": "0" * 64, "copy": "1" * 64}


def add(path: str) -> None:
    with register.extending(path, OWNER) as writer:
        writer.add("bob", BOB.id, **COPY)


TASKS = {"add": add, "revoke": lambda path: revocation.revoke(path, [BOB.id], OWNER)}

if __name__ == "__main__":
    crash_worker.TASKS = TASKS
    crash_worker.STEPS = (*crash_worker.STEPS, "ftruncate")
    crash_worker.main()
