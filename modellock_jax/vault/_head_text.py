"""The JSON text of a safetensors head, walked in place: it may be long, and made by an attacker."""

import codecs
import json
import re
from collections.abc import Callable

_STRING = rb'"([^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+)"'
_VALUE = re.compile(_STRING)
MEMBER = re.compile(rb"[ \t\n\r]*+" + _STRING + rb"[ \t\n\r]*+:[ \t\n\r]*+")
_OPENING, _NEXT = re.compile(rb"[ \t\n\r]*+\{"), re.compile(rb"[ \t\n\r]*+([,}])")
_EMPTY, SPACE = re.compile(rb"[ \t\n\r]*+\}"), re.compile(rb"[ \t\n\r]*+")
ENTRY = re.compile(rb"\{[^{}]{0,4000}+\}")
_ESCAPE = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u....|\\.")
LONGEST_NAME = 65_536  # bytes


def walk(head: bytes, at: int, value: Callable[[bytes, re.Match[bytes]], int]) -> int:
    """Go through a JSON table; `value` is told a name and its place, and says its value's end.

    Gives the table's own end. Raises `ValueError`.
    """
    opening = _OPENING.match(head, at)
    if not opening:
        raise ValueError("has a head that is not a table of tensors")
    if empty := _EMPTY.match(head, opening.end()):
        return empty.end()
    at = opening.end()
    while True:
        member = MEMBER.match(head, at)
        if not member:
            raise ValueError("has a head that is not a table of tensors")
        if member.end(1) - member.start(1) > LONGEST_NAME:
            raise ValueError("has a name that is too long")
        after = _NEXT.match(head, value(text_of(member[1]), member))
        if not after:
            raise ValueError("has a head that is not a table of tensors")
        at = after.end()
        if after[1] == b"}":
            return at


def value_end(head: bytes, at: int) -> int:
    """Return where a text ends that begins at `at`. Raises `ValueError` for another value."""
    found = _VALUE.match(head, at)
    if not found:
        raise ValueError("has metadata that are not text")
    return found.end()


def check_utf8(head: bytes, start: int) -> None:
    """Raise `ValueError` for what is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for at in range(start, len(head), 2**16):
            decoder.decode(head[at : at + 2**16])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None


def text_of(inside: bytes) -> bytes:
    """Return the UTF-8 bytes of what is between the quotes of a JSON string.

    Raises `ValueError` for half a surrogate pair.
    """
    slashes = inside.count(b"\\")
    if not slashes:
        return inside
    if slashes == 2 * inside.count(b"\\\\") + inside.count(b'\\"'):
        # No sign below a space stands in a JSON string as it is.
        text = inside.replace(b"\\\\", b"\0").replace(b'\\"', b'"')
        return text.replace(b"\0", b"\\")
    made, last = bytearray(), 0
    for escape in _ESCAPE.finditer(inside):
        made += inside[last : escape.start()]
        try:
            made += json.loads(b'"' + escape[0] + b'"').encode()
        except UnicodeEncodeError:
            raise ValueError("has a text with half a character") from None
        last = escape.end()
    made += inside[last:]
    return bytes(made)
