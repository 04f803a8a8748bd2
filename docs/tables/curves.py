"""The table of what decides how much of a sign key weights give away."""

from rows import Results, markdown, of, percent

STUDY = "sign_curves"


def sign_curves(results: Results) -> str:
    """Write one line for each point, and the seeds beside each other."""
    lines = list[list[str]]()
    for folder in results.runs(STUDY):
        rows = results.run(STUDY, folder)
        for curve, at in dict.fromkeys((row["curve"], row["at"]) for row in rows):
            mine = of(rows, curve=curve, at=at)
            line = [curve, at, f"{sum(r['read'] for r in mine)} of {sum(r['keys'] for r in mine)}"]
            line.append(str(max(row["in_use"] for row in mine)))
            for field in ("signs_right", "surest_wrong"):
                line.append(", ".join(str(row[field]) for row in mine))
            lines.append([*line, *(percent(r[f] for r in mine) for f in ("no_key", "right_key"))])
    header = ["curve", "at", "keys read", "signs in use", "signs right", "wrong of the surest ¾"]
    made = "\n".join(results.made(STUDY, folder) for folder in results.runs(STUDY))
    return "\n\n".join([markdown([*header, "no key", "right key"], lines, 2), made])
