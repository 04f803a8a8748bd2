from .core.compose import chain, only
from .core.lock import (
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
from .flax import from_linen, from_nnx, nnx_params, sites
from .locks.adv_params import AdvParamsKey, adv_params
from .locks.deep_lock import DeepLockKey, deep_lock
from .locks.patch_shuffle import patch_shuffle
from .locks.pixel_shuffle import (
    FfxKey,
    NegativeKey,
    PixelKey,
    ffx,
    negative_positive,
    pixel_shuffle,
)
from .locks.sign import SignKey, sign_flip, sign_mask
from .locks.stream_lock import StreamKey, stream_lock

__version__: str

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
