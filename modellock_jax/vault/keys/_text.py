"""The text of a key file, and the names of keys below keys: what is proper there."""

import json
import re
import unicodedata
from typing import Any

from modellock_jax.vault import _texts
from modellock_jax.vault.keys import identity

FORMAT, VERSION = "modellock-jax key", 2
LONGEST = 4096  # bytes of a file
_TEXTS, _ORIGIN = ("id", "created", "secret"), ("parent", "path")
_LONGEST_PATH = 1000  # bytes


def path_names(path: str) -> tuple[str, ...]:
    """Return the names of a path of `Secret.child`, in normal form; raises as that does.

    >>> path_names("acme/vision/alice")
    ('acme', 'vision', 'alice')
    """
    if not isinstance(path, str):
        raise TypeError(f"a path of keys must be a str, not {type(path).__name__}")
    names = tuple(unicodedata.normalize("NFC", path).split("/"))
    for name in names:
        if name in ("", ".", "..") or name != name.strip() or not name.isprintable():
            raise ValueError(
                f"the path {path[:80]!r} has a level named {name[:80]!r}; write names between "
                "slashes, as acme/vision/alice"
            )
    if len("/".join(names).encode()) > _LONGEST_PATH:
        raise ValueError(f"a path of keys has at most {_LONGEST_PATH} bytes; choose shorter names")
    return names


def fields_of(data: bytes) -> tuple[str, dict[str, Any]]:
    """Return what is wrong with a key file, and its fields if that is nothing.

    The caller sees to it that no error carries the local variables along: they hold the secret.
    """
    try:
        pairs = json.loads(_texts.without_mark(data).decode(), object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        pairs = None
    fields = dict(pairs) if isinstance(pairs, tuple) else {}
    if len(data) > LONGEST or fields.get("format") != FORMAT:
        return "is not a modellock-jax key file, or is damaged", {}
    version = fields.get("version")
    if type(version) is not int or version != VERSION:
        return f"is not of version {VERSION}, the only one that this release reads", {}
    names = _TEXTS + (_ORIGIN if "parent" in fields else ())
    proper = all(isinstance(fields.get(name), str) for name in names)
    # An object is a tuple here, since no key may come twice.
    if len(pairs) != 3 + len(names) or not proper or not isinstance(fields.get("extra"), tuple):
        return (
            f"must have format, version, extra, {', '.join(_TEXTS)}, each once, both or none of "
            "parent and path, and nothing else"
        ), {}
    # The last digit stands for four bits, so its two low bits must be clear.
    if not re.fullmatch("[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=", fields["secret"]):
        return "has a field `secret` that is not 32 bytes in base64", {}
    if "parent" in fields and not _proper(fields["parent"], fields["path"]):
        return "has a parent that is no key id, or a path that no key has", {}
    return "", fields


def _proper(parent: str, path: str) -> bool:
    try:
        return "/".join(path_names(path)) == path and bool(re.fullmatch(identity.ID, parent))
    except ValueError:
        return False
