"""`inspect`: what a file tells without a key, and which of that is only its word."""

import collections
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modellock_jax._printing import printable
from modellock_jax.cli import folders, paths, texts
from modellock_jax.cli.app import FILES, app
from modellock_jax.cli.heads import describe_head
from modellock_jax.cli.inputs import Json, on_files, show
from modellock_jax.cli.paths import In
from modellock_jax.vault import _gguf, _kinds, _sources, _tensors
from modellock_jax.vault._sources import Reader
from modellock_jax.vault._texts import encoding_fault
from modellock_jax.vault._texts import kind as kind_of_text
from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.locked._format import FIELD, MARK, read_head
from modellock_jax.vault.sealed import _content, _header, _header_fields, rewrite

__all__ = ["inspect"]

_SHOWN = 4000  # bytes of a stranger's field
_TEXT = 2**24  # bytes of the longest text file of ours


@app.command(rich_help_panel=FILES)
@on_files
def inspect(source: In, as_json: Json = False) -> None:
    """Show what a file tells without a key: its kind, who can open it, who signed it, how big it is."""
    if paths.is_folder(source):
        folders.inspect(source, as_json)
        return
    with paths.reading(source) as given, _reader(given) as reader:
        lines, fields = _told(reader)
        size = reader.size
    show(as_json, [f"{source}: {lines[0]}", *lines[1:]], bytes=size, **fields)


class _Beginning(Reader):
    """The head of a stream, or all of a text; the rest is only counted, and kept nowhere."""

    def __init__(self, given: paths.Stream) -> None:
        pieces = _sources.stream(given)
        self.path, self.name = None, given.name
        self._data = _sources.first(pieces, _kinds.START)
        length = 8 + int.from_bytes(self._data[:8], "little")
        wanted = length if _kinds.is_safetensors(self._data) else _TEXT
        self._data += _sources.first(pieces, min(wanted, _tensors.LONGEST) - len(self._data))
        for _ in pieces:
            pass
        self.size = given.count

    def read(self, length: int, offset: int = 0) -> bytes:
        return self._data[offset : offset + length]


def _reader(given: paths.Source) -> Reader:
    return _sources.open_reader(given) if isinstance(given, Path) else _Beginning(given)


def _told(reader: Reader) -> texts.Told:
    start = reader.read(4096)
    if fault := encoding_fault(start):
        raise Unreadable(f"{printable(reader.name)} {fault}")
    if kind := kind_of_text(start):
        with _as_file(reader) as path:
            return texts.describe(kind, path)
    try:
        _header.check_start(start)
    except Unreadable:
        return _open_tensors(reader)
    made, _ = rewrite.head_of(reader)
    return describe_head(made, _header_fields.MARK, reader.size)


@contextlib.contextmanager
def _as_file(reader: Reader) -> Iterator[Path]:
    """Yield a path of a small file; for one from a stream, which may be a key, in memory alone."""
    if reader.path is not None:
        yield Path(reader.path)
        return
    if not hasattr(os, "memfd_create"):
        raise ValueError("this system reads keys and lists from files alone; name one")
    with os.fdopen(os.memfd_create("text"), "w+b") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(reader.read(_TEXT))
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")


def _gguf_file(reader: Reader) -> texts.Told:
    try:
        found = _gguf.parse(lambda at, count: reader.read(count, at), reader.size)
    except ValueError as error:
        raise Unreadable(f"{printable(reader.name)} {error}") from None
    kinds = collections.Counter(found.types.values())
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    name = found.metadata.get("general.name", "")[:_SHOWN]
    lines = [f"plain GGUF, version {found.version}, {len(found.tensors)} tensors in the open"]
    lines[0] += f" ({counted}), {reader.size} bytes"
    lines += [f"It calls itself '{printable(name)}'."] if name else []
    fields: dict[str, Any] = {"kind": "plain GGUF", "tensors": len(found.tensors)}
    return lines, fields | {"types": dict(kinds), "name": name}


def _open_tensors(reader: Reader) -> texts.Told:
    if reader.read(len(_gguf.MAGIC)) == _gguf.MAGIC:
        return _gguf_file(reader)
    directory = _content.directory_of(reader)
    field = directory.field(FIELD)
    mark = None if field is None else field[:_SHOWN].decode(errors="replace")
    count = f"{len(directory.tensors)} tensors in the open, {reader.size} bytes"
    fields: dict[str, Any] = {"tensors": len(directory.tensors)}
    if mark != MARK:
        lines = [f"plain safetensors, {count}"]
        if mark is not None:
            lines.append(f"Its metadata call it '{printable(mark)}', which it is not.")
        return lines, {"kind": "plain safetensors"} | fields
    info, _ = read_head(reader)
    said = {name: getattr(info, name) for name in ("scheme", "key_id", "about")}
    lines = [f"{mark}, {count}; its head is whole, and says:"]
    lines += [f"{name}: {text}" for name, text in said.items()]
    lines.append("None of it is proved before `unlock`.")
    return lines, {"kind": mark} | fields | said
