from . import devices, envelope, members, opened, recipients, rewrite, sets
from .devices import on_devices
from .envelope import load, open, rotate, seal
from .members import OpenedSet
from .opened import Sealed
from .recipients import Passphrase
from .sets import open_set, rotate_set, seal_set

__all__ = [
    "OpenedSet",
    "Passphrase",
    "Sealed",
    "devices",
    "envelope",
    "load",
    "members",
    "on_devices",
    "open",
    "open_set",
    "opened",
    "recipients",
    "rewrite",
    "rotate",
    "rotate_set",
    "seal",
    "seal_set",
    "sets",
]
