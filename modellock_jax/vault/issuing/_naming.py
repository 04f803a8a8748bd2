"""The name and the serial number that an owner gives a file, and what an opener expects of them."""

import re
import unicodedata
from typing import NamedTuple

from modellock_jax._printing import printable
from modellock_jax.vault.errors import Tampered

LONGEST = 200  # characters of a name
MOST = 2**53 - 1  # of a serial number: what every reader of JSON can hold


class Expected(NamedTuple):
    """`serial`: the one, or if `at_least` the lowest, that is taken; None for any."""

    name: str
    serial: int | None
    at_least: bool


def check_name(name: str, serial: int) -> None:
    """Raise `ValueError` for what cannot name a file.

    A name is empty, or up to 200 printable characters, in Unicode's form NFC, without `@`; a serial
    number is 0, which stands for none, or more, and needs a name.
    """
    shown = isinstance(name, str) and len(name) <= LONGEST and printable(name) == name
    if not shown or "@" in name or name != name.strip():
        raise ValueError(f"a name has up to {LONGEST} printable characters, none of them @")
    if not unicodedata.is_normalized("NFC", name):
        raise ValueError("a name is written in Unicode's form NFC; normalise it first")
    if type(serial) is not int or not 0 <= serial <= MOST:
        raise ValueError("a serial number is a whole number, 0 or more, below 2 to the power of 53")
    if serial and not name:
        raise ValueError("a serial number counts the versions of a name; give a name too")


def parse(text: str) -> Expected:
    """Return what an opener expects: `NAME`, `NAME@SERIAL`, or `NAME@SERIAL+` for that one or a later.

    Raises `ValueError`.

    >>> parse("resnet@7+")
    Expected(name='resnet', serial=7, at_least=True)
    """
    name, at, number = text.partition("@")
    name = unicodedata.normalize("NFC", name)
    check_name(name, 0)
    if not name or (at and not re.fullmatch(r"[0-9]{1,16}\+?", number)):
        raise ValueError("expect NAME, NAME@SERIAL or NAME@SERIAL+, as in resnet@7+")
    return Expected(name, int(number.rstrip("+")) if at else None, number.endswith("+"))


def check_expected(name: str, serial: int, expected: str) -> None:
    """Raise `Tampered` if a file of this name and number is not the expected one."""
    wanted = parse(expected)
    right = wanted.serial is None or serial == wanted.serial
    if name != wanted.name or not (right or (wanted.at_least and serial > (wanted.serial or 0))):
        raise Tampered(f"this is {describe(name, serial)}, and {expected!r} was expected")


def describe(name: str, serial: int) -> str:
    """Return a name and serial number in words."""
    if not name:
        return "a file without a name"
    return f"{name!r}, serial {serial}" if serial else f"{name!r}, without a serial number"
