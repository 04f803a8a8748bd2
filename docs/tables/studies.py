"""The tables of the main study, the league and the sweep."""

import numpy as np
from rows import Results, Row, interval, locks_in, markdown, of, percent, with_interval

from modellock_jax.attacks import ATTACKS
from modellock_jax.study.deep_lock_rates import share


def thief(rows: list[Row], lock: str, budget: float) -> str:
    """Of each seed the best rate's last accuracy, as the study shows it."""
    mine = of(rows, kind="thief", lock=lock, budget=budget)
    best: dict[int, float] = {}
    for row in mine:
        best[row["seed"]] = max(best.get(row["seed"], 0.0), row["best"])
    return with_interval(best.values())


def main_study(results: Results) -> str:
    rows = results.run("main", "mnist5k")
    header = ["lock", "plain", "right key", "no key", "wrong keys [95 %]", "one bit or swap off"]
    lines = []
    for lock in locks_in(rows, "lock"):
        mine = of(rows, kind="lock", lock=lock)
        exact = " =" if all(row["right_is_plain"] for row in mine) else ""
        wrong = with_interval(np.ravel([row["wrong"] for row in mine]))
        line = [f"`{lock}`", percent(r["plain"] for r in mine)]
        line += [percent(r["right"] for r in mine) + exact, percent(r["none"] for r in mine), wrong]
        line += [percent(r["near"] for r in mine), thief(rows, lock, 0.01), thief(rows, lock, 0.1)]
        lines.append(line)
    scratch = ["*training from scratch*", *[""] * 5]
    lines.append([*scratch, thief(rows, "scratch", 0.01), thief(rows, "scratch", 0.1)])
    about = (
        "Test accuracy in %, 3 seeds. `=`: every output equals the plain model's to the last bit."
    )
    return "\n\n".join(
        [
            markdown([*header, "thief, 1 % of the data", "thief, 10 %"], lines),
            f"{about} {results.made('main', 'mnist5k')}",
        ]
    )


def reached(rows: list[Row], lock: str, attack: str) -> float:
    return float(np.mean([row["accuracy"] for row in of(rows, lock=lock, attack=attack)]))


def strongest(rows: list[Row], lock: str) -> str:
    """Of the attacks within a point of the best the one that needs least, then the quickest."""
    mine = [r for r in rows if r["kind"] == "league" and r["lock"] == lock]
    names = dict.fromkeys(r["attack"] for r in mine if r["attack"] != "scratch")
    best = max(reached(mine, lock, name) for name in names)
    near = [name for name in names if reached(mine, lock, name) > best - 0.01]

    def cost(name: str) -> tuple[int, float]:
        return len(ATTACKS[name].needs), float(
            np.mean([r["seconds"] for r in of(mine, attack=name)])
        )

    return min(near, key=cost)


def league(results: Results) -> str:
    sets = {data: results.run("league", data) for data in ("mnist5k", "fashion_mnist")}
    header = ["lock", "fell to", *(f"{data}: no key → found of right key" for data in sets)]
    first, lines = sets["mnist5k"], []
    for lock in locks_in(first, "league"):
        attack, cells = strongest(first, lock), []
        for rows in sets.values():
            mine = of(rows, kind="league", lock=lock, attack=attack)
            if not mine:
                cells.append("not run")
                continue
            values = [percent(r[f] for r in mine) for f in ("no_key", "accuracy", "right_key")]
            cells.append(f"{values[0]} → {values[1]} of {values[2]}")
        mine = of(first, kind="league", lock=lock, attack=attack)
        seconds = f"{np.mean([row['seconds'] for row in mine]):.1f}"
        lines.append([f"`{lock}`", f"`{attack}`", *cells, seconds])
    scratch = [percent(r["accuracy"] for r in of(rows, attack="scratch")) for rows in sets.values()]
    lines.append(["*no weights*", "*training from scratch*", *scratch, ""])
    note = (
        "Of the attacks within a point of the best, the one whose attacker needs least, then the "
        "quickest; test accuracy in %, means of 3 models and keys; who has labels has 1 % of the "
        "training images (40 and 600)."
    )
    made = results.made("league", "mnist5k")
    parts = [markdown([*header, "seconds"], lines, 2), *map(anew, sets, sets.values())]
    return "\n\n".join([*filter(None, parts), f"{note} {made}"])


