"""Grey images in colour, where no set of natural ones can be had."""

import numpy as np

from modellock_jax.data.data import Data

__all__ = ["painted"]


def painted(data: Data) -> Data:
    """Paint grey images: each gets a hue and a ground of its own, its levels become shades between them.

    The channels are mixed a little, always alike, as those of natural images are correlated. These are
    not natural images; every call paints alike.

    Args:
        data: Images float32 `[N, H, W, 1]` in [0, 1].

    Returns:
        The same with images float32 `[N, H, W, 3]` in steps of 1/255.

    Raises:
        ValueError: For inputs that are not grey images.
    """
    if data.train_x.ndim != 4 or data.train_x.shape[-1] != 1:
        shape = list(data.train_x.shape[1:])
        raise ValueError(f"painted: grey images [H, W, 1] can be painted, not inputs {shape}")
    rng = np.random.default_rng(0)
    mix = np.eye(3, dtype=np.float32) * 0.7 + 0.1

    def paint(x: np.ndarray) -> np.ndarray:
        hue = rng.uniform(0.3, 1, (len(x), 1, 1, 3)).astype(np.float32)
        ground = rng.uniform(0, 0.3, (len(x), 1, 1, 3)).astype(np.float32)
        levels = (x * hue + (1 - x) * ground) @ mix
        return np.round(255 * levels).astype(np.float32) / np.float32(255)

    return data._replace(train_x=paint(data.train_x), test_x=paint(data.test_x))
