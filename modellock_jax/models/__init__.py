"""Models: a module of one's own as three functions, and the small ones of our studies."""

from modellock_jax.models.classifiers import MODELS, Model, cnn, conv, mlp, resnet

__all__ = ["MODELS", "Model", "cnn", "conv", "mlp", "resnet"]
