"""Ship a checkpoint: sealed for its recipients, signed, under a name and a serial number.

python examples/ship_a_checkpoint.py
"""

import tempfile
from pathlib import Path

import numpy as np

from modellock_jax.vault.errors import WrongKey
from modellock_jax.vault.keys import identity, secret
from modellock_jax.vault.sealed import envelope


def main():
    folder = Path(tempfile.mkdtemp())
    owner, alice, mallory = (secret.generate() for _ in range(3))
    secret.save(alice, folder / "alice.key")  # mode 0600; give away only the public half
    weights = {"dense/kernel": np.ones((4, 2), np.float32), "dense/bias": np.zeros(2, np.float32)}

    path = folder / "model.sealed"
    envelope.save(
        weights, path, [identity.public_key(alice)], signers=[owner], name="digits", serial=7
    )
    opened = envelope.load(
        path,
        secret.load(folder / "alice.key"),
        signed_by=[identity.public_key(owner)],
        expect="digits@7+",
    )
    print("alice opens", {name: array.shape for name, array in opened.items()})
    try:
        envelope.load(path, mallory)
    except WrongKey as error:
        print("mallory:", error)
        return opened
    raise AssertionError("a stranger opened it")


if __name__ == "__main__":
    main()
