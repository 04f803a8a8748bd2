"""The command line itself and its options."""

import signal
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import modellock_jax
from modellock_jax.cli import streams

__all__ = ["ABOUT", "FILES", "KEYS", "RESEARCH", "USERS", "ListOption", "app"]

FILES, KEYS, USERS = "Files", "Keys", "Users and recipients"
RESEARCH, ABOUT = "Research", "About"
"""The groups in which `--help` shows the commands."""

ListOption = Annotated[bool, typer.Option("--list", help="Print the names there are, and stop.")]


class _Group(TyperGroup):
    """All commands; Typer itself would end in 1 where nobody reads the output any more."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise typer.Exit(128 + signal.SIGPIPE) from None


app = typer.Typer(
    cls=_Group,
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
