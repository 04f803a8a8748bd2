"""`modellock-jax study` and `modellock-jax attack`: what locks are worth."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modellock_jax.cli import streams
from modellock_jax.cli.app import RESEARCH, ListOption, app

__all__ = ["attack", "bench", "study"]

if TYPE_CHECKING:
    from modellock_jax.study.record import Study
    from modellock_jax.study.store import Store

_Data = Annotated[str, typer.Option(help="mnist5k, digits, fashion_mnist, or any TFDS image set.")]
_ModelName = Annotated[str, typer.Option("--model", help="mlp, cnn, resnet, resnet8 or vit.")]
_Locks = Annotated[
    str,
    typer.Option(
        help='Locks with ";" between them, each a name, a name with settings, or a chain: '
        '"deep_lock; pixel_shuffle(block=4); sign_flip+stream_lock". Default: the study\'s; in main, '
        "league and sweep those of the papers and ours."
    ),
]
_Out = Annotated[Path, typer.Option(help="The folder in which the run folder is made.")]


@app.command(rich_help_panel=RESEARCH)
def study(
    name: Annotated[
        str,
        typer.Argument(
            help="main: who opens what, and the thief. league: every attack on each lock. "
            "sweep: the fine-tuning thief with every setting. --list names them all."
        ),
    ] = "main",
    data: _Data = "mnist5k",
    model: _ModelName = "cnn",
    locks: _Locks = "",
    seeds: Annotated[
        int | None,
        typer.Option(
            help="How many seeds, each with its own models and keys. Default: the study's."
        ),
    ] = None,
    out: _Out = Path("runs"),
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, fewer steps: under a minute.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(help="How many processes of this machine share the work. Default: this one."),
    ] = 0,
    scheduler: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="A Dask scheduler, whose workers share the work: tcp://HOST:8786.",
        ),
    ] = "",
    listed: ListOption = False,
) -> None:
    """Train models, lock them, let attackers at them, and print what they are worth.

    Started again with the same options, it skips what is finished, whoever computed it.

    On many machines, with this project's extra "cluster" installed on each:

    dask scheduler --host HOST

    dask worker tcp://HOST:8786 --nthreads 1 (on each machine)

    modellock-jax study --scheduler tcp://HOST:8786

    Work of a worker that dies is done again by another one. Trained models are kept in the run folder;
    a machine that does not share it trains its own. Dask trusts whoever reaches its ports: keep them in
    a private network.
    """
    from modellock_jax.study import runner
    from modellock_jax.study.table import STUDIES

    if listed:
        streams.put("\n".join(f"{one.name}: {one.about}" for one in STUDIES.values()))
        return
    if name not in STUDIES:
        raise ValueError(f"there is no study {name!r}; the studies are {', '.join(STUDIES)}")
    chosen = STUDIES[name]
    config = _config(chosen, data, model, locks, seeds, quick)
    store = runner.run(chosen, config, out, workers=workers, scheduler=scheduler)

    _show(chosen, store, config, _command(name, data, model, locks, seeds, quick))


def _config(
    chosen: "Study", data: str, model: str, locks: str, seeds: int | None, quick: bool
) -> Any:
    """Return a study's configuration with what the options change in it."""
    settings: dict[str, Any] = {"data": data, "model": model}
    settings |= chosen.quick if quick else {}
    if locks:
        settings["locks"] = tuple(text.strip() for text in locks.split(";") if text.strip())
    if seeds is not None:
        settings["seeds"] = seeds
    return chosen.config(**settings)


def _show(chosen: "Study", store: "Store", config: Any, command: str) -> None:
    """Draw, write down and print what a study found."""
    from modellock_jax.study import figures, report, terminal

    grids = chosen.grids(store.rows, config)
    figures.save_figures(store.folder, store.rows, config, chosen.drawings)
    report.save_tables(store.folder, config, command, grids)
    for grid in grids:
        terminal.show(grid)
    streams.put(f"\n{store.folder}: config.json, rows.jsonl, table.md, figures/")


def _command(name: str, data: str, model: str, locks: str, seeds: int | None, quick: bool) -> str:
    """Return the command that makes a study's numbers again."""
    # Where the folder lies and who did the work is nobody else's business, and no number's.
    given = {"--data": data, "--model": model, "--locks": locks, "--seeds": seeds}
    defaults = {"--data": "mnist5k", "--model": "cnn", "--locks": "", "--seeds": None}
    options = [f"{option}={value}" for option, value in given.items() if value != defaults[option]]
    words = ["modellock-jax", "study", *([] if name == "main" else [name]), *options]
    return shlex.join([*words, *(["--quick"] if quick else [])])


@app.command(rich_help_panel=RESEARCH)
def attack(
    name: Annotated[str, typer.Argument(help="An attack; --list names them all.")] = "",
    lock: Annotated[
        str,
        typer.Option(
            help='A lock, with settings if need be, or a chain: "pixel_shuffle(block=4)".'
        ),
    ] = "",
    data: _Data = "mnist5k",
    model: _ModelName = "cnn",
    budget: Annotated[
        float, typer.Option(help="The attacker's share of the training images, in (0, 1].")
    ] = 0.01,
    seeds: Annotated[int, typer.Option(help="How many models and keys.")] = 1,
    out: _Out = Path("runs"),
    listed: ListOption = False,
) -> None:
    """Train a model, lock it, and attack it: `attack NAME --lock LOCK`.

    Started again with the same options, it shows what it found.
    """
    from modellock_jax.study import league, league_grids, runner, terminal

    if listed:
        terminal.show(league_grids.attack_grid())
        return
    if not name:
        raise ValueError("name an attack; `attack --list` says which there are")
    if not lock:
        raise ValueError(f"attack {name}: name a lock, as in --lock deep_lock")
    if not 0 < budget <= 1:
        raise ValueError(f"attack {name}: --budget is a share in (0, 1], not {budget}")
    chosen = league.of(name)
    config = chosen.config(data=data, model=model, locks=(lock,), seeds=seeds, budgets=(budget,))
    for grid in chosen.grids(runner.run(chosen, config, out).rows, config):
        terminal.show(grid)


@app.command(rich_help_panel=RESEARCH)
def bench(
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="A part: ciphers, forwards, layers, keys, training, costs or gpu. Repeatable."
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the rows to this file too.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes, few rounds: does it run at all?")
    ] = False,
) -> None:
    """Measure speed beside its limits: ciphers, forwards, layers, keys, training, compilation, memory.

    Under 10 minutes on 2 cores. Everything is measured side by side in one run; a missed target is
    printed as missed and does not change the exit code.
    """
    from modellock_jax.bench import run as benches
    from modellock_jax.study import report, terminal

    parts = only or []
    rows = benches.run(parts, quick)
    for part in dict.fromkeys(row["part"] for row in rows):
        terminal.show(benches.grid(rows, part))
    streams.put(f"{benches.today()}, {report.machine()}")
    if json is not None:
        words = ["modellock-jax", "bench", *(f"--only={part}" for part in parts)]
        benches.save(json, rows, [*words, *(["--quick"] if quick else [])])
