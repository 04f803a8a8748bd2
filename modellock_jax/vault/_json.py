"""JSON that means one thing only, read and written."""

import codecs
import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn


def strict_json(data: bytes) -> Any:
    """Parse JSON that has one meaning: UTF-8, no key twice, no NaN or infinity, not deep.

    Raises `ValueError` with what is wrong, and nothing of the content.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) != len(pairs):
            raise ValueError("has a key twice")
        return found

    def refuse(_: str) -> NoReturn:
        raise ValueError("has a number that JSON does not know")

    def number(digits: str) -> int | float:
        if len(digits) > 400 or not math.isfinite(found := float(digits)):
            raise ValueError("has a number that is too large")
        return int(digits) if digits.lstrip("-").isdecimal() else found

    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    del data  # which may be long, and be nobody else's
    try:
        return json.loads(
            text,
            object_pairs_hook=once,
            parse_constant=refuse,
            parse_float=number,
            parse_int=number,
        )
    except json.JSONDecodeError:
        raise ValueError("is not JSON") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def canonical(value: Any) -> bytes:
    r"""Return the one JSON text of a value: sorted keys, no spaces, ASCII.

    >>> canonical({"b": 1, "a": "é"})
    b'{"a":"\\u00e9","b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def canonical_pieces(value: Any) -> Iterator[bytes]:
    """`canonical`, piece by piece, so that a long text is never whole in memory."""
    encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
    for piece in encoder.iterencode(value):
        yield piece.encode()


def quoted_pieces(text: str | bytes, ascii_only: bool) -> Iterator[bytes]:
    r"""Yield the JSON string of a text, which may be UTF-8 bytes already, piece by piece.

    >>> b"".join(quoted_pieces("a\n\u00e9", True))
    b'"a\\n\\u00e9"'
    """
    decoder, size = codecs.getincrementaldecoder("utf-8")(), 2**16
    yield b'"'
    for at in range(0, len(text), size):
        part = text[at : at + size]
        part = decoder.decode(part) if isinstance(part, bytes) else part
        yield json.dumps(part, ensure_ascii=ascii_only)[1:-1].encode()
    yield b'"'
