"""Text files of ours: in which encoding one is, and which of them it is."""

import codecs
import re

_MARK = codecs.BOM_UTF8
# Three signs, with the mark or without: the number before binary data may look like a mark and one.
_OTHERS = {
    "UTF-32": rb"(?:\xff\xfe\0\0)?(?:[ -~\r\n]\0\0\0){3}|(?:\0\0\xfe\xff)?(?:\0\0\0[ -~\r\n]){3}",
    "UTF-16": rb"(?:\xff\xfe)?(?:[ -~\r\n]\0){3}|(?:\xfe\xff)?(?:\0[ -~\r\n]){3}",
}
KINDS = {
    "key": "a secret key file",
    "public key": "a public key file",
    "share of a key": "a share of a key",
    "register": "a register",
    "revocation list": "a revocation list",
}
"""The text files that modellock-jax writes, by what follows its name in them."""


def encoding_fault(data: bytes) -> str:
    """Return what is wrong with the encoding of a file that begins so, or an empty text.

    >>> encoding_fault('{"format"'.encode("utf-16"))
    'is in UTF-16, as some editors and shells write it; save it as UTF-8'
    """
    name = next((name for name, begun in _OTHERS.items() if re.match(begun, data)), "")
    return f"is in {name}, as some editors and shells write it; save it as UTF-8" if name else ""


def without_mark(data: bytes) -> bytes:
    """Return the bytes without the mark of UTF-8, which some editors put first."""
    return data.removeprefix(_MARK)


def kind(data: bytes) -> str:
    """Which of `KINDS` begins so, or an empty text.

    >>> kind(b'{"format": "modellock-jax key", "version"')
    'key'
    """
    start = without_mark(data)[:4096].lstrip()
    found = re.search(rb'"format"\s*:\s*"modellock-jax ([a-z ]{1,30})"', start)
    if not start.startswith(b"{"):
        found = re.match(rb"modellock-jax ([a-z ]{1,30}),", start)
    name = found[1].decode() if found else ""
    return name if name in KINDS else ""
