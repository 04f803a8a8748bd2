"""Where the leaves of a tree lie: their paths, in which Flax's boxes have no part."""

from collections.abc import Iterator
from typing import Any

import jax

__all__ = ["paths"]

# Flax is not imported for it: without Flax there are none.
_BOXES = {("flax.core.meta", "AxisMetadata"), ("flax.nnx.variablelib", "Variable")}


def _leaf_key_paths(tree: Any) -> Iterator[tuple[Any, ...]]:
    """Give JAX's keys on the way to each leaf of a tree, in order.

    Flax's boxes, as `nnx.Param` and `nn.Partitioned`, are no place of their own: the array in a box
    has the keys of the box.
    """
    found = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: node is not tree and _is_box(node)
    )[0]
    for keys, node in found:
        inside = list(_leaf_key_paths(node)) if _is_box(node) else [()]
        dropped = int(len({rest[0] for rest in inside if rest}) == 1)
        for rest in inside:
            yield (*keys, *rest[dropped:])


def _is_box(node: Any) -> bool:
    return any((kind.__module__, kind.__name__) in _BOXES for kind in type(node).__mro__)


def paths(params: Any) -> Any:
    """Return the path of each leaf, as a tree like `params`: `"params/Dense_0/kernel"`.

    An array in one of Flax's boxes, such as `nnx.Param` or `nn.Partitioned`, has the path of the box.

    Args:
        params: A tree of arrays.

    Returns:
        A tree of the same structure with a text in place of each leaf.

    Raises:
        ValueError: If the tree has no leaves, and where two places read alike: two leaves of one
            path, or a name that contains `/` beside a branch, as `"a/b"` beside `"a"`.

    **Guarantees.** No two leaves have one path; the part of a path before a `/` is one place of the tree
    for all leaves below it.
    """
    leaves, tree = jax.tree.flatten(params)
    if not leaves:
        raise ValueError("the parameters are an empty pytree: there is nothing to lock")
    places: dict[str, Any] = {}
    texts = []
    for keys in _leaf_key_paths(params):
        names = [jax.tree_util.keystr((key,), simple=True) for key in keys]
        text = "/".join(names)
        texts.append(text)
        # A beginning of the path ends after a key, or inside of one.
        ends = {"/".join(names[:n]): keys[:n] for n in range(1, len(names) + 1)}
        cuts = [i for i, sign in enumerate(text) if sign == "/"]
        for at in (text[:i] for i in cuts):
            if places.setdefault(at, ends.get(at)) != ends.get(at):
                raise _ambiguous(at, text)
        if text in places:
            raise _ambiguous(text, text)
        places[text] = _LEAF
    return jax.tree.unflatten(tree, texts)


_LEAF = object()


def _ambiguous(at: str, path: str) -> ValueError:
    return ValueError(
        f"two places in the parameters read `{at}`, one of them in the path `{path}`: a name has a `/` "
        "in it, or is a number written as text; rename it"
    )
