"""Locks: one file each, with its factory, its key and its record; the table of records; lock texts.

A lock of another package is announced by an entry point of the group `modellock_jax.locks`, whose name
is the lock's and whose value its `Scheme`; one of a notebook by `register`.
"""

from modellock_jax.locks._scheme import Break, Files, Scheme, flip_one_bit
from modellock_jax.locks._table import SCHEMES
from modellock_jax.locks._text import Link, LockText, parse

register = SCHEMES.register

__all__ = [
    "SCHEMES",
    "Break",
    "Files",
    "Link",
    "LockText",
    "Scheme",
    "flip_one_bit",
    "parse",
    "register",
]
