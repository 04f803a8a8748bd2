"""Weights that are opened a layer at a time, inside the loop over the layers.

A model's `lax.scan` over leaves `[L, ...]` gets `LazyLayers` in place of arrays: it cuts them as it cuts
arrays, and what it hands to a layer opens where the layer uses it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = ["LazyLayers", "Stacked", "Step", "as_lazy_layers", "as_stacked"]

Step = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""`step(state, number, layer) -> layer`: what one lock does to the layer of that number, int32."""


class Stacked:
    """A leaf `[L, ...]` on its way through a lock's `decrypt`, which adds a `Step` and opens nothing.

    `jax.tree` takes it for a leaf. A lock that knows no layers and computes on it raises `TypeError`.
    """

    def __init__(self, leaf: jax.Array, steps: tuple[Step, ...] = (), states: Any = ()) -> None:
        self.leaf, self.steps, self.states = leaf, steps, states
        self.shape, self.dtype = leaf.shape, leaf.dtype
        self.ndim, self.size = leaf.ndim, leaf.size

    def then(self, step: Step, states: Any) -> "Stacked":
        """Add one more step.

        Args:
            step: What a lock does to one layer.
            states: What it needs, a tree of arrays `[L, ...]`, one entry for each layer.

        Returns:
            A leaf with all steps so far and this one.
        """
        return Stacked(self.leaf, (*self.steps, step), (*self.states, states))

    def everywhere(self, tree: Any) -> Any:
        """Repeat one state for every layer: leaves `[L, ...]`.

        Args:
            tree: A tree of arrays `[...]`.

        Returns:
            The same in every layer, `[L, ...]`.
        """
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (self.shape[0], *jnp.shape(a))), tree)

    def on_leaf(self, function: Callable[[jax.Array], jax.Array]) -> "Stacked":
        """With `function` of the whole locked leaf in its place.

        Args:
            function: Of the locked leaf `[L, ...]`, which keeps its shape and dtype.

        Returns:
            A leaf with the same steps.
        """
        return Stacked(function(self.leaf), self.steps, self.states)

    def __jax_array__(self) -> jax.Array:
        raise TypeError(
            "this lock cannot open a leaf layer by layer: leave its leaves out of `stacked` in "
            "user_forward, or decrypt the whole tree first"
        )


@jax.tree_util.register_pytree_node_class
class LazyLayers:
    """Locked layers `[L, ...]`, or one of them: an array to JAX, which opens each time it is used.

    `lax.scan`, `vmap` and `[i]` cut it by layer; `jnp.asarray` of all layers opens all.
    """

    def __init__(self, *children: Any, steps: tuple[Step, ...], dtype: Any) -> None:
        self.locked, self.number, self.states = children
        self.steps, self.dtype = steps, dtype

    def tree_flatten(self) -> tuple[Any, Any]:
        """For JAX."""
        return (self.locked, self.number, self.states), (self.steps, self.dtype)

    @classmethod
    def tree_unflatten(cls, static: Any, children: Any) -> "LazyLayers":
        """For JAX."""
        return cls(*children, steps=static[0], dtype=static[1])

    def __jax_array__(self) -> jax.Array:
        def opened(number: jax.Array, layer: jax.Array, states: Any) -> jax.Array:
            layer = lax.bitcast_convert_type(layer, self.dtype)
            for step, state in zip(self.steps, states):
                layer = step(state, number, layer)
            return layer

        each = jax.vmap(opened) if self.number.ndim else opened
        return each(self.number, self.locked, self.states)

    def __getitem__(self, index: Any) -> Any:
        one = isinstance(index, int | np.integer | jax.Array) and jnp.ndim(index) == 0
        if one and self.number.ndim:
            return jax.tree.map(lambda leaf: leaf[index], self)
        return self.__jax_array__()[index]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __len__(self) -> int:
        return int(self.locked.shape[0])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(
            self.locked if name in ("shape", "ndim", "size") else self.__jax_array__(), name
        )


def _operator(name: str) -> Callable[..., Any]:
    return lambda self, *others: getattr(self.__jax_array__(), name)(*others)


_BINARY = ("add", "sub", "mul", "truediv", "matmul", "pow")
for _name in ("neg", *_BINARY, *(f"r{name}" for name in _BINARY)):
    setattr(LazyLayers, f"__{_name}__", _operator(f"__{_name}__"))


def as_stacked(tree: Any, chosen: Any) -> Any:
    """Make the chosen leaves `Stacked`.

    Args:
        tree: A tree of arrays.
        chosen: A tree of bools like it.

    Returns:
        A tree whose chosen leaves wait to be opened.
    """
    return jax.tree.map(lambda leaf, is_chosen: Stacked(leaf) if is_chosen else leaf, tree, chosen)


def as_lazy_layers(tree: Any) -> Any:
    """Replace each `Stacked` leaf by `LazyLayers`, for a forward.

    Args:
        tree: A tree whose leaves are arrays or `Stacked`.

    Returns:
        A tree of arrays and `LazyLayers`.
    """

    def as_lazy(leaf: Any) -> Any:
        if not isinstance(leaf, Stacked):
            return leaf
        locked, number = leaf.leaf, jnp.arange(leaf.shape[0], dtype=jnp.int32)
        if leaf.dtype.itemsize <= 2:
            # As bits, a copy on CPUs, where a scan quiets the NaNs of narrow floats.
            locked = lax.bitcast_convert_type(locked, f"uint{8 * leaf.dtype.itemsize}")
        return LazyLayers(locked, number, leaf.states, steps=leaf.steps, dtype=leaf.dtype)

    return jax.tree.map(as_lazy, tree)
