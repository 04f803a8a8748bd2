"""The attackers of the matrix: what each has beside the locked weights, and what their twin does."""

from typing import Any, Literal, NamedTuple

from modellock_jax.attacks.table import ATTACKS
from modellock_jax.study.context import Subject

__all__ = ["ATTACKERS", "SETTINGS", "Attacker", "candidates", "exists"]


class Attacker(NamedTuple):
    """One column of the matrix.

    Attributes:
        name: In settings and rows.
        has: In words.
        rights: Names of `attacks.RIGHTS`.
        images: How many inputs: a number from 1 on, or a share of the training set.
        owners: Whether these are among those that the owner trained on.
        twin: What one does who has the same but not the locked weights: "trains" by the same attacks
            on fresh weights; runs the "base", or a copy of their own as a "user"; or knows "nothing".
    """

    name: str
    has: str
    rights: tuple[str, ...] = ()
    images: float = 0
    owners: bool = False
    twin: Literal["nothing", "trains", "base", "user"] = "nothing"

    def count(self, examples: int) -> int:
        """How many inputs they have.

        Args:
            examples: The size of the training set.

        Returns:
            At least 1, or 0 for none.

        >>> ATTACKERS["labels-1%"].count(4000), ATTACKERS["labels-10"].count(4000)
        (40, 10)
        """
        if not self.images:
            return 0
        return max(1, round(self.images * (examples if self.images < 1 else 1)))


_LABELS = ("unlabelled", "labels")

ATTACKERS: dict[str, Attacker] = {
    one.name: one
    for one in (
        Attacker("weights", "weights alone"),
        Attacker("unlabelled", "unlabelled, 1 %", ("unlabelled",), 0.01),
        Attacker("public_base", "a public base", ("public_base",), twin="base"),
        Attacker("labels-10", "10 labels", _LABELS, 10, twin="trains"),
        Attacker("labels-1%", "labels, 1 %", _LABELS, 0.01, twin="trains"),
        Attacker("labels-1%-owner", "labels, 1 %, the owner's", _LABELS, 0.01, True, "trains"),
        Attacker("device", "a device, 1 %", ("unlabelled", "device"), 0.01, twin="trains"),
        Attacker("chosen_input", "chosen inputs", ("chosen_input",)),
        Attacker("known_weights", "a plain leaf", ("known_weights",)),
        Attacker("other_copy", "others' copies", ("other_copy", "more_copies"), twin="user"),
    )
}
"""By name. Images are fresh, none of the owner's, where it does not say otherwise."""

SETTINGS: dict[str, tuple[dict[str, Any], ...]] = {
    "fine_tune": (
        {"variant": "all", "rates": (1e-3,)},
        {"variant": "all", "rates": (5e-3,)},
        {"variant": "last", "rates": (5e-3,)},
        {"variant": "new_last", "rates": (5e-3,)},
        {"variant": "healed", "rates": (1e-3,)},
    ),
    "distil": ({"rates": (1e-3,)}, {"rates": (5e-3,)}),
}
"""By attack: the settings that are rehearsed; others have their own and no choice."""


def candidates(scheme: str, attacker: Attacker) -> list[tuple[str, dict[str, Any]]]:
    """List the attacks that an attacker can choose from: all that fit the lock and the rights.

    Args:
        scheme: The name of the lock's record; "" for the twin, who trains.
        attacker: Who.

    Returns:
        Names of `ATTACKS`, each with settings.

    >>> [name for name, _ in candidates("sign_flip", ATTACKERS["weights"])]
    ['signs_from_weights']
    >>> candidates("", ATTACKERS["device"])
    [('distil', {'rates': (0.001,)}), ('distil', {'rates': (0.005,)})]
    """
    return [
        (name, settings)
        for name, entry in ATTACKS.items()
        if entry.gives in ("key", "weights")
        and entry.fits(scheme)
        and set(entry.needs) <= set(attacker.rights)
        and (scheme or name in SETTINGS)
        for settings in SETTINGS.get(name, ({},))
    ]


def exists(subject: Subject, attacker: Attacker) -> bool:
    """Whether there is such an attacker: a model trained under its key has one user, and no base.

    Args:
        subject: The lock.
        attacker: Who.

    Returns:
        False for a base or a copy of such a model.
    """
    return not (subject.trained_under and {"other_copy", "public_base"} & set(attacker.rights))
