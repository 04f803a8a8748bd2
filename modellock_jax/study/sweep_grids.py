"""The tables of the sweep."""

from typing import Any

import numpy as np

from modellock_jax.attacks.weights.fine_tune import VARIANTS
from modellock_jax.attacks.weights.sweep import RATES
from modellock_jax.study.config import Config
from modellock_jax.study.report import Grid, interval, seeds_text
from modellock_jax.study.scale import Scale, scale_of
from modellock_jax.study.store import Rows

__all__ = ["CHOICES", "SCRATCH", "grids", "verdict"]

SCRATCH = "scratch"

CHOICES = {
    "rehearsed": "The thief rehearsed on the same lock with the other seeds' models and images, and "
    "knows which setting and stop did best there on images that no thief owns.",
    "held_out": "The thief keeps the setting and the stop that did best on a fifth of the images.",
}


def grids(rows: Rows, config: Config) -> list[Grid]:
    """For each way to choose: what the thief reached, and what the stolen weights gave them.

    Args:
        rows: Of the sweep.
        config: Its settings.

    Returns:
        The tables.
    """
    found = {(r["lock"], r["seed"], r["budget"]): r for r in rows.of("sweep")}
    return [
        _grid(found, scale_of(rows), config, choice)
        for choice in CHOICES
        if config.seeds > 1 or choice == "held_out"
    ]


def _grid(
    rows: dict[tuple[str, int, float], dict[str, Any]], scale: Scale, config: Config, choice: str
) -> Grid:
    title = f"Was stealing worth anything? {config.data}, {config.model}, {seeds_text(config)}"
    header = ["start", "no key", "right key"] + [
        f"{100 * b:g} % of the data" for b in config.budgets
    ]
    table, seeds = Grid(f"{title}, {choice.replace('_', ' ')}", header, [], []), range(config.seeds)

    def reached(name: str, budget: float) -> list[float]:
        return [rows[name, s, budget][choice]["accuracy"] for s in seeds]

    for name in (SCRATCH, *config.locks):
        if any((name, s, b) not in rows for s in seeds for b in config.budgets):
            continue
        line = [name, "", ""]
        if name != SCRATCH:
            own = [rows[name, s, config.budgets[0]] for s in seeds]
            line[1:] = [
                scale.text(float(np.mean([r[k] for r in own]))) for k in ("no_key", "right_key")
            ]
        for budget in config.budgets:
            mean, low, high = interval(reached(name, budget))
            cell = scale.text(mean)
            if name == SCRATCH:
                cell += f" [{scale.text(low)}, {scale.text(scale.bounded(high))}]"
            else:
                pairs = zip(reached(name, budget), reached(SCRATCH, budget))
                gains = [scale.factor * scale.sign * (a - b) for a, b in pairs]
                more, low, high = interval(gains)
                points = 3.0 if scale.factor == 100 else 0.03 * abs(scale.best - scale.chance)
                cell += f": {verdict(low, high, points)}, {more:+.1f} [{low:+.1f}, {high:+.1f}]"
            line.append(cell)
        table.rows.append(line)
    settings = len(VARIANTS) * sum(map(len, RATES.values()))
    table.notes.extend(
        [
            f"Test {scale.unit}. The thief tries {settings} settings ({', '.join(VARIANTS)}; Adam and "
            f"SGD, three rates each), {config.thief_steps} steps of {config.thief_batch} images, "
            f"{config.thief_scores} stops and the start itself. {CHOICES[choice]} Test images choose "
            "nothing.",
            "After the colon: whether stealing the weights was worth anything, and the advantage over "
            "scratch in points, the same images and as many settings (four draws in place of the "
            "variants), with the 95 % interval of paired differences over seeds. `yes`: the interval "
            "lies above 0; `harm`: below; `no`: within 3 points of it; `unclear`: none of these.",
        ]
    )
    return table


def verdict(low: float, high: float, points: float = 3.0) -> str:
    """Whether stealing was worth anything, by the interval of the advantage in points.

    Args:
        low: The lower end of the interval.
        high: The upper end.
        points: An advantage that counts, above 0.

    Returns:
        A few words.

    >>> [verdict(*interval) for interval in [(0.1, 9.0), (-9.0, -0.1), (-1.0, 2.0), (-1.0, 9.0)]]
    ['yes', 'harm', 'no', 'unclear']
    """
    if low > 0:
        return "yes"
    if high < 0:
        return "harm"
    return "no" if max(-low, high) <= points else "unclear"
