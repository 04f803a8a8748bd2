"""A small U-Net in Flax Linen, for a class at every pixel."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from modellock_jax.models.classifiers import conv
from modellock_jax.models.model import Model, linen

__all__ = ["unet"]


def unet(classes: int, width: int = 16, depth: int = 2) -> Model:
    """Make a U-Net: images `[B, H, W, C]` to logits `[B, H, W, classes]`.

    Args:
        classes: The number of classes, at least 1.
        width: The channels at full size, a multiple of 4.
        depth: How many times the image is halved and the width doubled; on the way back up each size is
            joined with what came down at that size. H and W are multiples of 2 to the power of `depth`.

    Returns:
        A model of images float `[B, H, W, C]`.

    Raises:
        ValueError: In a forward, for images of other sides.

    Source: Ronneberger, Fischer & Brox (2015), with GroupNorm and padded convolutions.

    >>> import jax, jax.numpy as jnp
    >>> model, x = unet(3, width=8, depth=1), jnp.zeros((1, 8, 8, 1))
    >>> model.forward(model.init(jax.random.key(0), x), x).shape
    (1, 8, 8, 3)
    """
    return linen(_UNet(classes, width, depth))


_Conv = partial(nn.Conv, conv_general_dilated=conv)


class _UNet(nn.Module):
    classes: int
    width: int
    depth: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        step = 2**self.depth
        if x.shape[1] % step or x.shape[2] % step:
            raise ValueError(
                f"unet: sides must be multiples of {step}, not {x.shape[1]} and {x.shape[2]}"
            )
        across = []
        for level in range(self.depth):
            x = self._unit(x, self.width * 2**level)
            across.append(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = self._unit(x, self.width * 2**self.depth)
        for level in reversed(range(self.depth)):
            x = x.repeat(2, axis=1).repeat(2, axis=2)
            x = self._unit(jnp.concatenate([x, across[level]], -1), self.width * 2**level)
        return _Conv(self.classes, (1, 1))(x)

    def _unit(self, x: jax.Array, features: int) -> jax.Array:
        return nn.relu(nn.GroupNorm(num_groups=4)(_Conv(features, (3, 3))(x)))
