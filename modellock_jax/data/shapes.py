"""Made-up images of squares, discs and crosses, with a class for every pixel."""

import numpy as np

from modellock_jax.data.data import Data

__all__ = ["shapes"]

_TRAIN, _TEST, _SIDE, _SEED = 400, 100, 16, 0


def shapes() -> Data:
    """Draw 500 images `[16, 16, 1]`: 0 is the ground, 1 a square, 2 a disc, 3 a cross.

    Each holds one to three shapes of random place, size and brightness, the later over the earlier,
    under a little noise.

    Returns:
        400 images to train on and 100 to test, float32 `[N, 16, 16, 1]` in [0, 1], and their
        pixels' classes, int32 `[N, 16, 16]`.

    **Guarantees.** Every call gives the same arrays.

    >>> data = shapes()
    >>> data.train_x.shape, data.train_y.shape, data.classes, data.task
    ((400, 16, 16, 1), (400, 16, 16), 4, 'segment')
    """
    rng = np.random.default_rng(_SEED)
    x, y = (np.stack(parts) for parts in zip(*(_image(rng) for _ in range(_TRAIN + _TEST))))
    return Data(x[:_TRAIN], y[:_TRAIN], x[_TRAIN:], y[_TRAIN:], 4, "segment")


def _image(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    x, y = rng.uniform(0, 0.2, (_SIDE, _SIDE)), np.zeros((_SIDE, _SIDE), np.int32)
    for _ in range(rng.integers(1, 4)):
        kind, reach = rng.integers(1, 4), rng.integers(2, 5)
        row, column = rng.integers(reach, _SIDE - reach, 2)
        down, across = np.abs(rows - row), np.abs(columns - column)
        if kind == 1:
            inside = np.maximum(down, across) < reach
        elif kind == 2:
            inside = down**2 + across**2 < reach**2
        else:
            inside = (np.minimum(down, across) == 0) & (np.maximum(down, across) <= reach)
        x[inside], y[inside] = rng.uniform(0.5, 1), kind
    x = np.clip(x + rng.normal(0, 0.03, x.shape), 0, 1)
    return x[..., None].astype(np.float32), y
