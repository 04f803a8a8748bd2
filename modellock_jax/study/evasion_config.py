"""The settings of the study of evasion, and what its rows have."""

import dataclasses
from typing import Annotated

from modellock_jax.study.config import Settings
from modellock_jax.study.rows import Kind

__all__ = ["ATTACKERS", "QUICK", "Config", "EvasionRow", "FlagsRow"]

_GRADIENTS = ("fgsm", "pgd", "apgd-ce", "apgd-dlr")
ATTACKERS: dict[str, tuple[str, ...]] = {
    "known": _GRADIENTS,
    "nothing": ("noise",),
    "queries": ("square",),
    "surrogate": _GRADIENTS,
    "unknown": _GRADIENTS,
    "expectation": _GRADIENTS,
}
"""By name: the attacks of every attacker; the last three are of locked models."""


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The study's settings.

    `eps` in the images' unit; `keys` that expectations are taken over; `steps` of PGD and APGD;
    `queries` of the random search.
    """

    locks: tuple[str, ...] = ("pixel_shuffle(block=14)", "sign_mask(per='unit')")
    seeds: int = 2
    eps: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3)
    images: int = 256
    keys: int = 8
    steps: int = 40
    queries: int = 300


QUICK = {"seeds": 1, "epochs": 4, "images": 64, "keys": 2, "steps": 5, "queries": 20}
"""What `--quick` changes."""


class EvasionRow(Kind):
    """One attack on what the user's model answers, of one lock and seed."""

    lock: Annotated[str, 'the lock\'s text, or "plain"']
    seed: Annotated[int, "the seed of the model, the key and the attacker's draws, from 0"]
    clean: Annotated[float, "the user's accuracy on the images as they are, in [0, 1]"]
    attacker: Annotated[str, "what the attacker has"]
    attack: Annotated[str, "how the images are changed"]
    accuracy: Annotated[list[float], "the user's accuracy on the changed images, for each eps"]


class FlagsRow(Kind):
    """Signs of gradient masking, of one lock and seed."""

    lock: Annotated[str, 'the lock\'s text, or "plain"']
    seed: Annotated[int, "the seed of the model and the key, from 0"]
    clean: Annotated[float, "the user's accuracy on the images as they are, in [0, 1]"]
    flags: Annotated[dict[str, float], "what `gradient_masking` gives at eps 0.1"]
