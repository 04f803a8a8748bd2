"""modellock_jax: lock neural networks with secret keys, and measure what each lock is worth."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modellock_jax.adapters import from_linen, from_nnx, nnx_params, sites
    from modellock_jax.base import (
        Forward,
        Key,
        Lock,
        Loss,
        Params,
        Tap,
        owner_forward,
        untapped,
        user_forward,
    )
    from modellock_jax.compose import chain, only
    from modellock_jax.schemes.adv_params import AdvParamsKey, adv_params
    from modellock_jax.schemes.deep_lock import DeepLockKey, deep_lock
    from modellock_jax.schemes.patch_shuffle import patch_shuffle
    from modellock_jax.schemes.pixel_shuffle import (
        FfxKey,
        NegativeKey,
        PixelKey,
        ffx,
        negative_positive,
        pixel_shuffle,
    )
    from modellock_jax.schemes.sign import SignKey, sign_flip, sign_mask
    from modellock_jax.schemes.stream_lock import StreamKey, stream_lock

__version__ = "0.1.0"

__all__ = [
    "AdvParamsKey",
    "DeepLockKey",
    "FfxKey",
    "Forward",
    "Key",
    "Lock",
    "Loss",
    "NegativeKey",
    "Params",
    "PixelKey",
    "SignKey",
    "StreamKey",
    "Tap",
    "adv_params",
    "chain",
    "deep_lock",
    "ffx",
    "from_linen",
    "from_nnx",
    "negative_positive",
    "nnx_params",
    "only",
    "owner_forward",
    "patch_shuffle",
    "pixel_shuffle",
    "sign_flip",
    "sign_mask",
    "sites",
    "stream_lock",
    "untapped",
    "user_forward",
]

# A name is imported when it is first used: who only opens a file need not wait for JAX.
_HOMES = {
    "adapters": ("from_linen", "from_nnx", "nnx_params", "sites"),
    "base": (
        "Forward",
        "Key",
        "Lock",
        "Loss",
        "Params",
        "Tap",
        "owner_forward",
        "untapped",
        "user_forward",
    ),
    "compose": ("chain", "only"),
    "schemes.adv_params": ("AdvParamsKey", "adv_params"),
    "schemes.deep_lock": ("DeepLockKey", "deep_lock"),
    "schemes.patch_shuffle": ("patch_shuffle",),
    "schemes.pixel_shuffle": (
        "FfxKey",
        "NegativeKey",
        "PixelKey",
        "ffx",
        "negative_positive",
        "pixel_shuffle",
    ),
    "schemes.sign": ("SignKey", "sign_flip", "sign_mask"),
    "schemes.stream_lock": ("StreamKey", "stream_lock"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
