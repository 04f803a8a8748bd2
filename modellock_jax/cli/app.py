"""The command line itself and its options."""

from typing import Annotated

import typer

import modellock_jax
from modellock_jax.cli import streams

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Lock neural networks with secret keys, measure what each lock is worth, and ship them.",
)


def _version(wanted: bool) -> None:
    if wanted:
        streams.put(modellock_jax.__version__)
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
