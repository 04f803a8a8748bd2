"""Fine-tuning under a key that the thief estimated on the same data."""

from typing import Any

from modellock_jax.attacks.case import Case, Entry, Found
from modellock_jax.attacks.keys.relaxed_key import RELAXED, key_by_labels
from modellock_jax.attacks.weights.leakage import tuned_under_key

__all__ = ["ENTRIES"]


def _fine_tune(
    case: Case, *, search: dict[str, int] | None = None, **settings: Any
) -> Found | None:
    """`relaxed_key` with the settings `search`, then `fine_tune` under its key, both on all labels."""
    found = key_by_labels(case, **(search or {}))
    return None if found is None else tuned_under_key(case, found.key, **settings)


ENTRIES = (Entry("fine_tune_under_estimated_key", _fine_tune, RELAXED, ("labels",), "weights"),)
