"""`explain` and `doctor`: what locks and commands are worth, and what this machine can do."""

import importlib
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from modellock_jax import _temporary
from modellock_jax import explain as texts
from modellock_jax.cli import streams
from modellock_jax.cli.app import ABOUT, ListOption, app
from modellock_jax.cli.choosing import default_key_file
from modellock_jax.cli.inputs import Json, show
from modellock_jax.vault.sealed import recipients

__all__ = ["doctor", "explain"]


@app.command(rich_help_panel=ABOUT)
def explain(
    name: Annotated[
        str, typer.Argument(help="A lock or a command; without it the whole page.")
    ] = "",
    listed: ListOption = False,
) -> None:
    """Show what a lock or a command protects against, what broke it and by whom, what it cannot do."""
    if listed:
        streams.put("\n".join(texts.names()))
        return
    streams.put((texts.explain(name) if name else texts.page()).rstrip("\n"))


@app.command(rich_help_panel=ABOUT)
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
        for path in _temporary.left_in(folder)
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
    from modellock_jax._atomic import replacing
    from modellock_jax.vault.keys import identity
    from modellock_jax.vault.keys.secret import generate_key

    try:
        if what == "mlkem768":
            secret = generate_key()
            public = identity.public_key(secret)
            sealed = identity.encrypt(b"probe", public, b"")
            if identity.decrypt(sealed, secret, public.kind, b"") != b"probe":
                return "gives wrong answers"
            if not identity.verify(public, b"probe", identity.sign(secret, b"probe")):
                return "gives wrong answers"
        elif what == "argon2id":
            recipients.Passphrase("probe").key(bytes(16))
        else:
            with (
                tempfile.TemporaryDirectory(dir=".") as folder,
                replacing(Path(folder) / "a"),
            ):
                pass
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
