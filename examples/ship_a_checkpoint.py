"""Ship a checkpoint: sealed for its recipients, signed, under a name and a serial number.

python examples/ship_a_checkpoint.py
"""

import tempfile
from pathlib import Path

import numpy as np

from modellock_jax import vault


def main():
    folder = Path(tempfile.mkdtemp())
    owner, alice, mallory = (vault.generate_key() for _ in range(3))
    vault.save_key(alice, folder / "alice.key")  # mode 0600; give away only the public half
    weights = {"dense/kernel": np.ones((4, 2), np.float32), "dense/bias": np.zeros(2, np.float32)}

    path = folder / "model.sealed"
    whom = [vault.public_key(alice)]
    vault.seal(weights, path, whom, signers=[owner], name="digits", serial=7)
    opened = vault.load(
        path,
        vault.load_key(folder / "alice.key"),
        signed_by=[vault.public_key(owner)],
        expect="digits@7+",
    )
    print("alice opens", {name: array.shape for name, array in opened.items()})
    try:
        vault.load(path, mallory)
    except vault.errors.WrongKey as error:
        print("mallory:", error)
        return opened
    raise AssertionError("a stranger opened it")


if __name__ == "__main__":
    main()
