"""The settings of the study of evasion, its attackers, and what its rows have."""

import dataclasses
from typing import Annotated

from modellock_jax.study.config import Settings
from modellock_jax.study.rows import Kind

__all__ = ["ATTACKERS", "QUICK", "RECOVERIES", "Config", "EvasionRow", "FlagsRow"]

_GRADIENTS = ("apgd-ce", "apgd-dlr")
RECOVERIES: dict[str, tuple[str, ...]] = {
    "key by weights": ("signs_from_weights", "negative_from_weights"),
    "key by labels": ("signs_from_weights", "negative_from_weights", "relaxed_key"),
    "key by device": ("sign_mask_oracle",),
    "key by chosen input": (
        "pixel_shuffle_chosen_image",
        "negative_positive_chosen_image",
        "ffx_chosen_images",
    ),
}
"""By name of an attacker, who recovers the key first: the attacks that they try for that."""

ATTACKERS: dict[str, tuple[str, ...]] = {
    "known": _GRADIENTS,
    "nothing": ("noise",),
    "queries": ("square",),
    **dict.fromkeys(RECOVERIES, _GRADIENTS),
    "surrogate": _GRADIENTS,
    "unknown": _GRADIENTS,
    "expectation": _GRADIENTS,
}
"""By name: the attacks of every attacker; the first three are those of the plain model, too."""


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The study's settings.

    `eps` in the images' unit; how many test `images` are moved; `keys` that expectations are taken
    over; `steps` of APGD, and from how many random points; `queries` of the random search; `budgets`,
    whose first is the share of the training images that an attacker with data has.
    """

    locks: tuple[str, ...] = ("pixel_shuffle(block=14)", "sign_mask(per='unit')")
    seeds: int = 5
    eps: tuple[float, ...] = (0.05, 0.1)
    images: int = 128
    keys: int = 8
    steps: int = 100
    restarts: int = 3
    queries: int = 300
    budgets: tuple[float, ...] = (0.01,)


QUICK = {
    "locks": ("pixel_shuffle(block=14)",),
    "seeds": 1,
    "epochs": 4,
    "images": 32,
    "keys": 2,
    "steps": 5,
    "restarts": 1,
    "queries": 20,
}
"""What `--quick` changes."""


class EvasionRow(Kind):
    """One attack on what the user's model answers, of one lock and seed."""

    lock: Annotated[str, 'the lock\'s text, or "plain"']
    seed: Annotated[int, "the seed of the model, the key and the attacker's draws, from 0"]
    clean: Annotated[float, "the user's accuracy on the images as they are, in [0, 1]"]
    attacker: Annotated[str, "what the attacker has"]
    attack: Annotated[str, "how the images are changed"]
    accuracy: Annotated[list[float], "the user's accuracy on the changed images, for each eps"]
    found_by: Annotated[str | None, "the attack that found the attacker's key, if one was found"]
    key_right: Annotated[float | None, "share of that key that is right"]


class FlagsRow(Kind):
    """Signs of gradient masking, of one lock and seed."""

    lock: Annotated[str, 'the lock\'s text, or "plain"']
    seed: Annotated[int, "the seed of the model and the key, from 0"]
    clean: Annotated[float, "the user's accuracy on the images as they are, in [0, 1]"]
    flags: Annotated[dict[str, float], "what `gradient_masking` gives at eps 0.1"]
