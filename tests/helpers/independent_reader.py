"""A second reader of sealed files, written from docs/format.md: it uses nothing of the package."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MARK = "modellock-jax sealed file"
CLASSIC, HYBRID, WORDS = "x25519", "mlkem768-x25519", "passphrase"
KEMS = {CLASSIC: hpke.KEM.X25519, HYBRID: hpke.KEM.MLKEM768_X25519}
KEYS = {  # length of the seed and how it becomes a private key
    "x25519": (32, x25519.X25519PrivateKey.from_private_bytes),
    "mlkem768": (64, mlkem.MLKEM768PrivateKey.from_seed_bytes),
    "ed25519": (32, ed25519.Ed25519PrivateKey.from_private_bytes),
    "mldsa65": (32, mldsa.MLDSA65PrivateKey.from_seed_bytes),
}
CHECKS = {"ed25519": ed25519.Ed25519PublicKey, "mldsa65": mldsa.MLDSA65PublicKey}
CHUNK, TAG, KIND = 2**21, 16, 16


def need(true, why):
    if not true:
        raise ValueError(why)


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def parsed(data):
    def once(pairs):
        need(len(dict(pairs)) == len(pairs), "a key comes twice")
        return dict(pairs)

    return json.loads(data.decode(), object_pairs_hook=once)


def sha256(data, size=0):
    if size:
        data = b"".join(sha256(data[i : i + size]) for i in range(0, len(data), size))
    return hashlib.sha256(data).digest()


def hkdf(key, info, salt=None, length=32):
    return HKDF(hashes.SHA256(), length, salt, info).derive(key)


def derive(secret, length, *parts):
    texts = [part.encode() for part in ("modellock-jax keys v2", *parts)]
    return hkdf(secret, b"".join(len(t).to_bytes(4, "big") + t for t in texts), None, length)


def private_key(secret, name):
    return KEYS[name][1](derive(secret, KEYS[name][0], name))


def with_id(public):
    fields = {name: public[name] for name in ("kind", *KEYS)} | {
        "format": "modellock-jax public key"
    }
    return public | {"id": sha256(canonical(fields)).hex()[:32]}


def public_key(secret, kind):
    raw = {name: private_key(secret, name).public_key().public_bytes_raw() for name in KEYS}
    raw |= {"mlkem768": b""} if kind == CLASSIC else {}
    return with_id({"kind": kind} | {k: base64.b64encode(v).decode() for k, v in raw.items()})


def read_key(data):
    """The 32 bytes of a key file."""
    fields = parsed(data)
    need((fields["format"], fields["version"]) == ("modellock-jax key", 2), "no key file")
    secret = base64.b64decode(fields["secret"], validate=True)
    need(fields["id"] == public_key(secret, HYBRID)["id"], "the id is not that of the secret")
    return secret


def check_signature(message, signature, public):
    need(public == with_id(public), "the id is not that of the keys")
    need(public["kind"] == CLASSIC or signature["id"] == public["id"], "somebody else's")
    for name, scheme in CHECKS.items():
        key, one = (base64.b64decode(side[name], validate=True) for side in (public, signature))
        scheme.from_public_bytes(key).verify(one, message)


def unwrap(stanza, unlocker, info):
    """The file key that a stanza holds for a secret's 32 bytes or a passphrase, a text in NFC."""
    wrapped, kind = base64.b64decode(stanza["wrapped"]), stanza["type"]
    if (kind == WORDS) != isinstance(unlocker, str):
        return None
    if kind == WORDS:
        salt = base64.b64decode(stanza["salt"])
        key = Argon2id(salt=salt, length=32, iterations=3, lanes=4, memory_cost=65_536)
        try:
            return AESGCM(key.derive(unlocker.encode())).decrypt(bytes(12), wrapped, info)
        except InvalidTag:
            return None
    if stanza["id"] != public_key(unlocker, kind)["id"]:
        return None
    own = private_key(unlocker, "x25519")
    if kind == HYBRID:
        own = hpke.MLKEM768X25519PrivateKey(private_key(unlocker, "mlkem768"), own)
    suite = hpke.Suite(KEMS[kind], hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    return suite.decrypt(wrapped, own, info=info)


def header_of(data):
    """The header of a sealed file, and where its body begins."""
    end = 8 + int.from_bytes(data[:8], "little")
    made = parsed(data[8:end])["__metadata__"]
    need(made["modellock"] == MARK and made["version"] == "2", "no sealed file of version 2")
    header = parsed(made["header"].encode())
    need(canonical(header).decode() == made["header"], "the header is not as it was written")
    need(sha256(canonical(header)).hex() == made["checksum"], "the header is damaged")
    need(header["room"] == end and header["body"] == len(data) - end, "the file is cut off")
    return header, end


def open_sealed(data, unlocker, signed_by=(), file_key=None):
    """Kind and content of a sealed file, for a recipient; each of `signed_by` signed it."""
    header, end = header_of(data)
    file_id, body = bytes.fromhex(header["id"]), data[end:]
    info = b"modellock-jax v1 file key " + file_id
    found = (key for s in header["recipients"] if (key := unwrap(s, unlocker, info)))
    file_key = file_key or next(found, None)
    need(file_key, "not for this key")
    mac, key = header.pop("mac"), hkdf(file_key, b"modellock-jax v2 header", file_id)
    need(hmac.digest(key, sha256(canonical(header)), "sha256").hex() == mac, "changed")
    late = header["expires"] and datetime.now(UTC) >= datetime.fromisoformat(header["expires"])
    need(not late, "expired")
    signatures, about = header.pop("signatures"), {"mark": MARK, "version": "2"}
    message = canonical(about | {"header": sha256(canonical(header)).hex()})
    for public in signed_by:
        own = [one for one in signatures if one["id"] == public["id"]]
        need(own and sha256(body, CHUNK + TAG).hex() == header["digest"], "not signed")
        check_signature(message, own[0], public)
    aead = AESGCM(hkdf(file_key, b"modellock-jax v2 payload", file_id))
    binding, plain = sha256(canonical(about | {"id": header["id"]})), b""
    for number, at in enumerate(range(0, len(body), CHUNK + TAG)):
        plain += aead.decrypt(number.to_bytes(12, "big"), body[at : at + CHUNK + TAG], binding)
    return plain[:KIND].rstrip(b"\0").decode(), plain[KIND:]
