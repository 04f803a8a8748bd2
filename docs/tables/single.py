"""The tables of single attacks, of evasion and of the bench."""

import numpy as np
from rows import Results, markdown, of, percent

from modellock_jax import explain
from modellock_jax.attacks import ATTACKS


def spread(values: list[float]) -> str:
    low, high = (f"{100 * v:.1f}" for v in (min(values), max(values)))
    return low if low == high else f"{low}–{high}"


SINGLE = (  # file, lock, attack in the rows, field, what the attacker has
    (
        "sign_mask_attacks",
        "sign_mask(per='unit')",
        "relaxed_key",
        50,
        "50 labelled images",
    ),
    (
        "sign_mask_attacks",
        "sign_mask(per='unit')",
        "relaxed_key",
        500,
        "500 labelled images",
    ),
    (
        "sign_mask_attacks",
        "sign_mask(per='unit')",
        "relaxed_key, no labels",
        2000,
        "2000 images, no labels",
    ),
    ("sign_mask_oracle", "sign_mask(per='unit')", "sign_mask_oracle", 16, "logits of 16 images"),
)


def single_attacks(results: Results) -> str:
    lines = []
    for name, lock, attack, images, has in SINGLE:
        rows = of(results.file(name)["rows"], model="cnn", per="unit", attack=attack, images=images)
        cells = []
        for data in ("mnist5k", "fashion_mnist"):
            mine = of(rows, data=data)
            got, right = ([row[f] for row in mine] for f in ("accuracy", "right_key"))
            cells.append(f"{spread(got)} of {spread(right)}")
        seconds = f"{np.median([row['seconds'] for row in rows]):.0f} s"
        lines.append([f"`{lock}`", f"`{attack}`", has, *cells, seconds])
    rows = of(results.file("adv_params_attacks")["rows"], step=1.0)
    for attack in ("no_data", "descent", "selective", "restore"):
        cells = []
        for data in ("mnist5k", "fashion_mnist"):
            mine = of(rows, data=data)
            got, right = ([row[f] for row in mine] for f in (attack, "plain"))
            cells.append(f"{spread(got)} of {spread(right)}")
        has = "weights alone" if attack == "no_data" else "1 % of the data"
        lines.append(["`adv_params`", f"`{attack}`", has, *cells, ""])
    header = ["lock", "attack", "the attacker has", "mnist5k", "fashion_mnist", "median seconds"]
    return markdown(header, lines, 3)


def signs_from_weights(results: Results) -> str:
    file = results.file("signs_from_weights")
    header = ["model", "weights", "keys read", "signs right of 256", "wrong of the surest 192"]
    header += ["no key → found of right key"]
    lines = []
    for model, case in dict.fromkeys((row["model"], row["case"]) for row in file["rows"]):
        mine = of(file["rows"], model=model, case=case)
        line = [f"`{model}`", case, f"{sum(row['read'] for row in mine)} of {len(mine)}"]
        seen = [row for row in mine if "signs_right" in row]
        for field in ("signs_right", "surest_wrong"):
            line.append(", ".join(str(row[field]) for row in seen) or "–")
        if all(row["read"] for row in mine):
            none, found, right = (
                percent(row[f] for row in mine) for f in ("no_key", "accuracy", "right_key")
            )
            line.append(f"{none} → {found} of {right}")
        lines.append([*line, "–"][: len(header)])
    made = f"Made by `{file['command']}` on {file['date']}, {file['machine']}."
    return "\n\n".join([markdown(header, lines, 2), made])


def evasion(results: Results) -> str:
    settings = results.settings("evasion", "mnist5k")
    header = ["model", "attacker", "clean", *(f"eps {eps:g}" for eps in settings["eps"])]
    rows, lines = of(results.run("evasion", "mnist5k"), kind="evasion"), list[list[str]]()
    for lock, who in dict.fromkeys((row["lock"], row["attacker"]) for row in rows):
        mine = of(rows, lock=lock, attacker=who)
        seeds = sorted({row["seed"] for row in mine})
        worst = [np.min([r["accuracy"] for r in of(mine, seed=s)], axis=0) for s in seeds]
        clean = percent(of(mine, seed=s)[0]["clean"] for s in seeds)
        lines.append([f"`{lock}`", who, clean, *(percent([v]) for v in np.mean(worst, axis=0))])
    return "\n\n".join([markdown(header, lines, 2), results.made("evasion", "mnist5k")])


def speed(results: Results) -> str:
    file = results.file("bench/cpu")
    lines = []
    for row in file["rows"]:
        if "target" in row and row.get("ratio") is not None:
            ratio = f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            aim = f"{row['sense']} {row['target']:g}"
            met = "met" if row["met"] else "missed"
            lines.append([row["case"], row["name"], row["limit"], ratio, aim, met])
    made = f"Made by `{file['command']}` on {file['date']}, {file['machine']}."
    header = ["case", "what", "beside", "ratio", "aim", ""]
    return "\n\n".join([markdown(header, lines, 3), made])


def attacks(results: Results) -> str:
    header = ["attack", "against", "the attacker has", "it gives"]
    lines = [[f"`{e.name}`", ", ".join(e.against), e.has, e.gives] for e in ATTACKS.values()]
    return markdown(header, lines, 4)


def locks(results: Results) -> str:
    return explain.lock_table()
