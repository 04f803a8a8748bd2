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

from modellock_jax.vault import _tensors, keys, locked
from modellock_jax.vault.issuing import _lines, _revocation_text, register, revocation
from modellock_jax.vault.issuing.copies import issue
from modellock_jax.vault.keys import identity, share_files, shares
from modellock_jax.vault.keys.secret import Secret, save_key
from modellock_jax.vault.locked.files import lock_file
from modellock_jax.vault.locked.sets import lock_set
from modellock_jax.vault.sealed import _header, envelope, recipients, sets

HERE = Path(__file__).parent
CHAIN = "sign_flip(bits=8)+deep_lock(key_bits=256)+stream_lock"
PASSPHRASE = "a golden passphrase"
METADATA = {"format": "pt", "é": "ü"}
ANY = b"any bytes\0\xff"
REASON = "a test"
VERSIONS = {
    _header.MARK: int(_header.VERSION),
    locked._format.MARK: int(locked._format.VERSION),
    keys._text.FORMAT: keys._text.VERSION,
    identity._FORMAT: identity._VERSION,
    share_files._FORMAT.split(",")[0]: int(share_files._FORMAT.split()[-1]),
    register.FORMAT: _lines.VERSION,
    _revocation_text.FORMAT: _lines.VERSION,
    sets.FORMAT: sets.VERSION,
    locked.sets.FORMAT: locked.sets.VERSION,
}


def secret(name: str) -> Secret:
    """A key that everybody has."""
    return Secret(hashlib.sha256(f"golden {name}, a public test key".encode()).digest())


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
        save_key(secret(name), folder / f"TEST-ONLY-{name}.key")
        public = identity.public_key(secret(name), classic=name == "bob")
        identity.save_public_key(public, folder / f"{name}.pub")
    head = _tensors.lay_out(content(), METADATA)
    flat = b"".join(content()[one.name].tobytes() for one in head.tensors)
    plain = folder / "plain.safetensors"
    plain.write_bytes(head.head + flat)
    whom = [
        identity.public_key(alice),
        identity.public_key(bob, classic=True),
        recipients.Passphrase(PASSPHRASE),
    ]
    about = {"signers": [owner], "name": "golden", "serial": 3}
    envelope.seal(plain, folder / "model.sealed", whom, **about)
    model = folder / "model"
    (model / "shards").mkdir(parents=True)
    shutil.copy(plain, model / "shards" / "one.safetensors")
    (model / "config.json").write_bytes(b"{}")
    sets.seal_set(model, folder / "set", whom[:2], **about)
    lock_set(model, folder / "locked-set", alice, "stream_lock")
    envelope.seal(ANY, folder / "bytes.sealed", whom[:1])
    lock_file(plain, folder / "locked.safetensors", alice, "stream_lock", label="golden")
    lock_file(plain, folder / "chain.safetensors", alice, CHAIN, label="golden")
    share_files.save(shares.split(alice, 2, 3), folder / "TEST-ONLY-shares")
    issue(plain, folder / "issued", ["ann"], owner, folder / "register")
    issue(plain, folder / "issued", ["ann"], owner, folder / "register", again=True)
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
