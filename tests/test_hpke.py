"""HPKE as files are wrapped with it: published vectors, and a second way of computing it.

The library's calls take no associated data, which the published messages have: so the vectors check
the key and the nonce, and a message of ours under them, without any, checks the call.
"""

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from modellock_jax.vault.keys import _private_keys, identity
from modellock_jax.vault.keys.secret import Secret

VECTORS = json.loads((Path(__file__).parent / "hpke_vectors.json").read_text())
AEADS = {2: AESGCM, 3: ChaCha20Poly1305}
OURS = 2  # AES-256-GCM
SECRET = Secret(bytes(range(32)))
kinds = pytest.mark.parametrize("kind", [identity.CLASSIC, identity.HYBRID])


def vector(kind):
    return {k: bytes.fromhex(v) if isinstance(v, str) and k != "source" else v
            for k, v in VECTORS[kind].items()}  # fmt: skip


def extract(suite, salt, label, ikm):
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def expand(suite, prk, label, info, length):
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return HKDFExpand(hashes.SHA256(), length, labelled).derive(prk)


def context(kem, aead, shared, info):
    """Key and nonce of the first message: RFC 9180, section 5.1, base mode, HKDF-SHA256."""
    suite = b"HPKE" + b"".join(one.to_bytes(2, "big") for one in (kem, 1, aead))
    about = (
        b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    )
    prk = extract(suite, shared, b"secret", b"")
    return expand(suite, prk, b"key", about, 32), expand(suite, prk, b"base_nonce", about, 12)


def x25519_shared(private, enc):
    """RFC 9180, section 4.1: DHKEM(X25519, HKDF-SHA256)."""
    suite = b"KEM" + (32).to_bytes(2, "big")
    public = private.public_key().public_bytes_raw()
    dh = private.exchange(X25519PublicKey.from_public_bytes(enc))
    prk = extract(suite, b"", b"eae_prk", dh)
    return expand(suite, prk, b"shared_secret", enc + public, 32)


def hybrid_shared(mlkem768, x25519, enc):
    """draft-connolly-cfrg-xwing-kem, Decapsulate."""
    lattice, curve = enc[:1088], enc[1088:]
    first = mlkem768.decapsulate(lattice)
    second = x25519.exchange(X25519PublicKey.from_public_bytes(curve))
    public = x25519.public_key().public_bytes_raw()
    return hashlib.sha3_256(first + second + curve + public + b"\\.//^\\").digest()


def private_keys(kind, one):
    """ML-KEM-768's and X25519's, of which a classic recipient has the second alone."""
    if kind == identity.CLASSIC:
        return None, X25519PrivateKey.from_private_bytes(one["skRm"])
    both = hashlib.shake_256(one["skRm"]).digest(96)
    return MLKEM768PrivateKey.from_seed_bytes(both[:64]), X25519PrivateKey.from_private_bytes(
        both[64:]
    )


def shared_of(mlkem768, x25519, enc):
    return hybrid_shared(mlkem768, x25519, enc) if mlkem768 else x25519_shared(x25519, enc)


@kinds
def test_the_second_way_gives_the_published_values(kind):
    one = vector(kind)
    mlkem768, x25519 = private_keys(kind, one)
    public = mlkem768.public_key().public_bytes_raw() if mlkem768 else b""
    assert public + x25519.public_key().public_bytes_raw() == one["pkRm"]
    shared = shared_of(mlkem768, x25519, one["enc"])
    assert shared == one["shared_secret"]
    found = context(one["kem_id"], one["aead_id"], shared, one["info"])
    assert found == (one["key"], one["base_nonce"])
    first = {k: bytes.fromhex(v) for k, v in one["encryptions"][0].items()}
    assert (
        AEADS[one["aead_id"]](found[0]).encrypt(found[1], first["pt"], first["aad"]) == first["ct"]
    )


@kinds
def test_a_message_to_a_published_key_is_opened(kind, monkeypatch):
    one = vector(kind)
    mlkem768, x25519 = private_keys(kind, one)
    monkeypatch.setattr(_private_keys, "mlkem768", lambda secret: mlkem768)
    monkeypatch.setattr(_private_keys, "x25519", lambda secret: x25519)
    key, nonce = context(one["kem_id"], OURS, one["shared_secret"], one["info"])
    if one["aead_id"] == OURS:
        assert (key, nonce) == (one["key"], one["base_nonce"])
    message = one["enc"] + AESGCM(key).encrypt(nonce, b"of the file", b"")
    assert identity.decrypt(message, SECRET, kind, one["info"]) == b"of the file"
    with pytest.raises(InvalidTag):
        identity.decrypt(message, SECRET, kind, one["info"] + b"!")


@kinds
def test_what_is_encrypted_the_second_way_opens(kind):
    public = identity.public_key(SECRET, classic=kind == identity.CLASSIC)
    message = identity.encrypt(b"of the file", public, b"info")
    mlkem768 = None if kind == identity.CLASSIC else _private_keys.mlkem768(SECRET)
    length = len(vector(kind)["enc"])
    shared = shared_of(mlkem768, _private_keys.x25519(SECRET), message[:length])
    key, nonce = context(VECTORS[kind]["kem_id"], OURS, shared, b"info")
    assert AESGCM(key).decrypt(nonce, message[length:], b"") == b"of the file"
