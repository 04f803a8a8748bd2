"""Models: a module of one's own as three functions, and the small ones of our studies."""

from collections.abc import Callable

from modellock_jax.models.classifiers import cnn, conv, mlp, resnet
from modellock_jax.models.decoder import decoder
from modellock_jax.models.model import Model, linen, nnx
from modellock_jax.models.unet import unet

MODELS: dict[str, Callable[[int], Model]] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet": resnet,
    "decoder": decoder,
    "unet": unet,
}
"""By name: a model from its number of classes, or of tokens."""

__all__ = [
    "MODELS",
    "Model",
    "cnn",
    "conv",
    "decoder",
    "linen",
    "mlp",
    "nnx",
    "resnet",
    "unet",
]
