"""The command line: `modellock-jax study`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import modellock_jax

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Lock neural networks with secret keys, and measure what each lock is worth.",
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


@app.command()
def study(
    data: Annotated[
        str, typer.Option(help="mnist5k, digits, fashion_mnist, or any TFDS image set.")
    ] = "mnist5k",
    model: Annotated[str, typer.Option(help="mlp, cnn or resnet.")] = "cnn",
    locks: Annotated[
        str,
        typer.Option(
            help='Locks with ";" between them, each a name or a name with settings: '
            '"deep_lock; pixel_shuffle(block=4)". Default: all six.'
        ),
    ] = "",
    seeds: Annotated[
        int | None,
        typer.Option(help="How many seeds, each with its own models and keys. Default: 3."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder in which the run folder is made.")] = Path(
        "runs"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, fewer steps: under a minute.")
    ] = False,
) -> None:
    """Train, lock, open with right and wrong keys, send in the thief, and print the table.

    Started again with the same options, it skips what is finished.
    """
    from modellock_jax.study import config as configs

    settings: dict[str, Any] = {"data": data, "model": model, **(configs.QUICK if quick else {})}
    if locks:
        settings["locks"] = tuple(text.strip() for text in locks.split(";") if text.strip())
    if seeds is not None:
        settings["seeds"] = seeds
    config = configs.Config(**settings)

    from modellock_jax.study import figures, report
    from modellock_jax.study import run as runner

    store = runner.run(config, out)
    # Where the folder lies is nobody else's business, and does not change the numbers.
    given = {"--data": data, "--model": model, "--locks": locks, "--seeds": seeds}
    defaults = {"--data": "mnist5k", "--model": "cnn", "--locks": "", "--seeds": None}
    options = [f"{name}={value}" for name, value in given.items() if value != defaults[name]]
    command = shlex.join(["modellock-jax", "study", *options, *(["--quick"] if quick else [])])
    report.save_tables(store, config, command)
    figures.save_figures(store, config)
    console = Console(width=None if sys.stdout.isatty() else 200)
    report.show(report.lock_grid(store, config), console)
    report.show(report.thief_grid(store, config), console)
    console.print(f"\n{store.folder}: config.json, rows.jsonl, table.md, figures/", highlight=False)


def main() -> None:
    """Run the command line; every expected fault is one sentence on stderr and exit code 2."""
    try:
        app(standalone_mode=True)
    except (ValueError, TypeError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        raise SystemExit(130) from None
