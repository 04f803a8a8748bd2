"""How much memory heads cost: a program, which prints for each hostile or legal one a line of JSON.

    python -m helpers.bounds_worker BYTES FOLDER

Each line: the name of the case, how the reading ended, and the peak of memory as a multiple of the
head's bytes.
"""

import base64
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from helpers.sealed import ALICE
from modellock_jax.vault import _sources
from modellock_jax.vault._json import canonical
from modellock_jax.vault.errors import VaultError
from modellock_jax.vault.locked import _format
from modellock_jax.vault.locked.files import locked_info
from modellock_jax.vault.sealed import (
    _content,
    _header,
    _header_fields,
    recipients,
    rewrite,
)


def repeated(text: bytes, size: int) -> bytes:
    return text * (size // len(text))


def tiny(size: int) -> bytes:
    """A legal table of as many tensors as fit, without its closing brace."""
    entry = '"%06d":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
    return b"{" + ",".join(entry % (i, i, i + 1) for i in range(size // 64)).encode()


def texts(size: int) -> Iterator[tuple[str, bytes]]:
    """Heads of plain safetensors files."""
    yield "brackets", repeated(b"[],", size)
    yield "brackets in a table", b'{"a":[' + repeated(b"[],", size) + b"0]}"
    yield "braces", b'{"a":[' + repeated(b"{},", size) + b"0]}"
    yield "deep", repeated(b"[", size)
    yield "deep tables", repeated(b'{"a":', size)
    yield "a long number", b'{"a":{"dtype":"U8","shape":[' + repeated(b"9", size) + b"]}}"
    yield "long numbers", b'{"a":[' + repeated(b"123456789012345678901234567890,", size) + b"0]}"
    yield "a long name", b'{"' + repeated(b"x", size) + b'":0}'
    yield (
        "fields",
        b'{"__metadata__":{' + b",".join(b'"%x":""' % i for i in range(size // 12)) + b"}}",
    )
    for name, sign in (
        ("text", b"x"),
        ("escapes", b"\\n"),
        ("quotes", b'\\"'),
        ("pairs", b"\\ud83d\\udd11"),
    ):
        yield name, b'{"__metadata__":{"a":"' + repeated(sign, size) + b'"}}'
    yield (
        "a key beside text",
        b'{"__metadata__":{"a":"' + repeated(b"x", size) + "🔑".encode() + b'"}}',
    )
    yield "tiny tensors", tiny(size) + b"}"
    yield "one tensor again and again", tiny(size) + b"," + tiny(size // 100)[1:] + b"}"
    yield "not closed", tiny(size)


def sealed_texts(size: int) -> Iterator[tuple[str, bytes]]:
    """Headers of sealed files, with a right checksum."""
    made = _header.Header(bytes(16), 100, b"", "", (), room=2**16)
    fields = _header_fields.fields_of(made)
    yield "brackets", b'{"recipients":[' + repeated(b"[],", size) + b"0]}"
    yield "numbers", b'{"recipients":[' + repeated(b"1,", size) + b"0]}"
    yield "a long number", b'{"body":' + repeated(b"9", size) + b"}"
    yield "deep", repeated(b'{"a":', size)
    yield "a long name", canonical(fields | {"name": "x" * size})
    yield "extra", canonical(fields | {"extra": {str(i): "" for i in range(size // 12)}})
    alice = {"type": "mlkem768-x25519", "id": ALICE.id}
    alice["wrapped"] = base64.b64encode(bytes(recipients._WRAPPED["mlkem768-x25519"])).decode()
    yield "one stanza again and again", canonical(fields | {"recipients": [alice] * (size // 1700)})
    others = [alice | {"id": f"{i:032x}"} for i in range(size // 1700)]
    yield "legal, many recipients", canonical(fields | {"recipients": others})


def with_length(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def sealed_head(text: bytes) -> bytes:
    """A head of a sealed file around a header's text; of a legal one, the right room."""
    checksum = hashlib.sha256(text).hexdigest().encode()
    quoted = text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    head = _header._BEFORE + checksum + b'","header":"' + quoted + _header._after(100)
    return with_length(head) + bytes(100)


def legal(text: bytes) -> bytes:
    """The same, as `_header.encode` spells it."""
    fields = json.loads(text)
    made = _header_fields.header_of(fields)
    room = len(_header.encode(made._replace(room=0))) + 16
    return _header.encode(made._replace(room=room)) + bytes(made.body)


def locked_heads(size: int) -> Iterator[tuple[str, bytes]]:
    """Heads of locked files as they are written, of originals of half the size."""
    originals = dict(texts(size // 2))
    for name in ("tiny tensors", "text", "quotes", "a key beside text", "escapes"):
        form = {"about": "", "scheme": "", "key_id": "0" * 32, "label": "", "finish": "[]"}
        form |= {"extra": "{}"}
        form |= {"nonce": "0" * 64, "check": "0" * 32, "tag": "0" * 64}
        original = originals[name].decode()
        yield name, _format.head(_format.LockedInfo(**form, original=original))


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measured(what: str, path: Path, read) -> None:
    size = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS:")
    try:
        read(path)
        ended = "read"
    except VaultError as error:
        ended = type(error).__name__
    peak = status("VmHWM:") - before
    print(json.dumps([what, ended, max(peak - 2**20, 0) / size]), flush=True)


def plain(path: Path) -> None:
    with _sources.open_reader(path) as reader:
        directory = _content.directory_of(reader)
        directory.tensors.find("000003")


def main() -> None:
    size, folder = int(sys.argv[1]), Path(sys.argv[2])
    path = folder / "head"
    for name, text in texts(size):
        path.write_bytes(with_length(text))
        os.truncate(path, path.stat().st_size + size // 64 * (name == "tiny tensors"))
        measured(f"plain: {name}", path, plain)
    for name, text in sealed_texts(min(size, 6_500_000)):
        path.write_bytes((legal if name.startswith("legal") else sealed_head)(text))
        measured(f"sealed: {name}", path, rewrite.read_header)
    for name, head in locked_heads(size):
        path.write_bytes(head)
        os.truncate(path, len(head) + size // 128 * (name == "tiny tensors"))
        measured(f"locked: legal, {name}", path, locked_info)
    for name, text in texts(size):
        start = b'{"__metadata__":{"modellock":"modellock-jax locked file","modellock.version":"2"},"x":'
        path.write_bytes(with_length(start + text))
        measured(f"locked: {name}", path, locked_info)


if __name__ == "__main__":
    main()
