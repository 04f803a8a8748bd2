"""Models: a module of one's own as three functions, and the small ones of our studies."""

from collections.abc import Callable
from functools import partial

from modellock_jax.models.classifiers import cnn, conv, mlp, resnet
from modellock_jax.models.decoder import decoder
from modellock_jax.models.llama import LlamaConfig, llama
from modellock_jax.models.model import Model, linen, nnx
from modellock_jax.models.unet import unet
from modellock_jax.models.vit import vit

MODELS: dict[str, Callable[[int], Model]] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet": resnet,
    "resnet8": partial(resnet, depth=8),
    "vit": vit,
    "decoder": decoder,
    "llama": lambda tokens: llama(LlamaConfig(tokens)),
    "unet": unet,
}
"""By name: a model from its number of classes, or of tokens."""

__all__ = [
    "MODELS",
    "LlamaConfig",
    "Model",
    "cnn",
    "conv",
    "decoder",
    "linen",
    "llama",
    "mlp",
    "nnx",
    "resnet",
    "unet",
    "vit",
]
