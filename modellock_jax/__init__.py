"""modellock_jax: lock neural networks with secret keys, and measure what each lock is worth."""

from modellock_jax.adapters import from_linen, from_nnx, nnx_params, sites
from modellock_jax.base import (
    Forward,
    Key,
    Lock,
    Loss,
    Params,
    Tap,
    chain,
    only,
    owner_forward,
    untapped,
    user_forward,
)
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
