"""What `inspect` says of text files: keys, public keys, shares, registers and revocation lists."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from modellock_jax.vault.issuing import register, revocation
from modellock_jax.vault.keys import identity, share_files
from modellock_jax.vault.keys.secret import load_key

__all__ = ["Told", "describe"]

Told = tuple[list[str], dict[str, Any]]  # for people, and for programs


def describe(kind: str, path: Path) -> Told:
    """Return what a file of a kind of `vault._texts` tells of itself. Raises as its reader does."""
    lines, fields = _READERS[kind](path)
    return lines, {"kind": f"modellock-jax {kind}"} | fields


def _key(path: Path) -> Told:
    secret = load_key(path)
    lines = [f"a secret key, {secret.id}: keep it to yourself"]
    lines += [f"public half {name}: {kind}" for kind, name in secret.ids.items()]
    if secret.origin:
        lines.append(f"derived at {secret.origin.path} below {secret.origin.parent}")
    origin = secret.origin._asdict() if secret.origin else {}
    return lines, {"id": secret.id, "ids": secret.ids} | origin


def _public_key(path: Path) -> Told:
    public = identity.load_public_key(path)
    lines = [f"a public key, {public.id} ({public.kind})", f"fingerprint {public.fingerprint}"]
    return lines, {"id": public.id, "type": public.kind, "fingerprint": public.fingerprint}


def _share(path: Path) -> Told:
    share = share_files.load(path)
    phrase = "with a passphrase" if share.passphrase else "without a passphrase"
    lines = [
        f"share {share.index} of {share.count} of key {share.key_id}: keep it to yourself",
        f"{share.threshold} shares restore the key, {phrase}",
    ]
    fields = ("index", "count", "threshold", "passphrase")
    return lines, {"id": share.key_id} | {name: getattr(share, name) for name in fields}


def _register(path: Path) -> Told:
    found = register.read(path)
    lines = [
        f"a register of {len(found.entries)} copies for {len(found.current)} users: see register list",
        f"signed by {found.signer.id}, which nothing here vouches for; head {found.head}",
    ]
    fields = {"id": found.id, "signer": found.signer.id, "head": found.head}
    return lines, fields | {"copies": len(found.entries), "users": sorted(found.current)}


def _revocation_list(path: Path) -> Told:
    found = revocation.read(path)
    lines = [
        f"a revocation list, number {found.serial}, of {found.issued}: {len(found.revoked)} keys",
        f"signed by {found.signer.id}, which nothing here vouches for",
    ]
    lines += [f"{one.id}  {one.time}  {one.reason}".rstrip() for one in found.revoked]
    fields = {"serial": found.serial, "signer": found.signer.id, "issued": found.issued}
    return lines, fields | {"revoked": [one._asdict() for one in found.revoked]}


_READERS: dict[str, Callable[[Path], Told]] = {
    "key": _key,
    "public key": _public_key,
    "share of a key": _share,
    "register": _register,
    "revocation list": _revocation_list,
}
