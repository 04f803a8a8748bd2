"""Sealed files for tests: people with keys, arrays, and a sealed file taken apart."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from modellock_jax.vault import _tensors
from modellock_jax.vault.issuing import revocation
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.identity import PublicKey
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.sealed import _chunks, _header, envelope, opened, recipients
from modellock_jax.vault.sealed._header_fields import Header


def secret(name: str) -> Secret:
    """The same one at every run."""
    return Secret(hashlib.sha512(name.encode()).digest()[:32])


ALICE, BOB, MALLORY, OWNER = map(secret, ("Alice", "Bob", "Mallory", "owner"))
PUBLIC = {one.id: identity.public_key(one) for one in (ALICE, BOB, MALLORY, OWNER)}


def public(one: Secret) -> PublicKey:
    return PUBLIC[one.id]


def some(seed: int = 0) -> dict[str, np.ndarray]:
    """A few small arrays with telling names."""
    rng = np.random.default_rng(seed)
    return {
        "encoder/layer_7/attention/kernel": rng.normal(size=(8, 16)).astype(np.float32),
        "encoder/layer_7/attention/bias": rng.normal(size=16).astype(np.float32),
        "decoder.weight_of_the_secret_head": rng.normal(size=(5, 7)),
        "running_statistics": np.arange(40, dtype=np.int64),
    }


def for_two(folder: Path) -> Path:
    """A sealed file of nobody's signature, for Alice and Bob, in a folder of its own."""
    (folder / "models").mkdir()
    path = folder / "models" / "m.sealed"
    envelope.seal(some(), path, [public(ALICE), public(BOB)])
    return path


def refusing_bob(folder: Path) -> Path:
    """The owner's list that refuses Bob."""
    revocation.revoke(folder / "list.json", [BOB.id], OWNER, "left the company")
    return folder / "list.json"


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Whether names, dtypes, shapes and bits are the same."""

    def all_of(arrays: dict[str, np.ndarray]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
        return {n: (a.dtype.name, a.shape, a.tobytes()) for n, a in arrays.items()}

    return all_of(found) == all_of(expected)


def apart(data: bytes) -> tuple[Header, bytes]:
    """A sealed file's header and body."""
    at = _header.head_length(data, len(data))
    return _header.decode(data[:at], len(data)), data[at:]


def body_of(file_key: bytes, made: Header, kind: str, plain: bytes) -> bytes:
    """What a recipient can do: a body of their own under a file's own key."""
    cipher = _chunks.Cipher(_header.file_key_use(file_key, made.file_id, "payload"), made.binding)
    plain = kind.encode().ljust(opened.INDEX, b"\0") + plain
    sealed = bytearray(_chunks.sealed_size(len(plain)))

    def write(place: int, chunk: bytes) -> None:
        sealed[place : place + len(chunk)] = chunk

    pieces = [plain[i : i + _chunks.CHUNK] for i in range(0, len(plain), _chunks.CHUNK)]
    _chunks.seal_all(cipher, pieces, write, lambda _: None, hashed=False, in_turn=True)
    return bytes(sealed)


def plain_of(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays as the safetensors file that `vault.seal` seals."""
    directory = _tensors.lay_out(arrays, {})
    return directory.head + b"".join(arrays[t.name].tobytes() for t in directory.tensors)


def together(made: Header, body: bytes) -> bytes:
    """A sealed file with a head of our own spelling, checksum and all."""
    return _header.encode(made) + body


def header_of(path: Path) -> Header:
    return apart(path.read_bytes())[0]


Change = Callable[[Header, bytes], Header]


def adding(*whom: recipients.Recipient) -> Change:
    def change(made: Header, file_key: bytes) -> Header:
        new = recipients.wrap_all(file_key, whom, made.file_id)
        return made._replace(stanzas=made.stanzas + new)

    return change


def removing(*names: str) -> Change:
    def change(made: Header, _: bytes) -> Header:
        kept = (s for s in made.stanzas if recipients.name_of(s) not in names)
        return made._replace(stanzas=tuple(kept))

    return change


def unchanged(made: Header, _: bytes) -> Header:
    return made
