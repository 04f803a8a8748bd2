"""Keys that protect something: 32 bytes from the operating system, a stream of words per label.

`jax.random` keys are for studies only: Threefry keys hold 64 bits and are not meant to be a
cryptographic secret. A key that protects something comes from here.

Threat model. No repr, pickle, copy or error holds the secret, but code in the same process can read
it, and Python cannot reliably erase bytes from memory. The key file is not encrypted: whoever
reads it, or a backup of it, has the key.
"""

import base64
import contextlib
import hmac
import json
import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, NoReturn

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from modellock_jax._atomic import creating, write_all
from modellock_jax._printing import printable
from modellock_jax.vault import _texts
from modellock_jax.vault._files import check_private
from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys._text import FORMAT, LONGEST, VERSION, fields_of, path_names
from modellock_jax.vault.keys.identity import PublicKey
from modellock_jax.vault.keys.source import KeySource

__all__ = ["KeySource", "Origin", "Secret", "generate_key", "load_key", "save_key", "save_key_pair"]


class Origin(NamedTuple):
    """Where a key was derived: below the key with the id `parent`, at `path`; neither is secret."""

    parent: str
    path: str


class Secret:
    """32 secret bytes, uniformly random and no password; made by `generate_key`, `load_key` or `child`.

    `id`, 32 hex digits, is that of its public key; `ids` are it and the id of the classic public
    key. They are public, and so is `origin`.

    **Guarantees.** repr, str and format show the id alone; pickle and copy raise `TypeError`; `==`
    is constant-time. The public keys and each label's words come from HKDF-SHA256 (Krawczyk & Eronen
    2010) with different `info`: if HMAC-SHA256 is pseudo-random, none tells anything about the others.

    Args:
        raw: The 32 bytes.
        origin: The path from a parent secret, for one that is derived.

    Raises:
        ValueError: If `raw` is not 32 bytes.
    """

    __slots__ = ("_ids", "_reveal", "origin")

    @clears_frames
    def __init__(self, raw: bytes, origin: Origin | None = None) -> None:
        if not isinstance(raw, bytes) or len(raw) != 32:
            raise ValueError(
                "Secret: `raw` must be 32 random bytes; use generate_key() or load_key(path)"
            )
        # A closure, because whatever prints an object's attributes does not look into one.
        self._reveal: Callable[[], bytes] = lambda: raw
        self._ids: dict[str, str] = {}
        self.origin = origin

    @property
    def id(self) -> str:
        """By which the secret is known, in files and to people."""
        return self.ids[identity.HYBRID]

    @property
    def ids(self) -> dict[str, str]:
        """The ids of both public halves, by their kind."""
        if not self._ids:  # when it is first asked for: it takes longer than all else here
            self._ids = identity.ids_of(self)
        return self._ids

    def source(self, label: str) -> "KeySource":
        """Return the words of `label`, for a lock's `init`; the same label and lock, the same key.

        A lock's key depends on its name, its settings and its place in a chain too, so that no two
        locks share one but exact twins, `sign_mask` per channel and `sign_flip`, `pixel_shuffle` and
        `patch_shuffle`.

        Args:
            label: A new one for each model.

        Returns:
            A source of secret words.

        Raises:
            TypeError: If `label` is not a str.
        """
        if not isinstance(label, str):
            raise TypeError(f"source: the label must be a str, not {type(label).__name__}")
        return KeySource(self, label)

    def child(self, path: str) -> "Secret":
        """Return the key at `path` below this one, such as "acme/vision/alice/resnet18/conv1.kernel".

        A name for each level, by custom organisation, team, user, model, tensor.

        Args:
            path: Names with `/` between them, in Unicode's normal form NFC, at most 1,000 bytes.

        Returns:
            The key.

        Raises:
            ValueError: For a name that is empty, `.` or `..`, that begins or ends with a space or
                cannot be printed, and for too many bytes.
            TypeError: If `path` is not a str.

        **Guarantees.** Level by level: `child("a/b")` is `child("a").child("b")`, the same each time.
        Each level is HKDF-SHA256 (Krawczyk & Eronen 2010) under a label of its own: if HMAC-SHA256
        is pseudo-random, a key tells nothing about its parent, its siblings and their children. Who
        holds a key holds all keys below it.

        >>> master = Secret(bytes(32))
        >>> user = master.child("acme/vision/alice")
        >>> user == master.child("acme").child("vision/alice"), user.origin.path
        (True, 'acme/vision/alice')
        """
        names, found = path_names(path), self
        for name in names:
            found = Secret(found.derive(32, "child", name))
        return Secret(found._reveal(), Origin(self.id, "/".join(names)))

    @clears_frames
    def derive(self, length: int, *parts: str) -> bytes:
        """Derive secret bytes for a purpose; the caller keeps them hidden.

        Args:
            length: How many, at least 1.
            *parts: Name the purpose.

        Returns:
            `length` bytes.
        """
        encoded = [part.encode() for part in ("modellock-jax keys v2", *parts)]
        # Each part behind its length, so that no two lists of parts are the same bytes.
        info = b"".join(len(part).to_bytes(4, "big") + part for part in encoded)
        return HKDF(SHA256(), length, salt=None, info=info).derive(self._reveal())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._reveal(), other._reveal())

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is neither pickled nor copied; use save_key and load_key")

    def __repr__(self) -> str:
        return f"Secret(id={self.id!r})"


