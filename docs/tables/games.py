"""The table of games: what an adversary of each kind won, beside a twin without the weights."""

from rows import Results, Row, interval, markdown, of, percent

from modellock_jax.attacks import ATTACKS
from modellock_jax.locks import SCHEMES, parse

SETS = {"mnist5k": "mnist5k", "fashion_mnist": "fashion_mnist", "mnist5k-mlp": "mnist5k, mlp"}
"""Runs of the league, the first two on a CNN, and how each is called."""
GUESS = 0.1  # of ten classes, to who has no labels


def games(results: Results) -> str:
    """Write for each lock and kind of adversary the attack that reached most where it was run first."""
    sets = {data: of(results.run("league", data), kind="league") for data in SETS}
    lines = list[list[str]]()
    for scheme in SCHEMES:
        ran = [row for rows in sets.values() for row in rows if parse(row["lock"]).name == scheme]
        for lock in dict.fromkeys(row["lock"] for row in ran):
            mine = [of(rows, lock=lock) for rows in sets.values()]
            for needs, attack in strongest(*filter(None, mine)).items():
                rights = ", ".join(f"`{right}`" for right in needs) or "nothing"
                keys = won([row for rows in mine for row in of(rows, attack=attack)])
                cells = [used(rows, attack, needs) for rows in mine]
                lines.append([f"`{lock}`", rights, f"`{attack}`", keys, *cells])
        if not ran:
            lines.append([f"`{scheme}`", "", "*not in the league*", *[""] * (1 + len(SETS))])
    header = ["lock", "rights", "attack", "KEY won"]
    table = markdown([*header, *(f"USE: {name}" for name in SETS.values())], lines, 3)
    return "\n\n".join([table, "\n".join(results.made("league", data) for data in SETS)])


def reached(rows: list[Row], attack: str) -> float:
    """Return the mean of what an attack reached; of one that gave up nothing."""
    mine = of(rows, attack=attack)
    return sum(row["accuracy"] * (not row["gave_up"]) for row in mine) / max(len(mine), 1)


def strongest(first: list[Row], *others: list[Row]) -> dict[tuple[str, ...], str]:
    """Return by rights the attack that reached most; not where fewer rights reach as much everywhere."""
    names = [name for name in dict.fromkeys(row["attack"] for row in first) if name != "scratch"]
    found = dict[tuple[str, ...], str]()
    for rights in sorted(dict.fromkeys(ATTACKS[name].needs for name in names), key=len):
        just = [name for name in names if ATTACKS[name].needs == rights]
        best = max(just, key=lambda name: reached(first, name))
        less = [name for needs, name in found.items() if set(needs) < set(rights)]
        if not any(covers(name, best, first, *others) for name in less):
            found[rights] = best
    return found


def covers(less: str, more: str, *sets: list[Row]) -> bool:
    """Whether an attack was run wherever another was, and reached as much."""
    return all(
        of(rows, attack=less) and reached(rows, less) >= reached(rows, more) for rows in sets
    )


def won(rows: list[Row]) -> str:
    """Say how often the exact key was found, if the attack looks for one."""
    if ATTACKS[rows[0]["attack"]].gives != "key":
        return "–"
    return f"{sum(row['key_right'] == 1 for row in rows)} of {len(rows)}"


def used(rows: list[Row], attack: str, needs: tuple[str, ...]) -> str:
    """Write what was reached of the right key, and how much more than by the twin, if there is one."""
    mine = of(rows, attack=attack)
    if not mine:
        return "not run"
    if all(row["gave_up"] for row in mine):
        return "gave up"
    reached = " of ".join(
        percent(row[field] for row in mine) for field in ("accuracy", "right_key")
    )
    if needs not in ((), ("labels",)):
        return reached
    twins = {row["seed"]: row["accuracy"] for row in of(rows, attack="scratch")}
    more, low, high = interval(
        row["accuracy"] - (twins[row["seed"]] if needs else GUESS) for row in mine
    )
    return f"{more:+.1f} [{low:+.1f}, {high:+.1f}], {reached}"
