"""Where the leaves of a tree lie, boxes left out."""

from collections.abc import Iterator
from typing import Any

import jax

# Flax is not imported for it: without Flax there are none.
_BOXES = {("flax.core.meta", "AxisMetadata"), ("flax.nnx.variablelib", "Variable")}


def leaf_key_paths(tree: Any) -> Iterator[tuple[Any, ...]]:
    """JAX's keys on the way to each leaf of a tree, in order.

    Flax's boxes, as `nnx.Param` and `nn.Partitioned`, are no place of their own: the array in a box
    has the keys of the box.
    """
    found = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: node is not tree and _is_box(node)
    )[0]
    for keys, node in found:
        inside = list(leaf_key_paths(node)) if _is_box(node) else [()]
        dropped = int(len({rest[0] for rest in inside if rest}) == 1)
        for rest in inside:
            yield (*keys, *rest[dropped:])


def _is_box(node: Any) -> bool:
    return any((kind.__module__, kind.__name__) in _BOXES for kind in type(node).__mro__)
