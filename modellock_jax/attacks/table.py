"""One table of all attacks: what each is against, and what its attacker must have."""

from typing import Any

import jax

from modellock_jax.attacks._work import Counter, counted
from modellock_jax.attacks.case import Case, Entry, Found
from modellock_jax.attacks.evasion import cases
from modellock_jax.attacks.keys import (
    chosen_image,
    chosen_levels,
    ciphertext_only,
    key_search,
    known_plaintext,
    logit_oracle,
    negative_from_weights,
    oracle,
    permutation_from_base,
    permutation_from_weights,
    permutation_search,
    relaxed_key,
    sign_algebra,
    sign_search,
    signs_from_base,
    signs_of_model,
)
from modellock_jax.attacks.weights import (
    descent,
    distil,
    estimated_key,
    fine_tune,
    leakage,
    selective,
    stream_reuse,
    weights_from_base,
)
from modellock_jax.core.table import Table

__all__ = ["ATTACKS", "attempt"]

_MODULES = (
    fine_tune, distil, key_search, relaxed_key, estimated_key, oracle, sign_algebra, sign_search,
    signs_of_model, permutation_search, permutation_from_weights, chosen_image, chosen_levels,
    logit_oracle, negative_from_weights, selective, descent, ciphertext_only, known_plaintext,
    signs_from_base, permutation_from_base, weights_from_base, leakage, stream_reuse, cases,
)  # fmt: skip
ATTACKS: Table[Entry] = Table(
    "attack",
    Entry,
    {entry.name: entry for module in _MODULES for entry in module.ENTRIES},
    group="modellock_jax.attacks",
)
"""Every attack on a locked model, by name; `scratch` is the control, not an attack.

`ATTACKS.register(entry)` adds one for this process; a package announces its own as an entry point.
"""


def attempt(name: str, case: Case, **settings: Any) -> Found | None:
    """Let the attack of that name loose on a case, and count what it takes.

    It gets the rights that it needs and no others.

    Args:
        name: A name of `ATTACKS`.
        case: What the attacker has.
        **settings: Those of the attack.

    Returns:
        What it found and what that took; None where it gives up.

    Raises:
        ValueError: For an unknown name or an attack on other schemes.
        NotGiven: If the case lacks a right it needs.

    >>> import jax, modellock_jax as ml
    >>> from modellock_jax.models import mlp
    >>> model, x = mlp(2, (64,)), jax.numpy.ones((1, 28, 28, 1))
    >>> lock, params = ml.deep_lock(), model.init(jax.random.key(0), x)
    >>> locked, key = lock.encrypt(lock.init(jax.random.key(1), params), params)
    >>> case = Case(lock, model, locked, jax.random.key(2), x, scheme="deep_lock")
    >>> found = attempt("deep_lock_ciphertext_only", case)
    >>> bool((found.key.master == key.master).all()), found.inputs, found.queries
    (True, 0, 0)
    """
    if name not in ATTACKS:
        raise ValueError(f"there is no attack {name!r}; the attacks are {', '.join(ATTACKS)}")
    entry = ATTACKS[name]
    if not entry.fits(case.scheme):
        against = f"{case.scheme!r}" if case.scheme else "a lock without a scheme's name"
        raise ValueError(f"{name} is against {', '.join(entry.against)}, not {against}")
    passes, queries = Counter(), Counter()
    rights = {right: getattr(case, right) for right in entry.needs}
    for asked in rights.keys() & {"device", "chosen_input"}:
        rights[asked] = queries.of(rights[asked])
    found = entry.attack(case.replace(counted(case.model, passes), **rights), **settings)
    if found is None:
        return None
    jax.block_until_ready((found.key, found.adversarial))
    jax.effects_barrier()
    return found._replace(inputs=_inputs(rights), queries=queries.total, passes=passes.total)


def _inputs(rights: dict[str, Any]) -> int:
    """How many inputs the attacker has."""
    if "labels" in rights:
        return len(rights["labels"][0])
    return len(rights["unlabelled"]) if "unlabelled" in rights else 0
