"""EfficientNet-Lite in Flax Linen: depthwise convolutions between batch norms, and a residual stream."""

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax._printing import printable
from modellock_jax.core.lock import Params
from modellock_jax.models.model import Model, linen
from modellock_jax.models.torch_files import read_state

__all__ = ["LITE0", "Stage", "efficientnet", "read_efficientnet"]


class Stage(NamedTuple):
    """Blocks that write as many channels.

    `blocks` of them, of which the first has `stride`; `kernel` is the side of the depthwise convolution,
    `expand` how many times as many channels it has as the block reads, `features` how many the block
    writes.
    """

    blocks: int
    kernel: int
    stride: int
    expand: int
    features: int


LITE0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
"""The stages of EfficientNet-Lite0."""


def efficientnet(
    classes: int, stages: tuple[Stage, ...] = LITE0, stem: int = 32, head: int = 1280
) -> Model:
    """Make an EfficientNet-Lite: images `[B, H, W, C]` to logits `[B, classes]`.

    A stem of stride 2; blocks that expand their channels, convolve each alone, and project, a batch norm
    after each, beside the residual stream where shapes allow; a head of as many channels, their means,
    and a dense layer. ReLU6 throughout.

    | leaf below `params` | shape |
    | --- | --- |
    | `conv_stem/kernel` | `[3, 3, C, stem]` |
    | `blocks_I/expand_conv/kernel`, if it expands | `[1, 1, channels, expand * channels]` |
    | `blocks_I/depthwise_conv/kernel` | `[kernel, kernel, 1, expand * channels]` |
    | `blocks_I/project_conv/kernel` | `[1, 1, expand * channels, features]` |
    | `conv_head/kernel` | `[1, 1, features, head]` |
    | `fc/kernel`, `fc/bias` | `[head, classes]`, `[classes]` |
    | `scale` and `bias` of each norm | that of its channels |

    Args:
        classes: The number of classes, at least 1.
        stages: The blocks.
        stem: Channels of the first convolution.
        head: Channels of the last.

    Returns:
        A model, whose statistics lie below `batch_stats`; its sites are the convolutions and `fc`.

    Raises:
        ValueError: For sizes of 0 or less, or no stage.

    Source: Tan & Le (2019); Lite: Liu (2020), without squeezing, and ReLU6 for its activation.

    >>> import jax, jax.numpy as jnp
    >>> model, x = efficientnet(5, (Stage(1, 3, 1, 2, 8),), 4, 16), jnp.ones((1, 8, 8, 3))
    >>> model.forward(model.init(jax.random.key(0), x), x).shape
    (1, 5)
    """
    sizes = {"classes": classes, "stem": stem, "head": head}
    sizes |= {f"stages[{i}].{n}": s for i, at in enumerate(stages) for n, s in at._asdict().items()}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"efficientnet: {name} must be at least 1, not {size}")
    if not stages:
        raise ValueError("efficientnet: needs at least one stage")
    return linen(_EfficientNet(classes, stages, stem, head))


class _Layer(nn.Module):
    """Convolutions and norms by the names of published checkpoints."""

    def conv(
        self, x: jax.Array, features: int, side: int, stride: int, groups: int, name: str
    ) -> jax.Array:
        layer = nn.Conv(
            features,
            (side, side),
            strides=stride,
            feature_group_count=groups,
            use_bias=False,
            name=name,
        )
        return layer(x)

    def norm(self, x: jax.Array, train: bool, name: str) -> jax.Array:
        return nn.BatchNorm(not train, momentum=0.99, epsilon=1e-3, name=name)(x)


class _Block(_Layer):
    expand: int
    kernel: int
    stride: int
    features: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        h, inner = x, x.shape[-1] * self.expand
        if self.expand > 1:
            h = self.conv(h, inner, 1, 1, 1, "expand_conv")
            h = nn.relu6(self.norm(h, train, "bn0"))
        h = self.conv(h, inner, self.kernel, self.stride, inner, "depthwise_conv")
        h = nn.relu6(self.norm(h, train, "bn1"))
        h = self.norm(self.conv(h, self.features, 1, 1, 1, "project_conv"), train, "bn2")
        return x + h if x.shape == h.shape else h


class _EfficientNet(_Layer):
    classes: int
    stages: tuple[Stage, ...]
    stem: int
    head: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu6(self.norm(self.conv(x, self.stem, 3, 2, 1, "conv_stem"), train, "bn0"))
        strides = [(s, s.stride if i == 0 else 1) for s in self.stages for i in range(s.blocks)]
        for number, (at, stride) in enumerate(strides):
            block = _Block(at.expand, at.kernel, stride, at.features, name=f"blocks_{number}")
            x = block(x, train)
        x = nn.relu6(self.norm(self.conv(x, self.head, 1, 1, 1, "conv_head"), train, "bn1"))
        return nn.Dense(self.classes, name="fc")(x.mean((1, 2)))


_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def read_efficientnet(path: str | Path, model: Model) -> Params:
    """Read the variables of an EfficientNet-Lite from a file that PyTorch wrote before 1.6.

    Args:
        path: A file, of names as `_blocks.0._bn1.running_mean`.
        model: An `efficientnet` of images with three channels.

    Returns:
        Its variables, float32.

    Raises:
        OSError: For a file that cannot be read.
        ValueError: For one that is of another kind, or whose arrays are not those of the model.
    """
    arrays = {n: a for n, a in read_state(path).items() if not n.endswith("num_batches_tracked")}
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))

    def leaf(at: Any, wanted: Any) -> jax.Array:
        *modules, kind = (key.key for key in at[1:])
        parts = [f"_{part.replace('blocks_', 'blocks.')}" for part in modules]
        name = ".".join([*parts, _NAMES.get(kind, kind)])
        array = arrays.pop(name, np.zeros(0))
        # Outputs come last here, and after the inputs the window.
        array = np.moveaxis(array, (0, 1), (-1, -2)) if array.ndim > 1 else array
        if array.shape != wanted.shape:
            raise ValueError(
                f"read_efficientnet: {printable(path)}: {name} is missing or has another shape than "
                f"{list(wanted.shape)}; give a file of this model"
            )
        return jnp.asarray(array, jnp.float32)

    params = jax.tree.map_with_path(leaf, shapes)
    if arrays:
        raise ValueError(
            f"read_efficientnet: {printable(path)} has {len(arrays)} arrays that the model has not, as "
            f"{printable(min(arrays), 60)}; give a file of this model"
        )
    return params
