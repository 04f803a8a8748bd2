"""A second reader of locked files, registers and revocation lists, from docs/format.md alone."""

import hashlib
import hmac
import json

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from independent_reader import CHUNK, canonical, check_signature, derive, need, parsed, sha256

LOCKED = "modellock-jax locked file"
FIELDS = ("about", "scheme", "key_id", "label", "nonce", "check", "tag", "finish", "original")


def chacha20(key, nonce, data):
    """RFC 8439, from the counter 0 on."""
    return Cipher(algorithms.ChaCha20(key, bytes(4) + nonce), None).encryptor().update(data)


def tensors_of(text):
    """Names and places of a safetensors head."""
    table = {name: one["data_offsets"] for name, one in text.items() if name != "__metadata__"}
    return table.items()


def unlock(data, secret):
    """The plain safetensors file that was locked by `stream_lock()`."""
    end = 8 + int.from_bytes(data[:8], "little")
    head, body = parsed(data[8:end]), data[end:]
    found = head["__metadata__"]
    need((found["modellock"], found["modellock.version"]) == (LOCKED, "2"), "no locked file")
    info = {name: found[f"modellock.{name}"] for name in FIELDS}
    ours = {name: one for name, one in found.items() if name.split(".")[0] == "modellock"}
    checksum = ours.pop("modellock.checksum")
    need(hashlib.sha256(canonical(ours)).hexdigest() == checksum, "the head is damaged")
    words = info["label"], info["nonce"], info["scheme"]
    need(derive(secret, 16, "locked file check", *words).hex() == info["check"], "another key")
    message = info | {"tag": "", "mark": LOCKED, "body": sha256(body, CHUNK).hex()}
    key = derive(secret, 32, "locked file tag", *words)
    need(hmac.digest(key, canonical(message), "sha256").hex() == info["tag"], "changed")
    need(info["scheme"] == "stream_lock()", "another lock")
    label, nonce, scheme = words
    place = f"file {nonce} {scheme}", f"lock {scheme}"
    key = chacha20(derive(secret, 32, "words", label, *place), bytes(12), bytes(32))
    stream = chacha20(key, bytes.fromhex(json.loads(info["finish"])[0]), bytes(32))
    plain = bytearray(body)
    for name, (begin, stop) in tensors_of(head):
        leaf = hashlib.sha256(name.encode()).digest()[:8] + bytes(4)
        plain[begin:stop] = chacha20(stream, leaf, body[begin:stop])
    original = info["original"].encode()
    return len(original).to_bytes(8, "little") + original + plain


def fields_of(line, mark, signer=None):
    """The fields of a signed line, without its signature."""
    fields = parsed(line)
    need(canonical(fields) + b"\n" == line, "not as it was written")
    need((fields["format"], fields["version"]) == (mark, 2), "another format or version")
    signature = fields.pop("signature")
    check_signature(canonical(fields), signature, signer or fields["signer"])
    return fields


def read_register(data):
    """The issuer's public key, and the fields of all other lines."""
    mark, (first, *lines) = "modellock-jax register", data.splitlines(keepends=True)
    signer, previous, entries = fields_of(first, mark)["signer"], first, []
    for number, line in enumerate(lines, 1):
        fields = fields_of(line, mark, signer)
        need(fields["previous"] == hashlib.sha256(previous).hexdigest(), "the chain is broken")
        need(fields["number"] == number, "another number")
        entries.append(fields)
        previous = line
    return signer, entries


def read_list(data):
    """Whose revocation list it is, and the ids that it refuses."""
    fields = fields_of(data, "modellock-jax revocation list")
    return fields["signer"], [one["id"] for one in fields["revoked"]]
