"""Many comparisons at once: Holm's correction, simultaneous intervals, and how many draws they need."""

from collections.abc import Sequence

import numpy as np
from scipy import special

from modellock_jax.study.report import interval

__all__ = ["LEVEL", "draws_needed", "holm", "p_value", "simultaneous"]

LEVEL = 0.05
"""The chance of one false verdict, or of one interval that misses, in a whole family."""


def p_value(differences: Sequence[float]) -> float:
    """Test that the mean of paired differences is zero, two-sided, by Student's t.

    Args:
        differences: One a model, at least two.

    Returns:
        In [0, 1]; of differences that are all equal 0, or 1 if they are zero.

    >>> round(p_value([1.0, 2.0, 3.0]), 3), p_value([2.0, 2.0]), p_value([0.0, 0.0])
    (0.074, 0.0, 1.0)
    """
    d = np.asarray(differences, float)
    spread = d.std(ddof=1)
    if spread == 0:
        return float(d[0] == 0)
    t = abs(d.mean()) / (spread / np.sqrt(len(d)))
    return float(2 * special.stdtr(len(d) - 1, -t))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for a family of tests.

    Args:
        p_values: One a test.

    Returns:
        Adjusted ones in the same order; a verdict holds where they are at most `LEVEL`.

    Source: Holm (1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    found, most = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        most = max(most, min(1.0, (len(p_values) - rank) * p_values[i]))
        found[i] = most
    return found


def simultaneous(values: Sequence[float], comparisons: int) -> tuple[float, float, float]:
    """Compute the mean and an interval that holds together with those of the other comparisons.

    Args:
        values: One a model, at least two.
        comparisons: How many intervals there are in all, at least 1.

    Returns:
        Mean, lower and upper end; by Bonferroni all hold at once with 95 %.

    >>> one, four = (simultaneous([0.1, 0.2, 0.3], n) for n in (1, 4))
    >>> one[0] == four[0], one[2] < four[2]
    (True, True)
    """
    return interval(values, 1 - LEVEL / comparisons)


def draws_needed(
    pilot: Sequence[Sequence[float]],
    models: int,
    comparisons: int,
    half_width: float,
    assurance: float = 0.8,
    most: int = 256,
) -> int:
    """Compute how many thefts a model take an interval over models to a half-width.

    Args:
        pilot: Differences between thief and twin, `[models, draws]`, at least two of each.
        models: Of the study, at least two.
        comparisons: How many intervals hold at once.
        half_width: What is wanted, above 0, in the differences' unit.
        assurance: The chance that the interval, whose width is itself drawn, is no wider.
        most: The answer where no number would do.

    Returns:
        At least 1, at most `most`.

    **Guarantees.** The spread between models counts beside that within them, which alone shrinks with
    the draws.

    >>> pilot = [[3.0, -3.0, 1.0], [-2.0, 2.0, 0.0]]
    >>> few, many = (draws_needed(pilot, 5, 1, half) for half in (4.0, 2.0))
    >>> 1 <= few < many
    True
    """
    found = np.asarray(pilot, float)
    within = found.var(axis=1, ddof=1).mean()
    between = max(0.0, found.mean(1).var(ddof=1) - within / found.shape[1])
    t = special.stdtrit(models - 1, 1 - LEVEL / comparisons / 2)
    spread = special.chdtri(models - 1, 1 - assurance) / (models - 1)
    for draws in range(1, most):
        if t * np.sqrt(spread * (between + within / draws) / models) <= half_width:
            return draws
    return most
