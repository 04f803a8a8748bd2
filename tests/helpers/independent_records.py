"""A second reader of sets, locked files, registers and revocation lists, from docs/format.md alone."""

import hashlib
import hmac
import json

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from helpers.independent_reader import (
    CHUNK,
    canonical,
    check_signature,
    derive,
    header_of,
    hkdf,
    need,
    open_sealed,
    parsed,
    sha256,
    unwrap,
)

LOCKED = "modellock-jax locked file"
FIELDS = (
    "about",
    "scheme",
    "key_id",
    "label",
    "nonce",
    "check",
    "tag",
    "finish",
    "original",
    "extra",
)


def open_set(files, unlocker, signed_by=()):
    """The plain files of a sealed folder, bytes by path; `files` are the sealed ones."""
    manifest = files["modellock.set"]
    kind, text = open_sealed(manifest, unlocker, signed_by)
    found = parsed(text)
    need((kind, found["format"], found["version"]) == ("set", "modellock-jax set", 1), "no set")
    header, _ = header_of(manifest)
    info = b"modellock-jax v1 file key " + bytes.fromhex(header["id"])
    keys = (unwrap(stanza, unlocker, info) for stanza in header["recipients"])
    key, plain = next(one for one in keys if one), {}
    need(files.keys() - {one["path"] for one in found["members"]} == {"modellock.set"}, "others")
    for one in found["members"]:
        made, end = header_of(data := files[one["path"]])
        need((made["id"], made["digest"]) == (one["id"], one["digest"]), "of another set")
        need(sha256(data[end:], CHUNK + 16).hex() == one["digest"], "not what was signed")
        own = hkdf(key, b"modellock-jax v2 member", bytes.fromhex(one["id"]))
        kind, plain[one["path"]] = open_sealed(data, unlocker, (), own)
        need((kind, len(plain[one["path"]])) == (one["kind"], one["size"]), "another kind or size")
    return plain


def unlock_set(files, secret):
    """The plain files of a locked folder, bytes by path."""
    fields = parsed(files["modellock.set.json"])
    mark = "modellock-jax set of locked files"
    need((fields["format"], fields["version"]) == (mark, 1), "no locked set")
    check = derive(secret, 16, "locked set check", fields["nonce"])
    need(check.hex() == fields["check"], "another key")
    key, tag = derive(secret, 32, "locked set tag", fields["nonce"]), fields["tag"]
    found = hmac.digest(key, canonical(fields | {"tag": ""}), "sha256").hex()
    need(found == tag, "the manifest was changed")
    members = {one["path"]: one for one in fields["members"]}
    need(files.keys() - members.keys() == {"modellock.set.json"}, "others")
    for path, one in members.items():
        need(sha256(files[path]).hex() == one["sha256"], "of another set")
    return {
        p: unlock(files[p], secret) if one["locked"] else files[p] for p, one in members.items()
    }


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
