"""The tables of README and docs against those of the studies: two programs, one set of rows."""

import re
from collections import defaultdict

import numpy as np
from helpers.reckoning import FOLDERS, alike, grid, lines, numbers

from modellock_jax.study.report import interval


def test_the_main_study(run, docs):
    table = {line["lock"]: line for line in lines(docs["studies"].main_study(run[1]))}
    locks, thieves = grid(run, "main", "mnist5k"), grid(run, "main", "mnist5k", 1)
    assert [line["lock"] for line in locks] == list(table)[:-1]
    for line in locks:
        other = table[line["lock"]]
        assert ("=" in line["right key"]) == ("=" in other["right key"])
        for name in ("plain", "right key", "no key", "wrong keys [95 %]", "one bit or swap off"):
            same = {
                "wrong keys [95 %]": "20 wrong keys [95 %]",
                "one bit or swap off": "1 bit or swap off",
            }
            alike(other[name], line[same.get(name, name)])
    for line in thieves:
        other = table["training from scratch" if line["start"] == "scratch" else line["start"]]
        alike(other["thief, 1 % of the data"], line["1 % of the data"])
        alike(other["thief, 10 %"], line["10 % of the data"])


def test_the_league(run, docs):
    table = {line["lock"]: line for line in lines(docs["studies"].league(run[1]))}
    for data in FOLDERS["league"]:
        full = {(line["lock"], line["attack"]): line for line in grid(run, "league", data, 1)}
        column = f"{data}: no key → found of right key"
        for lock in dict.fromkeys(lock for lock, _ in full):
            attack, cell = table[lock]["fell to"], table[lock][column]
            if (lock, attack) in full:
                line = full[lock, attack]
                reached = line["recovered [95 %]"].split(" [")[0]
                if reached != "gave up":
                    alike(cell, f"{line['no key']} {reached} {line['right key']}")
            else:
                assert cell == "not run"
        if data == "mnist5k":
            rows = run[0]("league", data)[0].of("league")
            for lock in dict.fromkeys(row["lock"] for row in rows):
                mine = [r for r in rows if r["lock"] == lock and r["attack"] != "scratch"]
                means = {
                    name: np.mean([r["accuracy"] for r in mine if r["attack"] == name])
                    for name in dict.fromkeys(r["attack"] for r in mine)
                }
                assert means[table[lock]["fell to"]] > max(means.values()) - 0.01


def test_first_layers(run, docs):
    table, full = lines(docs["single"].first_layers(run[1])), grid(run, "league", "mnist5k-mlp", 1)
    rows = run[0]("league", "mnist5k-mlp")[0].of("league")
    assert [(one["lock"], one["attack"]) for one in table] == [
        (one["lock"], one["attack"]) for one in full
    ]
    for ours, theirs in zip(table, full):
        found = [r for r in rows if (r["lock"], r["attack"]) == (ours["lock"], ours["attack"])]
        assert ours["the attacker has"] == theirs["the attacker has"]
        means = [100 * np.mean([r[f] for r in found]) for f in ("no_key", "accuracy", "right_key")]
        np.testing.assert_allclose(
            numbers(ours["no key → found of right key, %"]), means, atol=0.0501
        )
        keys = [r["key_right"] for r in found if r["key_right"] is not None]
        cell = ours["of the key, %, by model"]
        assert cell == (", ".join(f"{100 * k:.0f}" for k in keys) or "–")


def test_the_sweep(run, docs):
    table = {line["start"]: line for line in lines(docs["studies"].sweep(run[1]))}
    for line in grid(run, "sweep", "mnist5k"):
        other = table["from scratch" if line["start"] == "scratch" else line["start"]]
        for name in line.keys() - {"start", "right key"}:
            word = re.findall("[a-z]+", line[name])
            assert word == re.findall("[a-z]+", other[name])
            alike(other[name], line[name])


def test_single_studies(run, docs):
    table = lines(docs["studies"].deep_lock_keys(run[1]))
    for line, data in zip(table, docs["studies"].LEAVES_OF, strict=True):
        cells = {(at["lock"], at["dtype"]): at["exact"] for at in grid(run, "deep_lock_keys", data)}
        assert line["AES-128, float32"] == cells["deep_lock(key_bits=128)", "float32"]
        assert line["AES-256, float32"] == cells["deep_lock(key_bits=256)", "float32"]
        assert line["AES-128, bfloat16"] == cells["deep_lock(key_bits=128)", "bfloat16"]
        assert line["stream_lock"] == cells["stream_lock", "float32"]
    table = lines(docs["single"].signs_from_weights(run[1]))
    for data in run[1].runs("signs_from_weights"):
        config = run[0]("signs_from_weights", data)[1]
        for one in grid(run, "signs_from_weights", data):
            at = config.data, config.model, one["case"]
            (line,) = [t for t in table if (t["data"], t["model"], t["weights"]) == at]
            assert line["keys read"] == one["keys read"]
            for name in ("signs right", "wrong of the surest"):
                (cell,) = [text for header, text in line.items() if header.startswith(name)]
                assert cell.strip("–") == one[name]
            if one["keys read"].split(" of ")[0] == one["keys read"].split(" of ")[1]:
                cells = [one[name] for name in ("no key", "found", "right key")]
                alike(line["no key → found of right key"], " ".join(cells))
            assert line["CPU seconds"].strip("–") == one["CPU seconds"]


