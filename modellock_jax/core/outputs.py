"""Which leaves are weights of layers, and along which axis their outputs lie."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from modellock_jax.core.lock import Params
from modellock_jax.core.paths import paths

__all__ = ["Outputs", "output_axes"]

Outputs = Callable[[str], int | None]
"""`outputs(path) -> axis` of the outputs of a leaf, None for one that has none."""


class _Leaf(NamedTuple):
    number: int
    path: str
    layer: str
    name: str
    value: Any


def output_axes(lock: str, params: Params, outputs: Outputs | None = None) -> dict[int, int]:
    """Find the axis of the outputs of each leaf that has one.

    Without `outputs`, from names, after a `/` or a `.`: the last axis of a `kernel`, and of a LoRA's
    `lora_b`; the first of a `weight` with several axes; and the same of the `bias` beside them. An
    embedding has none: a `weight` with two axes and no bias, in a module with `emb` in its name, or
    `wte` or `wpe`.

    Args:
        lock: The lock's name, for messages.
        params: A tree of arrays.
        outputs: `outputs(path) -> axis` in place of names; None for a leaf that has none.

    Returns:
        From the number of a leaf, in tree order, to its axis, counted from the front.

    Raises:
        ValueError: If there is none, or where a bias does not fit its weight.
    """
    leaves = jax.tree.leaves(params)
    if outputs is not None:
        return _chosen_axes(lock, dict(zip(jax.tree.leaves(paths(params)), leaves)), outputs)
    found = []
    for number, (path, value) in enumerate(zip(jax.tree.leaves(paths(params)), leaves)):
        name = re.split(r"[/.]", path)[-1]
        found.append(_Leaf(number, path, path[: -len(name)], name, value))
    biases = {leaf.layer for leaf in found if leaf.name == "bias"}
    axes, weights = {}, {}
    for leaf in found:
        axis = _axis_of(leaf, leaf.layer in biases)
        if axis is not None:
            axes[leaf.number] = axis
            weights[leaf.layer] = leaf
    if not axes:
        raise ValueError(
            f"{lock}: no leaf is named `kernel` or, with several axes, `weight`, so there is nothing to "
            f"negate; say where other names have their outputs with {lock}(outputs=...)"
        )
    for bias in found:
        if bias.name == "bias" and bias.layer in weights:
            axes[bias.number] = _axis_of_bias(lock, bias, weights[bias.layer])
    return dict(sorted(axes.items()))


def _axis_of(leaf: _Leaf, has_bias: bool) -> int | None:
    if leaf.name in ("kernel", "lora_b"):
        return max(int(leaf.value.ndim) - 1, 0)
    if leaf.name != "weight" or leaf.value.ndim < 2:
        return None
    module = re.split(r"[/.]", leaf.layer[:-1])[-1].lower()
    looked_up = "emb" in module or module in ("wte", "wpe")
    return None if looked_up and leaf.value.ndim == 2 and not has_bias else 0


def _axis_of_bias(lock: str, bias: _Leaf, weight: _Leaf) -> int:
    own, theirs = bias.value.shape, weight.value.shape
    if weight.name == "weight":
        fits, at = own[:1] == theirs[:1] and bias.value.size == own[0], 0
    else:
        fits, at = own[-1:] == theirs[-1:], max(len(own) - 1, 0)
    # An empty one, or one without axes, is refused with a reason of its own.
    if own and theirs and not fits:
        which = "first" if weight.name == "weight" else "last"
        raise ValueError(
            f"{lock}: the leaf `{bias.path}` {list(own)} is no bias of the {weight.name} beside it, "
            f"{list(theirs)}: its entries are not those of the {which} axis; say where the outputs are "
            f"with {lock}(outputs=...), or leave both out with only(lock, where)"
        )
    return at


def _chosen_axes(lock: str, leaves: dict[str, Any], outputs: Outputs) -> dict[int, int]:
    axes = {}
    for number, (path, leaf) in enumerate(leaves.items()):
        axis = outputs(path)
        if axis is None:
            continue
        if not isinstance(axis, int) or not -leaf.ndim <= axis < max(leaf.ndim, 1):
            raise ValueError(
                f"{lock}: `outputs` gives {axis!r} for the leaf `{path}` {list(leaf.shape)}; give the "
                "number of one of its axes, or None"
            )
        axes[number] = axis % max(leaf.ndim, 1)
    if not axes:
        raise ValueError(
            f"{lock}: `outputs` gives None for every leaf; the paths begin {', '.join([*leaves][:4])}"
        )
    return axes
