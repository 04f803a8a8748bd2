"""How the numbers of rows are read: in which unit, and which of two is better."""

from collections.abc import Iterable
from typing import NamedTuple

from modellock_jax.study.store import Rows

__all__ = ["Scale", "scale_of"]


class Scale(NamedTuple):
    """The scale of a study's values, those of its task; a unit in % is a share in rows.

    `chance` and `best` are as rows have them: what a model reaches that knows nothing, and one that
    makes no error.
    """

    unit: str = "accuracy in %"
    chance: float = 0.1
    best: float = 1.0

    @property
    def factor(self) -> int:
        """What a value in a row is multiplied by to be shown."""
        return 100 if "%" in self.unit else 1

    @property
    def sign(self) -> int:
        """1 if more is better, else -1."""
        return 1 if self.best > self.chance else -1

    @property
    def most(self) -> float:
        """The highest value that can be shown."""
        return 100.0 if self.factor == 100 else float("inf")

    def shade(self, value: float) -> float:
        """How good a value is, from 0 to 1: from chance to best, but for shares, which are that.

        Args:
            value: In the scale's unit, or a share.

        Returns:
            A number in [0, 1].
        """
        if self.factor == 100:
            return value
        return min(1.0, max(0.0, (value - self.chance) / (self.best - self.chance)))

    def text(self, value: float) -> str:
        """Return a value as it is shown.

        Args:
            value: In the scale's unit, or a share.

        Returns:
            As "12.3".

        >>> Scale().text(0.1234), Scale("perplexity", 26.0, 1.0).text(12.345)
        ('12.3', '12.35')
        """
        return f"{100 * value:.1f}" if self.factor == 100 else f"{value:.4g}"

    def bounded(self, value: float) -> float:
        """Return a value that an interval ends at, not beyond what is possible.

        Args:
            value: In the scale's unit, or a share.

        Returns:
            The value, or the best that there is.
        """
        return min(value, self.best) if self.sign > 0 else max(value, self.best)

    def better(self, values: Iterable[float]) -> float:
        """Return the best of some values.

        Args:
            values: At least one.

        Returns:
            One of them.
        """
        return max(values, key=lambda value: self.sign * value)


def scale_of(rows: Rows) -> Scale:
    """Return the scale of some rows: what they say of their task, or classification.

    Args:
        rows: Of a run.

    Returns:
        Their scale.
    """
    for row in rows.values():
        if "task" in row:
            t, share = row["task"], 100 if "%" in row["task"]["unit"] else 1
            return Scale(t["unit"], t["chance"] / share, t["best"] / share)
    return Scale()
