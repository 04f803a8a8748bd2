"""From words to an exit code: whatever happens is one sentence on standard error."""

import errno
import importlib
import os
import signal
import sys
import traceback
from pathlib import Path

import modellock_jax
from modellock_jax.cli import signals, streams
from modellock_jax.vault.errors import VaultError

__all__ = ["command", "main"]

_PACKAGE = Path(modellock_jax.__file__).parent


def main() -> None:
    """Run the command line; every fault is one sentence on stderr and an exit code.

    0: done. 2: usage, or the system refused. 3: wrong key. 4: tampered or cut off. 5: expired or
    revoked. 6: not found, not readable, or not a file of ours. 128 and a signal's number: stopped by
    it, as 130 by Ctrl-C.

    **Guarantees.** The code tells of the work: once a command has written its file it is 0, whether
    or not anybody could be told. No fault prints a traceback, which may show secrets.
    """
    code = 2
    try:
        signals.catch()
        streams.prepare()
        code = command()
    except signals.Stopped as stopped:
        signals.over()
        code = _stopped(stopped)
    except Exception as error:
        code = _fault(error)
    finally:
        signals.over()
        fault = streams.flush()
    if fault is not None and code == 0:
        code = _system(fault)
    raise SystemExit(code)


def command() -> int:
    """Run the command that `sys.argv` names, and say what goes wrong; its exit code."""
    try:
        # Here, so that a missing package is a sentence too.
        app = importlib.import_module("modellock_jax.cli.commands").app
        return app(standalone_mode=False) or 0
    except signals.Stopped:
        raise
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 2
    except BaseException as error:
        return _fault(error)


def _fault(error: BaseException) -> int:
    """Say what is wrong; the exit code."""
    if isinstance(error, OSError):
        return _system(error)
    streams.say(_sentence(error))
    return error.code if isinstance(error, VaultError) else 2


def _sentence(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return f"error: {_package(error)}"
    from typer import Abort
    from typer.exceptions import TyperException

    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        help_ = f"; see {context.command_path} --help" if context else ""
        return f"error: {error.format_message().rstrip('.')}{help_}"
    if isinstance(error, (Abort, EOFError)):
        return "error: the question was not answered"
    if isinstance(error, MemoryError):
        return "error: the machine has not enough memory for this"
    if isinstance(error, (VaultError, ValueError, TypeError)):
        return f"error: {error}"
    if type(error).__name__ in ("JaxRuntimeError", "UnsupportedAlgorithm"):
        return f"error: this machine cannot do it: {error}; see modellock-jax doctor"
    return _unexpected(error)


def _system(error: OSError) -> int:
    if error.errno == errno.EPIPE:  # whoever read our output has enough of it
        return 128 + signal.SIGPIPE
    streams.say(f"error: {error}")
    return 2


def _stopped(stopped: signals.Stopped) -> int:
    name = "interrupted" if stopped.number == signal.SIGINT else f"stopped by {stopped.name}"
    streams.say(f"{name}: run the same command again to go on")
    return 128 + stopped.number


def _package(error: ImportError) -> str:
    name = (error.name or "").split(".")[0]
    if name == "cryptography":
        return (
            f"the package cryptography is missing here, or older than this release needs ({error}); "
            'run python -m pip install --upgrade "cryptography>=48.0.0"'
        )
    return f"{error}; install this project with what it needs" if name else str(error)


def _unexpected(error: BaseException) -> str:
    """Where it happened, and not what with: a message or a local may hold a secret."""
    places = [
        f"{os.path.relpath(frame.f_code.co_filename, _PACKAGE)}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if Path(frame.f_code.co_filename).is_relative_to(_PACKAGE)
    ]
    version = ".".join(map(str, sys.version_info[:3]))
    return (
        f"error: a fault of modellock-jax itself: {type(error).__name__} at {' > '.join(places[-3:])} "
        f"(version {modellock_jax.__version__}, Python {version}); please report this line, as "
        "SECURITY.md in the sources says"
    )
