"""Unedited Flax modules as tapped forwards.

A site is the output of a layer with a kernel: Dense, Conv, attention projections. Its name is the
module's path, such as `"Block_0/Conv_1"`; the layer's parameters lie at that path.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from modellock_jax.base import Forward, Params, Tap, untapped

_LINEN = (
    nn.Dense,
    nn.DenseGeneral,
    nn.Einsum,
    nn.Conv,
    nn.ConvLocal,
    nn.ConvTranspose,
)
_NNX = (nnx.Linear, nnx.LinearGeneral, nnx.Einsum, nnx.Conv, nnx.ConvTranspose)


def from_linen(module: nn.Module) -> Forward:
    """A forward of a Linen module, tapped at every layer with a kernel.

    Returns `forward(variables, x, tap=untapped, **kwargs)`; `variables` is all that `module.init`
    gives, normalisation statistics included, and keyword arguments go to `module.apply`. With
    `mutable=[...]` it returns `(y, variables)`, the collections that changed put in.

    **Guarantees.** With `untapped` the result is that of `module.apply`. The module is not edited.

    >>> import jax, flax.linen as nn, modellock_jax as ml
    >>> net = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)])
    >>> x = jax.numpy.ones((1, 4))
    >>> variables = net.init(jax.random.key(0), x)
    >>> sorted(ml.sites(ml.from_linen(net), variables, x).items())
    [('layers_0', (1, 8)), ('layers_2', (1, 2))]
    """

    def forward(variables: Params, x: jax.Array, tap: Tap = untapped, **kwargs: Any) -> Any:
        def intercept(
            call: Callable[..., Any], args: Any, kw: Any, context: nn.module.InterceptorContext
        ) -> Any:
            h = call(*args, **kw)
            if context.method_name == "__call__" and isinstance(context.module, _LINEN):
                h = tap("/".join(context.module.path), h)
            return h

        with nn.intercept_methods(intercept):
            out = module.apply(variables, x, **kwargs)
        if "mutable" not in kwargs or kwargs["mutable"] is False:
            return out
        y, changed = out
        return y, {**variables, **changed}

    return forward


def from_nnx(module: nnx.Module, mutable: bool = False) -> Forward:
    """A forward of an NNX module, tapped at every layer with a kernel.

    Returns `forward(params, x, tap=untapped, **kwargs)`; `params` is `nnx_params(module)` or a tree
    like it, and keyword arguments go to the module's call. The module's mode (`train()`, `eval()`)
    counts as it is now. With `mutable` it returns `(y, params)`, the statistics that changed put in.
    Random streams, as dropout uses them, start anew at each call: pass the module fresh ones by
    keyword where that matters.

    **Guarantees.** With `untapped` the result is that of the module itself, which is not edited.

    >>> import jax, modellock_jax as ml
    >>> from flax import nnx
    >>> net = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    >>> forward = ml.from_nnx(net)
    >>> forward(ml.nnx_params(net), jax.numpy.ones((1, 4))).shape
    (1, 2)
    """
    graph, state, rest = nnx.split(module, _learned, ...)

    def forward(params: Params, x: jax.Array, tap: Tap = untapped, **kwargs: Any) -> Any:
        held = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(held, params)
        # A fresh copy at each call: giving its layers a tapped class edits nobody's module.
        copy = nnx.merge(graph, held, rest)
        for path, layer in nnx.iter_modules(copy):
            if isinstance(layer, _NNX):
                layer.__class__ = _tapped(type(layer), "/".join(map(str, path)), tap)
        y = copy(x, **kwargs)
        return (y, nnx_params(copy)) if mutable else y

    return forward


def nnx_params(module: nnx.Module) -> Params:
    """The parameters and normalisation statistics of an NNX module, a nested dict of arrays."""
    return nnx.to_pure_dict(nnx.state(module, _learned))


def sites(forward: Forward, params: Params, x: Any) -> dict[str, tuple[int, ...]]:
    """The sites of a forward, each with the shape of its pre-activation; nothing is computed."""
    found: dict[str, tuple[int, ...]] = {}

    def tap(site: str, h: jax.Array) -> jax.Array:
        found[site] = h.shape
        return h

    jax.eval_shape(lambda params, x: forward(params, x, tap), params, x)
    return found


_learned = nnx.Any(nnx.Param, nnx.BatchStat)


def _tapped(layer: type, site: str, tap: Tap) -> type:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return tap(site, layer.__call__(self, *args, **kwargs))

    return type(layer.__name__, (layer,), {"__call__": call})
