"""Text of strangers, made fit for a terminal."""

import unicodedata

# Letters and signs that show nothing, though Unicode counts them as printable.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {
    chr(code) for first, end in ((0x180B, 0x1810), (0xFE00, 0xFE10), (0xE0000, 0xE1000))
    for code in range(first, end)
}  # fmt: skip
_MARKS = 4  # in a row on one letter: more pile up over the lines above


def printable(text: object, most: int = 300) -> str:
    r"""Return a text of somebody else's, or a path, on one line, such that a terminal only shows it.

    Printable characters stay. All others become escapes as in Python: controls, line ends, spaces
    but the usual one, what turns the direction of writing or shows nothing, lone surrogates. After
    `most` characters it is cut, and says so. Nothing of ours prints such a text otherwise.

    **Guarantees.** One line of printable characters, which any UTF-8 stream takes.

    >>> printable("a\x1b]0;title\x07\u202eb\n")
    'a\\x1b]0;title\\x07\\u202eb\\n'
    """
    whole = str(text)
    shown, marks = [], _MARKS  # a mark that comes first would sit on our own text
    for sign in whole[:most]:
        mark = unicodedata.combining(sign) or unicodedata.category(sign) in ("Mn", "Me", "Mc")
        marks = marks + 1 if mark else 0
        fine = sign.isprintable() and sign not in _BLANK and marks <= _MARKS
        shown.append(sign if fine else sign.encode("unicode_escape").decode())
    more = f"... ({len(whole)} characters)" if len(whole) > most else ""
    return "".join(shown) + more