def test_sign_curves(run, docs):
    table = lines(docs["curves"].sign_curves(run[1]))
    ours = [line for data in run[1].runs("sign_curves") for line in grid(run, "sign_curves", data)]
    for line, one in zip(table, ours, strict=True):
        assert (line["curve"], line["at"]) == (one["curve"], one["at"])
        assert (line["keys read"], line["signs in use"]) == (one["keys read"], one["of"])
        for name in ("signs right", "wrong of the surest"):
            (cell,) = [text for header, text in line.items() if header.startswith(name)]
            assert cell == one[name]
        for name in ("no key", "right key"):
            alike(line[name], one[name])


def test_evasion_is_of_each_seeds_worst_attack(run, docs):
    rows, config = run[0]("evasion", "mnist5k")
    table = lines(docs["single"].evasion(run[1]))
    assert len(table) == len({(r["lock"], r["attacker"]) for r in rows.of("evasion")})
    for line in table:
        mine = [
            r for r in rows.of("evasion")
            if (r["lock"], r["attacker"]) == (line["model"], line["attacker"])
        ]  # fmt: skip
        right = {r["seed"]: r["key_right"] for r in mine[::-1] if r["key_right"] is not None}
        assert bool(line["key right"]) == bool(right)
        if right:
            alike(line["key right"], f"{100 * np.mean([*right.values()]):.1f}")
        for place, eps in enumerate(config.eps):
            worst = dict.fromkeys(range(config.seeds), 1.0)
            for r in mine:
                worst[r["seed"]] = min(worst[r["seed"]], r["accuracy"][place])
            mean, low, high = interval([*worst.values()])
            alike(line[f"eps {eps:g}"], f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]")


def test_who_is_less_robust_is_said_of_the_same_models(run, docs):
    rows, config = run[0]("evasion", "mnist5k")
    table = {line["the user's model"]: line for line in lines(docs["single"].robustness(run[1]))}
    assert list(table) == ["plain", *config.locks]
    known = defaultdict(lambda: np.ones((config.seeds, len(config.eps))))
    for r in rows.of("evasion"):
        if r["attacker"] == "known":
            known[r["lock"]][r["seed"]] = np.minimum(known[r["lock"]][r["seed"]], r["accuracy"])
    for lock, line in table.items():
        for place, eps in enumerate(config.eps):
            mean = f"{100 * known[lock][:, place].mean():.1f}"
            if lock == "plain":
                alike(line[f"eps {eps:g}"], mean)
                continue
            more, low, high = interval(known[lock][:, place] - known["plain"][:, place])
            word = "less" if high < 0 else "more" if low > 0 else "no other"
            cell = line[f"eps {eps:g}"].replace("*", "")
            assert re.findall("[a-z]+ ?[a-z]+", cell) == [word]
            alike(cell, f"{mean} {100 * more:+.1f} {100 * low:+.1f} {100 * high:+.1f}")


def test_single_attacks_are_from_the_least_to_the_most_of_the_seeds(run, docs):
    for line in lines(docs["single"].single_attacks(run[1])):
        for data in ("mnist5k", "fashion_mnist"):
            if line["lock"] == "adv_params":
                rows = run[0]("adv_params", data)[0].of("adv_params")
                mine = [r for r in rows if r["lock"] == "adv_params"]
                found = [r["accuracy"][line["attack"]] for r in mine]
            else:
                count = int(re.findall(r"\d+", line["the attacker has"])[0])
                at = line["lock"], line["attack"], count
                rows = run[0]("sign_masks", data)[0].of("signs")
                mine = [r for r in rows if (r["lock"], r["attack"], r["images"]) == at]
                found = [r["accuracy"] for r in mine]
            ends = [f"{100 * v:.1f}" for v in sorted(found)[:: len(found) - 1]]
            ends += [
                f"{100 * v:.1f}" for v in sorted(r["right_key"] for r in mine)[:: len(mine) - 1]
            ]
            shown = [part.split("–") for part in line[data].split(" of ")]
            assert [end for part in shown for end in (part[0], part[-1])] == ends
