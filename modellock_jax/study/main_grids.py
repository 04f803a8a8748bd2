"""The tables of the main study."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from modellock_jax.locks import SCHEMES, parse
from modellock_jax.study.config import Config
from modellock_jax.study.report import Grid, interval, seeds_text
from modellock_jax.study.scale import Scale, scale_of
from modellock_jax.study.store import Rows

__all__ = ["best_thief", "lock_grid", "thief_grid"]


def lock_grid(rows: Rows, config: Config) -> Grid:
    """One row per lock: what opens it, over all seeds.

    Args:
        rows: Of the main study.
        config: Its settings.

    Returns:
        The table.
    """
    scale = scale_of(rows)
    grid = Grid(
        f"Who opens what: test {scale.unit} on {config.data}, {config.model}, {seeds_text(config)}",
        [
            "lock",
            "plain",
            "right key",
            "no key",
            f"{config.wrong_keys} wrong keys [95 %]",
            "max",
            "1 bit or swap off",
            "non-finite: no key, wrong",
            "key bits",
            "changed",
            "enc s",
            "dec s",
        ],
        [],
        [],
    )
    for text in config.locks:
        mine = [row for row in rows.of("lock") if row["lock"] == text]
        if not mine:
            continue
        grid.rows.append(_line(mine, scale))
        mean = interval([value for row in mine for value in row["wrong"]])[0]
        if (mean - scale.chance) / (scale.best - scale.chance) >= 0.28:
            reached = f"{scale.text(mean)}{' %' * (scale.factor == 100)}"
            grid.notes.append(f"{text}: wrong keys reach {reached}, {_reason(text)}.")
    if grid.rows:
        prior = scale.text(max(row["prior"] for row in rows.of("lock")))
        grid.notes[:0] = [
            f"The most frequent class is {prior} % of the test set."
            if scale == Scale()
            else f"A model that knows nothing reaches {prior}.",
            "`=`: every answer on the test set equals the plain model's to the last bit.",
            " ".join(
                ["An answer that is not finite counts as the worst.", *_bits_of(config.locks)]
            ),
        ]
    return grid


def _line(mine: list[dict[str, Any]], scale: Scale) -> list[str]:
    """Return what opens one lock, over all seeds."""
    wrong = [value for row in mine for value in row["wrong"]]
    mean, low, high = interval(wrong)
    right = scale.text(_mean(mine, "right"))
    exact = not mine[0]["trained_under"] and all(row["right_is_plain"] for row in mine)
    return [
        mine[0]["lock"],
        scale.text(_mean(mine, "plain")),
        f"{right} =" if exact else right,
        scale.text(_mean(mine, "none")),
        f"{scale.text(mean)} [{scale.text(low)}, {scale.text(high)}]",
        scale.text(scale.better(wrong)),
        scale.text(_mean(mine, "near")),
        f"{_percent(_mean(mine, 'none_non_finite'))}, {_percent(_mean(mine, 'wrong_non_finite'))}",
        f"{_mean(mine, 'key_bits'):.0f}",
        f"{max(row['changed'] for row in mine)} of {mine[0]['parameters']}",
        f"{min(row['encrypt_s'] for row in mine):.2g}",
        f"{min(row['decrypt_s'] for row in mine):.2g}",
    ]


def _reason(text: str) -> str:
    """Why a lock opens to wrong keys, as its record says."""
    reasons = dict.fromkeys(filter(None, (scheme.wrong_key for scheme in parse(text).schemes)))
    return f"because {'; and '.join(reasons)}" if reasons else "and it is not known why"


def _bits_of(texts: Iterable[str]) -> list[str]:
    """Return what the key bits of some locks count."""
    schemes = dict.fromkeys(scheme.name for text in texts for scheme in parse(text).schemes)
    found = [SCHEMES[name] for name in schemes]
    return [f"Key bits of {one.name}: {one.bits_of}." for one in found if one.bits_of]


def thief_grid(rows: Rows, config: Config) -> Grid:
    """Show the thief's best accuracy for each budget, the locked start beside a fresh one.

    Args:
        rows: Of the main study.
        config: Its settings.

    Returns:
        The table.
    """
    scale = scale_of(rows)
    grid = Grid(
        f"The fine-tuning thief: best test {scale.unit} over {len(config.thief_rates)} learning "
        f"rate(s) and {config.thief_scores} stops of {config.thief_steps} steps, {seeds_text(config)}",
        ["start"] + [f"{100 * budget:g} % of the data" for budget in config.budgets],
        [],
        [
            "The thief has the architecture, the locked weights and that share of the labelled "
            "training set, not the key; the best score on the test set counts, in the thief's favour. "
            "In brackets the 95 % interval over seeds.",
            "scratch: the same budget and data on fresh weights. A lock whose thief does no better "
            "than scratch gave nothing away.",
        ],
    )
    best = best_thief(rows)
    for name in ("scratch", *config.locks):
        cells = []
        for budget in config.budgets:
            values = [
                best[name, s, budget] for s in range(config.seeds) if (name, s, budget) in best
            ]
            if values:
                mean, *ends = interval(values)
                low, high = (scale.text(scale.bounded(end)) for end in ends)
                cells.append(scale.text(mean) + (f" [{low}, {high}]" if len(values) > 1 else ""))
        if len(cells) == len(config.budgets):
            grid.rows.append([name, *cells])
    return grid


def best_thief(rows: Rows) -> dict[tuple[str, int, float], float]:
    """Return the best value over learning rates, by (lock, seed, budget).

    Args:
        rows: Of the main study.

    Returns:
        Values.
    """
    found: dict[tuple[str, int, float], list[float]] = {}
    for row in rows.of("thief"):
        found.setdefault((row["lock"], row["seed"], row["budget"]), []).append(row["best"])
    scale = scale_of(rows)
    return {key: scale.better(values) for key, values in found.items()}


def _mean(rows: list[dict[str, Any]], field: str) -> float:
    return float(np.mean([row[field] for row in rows]))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
