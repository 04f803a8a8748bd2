"""Tables on the terminal: as wide as it is, in several parts if need be, no name cut."""

import textwrap

from rich.console import Console
from rich.table import Table

from modellock_jax.study.report import Grid

__all__ = ["parts", "show"]

_WHOLE = 24  # characters of a cell that is not broken over lines where there is room for it


def show(grid: Grid, console: Console | None = None) -> None:
    """Print a table and its notes, as wide as the terminal or `$COLUMNS`, and 80 without either.

    Columns for which there is no room follow in further tables, each with the column that names a row.

    Args:
        grid: The table.
        console: Where to; None for the standard output.
    """
    console = console or Console()
    grid = _narrow(grid, console.width)
    for number, part in enumerate(parts(grid, console.width)):
        header = _wrapped(grid, part) if _natural(grid, part) > console.width else grid.header
        table = Table(title=None if number else grid.title, title_justify="left")
        # Where not even two columns fit side by side, words alone stay unbroken.
        tight = 1 + sum(_wide(grid, i) for i in part) > console.width
        for i in part:
            least = _longest_word(grid, i) if tight else _least(grid, i)
            left = "left" if i == 0 or _is_text(grid, i) else "right"
            table.add_column(
                header[i],
                justify=left,  # type: ignore[arg-type]
                overflow="fold",
                min_width=min(least, console.width - 4),
                # Else Rich shrinks it, finds it too narrow, and has no room left for the others.
                no_wrap=_natural(grid, [i]) == 1 + _wide(grid, i) < console.width,
            )
        for row in grid.rows:
            table.add_row(*(row[i] for i in part))
        console.print(table, markup=False)
    for note in grid.notes:
        console.print(note, markup=False, highlight=False)


def parts(grid: Grid, width: int) -> list[list[int]]:
    """Which columns stand in which of the tables that a table is printed as.

    Args:
        grid: The table.
        width: Characters of a line.

    Returns:
        Column numbers, one list a table.

    >>> grid = Grid("", ["lock", "no key", "right key"], [["sign_flip", "9.1", "97.1"]], [])
    >>> parts(grid, 80), parts(grid, 24)
    ([[0, 1, 2]], [[0, 1], [0, 2]])
    """
    found, used = [[0]], _wide(grid, 0)
    for i in range(1, len(grid.header)):
        if used + _wide(grid, i) > width - 1 and len(found[-1]) > 1:
            found.append([0])
            used = _wide(grid, 0)
        found[-1].append(i)
        used += _wide(grid, i)
    return found


def _narrow(grid: Grid, width: int) -> Grid:
    """Return the same table; if it is too wide, with one column for the two that tell its rows apart."""
    firsts = [row[0] for row in grid.rows]
    if len(parts(grid, width)) == 1 or len(set(firsts)) == len(firsts):
        return grid
    header, *rows = (["\n  ".join(row[:2]), *row[2:]] for row in (grid.header, *grid.rows))
    return grid._replace(header=header, rows=rows)


def _natural(grid: Grid, part: list[int]) -> int:
    """Return how wide a table of some columns is with nothing broken over lines."""
    texts = [[grid.header[i], *(row[i] for row in grid.rows)] for i in part]
    lines = [[line for text in column for line in text.split("\n")] for column in texts]
    return 1 + sum(3 + max(map(len, column)) for column in lines)


def _wrapped(grid: Grid, part: list[int]) -> list[str]:
    """Return headers that are no wider than their columns must be.

    Rich would break them too, but may first take the room from another column.
    """
    header = list(grid.header)
    for i in part[1:]:
        header[i] = textwrap.fill(header[i], _least(grid, i), break_long_words=False)
    return header


def _wide(grid: Grid, i: int) -> int:
    return _least(grid, i) + 3


def _least(grid: Grid, i: int) -> int:
    """Return the least width of a column in which no name is broken."""
    cells = [line for row in grid.rows for line in row[i].split("\n")]
    return max([_longest_word(grid, i), *(len(cell) for cell in cells if len(cell) <= _WHOLE)])


def _longest_word(grid: Grid, i: int) -> int:
    texts = (grid.header[i], *(row[i] for row in grid.rows))
    return max([len(word) for text in texts for word in text.split()], default=1)


def _is_text(grid: Grid, i: int) -> bool:
    return any(len(row[i]) > _WHOLE for row in grid.rows)