def generate_key() -> Secret:
    """Make a new secret: 32 bytes from the operating system; `save_key` has an example.

    Returns:
        The secret, in memory alone.
    """
    return Secret(secrets.token_bytes(32))


@clears_frames
def save_key(secret: Secret, path: str | os.PathLike[str]) -> None:
    """Write a key file: JSON, not encrypted, for its owner's eyes alone.

    Args:
        secret: What `generate_key` or `child` made.
        path: A file that is not there yet; an existing key is never replaced.

    Raises:
        FileExistsError: Something is at `path`.
        FileNotFoundError: Its directory does not exist.
        OSError: The disk refuses, or the file system shows files to others.

    **Guarantees.** Mode 0600 from the first byte (POSIX). At every moment `path` is absent or whole;
    on return it is on the disk. A killed process may leave the key in `.modellock-*.tmp` beside it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_key(secret := generate_key(), f"{folder}/owner.key")
    ...     load_key(f"{folder}/owner.key") == secret
    True
    """
    with creating(path, 0o600) as file:
        # A view, because a traceback shows what the frames of a failed write hold.
        write_all(file, memoryview(_document(secret).encode()), 0)


def save_key_pair(secret: Secret, path: str | os.PathLike[str], classic: bool = False) -> PublicKey:
    """Write a key file, and its public half to `PATH.pub`, where a public half of it may be already.

    Args:
        secret: The key.
        path: Of the key file, which is new.
        classic: Whether the public half is X25519 and Ed25519 alone.

    Returns:
        What is in `PATH.pub`.

    Raises:
        FileExistsError: If there is another file at either path.

    **Guarantees.** As `save_key`; nothing is overwritten. Killed in between, or on an error, there may
    be a key file without its public half, which `save_public_key` makes again.
    """
    beside = Path(f"{path}.pub")
    if os.path.lexists(path):
        raise FileExistsError(f"{printable(path)} exists and is kept; choose another path")
    public = identity.public_key(secret, classic)
    if os.path.lexists(beside):
        with contextlib.suppress(Unreadable):
            there = identity.load_public_key(beside)
            if there.id in secret.ids.values():
                save_key(secret, path)
                return there
        raise FileExistsError(
            f"{printable(beside)} exists and is no public half of this key; move it away"
        )
    save_key(secret, path)
    identity.save_public_key(public, beside)
    return public


@clears_frames
def load_key(path: str | os.PathLike[str]) -> Secret:
    """Read a key file that `save_key` wrote; `save_key` has an example.

    Args:
        path: The key file, to which nobody but its owner has access.

    Returns:
        The secret, with where it was derived as `origin`.

    Raises:
        ValueError: It is not exactly such a file.
        PermissionError: Group or others have access to it.
        FileNotFoundError: There is none.

    **Guarantees.** No error holds any of the file's content. The id finds damage, not malice.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"load_key: no key file {printable(path)}; write one with save_key(generate_key(), path)"
        )
    with open(path, "rb") as file:
        data = file.read(LONGEST + 1)
        if _texts.kind(data) in ("", "key"):  # another file of ours is refused for what it is
            check_private(file.fileno(), path)
        return parse(data, f"load_key: {printable(path)}")


@clears_frames
def parse(data: bytes, where: str) -> Secret:
    """Return the secret of a key file's content, which `where` names in errors.

    Raises `ValueError` if it is not exactly what `save_key` writes; no error holds any of it.
    """
    found = _parse(data)
    if isinstance(found, str):
        raise ValueError(f"{where} {found}")
    return found


def _document(secret: Secret) -> str:
    fields = {"format": FORMAT, "version": VERSION, "extra": {}, "id": secret.id}
    fields |= {"created": datetime.now(UTC).isoformat()}
    fields |= {"secret": base64.b64encode(secret._reveal()).decode()}
    return json.dumps(fields | (secret.origin._asdict() if secret.origin else {}), indent=2) + "\n"


def _parse(data: bytes) -> Secret | str:
    """Return the secret, or what is wrong: an error of the JSON parser would carry the text along."""
    if fault := _texts.encoding_fault(data):
        return fault
    if (kind := _texts.kind(data)) not in ("", "key"):
        return f"is {_texts.KINDS[kind]}, and no secret key file; give the key file"
    fault, fields = fields_of(data)
    if fault:
        return f"{fault}; restore the key file from a copy"
    origin = Origin(fields["parent"], fields["path"]) if "parent" in fields else None
    secret = Secret(base64.b64decode(fields["secret"]), origin)
    if secret.id != fields["id"]:
        return "has an id that does not match its secret; restore the key file from a copy"
    return secret
