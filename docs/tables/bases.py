"""The table of what a public base gives away."""

import numpy as np
from rows import Results, Row, made, markdown, of, percent

STUDY = "public_base"
WHAT = {"sign_flip": "signs", "adv_params": "changed weights"}


def public_base(results: Results) -> str:
    """Write what is found right of a key, and the accuracy of what it opens, by base."""
    lines, columns, folders = list[list[str]](), dict[str, None](), results.runs(STUDY)
    for folder in folders:
        columns |= dict.fromkeys(row["base"] for row in results.run(STUDY, folder))
    for folder in folders:
        config, rows = results.settings(STUDY, folder), results.run(STUDY, folder)
        name = f"{config['data']}, `{config['model']}`"
        bases = [of(rows, base=base) for base in columns]
        lines.append(
            [name, "", "the base itself, %", *(percent(r["base_value"] for r in b) for b in bases)]
        )
        for lock in dict.fromkeys(row["lock"] for row in rows):
            cells = [of(rows, base=base, lock=lock) for base in columns]
            entries = dict.fromkeys(str(row["entries"]) for row in of(rows, lock=lock))
            what = WHAT.get(lock.partition("(")[0], "rows")
            head = [name, f"`{lock}`"]
            lines.append([*head, f"{what} right, of {'–'.join(entries)}", *map(right, cells)])
            none, key = (percent(row[f] for row in cells[0]) for f in ("no_key", "right_key"))
            lines.append([*head, f"opened, of {none} → {key} %", *map(opened, cells)])
    file = results.file("smollm2/public_base")
    cells = [of(file["rows"], base=base) for base in columns]
    read = [right(rows) if rows else "–" for rows in cells]
    lines.append(
        ["SmolLM2-135M", "`sign_flip`", f"signs right, of {file['rows'][0]['bits']}", *read]
    )
    about = [results.made_each(STUDY, folders), f"SmolLM2: {made(file)}"]
    return "\n\n".join([markdown(["model", "lock", "", *columns], lines, 3), "\n".join(about)])


def numbers(rows: list[Row]) -> str:
    """Write counts as their range."""
    seen = sorted(row["right"] for row in rows)
    return "–".join(dict.fromkeys(map(str, (seen[0], seen[-1])))) if seen else "–"


def right(rows: list[Row]) -> str:
    """Write what is right where the base passed for a relative, and how often it did if not always.

    Where it never did, in brackets what would be right all the same.
    """
    found = of(rows, found=True)
    if not found:
        return f"none ({numbers(rows)})" if "right" in rows[0] else "none"
    often = "" if len(found) == len(rows) else f" ({len(found)} of {len(rows)})"
    return numbers(found) + often


def opened(rows: list[Row]) -> str:
    """Write the mean accuracy of what the attacker ends with: nothing opened is the locked model."""
    if not of(rows, found=True):
        return "–"
    return f"{100 * np.mean([row.get('accuracy', row['no_key']) for row in rows]):.1f}"
