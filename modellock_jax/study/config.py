"""What a study runs: a frozen configuration whose hash names the run folder."""

import dataclasses
import hashlib
import json

import modellock_jax
from modellock_jax.locks import SCHEMES

__all__ = ["QUICK", "Config", "Settings", "default_locks", "locks_and_variants"]


def default_locks() -> tuple[str, ...]:
    """Return the texts of the locks that a study runs unless told otherwise.

    Returns:
        Lock texts, one a scheme that has one.
    """
    return tuple(scheme.study for scheme in SCHEMES.values() if scheme.study)


def locks_and_variants() -> tuple[str, ...]:
    """Those of the league and the sweep: the variants of each lock before it.

    Returns:
        Lock texts.
    """
    found = (scheme for scheme in SCHEMES.values() if scheme.study)
    return tuple(text for scheme in found for text in (*scheme.variants, scheme.study))


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every study's configuration is: plain values, all that decides its numbers.

    Attributes:
        data: The data set, of `modellock_jax.data`.
        model: The model, of `modellock_jax.models`.
        locks: The texts of the locks under study.
        seeds: How many models of each lock, from seed 0.
        epochs: Of training.
        batch_size: Examples a step of training.
        learning_rate: The peak of training's schedule.
        version: Of the package, which made the rows.
    """

    data: str = "mnist5k"
    model: str = "cnn"
    locks: tuple[str, ...] = ()
    seeds: int = 3
    epochs: int = 15
    batch_size: int = 128
    learning_rate: float = 4e-3
    version: str = modellock_jax.__version__

    @property
    def id(self) -> str:
        """12 hexadecimal characters: the beginning of SHA-256 of the settings."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The settings of the main study, the league and the sweep.

    Attributes:
        wrong_keys: How many are tried on each model.
        budgets: Shares of the training set that the thief holds, in (0, 1].
        thief_rates: Learning rates that the thief tries.
        thief_steps: Steps of the thief's training.
        thief_batch: Examples a step of it.
        thief_scores: How often the thief's model is scored on the way.
    """

    locks: tuple[str, ...] = dataclasses.field(default_factory=default_locks)
    wrong_keys: int = 20
    budgets: tuple[float, ...] = (0.01, 0.02, 0.05, 0.10)
    thief_rates: tuple[float, ...] = (1e-3, 5e-3)
    thief_steps: int = 100
    thief_batch: int = 32
    thief_scores: int = 4


QUICK = {
    "seeds": 1,
    "epochs": 8,
    "budgets": (0.01, 0.10),
    "thief_rates": (2e-3,),
    "thief_steps": 40,
    "thief_scores": 2,
}
"""What `--quick` changes: one seed, fewer epochs, two budgets, one learning rate, fewer steps."""
