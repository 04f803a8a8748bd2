"""The picture of how much of a sign key weights give away, by what was changed."""

import itertools
from typing import Any

import numpy as np

from modellock_jax.study.figures import COLOURS, MUTED, Drawing
from modellock_jax.study.store import Rows

__all__ = ["CURVES"]


def _curves(plt: Any, rows: Rows, config: Any) -> tuple[Any, list[list[Any]]]:
    """Draw the share of the signs that is right along each curve, one dot a seed; under it the locks."""
    names = list(dict.fromkeys(row["curve"] for row in rows.of("curve")))
    figure, axes = plt.subplots(-(-len(names) // 2), 2, figsize=(8, 2 * -(-len(names) // 2)))
    table: list[list[Any]] = [
        ["curve", "at", "seed", "share of signs right", "no key", "right key"]
    ]
    for axis, name in itertools.zip_longest(axes.flat, names):
        if name is None:
            axis.axis("off")
            continue
        mine = [row for row in rows.of("curve") if row["curve"] == name]
        places = list(dict.fromkeys(row["at"] for row in mine))
        shares = [row["signs_right"] / max(1, row["in_use"]) for row in mine]
        at = [places.index(row["at"]) for row in mine]
        means = [np.mean([s for s, a in zip(shares, at) if a == i]) for i in range(len(places))]
        if all(place.replace(".", "").isdecimal() for place in places):
            axis.plot(range(len(places)), 100 * np.array(means), color=COLOURS[0], linewidth=1.4)
        axis.scatter(at, 100 * np.array(shares), s=9, color=COLOURS[0], linewidth=0)
        lost = [100 * row["no_key"] / max(row["right_key"], 1e-9) for row in mine]
        axis.scatter(at, lost, s=12, marker="x", color=COLOURS[1], linewidth=0.8)
        axis.axhline(50, color=MUTED, linewidth=0.8, linestyle="--")
        axis.set_xticks(range(len(places)), places, fontsize=7)
        axis.set_ylim(0, 103)
        axis.set_title(name, loc="left", fontsize=9, fontweight="bold")
        table += [
            [name, row["at"], row["seed"], share, row["no_key"], row["right_key"]]
            for row, share in zip(mine, shares)
        ]
    title = "Signs right (dots, %), and the value without a key (crosses, % of that with it)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    return figure, table


CURVES: dict[str, Drawing] = {"curves": _curves}
"""By name: the figures of the study `sign_curves`."""
