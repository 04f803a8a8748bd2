"""`modellock-jax study` and `modellock-jax attack`: what locks are worth."""

import enum
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from modellock_jax.cli.app import app


class Kind(enum.StrEnum):
    """What a study measures."""

    LOCKS = "locks"
    LEAGUE = "league"
    SWEEP = "sweep"


@app.command()
def study(
    kind: Annotated[
        Kind,
        typer.Argument(
            help="locks: who opens what, and the thief. league: every attack on each. "
            "sweep: the fine-tuning thief with every setting."
        ),
    ] = Kind.LOCKS,
    data: Annotated[
        str, typer.Option(help="mnist5k, digits, fashion_mnist, or any TFDS image set.")
    ] = "mnist5k",
    model: Annotated[str, typer.Option(help="mlp, cnn or resnet.")] = "cnn",
    locks: Annotated[
        str,
        typer.Option(
            help='Locks with ";" between them, each a name or a name with settings: '
            '"deep_lock; pixel_shuffle(block=4)". Default: all six; with variants in league and sweep.'
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
    coordinator: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="With several processes: a free port of process 0's machine."
        ),
    ] = "",
    processes: Annotated[
        int | None, typer.Option(help="How many processes share the study. Default: 1.")
    ] = None,
    process: Annotated[
        int | None, typer.Option(help="Which of them this is, from 0. Default: 0.")
    ] = None,
) -> None:
    """Train, lock, open with right and wrong keys, send in the thief, and print the table.

    Started again with the same options, it skips what is finished.

    Several processes, on one machine or on several that share --out, divide models and rows among
    them; process 0 merges the rows and prints the table. Start all of them, here two:

    modellock-jax study --coordinator localhost:8476 --processes 2 --process 0 &

    modellock-jax study --coordinator localhost:8476 --processes 2 --process 1

    If one dies, the others finish their rows, and those that wait for it say so and exit with 2. Run
    the commands again, or one process alone: finished rows are kept, however many there were.
    """
    from modellock_jax.study import config as configs
    from modellock_jax.study import league, sweep

    settings: dict[str, Any] = {"data": data, "model": model}
    settings |= {Kind.LOCKS: {}, Kind.LEAGUE: league.SETTINGS, Kind.SWEEP: sweep.SETTINGS}[kind]
    settings |= configs.QUICK if quick else {}
    if locks:
        settings["locks"] = tuple(text.strip() for text in locks.split(";") if text.strip())
    if seeds is not None:
        settings["seeds"] = seeds
    config = configs.Config(**settings)

    from modellock_jax.study import attack_figures, figures, report
    from modellock_jax.study import processes as several
    from modellock_jax.study import run as runner

    # Where the folder lies is nobody else's business, and does not change the numbers.
    given = {"--data": data, "--model": model, "--locks": locks, "--seeds": seeds}
    defaults = {"--data": "mnist5k", "--model": "cnn", "--locks": "", "--seeds": None}
    options = [f"{name}={value}" for name, value in given.items() if value != defaults[name]]
    words = ["modellock-jax", "study", *([] if kind is Kind.LOCKS else [kind.value]), *options]
    command = shlex.join([*words, *(["--quick"] if quick else [])])
    run: Any = {Kind.LOCKS: runner.run, Kind.LEAGUE: league.run, Kind.SWEEP: sweep.run}[kind]
    if coordinator or processes is not None or process is not None:
        folder = out / f"study-{config.id}"
        with several.joined(folder, coordinator, processes or 1, process or 0) as part:
            store = run(config, out, part=part)
        if part.process:
            print(f"process {part.process} has done its share; process 0 makes the table")
            return
    else:
        store = run(config, out)
    if kind is Kind.LEAGUE:
        grids = [league.strongest(store, config), league.grid(store, config)]
        drawings = attack_figures.LEAGUE
    elif kind is Kind.SWEEP:
        grids, drawings = sweep.grids(store, config), attack_figures.SWEEP
    else:
        grids = [report.lock_grid(store, config), report.thief_grid(store, config)]
        drawings = figures.LOCKS
    figures.save_figures(store, config, drawings)
    report.save_tables(store, config, command, grids)
    console = Console(width=None if sys.stdout.isatty() else 200)
    for grid in grids:
        report.show(grid, console)
    console.print(f"\n{store.folder}: config.json, rows.jsonl, table.md, figures/", highlight=False)


@app.command()
def attack(
    name: Annotated[str, typer.Argument(help="An attack, or LIST for all of them.")],
    lock: Annotated[
        str, typer.Option(help='A lock, with settings if need be: "pixel_shuffle(block=4)".')
    ] = "",
    data: Annotated[
        str, typer.Option(help="mnist5k, digits, fashion_mnist, or any TFDS image set.")
    ] = "mnist5k",
    model: Annotated[str, typer.Option(help="mlp, cnn or resnet.")] = "cnn",
    budget: Annotated[
        float, typer.Option(help="The attacker's share of the training images, in (0, 1].")
    ] = 0.01,
    seeds: Annotated[int, typer.Option(help="How many models and keys.")] = 1,
    out: Annotated[Path, typer.Option(help="The folder in which the run folder is made.")] = Path(
        "runs"
    ),
) -> None:
    """Train a model, lock it, and attack it: `attack LIST`, or `attack NAME --lock LOCK`.

    Started again with the same options, it shows what it found.
    """
    from modellock_jax.study import config as configs
    from modellock_jax.study import league, report

    console = Console(width=None if sys.stdout.isatty() else 200)
    if name.lower() == "list":
        report.show(league.attack_grid(), console)
        return
    if not lock:
        raise ValueError(f"attack {name}: name a lock, as in --lock deep_lock")
    if not 0 < budget <= 1:
        raise ValueError(f"attack {name}: --budget is a share in (0, 1], not {budget}")
    config = configs.Config(data=data, model=model, locks=(lock,), seeds=seeds, budgets=(budget,))
    report.show(league.grid(league.run(config, out, (name,)), config, (name,)), console)


@app.command()
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
    from modellock_jax.study import report

    parts = only or []
    rows = benches.run(parts, quick)
    console = Console(width=None if sys.stdout.isatty() else 200)
    for part in dict.fromkeys(row["part"] for row in rows):
        report.show(benches.grid(rows, part), console)
    console.print(f"{benches.today()}, {report.machine()}", highlight=False)
    if json is not None:
        words = ["modellock-jax", "bench", *(f"--only={part}" for part in parts)]
        benches.save(json, rows, [*words, *(["--quick"] if quick else [])])
