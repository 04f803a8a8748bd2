"""Serve a locked file without plain weights on disk: they are opened in memory, inside the jitted call.

python examples/serve_locked.py
"""

import io

import jax
import numpy as np
from safetensors.numpy import save

import modellock_jax as ml
from modellock_jax import vault


def forward(params, x, tap=ml.untapped):
    return tap("dense", x @ params["dense/kernel"])


def main():
    owner = vault.generate_key()
    plain = {"dense/kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}
    file = io.BytesIO()
    vault.lock_file(save(plain), file, owner, "stream_lock")

    lock, key, locked = vault.open_locked(file.getvalue(), owner)
    answer = jax.jit(ml.user_forward(lock, forward))
    x = np.ones((1, 2), np.float32)
    print("with the key:", answer(key, locked, x), " without:", jax.jit(forward)(locked, x))
    return answer(key, locked, x)


if __name__ == "__main__":
    main()
