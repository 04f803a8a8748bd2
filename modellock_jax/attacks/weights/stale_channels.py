"""Where changed weights are, by the statistics that BatchNorms have stored."""

import jax
import jax.numpy as jnp

from modellock_jax.core.lock import Params
from modellock_jax.core.paths import paths
from modellock_jax.models import Model

__all__ = ["stale_channels"]


def stale_channels(model: Model, locked: Params, x: jax.Array) -> dict[str, jax.Array]:
    """Score the channels of every BatchNorm: how far the stored statistics are from the data's.

    A score is the difference of the means in stored deviations plus the absolute log ratio of the
    variances, over the median of the layer.

    Args:
        model: The architecture.
        locked: Parameters with a `batch_stats` collection, as `resnet(norm="batch")` has.
        x: Unlabelled inputs `[B, ...]`, as many as may be, prepared as in training.

    Returns:
        By each layer's path, in the order of their numbers, float32 `[C]`.

    Raises:
        ValueError: Without stored statistics.

    Threat model: the locked weights and unlabelled inputs. The stored statistics are those of the
    clean network, since `adv_params` changes no vectors; so the first channel far above its layer
    holds a changed weight. Later layers see changed inputs.
    """
    if not isinstance(locked, dict) or "batch_stats" not in locked:
        raise ValueError(
            'stale_channels: the parameters have no collection "batch_stats"; '
            'normalisation statistics are stored by models such as resnet(norm="batch")'
        )
    old = locked["batch_stats"]
    # With zeros and with ones stored, one training step shows share and statistics of the batch.
    zeros = jax.tree.map(jnp.zeros_like, old)
    ones = jax.tree.map(jnp.ones_like, old)
    low = model.train({**locked, "batch_stats": zeros}, x)[1]["batch_stats"]
    high = model.train({**locked, "batch_stats": ones}, x)[1]["batch_stats"]
    batch = jax.tree.map(lambda a, b: a / (1 - (b - a)), low, high)
    found: dict[str, dict[str, tuple[jax.Array, jax.Array]]] = {}
    for path, stored, seen in zip(*map(jax.tree.leaves, (paths(old), old, batch))):
        layer, _, name = path.rpartition("/")
        found.setdefault(layer, {})[name] = stored, seen

    def channel(part: dict[str, tuple[jax.Array, jax.Array]]) -> jax.Array:
        (mean, mean_seen), (var, var_seen) = part["mean"], part["var"]
        away = jnp.abs(mean_seen - mean) / jnp.sqrt(var + 1e-5)
        away += jnp.abs(jnp.log((var_seen + 1e-5) / (var + 1e-5)))
        return away / jnp.maximum(jnp.median(away), 1e-12)

    def number(layer: str) -> tuple[int, str]:
        tail = layer.rpartition("_")[2]
        return (int(tail) if tail.isdigit() else -1, layer)

    return {layer: channel(found[layer]) for layer in sorted(found, key=number)}
