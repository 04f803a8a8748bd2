"""The command line itself: its options, and how faults become exit codes."""

import sys
from typing import Annotated

import typer

import modellock_jax
from modellock_jax.vault.errors import VaultError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Lock neural networks with secret keys, measure what each lock is worth, and ship them.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(modellock_jax.__version__)
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; every expected fault is one sentence on stderr and an exit code.

    0: done. 2: usage, or the system refused. 3: wrong key. 4: tampered or cut off. 5: expired or
    revoked. 6: not found, not readable, or not a file of ours. 130: interrupted.
    """
    try:
        app(standalone_mode=True)
    except VaultError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.code) from None
    except (ValueError, TypeError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        raise SystemExit(130) from None
