"""How much work an attack does: inputs that go through the attacker's model, counted as it runs."""

from collections.abc import Callable
from typing import Any

import jax

from modellock_jax.models import Model

BACKWARD = 2  # a backward pass counts as two forward ones


class Counter:
    """A count that programs add to while they run. Read it after `jax.effects_barrier()`."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, more: int) -> None:
        self.total += more

    def of(self, function: Callable[..., Any], inputs: int = 0) -> Callable[..., Any]:
        """Wrap `function`, whose outputs `[B, ...]` count B, and 2 B where a gradient goes through them.

        `function` may give a tuple, of which the first tree counts, as `Model.train` does. Its argument
        number `inputs` is what is counted, so that a `vmap` over keys counts every key's.
        """

        def counting(*args: Any, **settings: Any) -> Any:
            size = len(jax.tree.leaves(args[inputs])[0])
            out = function(*args, **settings)
            if type(out) is tuple:
                return self._marked(out[0], size), *out[1:]
            return self._marked(out, size)

        return counting

    def _marked(self, out: Any, size: int) -> Any:
        leaves, tree = jax.tree.flatten(out)
        return jax.tree.unflatten(tree, [self._mark(leaves[0], size), *leaves[1:]])

    def _mark(self, out: jax.Array, size: int) -> jax.Array:
        @jax.custom_vjp
        def mark(out: jax.Array) -> jax.Array:
            return self._note(size)(out)

        def forward(out: jax.Array) -> tuple[jax.Array, None]:
            return mark(out), None

        def backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
            return (self._note(BACKWARD * size)(gradient),)

        mark.defvjp(forward, backward)
        return mark(out)

    def _note(self, size: int) -> Callable[[jax.Array], jax.Array]:
        """Return the identity, which adds `size` when it runs; under `vmap` once for the whole batch."""

        @jax.custom_batching.custom_vmap
        def note(out: jax.Array) -> jax.Array:
            # The callback takes a value of the output, so that it runs wherever the output is made.
            jax.debug.callback(lambda _: self.add(size), out.ravel()[0])
            return out

        @note.def_vmap
        def batched(axis_size: int, in_batched: Any, out: jax.Array) -> tuple[jax.Array, bool]:
            return self._note(axis_size * size)(out), True

        return note


def counted(model: Model, counter: Counter) -> Model:
    """Return the model with its forward and train counted by the inputs that they are given."""
    return model._replace(forward=counter.of(model.forward, 1), train=counter.of(model.train, 1))
