"""The layers that `adv_params` may change, as one row of weights."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.core.lock import Params
from modellock_jax.locks.adv_params import target_leaves


def layer_values(params: Params) -> list[jax.Array]:
    """Return the layers that `adv_params` may change, float32, in tree order."""
    leaves = [jax.tree.leaves(params)[i] for i in target_leaves(params)]
    if (total := sum(leaf.size for leaf in leaves)) >= 2**31:
        raise ValueError(
            f"localise: the layers have {total} weights together, and at most 2**31 - 1 can be "
            "numbered; give it some of the leaves"
        )
    return [leaf.astype(jnp.float32) for leaf in leaves]


def map_layers(params: Params, function: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """`function(layer)` of every layer, broadcast to its shape: float32 `[P]`."""
    values = layer_values(params)
    return jnp.concatenate([jnp.broadcast_to(function(v), v.shape).ravel() for v in values])


def set_layer_values(flat: jax.Array, params: Params) -> Params:
    """`params` with the layers that `adv_params` may change taken from flat, float32 `[P]`."""
    leaves, tree = jax.tree.flatten(params)
    ends = np.cumsum([v.size for v in layer_values(params)])
    for i, piece in zip(target_leaves(params), jnp.split(flat, ends[:-1])):
        leaves[i] = piece.reshape(leaves[i].shape).astype(leaves[i].dtype)
    return jax.tree.unflatten(tree, leaves)


def leaf_positions(picks: jax.Array, params: Params) -> tuple[jax.Array, jax.Array]:
    """From positions in `[P]` to (leaf, position in leaf), int32, -1 where unused."""
    targets = target_leaves(params)
    starts = np.cumsum([0] + [v.size for v in layer_values(params)]).astype(np.int32)
    layer = jnp.searchsorted(jnp.asarray(starts), picks, side="right") - 1
    leaf = jnp.asarray(np.array(targets, np.int32))[layer]
    return (
        jnp.where(picks < 0, -1, leaf),
        jnp.where(picks < 0, -1, picks - jnp.asarray(starts)[layer]),
    )
