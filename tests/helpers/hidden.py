"""A secret of the tests, and searches for any piece of it in what a program shows."""

import base64
import contextlib
import hashlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modellock_jax.vault.keys.secret import Secret

# Random-looking, so that no piece of it turns up in a text by chance.
RAW = hashlib.sha512(b"the secret of these tests").digest()[:32]
SECRET = Secret(RAW)
SECRET_64 = base64.b64encode(RAW).decode()
OURS = set(map(str, Path(__file__).parents[1].rglob("*.py")))  # the tests themselves


def shows(text: str, raw: bytes = RAW) -> bool:
    """Whether any 6 bytes' worth of the secret is in `text`, in one of the usual forms."""
    forms = [raw.hex(), repr(raw)[2:-1], repr(list(raw))[1:-1], raw.decode("latin1")]
    forms += [base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()]
    text = text.lower()
    return any(form[i : i + 12].lower() in text for form in forms for i in range(len(form) - 11))


def told(error: BaseException) -> str:
    """All that a logger can print of an error: chain, attributes, each frame's locals but ours."""
    texts, todo = [], [error]
    while todo:
        e = todo.pop()
        tb = e.__traceback__
        while tb and tb.tb_frame.f_code.co_filename in OURS:
            tb = tb.tb_next
        texts += traceback.TracebackException(type(e), e, tb, capture_locals=True).format()
        texts += [repr(getattr(e, name, None)) for name in dir(e) if name[0] != "_"]
        todo += [link for link in (e.__cause__, e.__context__) if link]
    return "".join(texts)


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def held(error: BaseException) -> Iterator[tuple[str, str]]:
    """All that the frames of an error hold but the tests' own: where, and a text of it."""
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        link = todo.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        todo += [link.__cause__, link.__context__]
        for name in ("args", *(name for name in dir(link) if name[0] != "_")):
            yield from (
                (f"the error's {name}", text) for text in _texts(getattr(link, name, None), 2)
            )
        for frame, line in traceback.walk_tb(link.__traceback__):
            if frame.f_code.co_filename not in OURS:
                for name, value in frame.f_locals.items():
                    where = f"{frame.f_code.co_filename}:{line} {name}"
                    yield from ((where, text) for text in _texts(value, 4))


def _texts(value: Any, depth: int) -> Iterator[str]:
    """A value as a debugger shows it, and what lies inside, some levels down."""
    if isinstance(value, bytes | bytearray | memoryview):
        yield bytes(value).decode("latin1")
    elif isinstance(value, np.ndarray):
        yield value.tobytes().decode("latin1")
    elif isinstance(value, dict) and depth:
        for item in (*value.keys(), *value.values()):
            yield from _texts(item, depth - 1)
    elif isinstance(value, list | tuple | set | frozenset) and depth:
        for item in value:
            yield from _texts(item, depth - 1)
    else:
        with contextlib.suppress(AttributeError):  # it may be half made
            yield repr(value)
        names = {name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())}
        for inside in [*getattr(value, "__dict__", {}).values()] if depth else []:
            yield from _texts(inside, depth - 1)
        for name in names if depth else ():
            if isinstance(name, str) and hasattr(value, name) and name != "__dict__":
                yield from _texts(getattr(value, name), depth - 1)
