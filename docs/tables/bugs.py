"""The table of planted bugs: how many of them the tests see."""

from rows import Results, Row, made, markdown, of


def _line(name: str, rows: list[Row]) -> list[str]:
    tried = [row for row in rows if "verdict" in row]
    survived = of(tried, verdict="survived")
    told = sum("why" in row for row in survived)
    counts = len(rows), len(tried) - len(survived), len(survived), told, len(rows) - len(tried)
    return [name, *map(str, counts), f"{sum(row['seconds'] for row in tried) / 60:.1f}"]


def planted(results: Results) -> str:
    """Count the bugs of each kind by their ends; minutes are those of one process."""
    chosen, drawn = files = [results.file(f"planted_bugs/{name}") for name in ("planted", "drawn")]
    lines = [_line("planted", chosen["rows"]), _line("drawn at random", drawn["rows"])]
    header = ["bugs", "how many", "killed", "survived", "of these explained", "not tried yet"]
    table = markdown([*header, "minutes"], lines)
    return "\n\n".join([table, "\n".join(map(made, files))])
