"""Who can open a file: its key, wrapped once for each of them."""

import base64
import hmac
import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.identity import PublicKey
from modellock_jax.vault.keys.secret import Secret

__all__ = ["Passphrase", "Recipient", "wrap"]

PASSPHRASE = "passphrase"
_WRAPPED = {PASSPHRASE: 48, identity.CLASSIC: 80, identity.HYBRID: 1168}  # bytes of 32 wrapped ones
Stanza = dict[str, str]


class Passphrase:
    r"""A passphrase, which no repr, pickle or copy shows, in Unicode's normal form NFC.

    So it is the same from every keyboard.

    Args:
        text: The passphrase, of one character or more.

    Raises:
        ValueError: If it is empty, or no Unicode text.

    >>> Passphrase("u\u0308ber") == Passphrase("\u00fcber")
    True
    """

    __slots__ = ("_reveal",)

    @clears_frames
    def __init__(self, text: str) -> None:
        if not text:
            raise ValueError("the passphrase is empty")
        raw = unicodedata.normalize("NFC", text).encode(errors="surrogatepass")
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            del text, raw  # a traceback shows what a frame still holds
            raise ValueError("the passphrase is no Unicode text; set it in UTF-8")
        self._reveal: Callable[[], bytes] = lambda: raw

    @clears_frames
    def key(self, salt: bytes) -> bytes:
        """Stretch the passphrase by Argon2id (RFC 9106, its second setting: 64 MiB, 3 passes).

        Args:
            salt: 16 random bytes.

        Returns:
            32 bytes.
        """
        stretch = Argon2id(salt=salt, length=32, iterations=3, lanes=4, memory_cost=65_536)
        return stretch.derive(self._reveal())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Passphrase):
            return NotImplemented
        return hmac.compare_digest(self._reveal(), other._reveal())

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Passphrase is neither pickled nor copied")

    def __repr__(self) -> str:
        return "Passphrase()"


Recipient = PublicKey | Passphrase
Unlocker = Secret | Passphrase


@clears_frames
def wrap(file_key: bytes, recipient: Recipient, file_id: bytes) -> Stanza:
    """Return the key of a file for one recipient, as text fields.

    Args:
        file_key: 32 bytes.
        recipient: A public key or a passphrase.
        file_id: 16 bytes.

    Returns:
        A stanza of the header.

    Raises:
        TypeError: If it is no recipient.
        ValueError: If its id or its key is none.

    **Guarantees.** Bound to the file's id: in another file it opens nothing.
    """
    info = _info(file_id)
    if isinstance(recipient, Passphrase):
        salt = os.urandom(16)
        # The key is fresh with the salt, so the nonce may be fixed.
        wrapped = AESGCM(recipient.key(salt)).encrypt(bytes(12), file_key, info)
        return {"type": PASSPHRASE, "salt": _text(salt), "wrapped": _text(wrapped)}
    if not isinstance(recipient, PublicKey):
        kind = type(recipient).__name__
        raise TypeError(f"a recipient is a PublicKey or a Passphrase, not a {kind}")
    wrapped = identity.encrypt(file_key, recipient, info)
    return check({"type": recipient.kind, "id": recipient.id, "wrapped": _text(wrapped)})


@clears_frames
def wrap_all(file_key: bytes, whom: Iterable[Recipient], file_id: bytes) -> tuple[Stanza, ...]:
    """Return a stanza for each recipient, in order, and one for who is given twice; raises as `wrap`."""
    once: list[Recipient] = []
    seen: set[PublicKey] = set()
    for one in whom:
        if isinstance(one, PublicKey):
            if one in seen:
                continue
            seen.add(one)
        elif one in once:
            continue
        once.append(one)
    return tuple(wrap(file_key, one, file_id) for one in once)


def merge(old: tuple[Stanza, ...], new: tuple[Stanza, ...]) -> tuple[Stanza, ...]:
    """Return the stanzas of both, where those of `new` take the place of what has their name."""
    named = set(map(name_of, new))
    return tuple(stanza for stanza in old if name_of(stanza) not in named) + new


@clears_frames
def unwrap(stanza: Stanza, unlocker: Unlocker, file_id: bytes) -> bytes | None:
    """Return the file's key, or None if the stanza is for somebody else, or was changed.

    A secret is known by two ids, and which of them counts depends on the stanza's kind.
    """
    by_words = isinstance(unlocker, Passphrase)
    # Before any decoding: a file may have thousands of recipients.
    if by_words != (stanza["type"] == PASSPHRASE):
        return None
    if isinstance(unlocker, Secret) and stanza["id"] != unlocker.ids[stanza["type"]]:
        return None
    wrapped, info = base64.b64decode(stanza["wrapped"]), _info(file_id)
    try:
        if isinstance(unlocker, Passphrase):
            key = unlocker.key(base64.b64decode(stanza["salt"]))
            return AESGCM(key).decrypt(bytes(12), wrapped, info)
        return identity.decrypt(wrapped, unlocker, stanza["type"], info)
    except InvalidTag:
        return None


def name_of(stanza: Stanza) -> str:
    """Return the public key's id, or the salt of a passphrase's stanza: what `recipients rm` is told."""
    if stanza["type"] == PASSPHRASE:
        return base64.b64decode(stanza["salt"]).hex()
    return stanza["id"]


class _Changes(NamedTuple):
    """The names of stanzas that are new, that were made anew, and that are gone."""

    added: list[str]
    replaced: list[str]
    removed: list[str]


def changes(old: Iterable[Stanza], new: Iterable[Stanza]) -> _Changes:
    """Return what was done to the recipients of a file, in order of the stanzas."""
    before, after = ({name_of(stanza): stanza for stanza in side} for side in (old, new))
    return _Changes(
        [name for name in after if name not in before],
        [name for name in after if name in before and after[name] != before[name]],
        [name for name in before if name not in after],
    )


def check_names(stanzas: Iterable[Stanza]) -> None:
    """Refuse two stanzas of one name: nobody could tell which of them counts. Raises `ValueError`."""
    names = [name_of(stanza) for stanza in stanzas]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has two recipients named {twice}")


def check(stanza: Any) -> Stanza:
    """Refuse what `wrap` cannot have written. Raises `ValueError`."""
    if not isinstance(stanza, dict) or not all(isinstance(v, str) for v in stanza.values()):
        raise ValueError("has a recipient that is not a table of text")
    kind = stanza.get("type", "")
    fields = {"type", "wrapped", "salt" if kind == PASSPHRASE else "id"}
    if kind not in _WRAPPED or set(stanza) != fields:
        raise ValueError("has a recipient of an unknown kind")
    binary(stanza["wrapped"], _WRAPPED[kind])
    if kind == PASSPHRASE:
        binary(stanza["salt"], 16)
    elif not re.fullmatch(identity.ID, stanza["id"]):
        raise ValueError("has a recipient without a proper id")
    return stanza


def binary(text: Any, length: int) -> bytes:
    """Return the bytes of a base64 text that has one spelling. Raises `ValueError`."""
    raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    if len(raw) != length or _text(raw) != text:
        raise ValueError(f"has a field that is not {length} bytes in base64")
    return raw


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _info(file_id: bytes) -> bytes:
    return b"modellock-jax v1 file key " + file_id
