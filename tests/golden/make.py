"""Make the golden files anew: for a format whose version was raised, and for no other reason.

    python tests/golden/make.py

What the files hold is in `content`; tests/test_golden.py reads them back. Then say in VERSIONS.json, and
in the changelog, why the version was raised. The keys are for these tests alone: everybody has them.
"""

import hashlib
import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np

from modellock_jax.vault import tensors
from modellock_jax.vault.issuing import copies as issuing
from modellock_jax.vault.issuing import register, revocation, revocation_text, signed
from modellock_jax.vault.keys import identity, share_files, shares
from modellock_jax.vault.keys import secret as keys
from modellock_jax.vault.keys import text as key_text
from modellock_jax.vault.locked import files as locked
from modellock_jax.vault.locked import format as locked_format
from modellock_jax.vault.locked import sets as locked_sets
from modellock_jax.vault.sealed import envelope, header, recipients, sets

HERE = Path(__file__).parent
CHAIN = "sign_flip(bits=8)+deep_lock(key_bits=256)+stream_lock"
PASSPHRASE = "a golden passphrase"
METADATA = {"format": "pt", "é": "ü"}
ANY = b"any bytes\0\xff"
REASON = "a test"
VERSIONS = {
    header.MARK: int(header.VERSION),
    locked_format.MARK: int(locked_format.VERSION),
    key_text.FORMAT: key_text.VERSION,
    identity._FORMAT: identity.VERSION,
    share_files._FORMAT.split(",")[0]: int(share_files._FORMAT.split()[-1]),
    register.FORMAT: signed.VERSION,
    revocation_text.FORMAT: signed.VERSION,
    sets.FORMAT: sets.VERSION,
    locked_sets.FORMAT: locked_sets.VERSION,
}


def secret(name: str) -> keys.Secret:
    """A key that everybody has."""
    return keys.Secret(hashlib.sha256(f"golden {name}, a public test key".encode()).digest())


def content() -> dict[str, np.ndarray]:
    """Small arrays of every width, with a name of no plain letters."""
    return {
        "dense/kernel": np.arange(24, dtype=np.float32).reshape(4, 6) / 7,
        "dense/bias": np.arange(-3, 3, dtype=np.float16),
        "head.wéight": np.arange(6, dtype=ml_dtypes.bfloat16),
        "steps": np.array(2**40 + 1),
        "mask": np.array([True, False, True]),
        "bytes": np.arange(-5, 6, dtype=np.int8),
    }


def make(folder: Path) -> None:
    """All golden files, into an empty folder."""
    alice, bob, owner = map(secret, ("alice", "bob", "owner"))
    for name in ("alice", "bob", "owner"):
        keys.save(secret(name), folder / f"TEST-ONLY-{name}.key")
        public = identity.public_key(secret(name), classic=name == "bob")
        identity.save_public(public, folder / f"{name}.pub")
    head = tensors.lay_out(content(), METADATA)
    flat = b"".join(content()[one.name].tobytes() for one in head.tensors)
    plain = folder / "plain.safetensors"
    plain.write_bytes(head.head + flat)
    whom = [
        identity.public_key(alice),
        identity.public_key(bob, classic=True),
        recipients.Passphrase(PASSPHRASE),
    ]
    about = {"signers": [owner], "name": "golden", "serial": 3}
    envelope.seal_file(plain, folder / "model.sealed", whom, **about)
    model = folder / "model"
    (model / "shards").mkdir(parents=True)
    shutil.copy(plain, model / "shards" / "one.safetensors")
    (model / "config.json").write_bytes(b"{}")
    sets.seal_set(model, folder / "set", whom[:2], **about)
    locked_sets.lock_set(model, folder / "locked-set", alice, "stream_lock")
    envelope.seal_file(ANY, folder / "bytes.sealed", whom[:1])
    locked.lock_file(plain, folder / "locked.safetensors", alice, "stream_lock", label="golden")
    locked.lock_file(plain, folder / "chain.safetensors", alice, CHAIN, label="golden")
    share_files.save(shares.split(alice, 2, 3), folder / "TEST-ONLY-shares")
    issuing.issue(plain, folder / "issued", ["ann"], owner, folder / "register")
    issuing.issue(plain, folder / "issued", ["ann"], owner, folder / "register", again=True)
    revocation.revoke(folder / "list.json", [alice.id], owner, REASON)


if __name__ == "__main__":
    old = json.loads((HERE / "VERSIONS.json").read_text())
    if {mark: one["version"] for mark, one in old.items()} == VERSIONS:
        raise SystemExit("no version was raised, so the golden files stay as they are")
    for path in HERE.iterdir():
        if path.name not in ("make.py", "VERSIONS.json", "README.md"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    make(HERE)
    new = {
        mark: old[mark]
        if mark in old and old[mark]["version"] == version
        else {"version": version, "why": ""}
        for mark, version in VERSIONS.items()
    }
    (HERE / "VERSIONS.json").write_text(json.dumps(new, indent=2) + "\n")
