"""A model as three functions, made from a Flax module in one line."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from modellock_jax.core.bits import to_uint
from modellock_jax.core.lock import Forward, Params, Tap, untapped
from modellock_jax.flax import from_linen, from_nnx, nnx_params

if TYPE_CHECKING:  # Flax takes most of a second to import, and not every model is one of its two.
    import flax.linen as nn
    from flax import nnx as flax_nnx

__all__ = ["Model", "linen", "nnx"]

_MODES = {"train": True, "training": True, "is_training": True, "deterministic": False}
"""How modules call the argument that says whether they are trained, and its value if they are."""


class Model(NamedTuple):
    """A model as three functions, of inputs x, a tree of arrays `[B, ...]`.

    `init(rng, x) -> params`; `forward(params, x, tap) -> out`, whatever the task of the model takes;
    `train(params, x, tap) -> (out, params)`, in training, statistics updated.

    One that is no Flax module is made by hand, here of Equinox:

    >>> import equinox as eqx, jax
    >>> import modellock_jax as ml
    >>> def forward(params, x, tap=ml.untapped):
    ...     return tap("layer", jax.vmap(params)(x))
    >>> model = Model(
    ...     init=lambda rng, x: eqx.nn.Linear(x.shape[1], 3, key=rng),
    ...     forward=forward,
    ...     train=lambda params, x, tap=ml.untapped: (forward(params, x, tap), params),
    ... )
    >>> x = jax.numpy.ones((2, 4))
    >>> model.forward(model.init(jax.random.key(0), x), x).shape
    (2, 3)
    """

    init: Callable[[jax.Array, Any], Params]
    forward: Forward
    train: Forward


def linen(module: "nn.Module", layer_types: tuple[type, ...] = ()) -> Model:
    """Make a model of a Flax Linen module, tapped at every layer.

    An argument `train`, `training`, `is_training` or `deterministic` of its `__call__` is given by
    what the model does. In training its statistics are updated, and dropout draws from the bits of
    the batch and the parameters: a step is a function of these, and no two steps draw the same.

    Args:
        module: Any Linen module of one input, which may be a tree.
        layer_types: Module types of yours that are layers, as in `from_linen`.

    Returns:
        A model whose parameters are the module's variables, statistics included.

    >>> import flax.linen as nn, jax
    >>> model = linen(nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)]))
    >>> x = jax.numpy.ones((1, 4))
    >>> model.forward(model.init(jax.random.key(0), x), x).shape
    (1, 2)
    """
    tapped = from_linen(module, layer_types)
    known = inspect.signature(type(module).__call__).parameters
    training = {name: value for name, value in _MODES.items() if name in known}
    answering: dict[str, Any] = {name: not value for name, value in training.items()}

    @jax.jit
    def init(rng: jax.Array, x: Any) -> Params:
        import flax.linen as nn

        return nn.meta.unbox(module.init(rng, x, **answering))

    def forward(params: Params, x: Any, tap: Tap = untapped) -> Any:
        return tapped(params, x, tap, **answering)

    def train(params: Params, x: Any, tap: Tap = untapped) -> Any:
        statistics = [name for name in params if name != "params"]
        rngs = {"dropout": _draw(params, x)}
        return tapped(params, x, tap, mutable=statistics, rngs=rngs, **training)

    return Model(init, forward, train)


def nnx(
    make: "Callable[[flax_nnx.Rngs], flax_nnx.Module]", layer_types: tuple[type, ...] = ()
) -> Model:
    """Make a model of a Flax NNX module, tapped at every layer.

    In training its statistics are updated, and dropout draws from the bits of the batch and the
    parameters, as in `linen`.

    Args:
        make: `make(rngs)` builds the module, as `lambda rngs: Net(32, rngs=rngs)`. Two are built at
            once, one of which is set to `train()` and one to `eval()`.
        layer_types: Module types of yours that are layers, as in `from_nnx`.

    Returns:
        A model whose parameters are `nnx_params` of the module.

    >>> import jax
    >>> from flax import nnx as flax_nnx
    >>> model = nnx(lambda rngs: flax_nnx.Linear(4, 2, rngs=rngs))
    >>> x = jax.numpy.ones((1, 4))
    >>> model.forward(model.init(jax.random.key(0), x), x).shape
    (1, 2)
    """
    from flax import nnx as flax_nnx

    answering, training = make(flax_nnx.Rngs(0)), make(flax_nnx.Rngs(0))
    answering.eval()
    training.train()
    forward = from_nnx(answering, layer_types=layer_types)
    taught = from_nnx(training, mutable=True, layer_types=layer_types)

    @jax.jit
    def init(rng: jax.Array, x: Any) -> Params:
        return nnx_params(make(flax_nnx.Rngs(rng)))

    def train(params: Params, x: Any, tap: Tap = untapped) -> Any:
        return taught(params, x, tap, rng=_draw(params, x))

    return Model(init, forward, train)


def _draw(params: Params, x: Any) -> jax.Array:
    """Return a generator from the bits of the parameters and a batch."""
    leaves = [a for a in jax.tree.leaves((params, x)) if jnp.issubdtype(a.dtype, jnp.number)]
    words = [to_uint(leaf).astype(jnp.uint32).sum(dtype=jnp.uint32) for leaf in leaves]
    return jax.random.fold_in(jax.random.key(0), jnp.stack(words).sum(dtype=jnp.uint32))
