"""The pictures of the league and of the sweep."""

from typing import Any

import numpy as np

from modellock_jax.study.config import Config
from modellock_jax.study.figures import COLOURS, MUTED, SCRATCH, Drawing
from modellock_jax.study.report import interval
from modellock_jax.study.scale import scale_of
from modellock_jax.study.store import Rows

__all__ = ["LEAGUE", "SWEEP"]


def _distance(plt: Any, rows: Rows, config: Config) -> tuple[Any, list[list[Any]]]:
    """Accuracy against the share of the key that is right, and where the attacks ended."""
    locks = [text for text in config.locks if _of(rows, "distance", text)]
    scale = scale_of(rows)
    figure, axes = _panels(plt, len(locks))
    table: list[list[Any]] = [["lock", "seed", "attack or changes", "share right", "accuracy"]]
    for axis, text in zip(axes, locks):
        mine = _of(rows, "distance", text)
        for row in mine:
            mean = scale.factor * np.mean(row["accuracy"], 1)
            axis.plot(
                100 * np.array(row["share"]), mean, color=COLOURS[0], alpha=0.7, linewidth=1.3
            )
            axis.scatter(100 * np.array(row["share"]), mean, s=7, color=COLOURS[0], linewidth=0)
            for changes, share, values in zip(row["changes"], row["share"], row["accuracy"]):
                table += [[text, row["seed"], changes, share, value] for value in values]
        found = [r for r in _of(rows, "league", text) if r["key_right"] is not None]
        for i, attack in enumerate(dict.fromkeys(r["attack"] for r in found)):
            same = [r for r in found if r["attack"] == attack]
            places = [
                [100 * r["key_right"] for r in same],
                [scale.factor * r["accuracy"] for r in same],
            ]
            axis.scatter(
                *places, s=20, marker="xD^sv"[i % 5], color=COLOURS[1 + i % 7], label=attack
            )
            table += [[text, r["seed"], attack, r["key_right"], r["accuracy"]] for r in same]
        if found:
            axis.legend(frameon=False, fontsize=7, loc="best")
        axis.set_title(text, loc="left", fontsize=9, fontweight="bold")
        if scale.factor == 100:
            axis.set_ylim(-3, 103)
    _label(figure, "share of the key that is right, %", f"test {scale.unit}")
    title = "Random keys near the right one (lines, one a seed), and the keys that attacks found"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure, table


def _roc(plt: Any, rows: Rows, config: Config) -> tuple[Any, list[list[Any]]]:
    """Whether changed weights can be found without data, one line a score and seed."""
    figure, axis = plt.subplots(figsize=(5.6, 3.6))
    table: list[list[Any]] = [["lock", "seed", "score", "auc", "fpr", "tpr"]]
    mine = rows.of("roc")
    for i, score in enumerate(mine[0]["auc"] if mine else ()):
        auc = np.mean([row["auc"][score] for row in mine])
        for j, row in enumerate(mine):
            label = f"{score}: area {auc:.3f}" if j == 0 else None
            axis.plot(row["fpr"], row["tpr"][score], color=COLOURS[i], linewidth=1.4, label=label)
            points = zip(row["fpr"], row["tpr"][score])
            table += [[row["lock"], row["seed"], score, row["auc"][score], *p] for p in points]
    if mine:
        axis.plot(mine[0]["fpr"], mine[0]["fpr"], "--", color=SCRATCH, linewidth=1, label="chance")
    axis.set_xscale("log")
    axis.set_xlabel("false positives among unchanged weights")
    axis.set_ylabel("changed weights found")
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    axis.set_title("adv_params: found without data?", loc="left", fontweight="bold")
    return figure, table


def _best_so_far(plt: Any, rows: Rows, config: Config) -> tuple[Any, list[list[Any]]]:
    """Return what the fine-tuning thief holds after so many steps, beside a twin from scratch."""
    names = [text for text in config.locks if _of(rows, "sweep", text)]
    choice = "rehearsed" if config.seeds > 1 else "held_out"
    scale, (figure, axes) = scale_of(rows), _panels(plt, len(config.budgets))
    stops = np.linspace(0, config.thief_steps, config.thief_scores + 1)
    table: list[list[Any]] = [["start", "budget", "step", "mean", "low", "high"]]
    for axis, budget in zip(axes, config.budgets):
        for i, name in enumerate(["scratch", *names]):
            mine = [r for r in _of(rows, "sweep", name) if r["budget"] == budget]
            curves = np.array([row[choice]["curve"] for row in mine])
            spans = np.array([interval(column) for column in curves.T])
            mean, low, high = scale.factor * spans.T
            colour = SCRATCH if name == "scratch" else COLOURS[(i - 1) % len(COLOURS)]
            dash = "--" if name == "scratch" else "-"
            axis.plot(stops, mean, dash, color=colour, linewidth=1.4, label=name)
            axis.fill_between(
                stops,
                low,
                np.minimum(high, scale.most),
                color=colour,
                alpha=0.07,
                linewidth=0,
            )
            table += [[name, budget, *line] for line in zip(stops, mean, low, high)]
        axis.set_title(f"{100 * budget:g} % of the data", loc="left", fontsize=9, fontweight="bold")
        if scale.factor == 100:
            axis.set_ylim(0, 100)
    _label(figure, "steps", f"test {scale.unit}")
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="outside right center")
    chosen = {"rehearsed": "in rehearsal", "held_out": "by held-out images"}[choice]
    title = f"The best of every setting so far, chosen {chosen}; 95 % intervals"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure, table


def _of(rows: Rows, kind: str, lock: str) -> list[dict[str, Any]]:
    return [row for row in rows.of(kind) if row["lock"] == lock]


def _panels(plt: Any, count: int) -> tuple[Any, list[Any]]:
    columns = min(3, count)
    lines = -(-count // columns)
    size = (3.6 * columns, 2.5 * lines + 0.4)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[count:]:
        axis.axis("off")
    return figure, list(axes.flat[:count])


def _label(figure: Any, x: str, y: str) -> None:
    figure.supxlabel(x, fontsize=9, color=MUTED)
    figure.supylabel(y, fontsize=9, color=MUTED)


LEAGUE: dict[str, Drawing] = {"distance": _distance, "roc": _roc}
SWEEP: dict[str, Drawing] = {"best_so_far": _best_so_far}
"""By name: the figures of the league and of the sweep."""
