"""The tables of single attacks, of evasion and of the bench."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from rows import Results, Row, interval, locks_in, made, markdown, of, percent, with_interval

from modellock_jax import explain
from modellock_jax.attacks import ATTACKS


def spread(values: list[float]) -> str:
    low, high = (f"{100 * v:.1f}" for v in (min(values), max(values)))
    return low if low == high else f"{low}–{high}"


SIGNS = (  # attack in the rows, its inputs, what the attacker has
    ("relaxed_key", 50, "50 labelled images"),
    ("relaxed_key", 500, "500 labelled images"),
    ("relaxed_key, no labels", 2000, "2000 images, no labels"),
    ("sign_mask_oracle", 16, "logits of 16 images"),
)
SETS = ("mnist5k", "fashion_mnist")


def single_attacks(results: Results) -> str:
    lines, lock = list[list[str]](), "sign_mask(per='unit')"
    signs = {data: results.run("sign_masks", data) for data in SETS}
    for attack, images, has in SIGNS:
        mine = [of(signs[data], lock=lock, attack=attack, images=images) for data in SETS]
        cells = [
            f"{spread([row['accuracy'] for row in rows])} of "
            f"{spread([row['right_key'] for row in rows])}"
            for rows in mine
        ]
        seconds = f"{np.median([row['seconds'] for rows in mine for row in rows]):.0f} s"
        lines.append([f"`{lock}`", f"`{attack}`", has, *cells, seconds])
    for attack in ("neutral_key", "adv_params_descent", "selective", "restore"):
        cells = []
        for data in SETS:
            rows = of(results.run("adv_params", data), kind="adv_params", lock="adv_params")
            got = spread([row["accuracy"][attack] for row in rows])
            cells.append(f"{got} of {spread([row['right_key'] for row in rows])}")
        has = "weights alone" if attack == "neutral_key" else "1 % of the data"
        lines.append(["`adv_params`", f"`{attack}`", has, *cells, ""])
    header = ["lock", "attack", "the attacker has", *SETS, "median seconds"]
    return markdown(header, lines, 3)


STEPS = (
    "neutral_key",
    "farthest",
    "farthest, refitted",
    "restore",
    "adv_params_descent",
    "selective",
)


def adv_params_steps(results: Results) -> str:
    rows = of(results.run("adv_params_steps", "mnist5k"), kind="steps")
    header = ["lock", "the owner climbs", "no key", *(f"`{name}`" for name in STEPS), "right key"]
    lines = []
    for lock, climbs in dict.fromkeys((row["lock"], row["climbs"]) for row in rows):
        mine = of(rows, lock=lock, climbs=climbs)
        cells = [percent(row["accuracy"][name] for row in mine) for name in STEPS]
        ends = [percent(row[field] for row in mine) for field in ("no_key", "right_key")]
        lines.append([f"`{lock}`", climbs, ends[0], *cells, ends[1]])
    return "\n\n".join([markdown(header, lines, 2), results.made("adv_params_steps", "mnist5k")])


def one_bit_off(results: Results) -> str:
    """Bits whose means lie within half a point of their neighbours share a line."""
    rows = of(results.run("adv_params_steps", "mnist5k"), kind="bits")
    means = [np.mean([row["accuracy"][bit] for row in rows]) for bit in range(32)]
    groups = [[31]]
    for bit in range(30, -1, -1):
        group = groups[-1]
        same = bit not in (30, 22) and abs(means[bit] - means[group[0]]) < 0.005
        groups[-1:] = [[*group, bit]] if same else [group, [bit]]
    lines = []
    for group in groups:
        part = "sign" if group[0] == 31 else "exponent" if group[0] >= 23 else "mantissa"
        worst = min(row["worst"][bit] for row in rows for bit in group)
        bits = str(group[0]) if len(group) == 1 else f"{group[0]}–{group[-1]}"
        mean = with_interval(np.mean([row["accuracy"][bit] for bit in group]) for row in rows)
        lines.append([part, bits, mean, percent([worst])])
    right = percent(row["right_key"] for row in rows)
    mean = percent([np.mean(means)])
    note = f"With the right key {right}; with a bit at random off {mean} on average."
    return "\n\n".join([markdown(["part", "bit", "mean [95 %]", "worst"], lines, 1), note])


def signs_from_weights(results: Results) -> str:
    header = ["data", "model", "weights", "keys read", "signs in use", "signs right"]
    header += ["wrong of the surest ¾", "no key → found of right key", "CPU seconds"]
    lines, folders = list[list[str]](), results.runs("signs_from_weights")
    for folder in folders:
        config = results.settings("signs_from_weights", folder)
        rows = results.run("signs_from_weights", folder)
        for case in dict.fromkeys(row["case"] for row in rows):
            mine = of(rows, case=case)
            line = [config["data"], f"`{config['model']}`", case]
            line.append(f"{sum(row['read'] for row in mine)} of {len(mine)}")
            seen = [row for row in mine if "signs_right" in row]
            line.append(", ".join(sorted({str(row["in_use"]) for row in seen})) or "–")
            for field in ("signs_right", "surest_wrong"):
                line.append(", ".join(str(row[field]) for row in seen) or "–")
            if all(row["read"] for row in mine):
                shown = _perplexity if "task" in mine[0] else percent
                none, found, right = (
                    shown(row[f] for row in mine) for f in ("no_key", "accuracy", "right_key")
                )
                line.append(f"{none} → {found} of {right}")
            else:
                line.append("–")
            compiled = [row["cpu_seconds"] for row in seen if row["seed"]]
            lines.append([*line, f"{np.median(compiled):.1f}" if compiled else "–"])
    made = results.made_each("signs_from_weights", folders)
    return "\n\n".join([markdown(header, lines, 3), made])


def _perplexity(values: Iterable[float]) -> str:
    return f"{np.mean(list(values)):.3g}"


def first_layers(results: Results) -> str:
    """Say what each attacker opens of transforms of inputs, under a dense first layer."""
    rows = of(results.run("league", "mnist5k-mlp"), kind="league")
    lines = list[list[str]]()
    for lock, attack in dict.fromkeys((row["lock"], row["attack"]) for row in rows):
        mine = of(rows, lock=lock, attack=attack)
        none, found, right = (
            percent(row[f] for row in mine) for f in ("no_key", "accuracy", "right_key")
        )
        known = [row["key_right"] for row in mine if row["key_right"] is not None]
        keys = ", ".join(f"{100 * share:.0f}" for share in known) or "–"
        opened = f"{none} → {found} of {right}"
        lines.append([f"`{lock}`", f"`{attack}`", ATTACKS[attack].has, opened, keys])
    header = ["lock", "attack", "the attacker has", "no key → found of right key, %"]
    table = markdown([*header, "of the key, %, by model"], lines, 3)
    return "\n\n".join([table, results.made("league", "mnist5k-mlp")])


def worst(rows: list[Row], lock: str, who: str) -> Any:
    """Return the accuracy under the attack that does worst, `[seeds, eps]`."""
    mine = of(rows, lock=lock, attacker=who)
    seeds = sorted({row["seed"] for row in mine})
    return np.array([np.min([r["accuracy"] for r in of(mine, seed=s)], axis=0) for s in seeds])


def evasion(results: Results) -> str:
    c = results.settings("evasion", "mnist5k")
    header = ["model", "attacker", "key right", "clean", *(f"eps {eps:g}" for eps in c["eps"])]
    rows, lines = of(results.run("evasion", "mnist5k"), kind="evasion"), list[list[str]]()
    for lock, who in dict.fromkeys((row["lock"], row["attacker"]) for row in rows):
        mine = of(rows, lock=lock, attacker=who)
        first = [of(mine, seed=seed)[0] for seed in dict.fromkeys(row["seed"] for row in mine)]
        right = [row["key_right"] for row in first if row["key_right"] is not None]
        line = [f"`{lock}`", who, percent(right) if right else ""]
        line.append(percent(row["clean"] for row in first))
        lines.append(line + [with_interval(values) for values in worst(rows, lock, who).T])
    note = (
        f"Means over {c['seeds']} models with 95 % intervals, {c['images']} test images. Gradient "
        f"attacks take {c['steps']} steps from each of {c['restarts']} random points."
    )
    made = results.made("evasion", "mnist5k")
    return "\n\n".join([markdown(header, lines, 2), f"{note} {made}"])


def robustness(results: Results) -> str:
    """Say whether a lock makes its user's model more robust to who has the key, and by how much."""
    c = results.settings("evasion", "mnist5k")
    rows, lines = of(results.run("evasion", "mnist5k"), kind="evasion"), list[list[str]]()
    plain = worst(rows, "plain", "known")
    for lock in locks_in(rows, "evasion"):
        mine = worst(rows, lock, "known")
        line = [f"`{lock}`", percent(row["clean"] for row in of(rows, lock=lock))]
        for values, beside in zip(mine.T, plain.T):
            more, low, high = interval(values - beside)
            word = "**less**" if high < 0 else "more" if low > 0 else "no other"
            apart = f": {word}, {more:+.1f} [{low:+.1f}, {high:+.1f}]" if lock != "plain" else ""
            line.append(percent(values) + apart)
        lines.append(line)
    header = ["the user's model", "clean", *(f"eps {eps:g}" for eps in c["eps"])]
    note = (
        f"Beside the plain model of the same seed; {c['seeds']} models, {c['images']} test images."
    )
    return "\n\n".join([markdown(header, lines), note])


def speed(results: Results) -> str:
    file = results.file("bench/cpu")
    lines = []
    for row in file["rows"]:
        if "target" in row and row.get("ratio") is not None:
            ratio = f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            aim = f"{row['sense']} {row['target']:g}"
            met = "met" if row["met"] else "missed"
            lines.append([row["case"], row["name"], row["limit"], ratio, aim, met])
    header = ["case", "what", "beside", "ratio", "aim", ""]
    return "\n\n".join([markdown(header, lines, 3), made(file)])


def attacks(results: Results) -> str:
    header = ["attack", "against", "the attacker has", "it gives"]
    lines = [[f"`{e.name}`", ", ".join(e.against), e.has, e.gives] for e in ATTACKS.values()]
    return markdown(header, lines, 4)


def locks(results: Results) -> str:
    return explain.lock_table()
