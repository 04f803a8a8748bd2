"""Small image classifiers in Flax Linen: an MLP, a CNN and a CIFAR-style ResNet.

The parameters are all of a module's variables, normalisation statistics included.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax.models.model import Model, linen

__all__ = ["cnn", "conv", "mlp", "resnet"]


def mlp(classes: int, widths: Sequence[int] = (256, 256)) -> Model:
    """Make a multi-layer perceptron on flattened images.

    Args:
        classes: The number of classes, at least 1.
        widths: Those of the hidden layers.

    Returns:
        A model of inputs `[B, ...]`, float, with logits `[B, classes]`.
    """
    return linen(_MLP(classes, tuple(widths)))


def cnn(classes: int, patch: int = 7, width: int = 32, dense: int = 256) -> Model:
    """Make a small CNN: a convolution over non-overlapping patches, one of 3 x 3, two dense layers.

    A `pixel_shuffle` with `block` = `patch` costs it no accuracy, since the first layer learns any
    order of a patch's entries; a larger block does.

    Args:
        classes: The number of classes, at least 1.
        patch: The side of a patch.
        width: The channels of both convolutions.
        dense: The width of the hidden dense layer.

    Returns:
        A model of images `[B, H, W, C]`, float, with logits `[B, classes]`.
    """
    return linen(_CNN(classes, patch, width, dense))


def resnet(
    classes: int, depth: int = 20, width: int = 16, norm: Literal["group", "batch"] = "group"
) -> Model:
    """Make a CIFAR-style residual network of three stages.

    Args:
        classes: The number of classes, at least 1.
        depth: 6n + 2, from 8 on.
        width: The channels of the first stage, a multiple of 8; each later stage doubles them.
        norm: "group", or "batch", which keeps statistics that give sign masks away; prefer "group" under
            `sign_mask`.

    Returns:
        A model of images `[B, H, W, C]`, float, with logits `[B, classes]`.

    Raises:
        ValueError: For other settings.

    Source: He et al. (2016).
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"resnet: depth must be 6n + 2 (8, 14, 20, ...), not {depth}")
    if width < 8 or width % 8:
        raise ValueError(f"resnet: width must be a multiple of 8, not {width}")
    if norm not in ("group", "batch"):
        raise ValueError(f'resnet: norm must be "group" or "batch", not {norm!r}')
    return linen(_ResNet(classes, (depth - 2) // 6, width, norm))


def conv(
    lhs: jax.Array, rhs: jax.Array, window_strides: Any, padding: Any, **settings: Any
) -> jax.Array:
    """Convolve fast in `scan`, `grad` and `vmap` on CPU, and plainly on accelerators.

    On CPU: the windows side by side, and one matmul.

    Args:
        lhs: Images `[B, H, W, C]`, float.
        rhs: Kernels `[h, w, C, D]`, float.
        window_strides: Two ints.
        padding: As `lax.conv_general_dilated` takes it.
        **settings: The other arguments of `lax.conv_general_dilated`, as `nn.Conv` passes them.

    Returns:
        float `[B, H', W', D]`.
    """
    plain = partial(
        lax.conv_general_dilated, window_strides=window_strides, padding=padding, **settings
    )
    return lax.platform_dependent(
        lhs, rhs, cpu=partial(_conv_matmul, strides=window_strides, padding=padding), default=plain
    )


def _conv_matmul(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any) -> jax.Array:
    height, width, channels, features = kernel.shape
    pads = lax.padtype_to_pads(x.shape[1:3], (height, width), strides, padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    if tuple(strides) == (height, width) and x.shape[1] % height == x.shape[2] % width == 0:
        # Windows that tile the image need no copies.
        rows, columns = x.shape[1] // height, x.shape[2] // width
        tiles = x.reshape(-1, rows, height, columns, width, channels).swapaxes(2, 3)
        out = tiles.reshape(-1, height * width * channels) @ kernel.reshape(-1, features)
        return out.reshape(x.shape[0], rows, columns, features)
    rows = (x.shape[1] - height) // strides[0] + 1
    columns = (x.shape[2] - width) // strides[1] + 1
    windows = [
        x[
            :,
            i : i + (rows - 1) * strides[0] + 1 : strides[0],
            j : j + (columns - 1) * strides[1] + 1 : strides[1],
        ]
        for i in range(height)
        for j in range(width)
    ]
    patches = jnp.concatenate(windows, -1).reshape(-1, height * width * channels)
    out = patches @ kernel.reshape(-1, features)
    return out.reshape(x.shape[0], rows, columns, features)


_Conv = partial(nn.Conv, conv_general_dilated=conv)


class _MLP(nn.Module):
    classes: int
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.classes)(x)


class _CNN(nn.Module):
    classes: int
    patch: int
    width: int
    dense: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(_Conv(self.width, (self.patch, self.patch), strides=self.patch)(x))
        x = nn.relu(_Conv(self.width, (3, 3))(x))
        x = nn.relu(nn.Dense(self.dense)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.classes)(x)


class _ResNet(nn.Module):
    classes: int
    blocks: int
    width: int
    norm: str

    def normalise(self, train: bool) -> nn.Module:
        if self.norm == "batch":
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)
        return nn.GroupNorm(num_groups=8)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(self.normalise(train)(_Conv(self.width, (3, 3), use_bias=False)(x)))
        for stage in range(3):
            features = self.width * 2**stage
            for block in range(self.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                h = _Conv(features, (3, 3), strides=stride, use_bias=False)(x)
                h = nn.relu(self.normalise(train)(h))
                h = self.normalise(train)(_Conv(features, (3, 3), use_bias=False)(h))
                if x.shape != h.shape:
                    x = _Conv(features, (1, 1), strides=stride, use_bias=False)(x)
                    x = self.normalise(train)(x)
                x = nn.relu(x + h)
        return nn.Dense(self.classes)(x.mean((1, 2)))
