"""`inspect`, `explain`, `doctor`: what can be told without a key."""

import importlib
import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from modellock_jax.cli import folders, streams, texts
from modellock_jax.cli.app import app
from modellock_jax.cli.choosing import default_key_file
from modellock_jax.cli.heads import tell_head
from modellock_jax.cli.inputs import Json, on_files, readable, show
from modellock_jax.cli.paths import In
from modellock_jax.vault import envelope, header, recipients, rewrite, temporary, threats
from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.texts import encoding_fault
from modellock_jax.vault.texts import kind as kind_of_text

SHOWN = 4000  # bytes of a field of a stranger's


@app.command()
@on_files
def inspect(source: In, as_json: Json = False) -> None:
    """What a file tells without a key: its kind, who can open it, who signed it, how big it is."""
    if source.is_dir():
        folders.inspect(source, as_json)
        return
    with readable(source) as path:
        with envelope.reading(path) as file:
            size, start = os.fstat(file).st_size, os.pread(file, 4096, 0)
        if fault := encoding_fault(start):
            raise Unreadable(f"{source} {fault}")
        if kind := kind_of_text(start):
            lines, fields = texts.describe(kind, path)
            show(as_json, [f"{source}: {lines[0]}", *lines[1:]], bytes=size, **fields)
            return
        try:
            made = rewrite.read_header(path)
        except Unreadable:
            with envelope.reading(path) as file:
                directory = envelope.read_directory(file, source)
            marked = directory.field("modellock")
            mark = (
                "plain safetensors" if marked is None else marked[:SHOWN].decode(errors="replace")
            )
            names = () if marked is None else ("scheme", "key_id", "about")
            texts_of = {name: directory.field(f"modellock.{name}") or b"" for name in names}
            lock = {name: text[:SHOWN].decode(errors="replace") for name, text in texts_of.items()}
            lines = [
                f"{source}: {mark}, {len(directory.tensors)} tensors in the open, {size} bytes"
            ]
            lines += [f"{k}: {v}" for k, v in lock.items()]
            show(
                as_json,
                lines,
                kind=mark,
                bytes=size,
                tensors=len(directory.tensors),
                **lock,
            )
            return
    tell_head(f"{source}: {header.MARK}", made, as_json, kind=header.MARK, bytes=size)


@app.command()
def explain(
    name: Annotated[
        str, typer.Argument(help="A lock or a command; ALL for the whole page.")
    ] = "ALL",
) -> None:
    """What a lock or a command protects against, what broke it and by whom, what it cannot do."""
    streams.put((threats.page() if name == "ALL" else threats.explain(name)).rstrip("\n"))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check that this machine can do what the vault needs; exit code 2 if it cannot."""
    found = {
        "cryptography": _imports("cryptography"),
        "post-quantum (ML-KEM-768, ML-DSA-65)": _works("mlkem768"),
        "passphrases (Argon2id)": _works("argon2id"),
        "atomic writes in this folder": _works("replace"),
        "shares (shamir-mnemonic)": _imports("shamir_mnemonic"),
        "keyring": _imports("keyring"),
        "compiled ciphers": _imports("modellock_jax_native", "./native, from a clone"),
    }
    optional = {"shares (shamir-mnemonic)", "keyring", "compiled ciphers"}
    needed = [name for name, fault in found.items() if fault and name not in optional]
    lines = [
        f"{'ok     ' if not why else 'missing'}  {name}{why and ': ' + why}"
        for name, why in found.items()
    ]
    default = default_key_file()
    there = "there" if default and default.is_file() else "not there, which is fine"
    lines.append(f"default key file {default or 'in no home folder'}: {there}")
    lines += [
        f"left behind by a command that was killed, unless it still runs: {path}; delete it"
        for folder in dict.fromkeys((Path.cwd(), Path(tempfile.gettempdir())))
        for path in temporary.left_in(folder)
    ]
    show(as_json, lines, faults={name: why for name, why in found.items() if why})
    if needed:
        raise ValueError(f"not all that is needed works: {', '.join(needed)}")


def _imports(module: str, source: str = "") -> str:
    try:
        importlib.import_module(module)
    except ImportError:
        return f"pip install {source or module.replace('_', '-')}"
    return ""


def _works(what: str) -> str:
    from modellock_jax.vault import files, identity, keys

    try:
        if what == "mlkem768":
            secret = keys.generate()
            public = identity.public_key(secret)
            sealed = identity.encrypt(b"probe", public, b"")
            if identity.decrypt(sealed, secret, public.kind, b"") != b"probe":
                return "gives wrong answers"
            if not identity.signed(public, b"probe", identity.sign(secret, b"probe")):
                return "gives wrong answers"
        elif what == "argon2id":
            recipients.Passphrase("probe").key(bytes(16))
        else:
            with (
                tempfile.TemporaryDirectory(dir=".") as folder,
                files.replacing(Path(folder) / "a"),
            ):
                pass
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
