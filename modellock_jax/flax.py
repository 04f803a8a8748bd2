"""Unedited Flax modules as tapped forwards.

A site is the output of a layer with a kernel: Dense, Conv, attention projections. Its name is the
module's path, such as `"Block_0/Conv_1"`; the layer's parameters lie at that path.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from modellock_jax.core.lock import Forward, Params, Tap, untapped

if TYPE_CHECKING:  # Flax takes most of a second to import, and few programs need both of its sides.
    import flax.linen as nn
    from flax import nnx


def from_linen(module: "nn.Module") -> Forward:
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
    import flax.linen as nn

    layers = (nn.Dense, nn.DenseGeneral, nn.Einsum, nn.Conv, nn.ConvLocal, nn.ConvTranspose)

    def forward(variables: Params, x: jax.Array, tap: Tap = untapped, **kwargs: Any) -> Any:
        def intercept(call: Callable[..., Any], args: Any, kw: Any, context: Any) -> Any:
            h = call(*args, **kw)
            if context.method_name == "__call__" and isinstance(context.module, layers):
                h = tap("/".join(context.module.path), h)
            return h

        with nn.intercept_methods(intercept):
            out = module.apply(variables, x, **kwargs)
        if "mutable" not in kwargs or kwargs["mutable"] is False:
            return out
        y, changed = out
        return y, {**variables, **changed}

    return forward


def from_nnx(module: "nnx.Module", mutable: bool = False) -> Forward:
    """A forward of an NNX module, tapped at every layer with a kernel.

    Returns `forward(params, x, tap=untapped, rng=None, **kwargs)`; `params` is `nnx_params(module)`
    or a tree like it, and other keyword arguments go to the module's call. The module's mode
    (`train()`, `eval()`) counts as it is now. With `mutable` it returns `(y, params)`, the statistics
    that changed put in. `rng`, a JAX PRNG key, seeds random streams such as dropout's; without it
    every call draws the same.

    **Guarantees.** With `untapped` the result is that of the module itself, which is not edited.

    >>> import jax, modellock_jax as ml
    >>> from flax import nnx
    >>> net = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    >>> forward = ml.from_nnx(net)
    >>> forward(ml.nnx_params(net), jax.numpy.ones((1, 4))).shape
    (1, 2)
    """
    from flax import nnx

    layers = (nnx.Linear, nnx.LinearGeneral, nnx.Einsum, nnx.Conv, nnx.ConvTranspose)
    graph, state, *others = nnx.split(module, nnx.Any(nnx.Param, nnx.BatchStat), ...)

    def forward(
        params: Params,
        x: jax.Array,
        tap: Tap = untapped,
        rng: jax.Array | None = None,
        **kwargs: Any,
    ) -> Any:
        # A fresh copy at each call: giving its layers a tapped class edits nobody's module.
        held, *rest = jax.tree.map(lambda leaf: leaf, [state, *others])
        nnx.replace_by_pure_dict(held, params)
        copy = nnx.merge(graph, held, *rest)
        if rng is not None:
            streams = [node for _, node in nnx.iter_graph(copy) if isinstance(node, nnx.RngStream)]
            for stream, seed in zip(streams, jax.random.split(rng, max(1, len(streams)))):
                stream.key.set_value(seed)
                stream.count.set_value(jax.numpy.uint32(0))
        for path, layer in nnx.iter_modules(copy):
            if isinstance(layer, layers):
                layer.__class__ = _tapped(type(layer), "/".join(map(str, path)), tap)
        y = copy(x, **kwargs)
        return (y, nnx_params(copy)) if mutable else y

    return forward


def nnx_params(module: "nnx.Module") -> Params:
    """The parameters and normalisation statistics of an NNX module, a nested dict of arrays."""
    from flax import nnx

    return nnx.to_pure_dict(nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat)))


def sites(forward: Forward, params: Params, x: Any) -> dict[str, tuple[int, ...]]:
    """The sites of a forward, each with the shape of its pre-activation; nothing is computed."""
    found: dict[str, tuple[int, ...]] = {}

    def tap(site: str, h: jax.Array) -> jax.Array:
        found[site] = h.shape
        return h

    jax.eval_shape(lambda params, x: forward(params, x, tap), params, x)
    return found


def _tapped(layer: type, site: str, tap: Tap) -> type:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return tap(site, layer.__call__(self, *args, **kwargs))

    return type(layer.__name__, (layer,), {"__call__": call})
