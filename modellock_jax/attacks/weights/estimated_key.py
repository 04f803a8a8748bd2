"""Fine-tuning under a key that the thief estimated on the same data."""

from typing import Any

from modellock_jax.attacks._programs import bind
from modellock_jax.attacks._train import fit_best_rate, task_score
from modellock_jax.attacks.attack import Attack
from modellock_jax.attacks.case import Case, Entry, Found
from modellock_jax.attacks.keys.relaxed_key import ENTRIES as KEYS
from modellock_jax.attacks.keys.relaxed_key import RELAXED
from modellock_jax.attacks.weights.leakage import fine_tune_under_key

__all__ = ["ENTRIES"]

_ESTIMATE = KEYS[0].attack


def _fine_tune(
    case: Case, *, search: dict[str, int] | None = None, **settings: Any
) -> Found | None:
    """`relaxed_key` with the settings `search`, then `fine_tune` under its key, both on all labels."""
    found = _ESTIMATE(case, **(search or {}))
    if found is None:
        return None
    key, task = found.key, case.task

    def attack(rate: Any, example: Any) -> Attack:
        return fine_tune_under_key(case.lock, case.model, key, rate, example, task)

    score = bind(task_score, task)
    return fit_best_rate(case, attack, score, case.locked, *case.labels, **settings)


ENTRIES = (Entry("fine_tune_under_estimated_key", _fine_tune, RELAXED, ("labels",), "weights"),)
