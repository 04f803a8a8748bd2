"""The pictures of a study, each as SVG, PNG and the CSV of what it shows."""

import csv
import io
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from modellock_jax.study.config import Config
from modellock_jax.study.main_grids import best_thief
from modellock_jax.study.report import interval
from modellock_jax.study.scale import scale_of
from modellock_jax.study.store import Rows, write

__all__ = ["COLOURS", "LOCKS", "MUTED", "SCRATCH", "Drawing", "save_figures", "spread"]

_INK, MUTED, SCRATCH = "#1b1b1f", "#6b6b76", "#8c8c96"
COLOURS = ("#0b6e99", "#c1440e", "#3f7d20", "#8e3b8a", "#b08900", "#1f3a93", "#7a4b2a", "#008080")


Drawing = Callable[[Any, Rows, Config], tuple[Any, list[list[Any]]]]


def save_figures(folder: Path, rows: Rows, config: Any, drawings: dict[str, Drawing]) -> None:
    """Draw figures into a run folder's `figures/`, each under its name.

    Args:
        folder: Of the run.
        rows: Its rows.
        config: The study's settings.
        drawings: By name: each takes `matplotlib.pyplot`, the rows and the settings, and gives the
            figure and a table of what it shows.
    """
    if "matplotlib" not in sys.modules:
        os.environ["MPLBACKEND"] = "agg"  # else it does not even load where that names nothing
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style: dict[Any, Any] = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": _INK,
        "text.color": _INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "svg.hashsalt": "modellock_jax",
    }
    with plt.rc_context(style):
        for name, draw in drawings.items():
            figure, table = draw(plt, rows, config)
            for kind in ("svg", "png"):
                stream = io.BytesIO()
                metadata = {"Date": None} if kind == "svg" else None
                figure.savefig(stream, format=kind, dpi=160, bbox_inches="tight", metadata=metadata)
                write(folder / "figures" / f"{name}.{kind}", stream.getvalue())
            plt.close(figure)
            text = io.StringIO()
            csv.writer(text).writerows(table)
            write(folder / "figures" / f"{name}.csv", text.getvalue().encode())


