"""What every data set is loaded as."""

from typing import NamedTuple

import numpy as np

__all__ = ["Data"]


class Data(NamedTuple):
    """Inputs and what is true of them, split into a training and a test part.

    `train_x` and `test_x`: arrays `[N, ...]`, images float32 `[N, H, W, C]` in [0, 1] or tokens int32
    `[N, T]`; `train_y` and `test_y`: int32 `[N, ...]` in `0 .. classes - 1`, as the task takes them;
    `classes`: how many classes, or tokens; `task`: its name in `tasks.TASKS`.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int
    task: str = "classify"
