"""Model files under keys: sealed for their recipients, or locked so that they compute nonsense.

A **sealed** file is encrypted and authenticated. Its content is all arrays of a checkpoint, or any
other file; its recipients are public keys or passphrases; who signs it says what it is and which
version. A **locked** file still loads as a model and computes nonsense without its key: its tensors
are under one of the package's locks. Keys are 32 bytes from the operating system, in files of mode
0600, and never in a repr, a pickle or an error.

Threat model: the attacker has the file and can write another in its place, and has no recipient's
key. They learn sizes, key ids, names and dates, and what they change is found. Nothing here
protects a model from who can open it, nor the memory of a process that has opened it. A locked
file is worth what its lock is worth: for protection use sealed files, or `stream_lock`.

>>> import pathlib, tempfile, numpy as np
>>> from modellock_jax import vault
>>> folder = pathlib.Path(tempfile.mkdtemp())
>>> owner, alice = vault.generate_key(), vault.generate_key()
>>> vault.save_key(alice, folder / "alice.key")

Seal arrays for alice, signed by their owner, and open them with alice's key:

>>> weights = {"dense/kernel": np.arange(3.0)}
>>> sealed = folder / "model.sealed"
>>> vault.seal(weights, sealed, [vault.public_key(alice)], signers=[owner], name="model", serial=7)
'safetensors'
>>> key = vault.load_key(folder / "alice.key")
>>> vault.load(sealed, key, signed_by=[vault.public_key(owner)], expect="model@7+")
{'dense/kernel': array([0., 1., 2.])}
>>> with vault.open(sealed, key) as opened:  # one by one, for files larger than memory
...     opened.names, opened.array("dense/kernel").tolist()
(['dense/kernel'], [0.0, 1.0, 2.0])

Who is no recipient is told so; a file that was changed raises `vault.errors.Tampered`:

>>> vault.load(sealed, owner)
Traceback (most recent call last):
modellock_jax.vault.errors.WrongKey: ...

The other names are below: `vault.sealed` has sets of files, recipients and how to change them,
`vault.locked` locked sets, `vault.issuing` copies for users, `vault.keys` shares of a key, and
`vault.checkpoint` pytrees as named arrays. Each is imported when it is first used: who only opens
files need not wait for JAX.
"""

import os

import lazy_loader

if os.name != "posix":
    raise ImportError(
        "modellock_jax.vault needs a POSIX system, such as Linux or macOS: it keeps keys private by "
        "file modes and replaces files by POSIX renames; on Windows use WSL"
    )

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
