"""What the terminal shows: tables that fit, help in groups, lists asked for in one way, progress."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from modellock_jax.cli import inputs
from modellock_jax.cli.commands import app
from modellock_jax.locks import SCHEMES
from modellock_jax.study import league_grids, terminal
from modellock_jax.study.report import Grid
from modellock_jax.study.table import STUDIES

LOCKS = ["pixel_shuffle(block=4)", "sign_flip+stream_lock", "adv_params"]
WIDE = Grid(
    "Who opens what",
    ["lock", "attack", *(f"a measure {i}" for i in range(12)), "the attacker has"],
    [
        [
            lock,
            attack,
            *(f"{i}.5 [{i}.1, {i}.9]" for i in range(12)),
            "the locked weights, and time",
        ]
        for lock in LOCKS
        for attack in ("fine_tune", "pixel_shuffle_chosen_image")
    ],
    ["A note that says how the numbers of this table were made, in more words than a line has."],
)
NUMBERS = Grid(
    "Short cells under long headers",
    ["lock", "images", "no key", "found", "right key", "signs right, %", "of those that matter"],
    [["sign_mask(per='channel')", "2000", "11.9", "20.3", "95.7", "52.0", "100.0"]],
    [],
)


def shown(grid, width):
    console = Console(width=width, file=io.StringIO())
    terminal.show(grid, console)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 400])
@pytest.mark.parametrize(
    "grid", [WIDE, NUMBERS, league_grids.attack_grid()], ids=["wide", "numbers", "attacks"]
)
def test_a_table_fits_and_cuts_no_name(grid, width):
    lines = shown(grid, width)
    assert max(map(len, lines)) <= width
    assert all(line[-1] in "┓┩┘│┃" for line in lines if line[0] in "┏┡└│┃")
    for row in grid.rows:
        assert any(row[0] in line for line in lines)
    for row in WIDE.rows if grid is WIDE else ():
        assert any(row[1] in line for line in lines)
        for cell in row[2:-1] if width >= 80 else ():
            assert any(cell in line for line in lines)
    for word in " ".join(NUMBERS.header).split() if grid is NUMBERS else ():
        assert any(word in line for line in lines)


def test_a_table_is_one_where_there_is_room():
    assert terminal.parts(WIDE, 400) == [list(range(len(WIDE.header)))]
    assert len(terminal.parts(WIDE, 80)) > 3
    assert sorted({i for part in terminal.parts(WIDE, 80) for i in part}) == [*range(15)]


@pytest.mark.parametrize(("columns", "width"), [(None, 80), ("60", 60), ("132", 132)])
def test_a_pipe_is_as_wide_as_columns_says(columns, width, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    terminal.show(WIDE)
    found = max(map(len, capsys.readouterr().out.splitlines()))
    assert width - 25 < found <= width


def test_every_command_is_in_a_group():
    members = [*app.registered_commands, *app.registered_groups]
    assert len(members) > 15
    groups = {"Files", "Keys", "Users and recipients", "Research", "About"}
    assert {member.rich_help_panel for member in members} == groups


@pytest.mark.parametrize(("command", "names"), [("study", STUDIES), ("explain", SCHEMES)])
def test_names_are_listed_in_one_way(command, names, tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "modellock_jax", command, "--list"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert all(any(line.startswith(name) for line in ran.stdout.splitlines()) for name in names)
    assert not list(tmp_path.iterdir())


def test_what_takes_long_is_told_a_line_now_and_then(monkeypatch, capsys):
    moment = iter([0.0, 1.0, 10.5, 11.0, 21.0])
    monkeypatch.setattr(inputs.time, "monotonic", lambda: next(moment))
    with inputs.progress("sealing", 40_000_000) as done:
        for _ in range(4):
            done(10_000_000)
    told = capsys.readouterr().err.splitlines()
    assert told == ["sealing: 20 of 40 MB", "sealing: 40 of 40 MB"]