def anew(data: str, rows: list[Row]) -> str:
    """Say which attacks met other models than `scratch` did: without a key they begin elsewhere."""
    mine = of(rows, kind="league")
    begin = {
        (r["lock"], r["seed"]): (r["no_key"], r["right_key"]) for r in of(mine, attack="scratch")
    }
    others = [r for r in mine if begin[r["lock"], r["seed"]] != (r["no_key"], r["right_key"])]
    names = " and ".join(f"`{attack}`" for attack in dict.fromkeys(r["attack"] for r in others))
    if not names:
        return ""
    return (
        f"On {data} the rows of {names} were added later, on models trained anew, whose values "
        "without a key and with the right one are not those that a lock's other attacks met."
    )


def verdict(low: float, high: float) -> str:
    if low > 0:
        return "**yes**"
    if high < 0:
        return "harm"
    return "no" if max(-low, high) <= 3 else "unclear"


def sweep(results: Results) -> str:
    rows = results.run("sweep", "mnist5k")
    budgets = sorted({row["budget"] for row in rows})
    table: dict[tuple[str, float], list[float]] = {}
    for row in sorted(rows, key=lambda r: r["seed"]):
        table.setdefault((row["lock"], row["budget"]), []).append(row["rehearsed"]["accuracy"])
    lines = [["*from scratch*", "", *(with_interval(table["scratch", b]) for b in budgets)]]
    for lock in locks_in(rows, "sweep"):
        if lock == "scratch":
            continue
        line = [f"`{lock}`", percent(r["no_key"] for r in of(rows, lock=lock, budget=budgets[0]))]
        for budget in budgets:
            pairs = zip(table[lock, budget], table["scratch", budget])
            more, low, high = interval(a - b for a, b in pairs)
            line.append(
                f"{percent(table[lock, budget])}: {verdict(low, high)}, "
                f"{more:+.1f} [{low:+.1f}, {high:+.1f}]"
            )
        lines.append(line)
    header = ["start", "no key", *(f"{100 * b:g} % of the data" for b in budgets)]
    return "\n\n".join([markdown(header, lines), results.made("sweep", "mnist5k")])


def deep_lock_rates(results: Results) -> str:
    rows = results.run("deep_lock_rates", "mnist5k")
    locks = locks_in(rows, "rates")
    lines = []
    for tree in dict.fromkeys((r["leaves"], r["weights"], r["dtype"]) for r in rows):
        line = ["{} x {} {}".format(*tree)]
        here = of(rows, **dict(zip(("leaves", "weights", "dtype"), tree)))
        for lock in locks:
            mine = of(here, lock=lock)
            line.append(share(mine[0]["exact"], mine[0]["keys"]) if mine else "not run")
        lines.append([*line, " / ".join(f"{row['median_s']:.2f}" for row in here)])
    header = ["leaves x weights", *(f"`{lock}`" for lock in locks), "median seconds"]
    table = markdown(header, lines)
    return "\n\n".join([table, results.made("deep_lock_rates", "mnist5k")])


LEAVES_OF = ("mnist5k", "mnist5k-resnet", "magika", "PP-OCRv4-det", "PP-OCRv4-rec")


def deep_lock_keys(results: Results) -> str:
    header = ["model", "AES-128, float32", "AES-256, float32", "AES-128, bfloat16", "`stream_lock`"]
    lines = []
    for folder in LEAVES_OF:
        mine = results.run("deep_lock_keys", folder)
        kinds = [("deep_lock(key_bits=128)", "float32"), ("deep_lock(key_bits=256)", "float32")]
        kinds += [("deep_lock(key_bits=128)", "bfloat16"), ("stream_lock", "float32")]
        cells = [of(mine, lock=lock, dtype=dtype)[0] for lock, dtype in kinds]
        seconds = " / ".join(f"{cell['median_s']:.2f}" for cell in cells[:3])
        found = [f"{cell['exact']} of {cell['keys']}" for cell in cells]
        lines.append([f"`{mine[0]['model']}`", *found, seconds])
    made = results.made_each("deep_lock_keys", LEAVES_OF)
    return "\n\n".join([markdown([*header, "median seconds"], lines), made])
