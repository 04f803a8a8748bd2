"""What a study runs: a frozen configuration whose hash names the run folder."""

import ast
import dataclasses
import hashlib
import inspect
import json
from typing import Any

import modellock_jax
from modellock_jax.core.lock import Lock
from modellock_jax.locks import SCHEMES

DEFAULT_LOCKS = (
    "pixel_shuffle",
    "sign_mask(per='unit')",
    "sign_flip",
    "adv_params",
    "deep_lock",
    "stream_lock",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """A study's settings; everything that decides its numbers, the version included.

    `budgets` are shares of the training set that the thief holds, in (0, 1]; `thief_steps` steps of
    `thief_batch` images each, scored `thief_scores` times on the way.
    """

    data: str = "mnist5k"
    model: str = "cnn"
    locks: tuple[str, ...] = DEFAULT_LOCKS
    seeds: int = 3
    epochs: int = 15
    batch_size: int = 128
    learning_rate: float = 4e-3
    wrong_keys: int = 20
    budgets: tuple[float, ...] = (0.01, 0.02, 0.05, 0.10)
    thief_rates: tuple[float, ...] = (1e-3, 5e-3)
    thief_steps: int = 100
    thief_batch: int = 32
    thief_scores: int = 4
    version: str = modellock_jax.__version__

    @property
    def id(self) -> str:
        """12 hexadecimal characters: the beginning of SHA-256 of the settings."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


QUICK = {
    "seeds": 1,
    "epochs": 8,
    "budgets": (0.01, 0.10),
    "thief_rates": (2e-3,),
    "thief_steps": 40,
    "thief_scores": 2,
}
"""What `--quick` changes: one seed, fewer epochs, two budgets, one learning rate, fewer steps."""


def parse_lock(text: str) -> tuple[str, dict[str, Any]]:
    """Read `"pixel_shuffle(block=4)"` as a scheme's name and its settings.

    Raises `ValueError` for an unknown scheme or setting, or settings that are not literals.

    >>> parse_lock("pixel_shuffle(block=4)")
    ('pixel_shuffle', {'block': 4})
    >>> parse_lock("deep_lock")
    ('deep_lock', {})
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            node = ast.Call(node, [], [])
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
            raise ValueError
        name = node.func.id
        settings = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    except (SyntaxError, ValueError):
        raise ValueError(
            f"the lock {text!r} cannot be read; write a name, or a name with settings such as "
            '"pixel_shuffle(block=4)"'
        ) from None
    if name not in SCHEMES:
        raise ValueError(f"there is no lock {name!r}; the locks are {', '.join(SCHEMES)}")
    known = inspect.signature(SCHEMES[name].factory).parameters
    for setting in settings:
        if setting not in known:
            raise ValueError(
                f"{name} has no setting {setting!r}; its settings are {', '.join(known) or 'none'}"
            )
    return name, settings


def make_lock(text: str, image_shape: tuple[int, ...]) -> tuple[Lock, str, dict[str, Any]]:
    """A lock from its text, what the data set decides filled in; its scheme and settings.

    >>> make_lock("pixel_shuffle", (28, 28, 1))[2]
    {'block': 14, 'channels': 1, 'image_shape': (28, 28, 1)}
    """
    name, settings = parse_lock(text)
    known = inspect.signature(SCHEMES[name].factory).parameters
    given = {
        "block": block_side(image_shape),
        "patch": patch_side(image_shape),
        "channels": image_shape[-1],
        "image_shape": image_shape,
    }
    settings = {**{k: v for k, v in given.items() if k in known}, **settings}
    try:
        return SCHEMES[name].factory(**settings), name, settings
    except TypeError as error:
        raise ValueError(f"the lock {text!r} has a setting of the wrong type: {error}") from None


def patch_side(image_shape: tuple[int, ...]) -> int:
    """The side of the CNN's patches for images `[H, W, C]`: 7, 4, 2 or 1."""
    return _largest(image_shape, (7, 4, 2, 1))


def block_side(image_shape: tuple[int, ...]) -> int:
    """The side of a block to shuffle: 14 on 28 x 28 images, 4 as in the paper on 32 x 32.

    On digits a smaller block keeps so much ink in place that a wrong key opens the model.
    """
    return _largest(image_shape, (14, 4, 2, 1))


def _largest(image_shape: tuple[int, ...], sides: tuple[int, ...]) -> int:
    return next(s for s in sides if image_shape[0] % s == image_shape[1] % s == 0)
