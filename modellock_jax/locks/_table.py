"""The table of locks: a new lock of the package is one file, and one line here."""

from modellock_jax.core.table import Table
from modellock_jax.locks._scheme import Scheme

_HERE = "modellock_jax.locks."
SCHEMES: Table[Scheme] = Table(
    "lock",
    Scheme,
    {
        "pixel_shuffle": f"{_HERE}pixel_shuffle:SCHEME",
        "negative_positive": f"{_HERE}negative_positive:SCHEME",
        "ffx": f"{_HERE}ffx:SCHEME",
        "patch_shuffle": f"{_HERE}patch_shuffle:SCHEME",
        "sign_mask": f"{_HERE}sign:SIGN_MASK",
        "sign_flip": f"{_HERE}sign:SIGN_FLIP",
        "adv_params": f"{_HERE}adv_params:SCHEME",
        "deep_lock": f"{_HERE}deep_lock:SCHEME",
        "stream_lock": f"{_HERE}stream_lock:SCHEME",
    },
    group="modellock_jax.locks",
)
