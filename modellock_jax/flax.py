"""Unedited Flax modules as tapped forwards.

A site is the output of a layer with weights of its own: Dense, Conv, attention projections, LoRA, and
types of one's own. Its name is the module's path, such as `"Block_0/Conv_1"`; the layer's parameters
lie at that path. A layer inside of a layer is part of it and no site, as the base of a LoRA.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from modellock_jax._flax_layers import MARK, Marked, TappedLayers
from modellock_jax.core.lock import Forward, Params, Tap, untapped

if TYPE_CHECKING:  # Flax takes most of a second to import, and few programs need both of its sides.
    import flax.linen as nn
    from flax import nnx

__all__ = ["from_linen", "from_nnx", "nnx_params", "sites"]

_tapped = jax.make_user_context(default_value=False)  # a trace without taps is none with them


def from_linen(module: "nn.Module", layer_types: tuple[type, ...] = ()) -> Forward:
    """Make a forward of a Linen module, tapped at every layer.

    Args:
        module: Any Linen module, also under Flax's lifted transforms (`nn.jit`, `nn.scan`, ...).
        layer_types: Module types of yours that are layers, beside Flax's own. What their `__call__`
            returns, one array, is the pre-activation.

    Returns:
        `forward(variables, x, tap=untapped, **kwargs)`; `variables` is all that `module.init`
        gives, normalisation statistics included, and keyword arguments (`rngs`, `method`, the
        module's own) go to `module.apply`. With `mutable=[...]` it returns `(y, variables)`, the
        collections that changed put in.

    Raises:
        TypeError: If `layer_types` holds something else than module types, or a layer returns no array.
        ValueError: In a forward with a tap: if a type of `layer_types` is not met, or a layer lies
            in another module's `apply` inside of `module`, where its name and trace are not this
            module's.

    **Guarantees.** With `untapped` the result is that of `module.apply`. The module is not edited. No
    trace under a tap is used for another tap: what `nn.jit` wraps is traced at each call, and compiled
    too unless a `jax.jit` lies around it.

    >>> import jax, flax.linen as nn, modellock_jax as ml
    >>> net = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)])
    >>> x = jax.numpy.ones((1, 4))
    >>> variables = net.init(jax.random.key(0), x)
    >>> sorted(ml.sites(ml.from_linen(net), variables, x).items())
    [('layers_0', (1, 8)), ('layers_2', (1, 2))]
    """
    import flax.linen as nn

    _check_types("from_linen", layer_types, nn.Module)
    own = (nn.Dense, nn.DenseGeneral, nn.Einsum, nn.Conv, nn.ConvLocal, nn.ConvTranspose)

    def tapped(
        variables: Params,
        x: Any,
        tap: Tap,
        rngs: Any = None,
        method: Any = None,
        mutable: Any = False,
        capture_intermediates: Any = False,
        **kwargs: Any,
    ) -> Any:
        tracked = TappedLayers("from_linen", tap)

        def call_method(bound: nn.Module, *args: Any, **kw: Any) -> Any:
            called = getattr(type(bound), method) if isinstance(method, str) else method
            called = called or type(bound).__call__
            return getattr(called, "__func__", called)(bound, *args, **kw)

        def intercept(call: Callable[..., Any], args: Any, kw: Any, context: Any) -> Any:
            layer = context.module
            is_layer = context.method_name == "__call__" and isinstance(layer, own + layer_types)
            if tracked.inside or not is_layer or layer.is_initializing():
                return call(*args, **kw)
            site = "/".join(layer.path)
            if MARK not in layer.scope.flags:
                raise ValueError(
                    f"from_linen: the layer `{site}` lies in another module's `apply` inside of this "
                    "one, so it has no name of its own; make it a submodule, or tap that part by hand"
                )
            return tracked.output(site, type(layer), lambda: call(*args, **kw))

        marked: Any = Marked(module)
        apply = nn.apply(call_method, marked, mutable, capture_intermediates)
        with nn.intercept_methods(intercept), _tapped(True):
            out = apply(variables, x, rngs=rngs, **kwargs)
        for kind in layer_types:
            if not any(issubclass(found, kind) for found in tracked.types):
                raise ValueError(
                    f"from_linen: the module calls no {kind.__name__}; take it out of `layer_types`"
                )
        return out

    def forward(variables: Params, x: Any, tap: Tap = untapped, **kwargs: Any) -> Any:
        if tap is untapped:
            out = module.apply(variables, x, **kwargs)
        else:
            out = tapped(variables, x, tap, **kwargs)
        if "mutable" not in kwargs or kwargs["mutable"] is False:
            return out
        y, changed = out
        return y, {**variables, **changed}

    return forward


def from_nnx(
    module: "nnx.Module", mutable: bool = False, layer_types: tuple[type, ...] = ()
) -> Forward:
    """Make a forward of an NNX module, tapped at every layer.

    | state | what becomes of it |
    | --- | --- |
    | mode | that of `module` when the forward runs: it follows `module.train()` and `module.eval()`; a
      `jax.jit` around it keeps the mode of its trace, so jit anew, or give each mode a forward of its
      own, from an `nnx.clone` |
    | parameters, BatchNorm's statistics | those of `params`; with `mutable`, the result is
      `(y, params)`, the statistics that changed put in, else changes are dropped |
    | random streams, as dropout's | from `rng`, a JAX PRNG key; without it every call draws the same |
    | others, as caches and sown values | those of `module`; changes are dropped |

    Args:
        module: Any NNX module, also under NNX's transforms (`nnx.jit`, `nnx.scan`, ...).
        mutable: Whether the forward returns `(y, params)`.
        layer_types: Module types of yours that are layers, beside Flax's own. What their `__call__`
            returns, one array, is the pre-activation.

    Returns:
        `forward(params, x, tap=untapped, rng=None, **kwargs)`; `params` is `nnx_params(module)`, a
        tree like it or an `nnx.State`, and other keyword arguments go to the module's call.

    Raises:
        TypeError: If `layer_types` holds something else than module types, or a layer returns no array.
        ValueError: If `module` has no layer of a type of `layer_types`; in a forward, if `params` lacks
            leaves that the module has, or has others.

    **Guarantees.** With `untapped` the result is that of the module itself, which is not edited. No
    trace under a tap is used for another tap, as with `from_linen`.

    >>> import jax, modellock_jax as ml
    >>> from flax import nnx
    >>> net = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    >>> forward = ml.from_nnx(net)
    >>> forward(ml.nnx_params(net), jax.numpy.ones((1, 4))).shape
    (1, 2)
    """
    from flax import nnx

    _check_types("from_nnx", layer_types, nnx.Module)
    own = (nnx.Linear, nnx.LinearGeneral, nnx.Einsum, nnx.Conv, nnx.ConvTranspose, nnx.LoRA)
    for kind in layer_types:
        if not any(isinstance(found, kind) for _, found in nnx.iter_modules(module)):
            raise ValueError(
                f"from_nnx: the module has no {kind.__name__}; take it out of `layer_types`"
            )

    def forward(
        params: Params,
        x: Any,
        tap: Tap = untapped,
        rng: jax.Array | None = None,
        **kwargs: Any,
    ) -> Any:
        # A fresh copy at each call: giving its layers a tapped class edits nobody's module.
        copy = _copy(module, params)
        if rng is not None:
            streams = [node for _, node in nnx.iter_graph(copy) if isinstance(node, nnx.RngStream)]
            for stream, seed in zip(streams, jax.random.split(rng, max(1, len(streams)))):
                stream.key.set_value(seed)
                stream.count.set_value(jax.numpy.uint32(0))
        if tap is not untapped:
            tracked = TappedLayers("from_nnx", tap)
            for path, node in nnx.iter_modules(copy):
                if isinstance(node, own + layer_types):
                    layer: Any = node
                    site = "/".join(map(str, path))
                    layer.tapped_as = functools.partial(tracked.output, site, type(node))
                    layer.__class__ = _with_tap(layer.__class__)
        y = copy(x, **kwargs)
        return (y, nnx_params(copy)) if mutable else y

    return forward


def nnx_params(module: "nnx.Module") -> Params:
    """Take the parameters and normalisation statistics out of an NNX module.

    Args:
        module: Any NNX module.

    Returns:
        A nested dict of arrays, in the structure that `from_nnx` takes.
    """
    from flax import nnx

    return nnx.to_pure_dict(nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat)))


def sites(forward: Forward, params: Params, x: Any) -> dict[str, tuple[int, ...]]:
    """List the sites of a forward, each with the shape of its pre-activation; nothing is computed.

    Args:
        forward: `forward(params, x, tap)`.
        params: Its parameters, or a tree of their shapes and dtypes.
        x: Its inputs, or their shapes and dtypes.

    Returns:
        From the name of a site to a shape, `[B, ..., C]`, in the order in which they are met.
    """
    found: dict[str, tuple[int, ...]] = {}

    def tap(site: str, h: jax.Array) -> jax.Array:
        found[site] = h.shape
        return h

    jax.eval_shape(lambda params, x: forward(params, x, tap), params, x)
    return found


def _check_types(adapter: str, layer_types: Any, module: type) -> None:
    for kind in layer_types if isinstance(layer_types, tuple) else [layer_types]:
        if not (
            isinstance(layer_types, tuple) and isinstance(kind, type) and issubclass(kind, module)
        ):
            raise TypeError(
                f"{adapter}: `layer_types` must be a tuple of module types, as (LoRA,), not "
                f"{layer_types!r}"
            )


def _copy(module: "nnx.Module", params: Params) -> Any:
    """Return a copy of an NNX module as it is now, with other parameters."""
    from flax import nnx, traverse_util

    if isinstance(params, nnx.State):
        params = nnx.to_pure_dict(params)
    graph, *states = nnx.split(module, nnx.Any(nnx.Param, nnx.BatchStat), ...)
    held, rest = jax.tree.map(lambda leaf: leaf, states)
    own, given = (
        {"/".join(map(str, path)) for path in traverse_util.flatten_dict(tree)}
        for tree in (nnx.to_pure_dict(held), params)
    )
    if own != given:
        lacks, has = (
            ", ".join(sorted(more)[:4]) or "nothing" for more in (own - given, given - own)
        )
        raise ValueError(
            f"from_nnx: the parameters are not those of the module: they lack {lacks}, and have {has} "
            "that it has not; begin with nnx_params(module)"
        )
    nnx.replace_by_pure_dict(held, params)
    return nnx.merge(graph, held, rest)


@functools.cache
def _with_tap(layer: type) -> type:
    # One type for all taps, since JAX never forgets a type of module. The tap is an attribute of the
    # module, by which `nnx.jit` finds its traces.
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.tapped_as(lambda: layer.__call__(self, *args, **kwargs))

    return type(layer.__name__, (layer,), {"__call__": call})
