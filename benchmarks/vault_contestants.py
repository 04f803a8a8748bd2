"""Who saves and loads in `vault_speed.py`: plain safetensors, cryptotensors, and sealed files."""

import base64
import importlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.secret import generate_key
from modellock_jax.vault.sealed import _chunks, envelope

OURS, PLAIN, PEER, DISK = "modellock-jax", "safetensors", "cryptotensors", "bytes and fsync"
CIPHER = "the cipher alone"
Contestants = dict[str, Callable[[], Any]]


def transformer(width: int, blocks: int, vocabulary: int) -> dict[str, np.ndarray]:
    """Random weights of a transformer, with the shapes and the spread of trained ones."""
    shapes: dict[str, tuple[int, ...]] = {"embedding": (vocabulary, width)}
    for i in range(blocks):
        at = f"encoder/block_{i:02d}"
        shapes |= {f"{at}/attention/qkv": (width, 3 * width), f"{at}/attention/out": (width, width)}
        shapes |= {f"{at}/mlp/up": (width, 4 * width), f"{at}/mlp/down": (4 * width, width)}
        shapes |= {f"{at}/norm/scale": (width,), f"{at}/norm/bias": (width,)}
    rng = np.random.default_rng(0)
    return {n: rng.normal(0, 0.02, shape).astype(np.float32) for n, shape in shapes.items()}


def size_of(arrays: dict[str, np.ndarray]) -> int:
    """Bytes of all arrays."""
    return sum(array.nbytes for array in arrays.values())


def synced(write: Callable[[], Any], path: Path) -> Callable[[], None]:
    """Write a file and bring it to the disk."""

    def both() -> None:
        write()
        with open(path, "rb") as file:
            os.fsync(file.fileno())

    return both


class Peer:
    """Saves and loads by cryptotensors, with a key for encryption and one for signatures."""

    def __init__(self) -> None:
        self._module = importlib.import_module("cryptotensors")
        self._numpy = importlib.import_module("cryptotensors.numpy")
        signer = Ed25519PrivateKey.generate()
        public = signer.public_key().public_bytes_raw()
        enc = {"kty": "oct", "alg": "aes256gcm", "kid": "e", "k": _text(os.urandom(32))}
        sign = {"kty": "okp", "alg": "ed25519", "kid": "s", "d": _text(signer.private_bytes_raw())}
        self._config = {"enc_key": enc, "sign_key": sign | {"x": _text(public)}}

    def save(self, arrays: dict[str, np.ndarray], path: Path) -> None:
        """Encrypt and sign."""
        self._numpy.save_file(arrays, str(path), config=self._config)

    def load(self, path: Path) -> dict[str, np.ndarray]:
        """Verify and decrypt."""
        with self._module.safe_open(str(path), framework="np", config=self._config) as file:
            return {name: file.get_tensor(name) for name in file.offset_keys()}


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def cipher_alone(size: int) -> Callable[[], np.ndarray]:
    """Decrypt `size` bytes into fresh memory, chunk by chunk; all are one chunk, which stays cached."""
    aead, nonce = AESGCM(os.urandom(32)), bytes(12)
    sealed = aead.encrypt(nonce, bytes(_chunks.CHUNK), None)
    starts = range(0, size // _chunks.CHUNK * _chunks.CHUNK, _chunks.CHUNK)

    def run() -> np.ndarray:
        out = np.empty(size, np.uint8)

        def one(start: int) -> None:
            aead.decrypt_into(nonce, sealed, None, out.data[start : start + _chunks.CHUNK])

        with ThreadPoolExecutor(_chunks.THREADS) as pool:
            list(pool.map(one, starts))
        return out

    return run


def parts(folder: Path, arrays: dict[str, np.ndarray]) -> dict[str, Contestants]:
    """Part 1 in one folder: by what is done, who does it. Saving comes first and leaves the files."""
    plain, theirs, ours = (folder / name for name in ("m.plain", "m.peer", "m.sealed"))
    sealed, exported, copied = (folder / name for name in ("f.sealed", "f.plain", "f.copy"))
    secret, other = generate_key(), Peer() if find_spec(PEER) else None
    public = identity.public_key(secret)
    content = np.random.default_rng(1).bytes(size_of(arrays))

    def export() -> None:
        with envelope.open(sealed, secret) as file:
            file.export(exported)

    copy = synced(lambda: shutil.copyfile(plain, copied), copied)
    save: Contestants = {
        PLAIN: lambda: safetensors.numpy.save_file(arrays, plain),
        f"{PLAIN} and fsync": synced(lambda: safetensors.numpy.save_file(arrays, plain), plain),
        DISK: synced(lambda: copied.write_bytes(content), copied),
        OURS: lambda: envelope.seal(arrays, ours, [public]),
    }
    load: Contestants = {
        PLAIN: lambda: safetensors.numpy.load_file(plain),
        OURS: lambda: envelope.load(ours, secret),
        CIPHER: cipher_alone(size_of(arrays)),
    }
    if other is not None:
        save |= {
            PEER: lambda: other.save(arrays, theirs),
            f"{PEER} and fsync": synced(lambda: other.save(arrays, theirs), theirs),
        }
        load[PEER] = lambda: other.load(theirs)
    seal = {"copy and fsync": copy, OURS: lambda: envelope.seal(plain, sealed, [public])}
    back = {"copy and fsync": copy, OURS: export}
    return {"save": save, "load": load, "seal a file": seal, "export it": back}