def _hero(plt: Any, rows: Rows, config: Config) -> tuple[Any, list[list[Any]]]:
    """Keys x models: what each key gets out of each locked model."""
    scale = scale_of(rows)
    locks = [text for text in config.locks if any(r["lock"] == text for r in rows.of("lock"))]
    columns = min(3, len(locks))
    lines = -(-len(locks) // columns)
    users = [chr(ord("A") + seed) for seed in range(config.seeds)]
    keys = ["no key", *(f"key {user}" for user in users), "wrong keys"]
    width = max(2.6, 0.75 * config.seeds + 1.2)
    figure, axes = plt.subplots(
        lines, columns, figsize=(columns * width, lines * (0.34 * len(keys) + 1.0)), squeeze=False
    )
    table: list[list[Any]] = [["lock", "key", "model", "accuracy"]]
    for axis in axes.flat[len(locks) :]:
        axis.axis("off")
    for axis, text in zip(axes.flat, locks):
        mine = sorted((r for r in rows.of("lock") if r["lock"] == text), key=lambda r: r["seed"])
        grid = np.array([[r["none"], *r["cross"], np.mean(r["wrong"])] for r in mine]).T
        shades = np.vectorize(scale.shade)(grid)
        axis.imshow(shades, cmap="YlGnBu", vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(len(mine)), [f"model {users[r['seed']]}" for r in mine])
        axis.set_yticks(range(len(keys)), keys)
        axis.tick_params(length=0)
        axis.set_title(text, loc="left", fontsize=9.5, fontweight="bold")
        for spine in axis.spines.values():
            spine.set_visible(False)
        for i, key in enumerate(keys):
            for j, row in enumerate(mine):
                value = grid[i, j]
                shade = "white" if shades[i, j] > 0.55 else _INK
                text_ = f"{100 * value:.0f}" if scale.factor == 100 else f"{value:.3g}"
                axis.text(j, i, text_, ha="center", va="center", color=shade)
                table.append([text, key, users[row["seed"]], value])
    figure.suptitle(
        f"Who opens what: test {scale.unit}, {config.data}, {config.model}",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    figure.text(0.01, -0.01, "An answer that is not finite counts as the worst.", color=MUTED)
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    return figure, table


def _thief(plt: Any, rows: Rows, config: Config) -> tuple[Any, list[list[Any]]]:
    """Return the thief's best value against the share of the data, with training from scratch."""
    scale = scale_of(rows)
    best = best_thief(rows)
    figure, axis = plt.subplots(figsize=(7.2, 4.2))
    shares = [100 * budget for budget in config.budgets]
    table: list[list[Any]] = [["start", "budget", "mean", "low", "high"]]
    ends = []
    for i, name in enumerate(["scratch", *config.locks]):
        spans = [
            interval([best[name, s, budget] for s in range(config.seeds)])
            for budget in config.budgets
        ]
        mean, low, high = (scale.factor * np.array(column) for column in zip(*spans))
        colour = SCRATCH if name == "scratch" else COLOURS[(i - 1) % len(COLOURS)]
        dash = "--" if name == "scratch" else "-"
        # Side by side: the intervals of three seeds are wide, and would hide one another.
        places = np.array(shares) * 1.012 ** (i - len(config.locks) / 2)
        axis.plot(places, mean, dash, color=colour, marker="o", markersize=3.5, linewidth=1.6)
        axis.vlines(
            places,
            low,
            np.minimum(high, scale.most),
            color=colour,
            alpha=0.35,
            linewidth=1.2,
        )
        ends.append([mean[-1], name, colour])
        table += [[name, b, *span] for b, span in zip(config.budgets, spans)]
    plain = scale.factor * np.mean([row["plain"] for row in rows.of("lock")])
    axis.hlines(plain, shares[0], shares[-1], color=MUTED, linewidth=0.8)
    axis.text(shares[0], plain + 0.8, "plain model", color=MUTED, fontsize=8)
    for height, (_, name, colour) in zip(spread([e[0] for e in ends], 3.4), ends):
        axis.text(shares[-1] * 1.05, height, name, color=colour, va="center", fontsize=8.5)
    axis.set_xscale("log")
    axis.set_xticks(shares, [f"{share:g} %" for share in shares])
    axis.minorticks_off()
    axis.set_xlabel("share of the training set in the thief's hands")
    axis.set_ylabel(f"best test {scale.unit}")
    axis.set_title("The fine-tuning thief, without the key", loc="left", fontweight="bold")
    return figure, table


def _wrong_keys(plt: Any, rows: Rows, config: Config) -> tuple[Any, list[list[Any]]]:
    """Return what every wrong key reaches, beside the right key, the nearest wrong one and none."""
    scale = scale_of(rows)
    figure, axis = plt.subplots(figsize=(7.2, 0.5 * len(config.locks) + 1.4))
    table: list[list[Any]] = [["lock", "seed", "kind", "accuracy"]]
    marks = {
        "right": ("D", "right key"),
        "near": ("^", "1 bit or swap off"),
        "none": ("x", "no key"),
    }
    for i, text in enumerate(config.locks):
        for row in (r for r in rows.of("lock") if r["lock"] == text):
            values = scale.factor * np.array(row["wrong"])
            offsets = np.linspace(-0.22, 0.22, len(values))
            axis.scatter(values, i + offsets, s=9, color=COLOURS[0], alpha=0.45, linewidth=0)
            table += [[text, row["seed"], "wrong", value] for value in row["wrong"]]
            for field, (mark, _) in marks.items():
                axis.scatter(
                    scale.factor * row[field], i, s=26, marker=mark, color=COLOURS[1], linewidth=1
                )
                table.append([text, row["seed"], field, row[field]])
    axis.scatter([], [], s=9, color=COLOURS[0], label="wrong keys")
    for mark, label in marks.values():
        axis.scatter([], [], s=26, marker=mark, color=COLOURS[1], label=label)
    axis.set_yticks(range(len(config.locks)), config.locks)
    axis.invert_yaxis()
    if scale.factor == 100:
        axis.set_xlim(0, 101)
    axis.set_xlabel(f"test {scale.unit}")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=4, frameon=False, fontsize=8)
    axis.set_title("Wrong keys, one by one", loc="left", fontweight="bold")
    return figure, table


def spread(heights: list[float], gap: float) -> list[float]:
    """Move labels apart until neighbours are `gap` from each other, keeping their order.

    Args:
        heights: Where labels would be.
        gap: The least distance, above 0.

    Returns:
        Where they are, in the order of `heights`.
    """
    order = np.argsort(heights)
    placed = np.array(heights, float)
    for before, after in itertools.pairwise(order):
        placed[after] = max(placed[after], placed[before] + gap)
    apart: list[float] = (placed - (placed - np.array(heights)).mean()).tolist()
    return apart


LOCKS: dict[str, Drawing] = {"hero": _hero, "thief": _thief, "wrong_keys": _wrong_keys}
"""By name: the figures of the locks."""
