"""The layers that a forward of a Flax module meets, and the mark by which `nn.jit` traces each anew."""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modellock_jax.core.lock import Tap

if TYPE_CHECKING:
    import flax.linen as nn

MARK = "modellock_jax"
_hashes = itertools.count()


class Marked:
    """A Linen module for `nn.apply`, whose scopes carry a mark of one run of a forward."""

    def __init__(self, module: "nn.Module") -> None:
        self.module = module

    def clone(self, *, parent: Any, **kwargs: Any) -> "nn.Module":
        parent.flags = parent.flags.copy({MARK: _NeverEqual()})
        return self.module.clone(parent=parent, **kwargs)


class _NeverEqual:
    """Has another hash each time: `nn.jit` finds its traces by a hash of, among others, its flags."""

    def __hash__(self) -> int:
        return next(_hashes)


class TappedLayers:
    """The layers that one run of a forward meets, and the tap for those that lie in no other."""

    def __init__(self, adapter: str, tap: Tap) -> None:
        self.adapter, self.tap = adapter, tap
        self.types: set[type] = set()
        self.inside = False

    def output(self, site: str, layer: type, call: Callable[[], Any]) -> Any:
        """Return what the layer's `call` returns, tapped."""
        if self.inside:
            return call()
        self.inside = True
        try:
            h = call()
        finally:
            self.inside = False
        self.types.add(layer)
        if not hasattr(h, "dtype"):
            raise TypeError(
                f"{self.adapter}: the layer `{site}` returns a {type(h).__name__}, not one array; take "
                f"{layer.__name__} out of `layer_types`, or return its pre-activation alone"
            )
        return self.tap(site, h)
