from .core.acts import acts_on
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
from .locks._stream_tree import StreamKey
from .locks.adv_params import AdvParamsKey, adv_params
from .locks.deep_lock import DeepLockKey, deep_lock
from .locks.ffx import FfxKey, ffx
from .locks.negative_positive import NegativeKey, negative_positive
from .locks.patch_shuffle import patch_shuffle
from .locks.pixel_shuffle import PixelKey, pixel_shuffle
from .locks.sign import SignKey, sign_flip, sign_mask
from .locks.stream_lock import stream_lock

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
    "acts_on",
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
