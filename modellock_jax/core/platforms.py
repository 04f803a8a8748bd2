"""A function on TPUs and another elsewhere, of which only the one that is compiled for is traced."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import batching, mlir

__all__ = ["on_tpus"]

_Tree = TypeVar("_Tree")
_Flat = Callable[..., list[jax.Array]]


def on_tpus(plain: Callable[..., _Tree], usual: Callable[..., _Tree], *args: Any) -> _Tree:
    """Compute a function on TPUs, and another elsewhere.

    As `jax.lax.platform_dependent`, which traces both, and TPUs' takes several times as long.

    Args:
        plain: TPUs' function; what it needs of a program that is being traced is in `args`.
        usual: That of all other platforms, of the same shapes and dtypes.
        *args: Trees of arrays.

    Returns:
        What the function of the platform gives, a tree of arrays.
    """
    leaves, tree = jax.tree.flatten(args)
    traced, shape = jax.make_jaxpr(usual, return_shape=True)(*args)

    def flat(*leaves: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(plain(*jax.tree.unflatten(tree, leaves)))

    # JAX looks for what needs to know the devices in programs, and not in functions.
    out = _platform.bind(*leaves, plain=flat, usual=traced)
    found: _Tree = jax.tree.unflatten(jax.tree.structure(shape), out)
    return found


_platform = Primitive("modellock_jax_on_tpus")
_platform.multiple_results = True


def _impl(*args: jax.Array, **functions: Any) -> list[jax.Array]:
    with jax.disable_jit(False):  # as JAX runs an operation of its own
        found: list[jax.Array] = jax.jit(partial(_platform.bind, **functions))(*args)
    return found


def _over_axes(args: Any, axes: Any, *, plain: _Flat, usual: ClosedJaxpr) -> Any:
    both = (jax.vmap(function, axes) for function in (plain, jaxpr_as_fun(usual)))
    found = on_tpus(*both, *args)
    return found, [0] * len(found)


_platform.def_impl(_impl)
_platform.def_abstract_eval(lambda *_, plain, usual: list(usual.out_avals))
batching.primitive_batchers[_platform] = _over_axes
mlir.register_lowering(
    _platform,
    lambda context, *args, plain, usual: mlir.lower_fun(jaxpr_as_fun(usual))(context, *args),
)
mlir.register_lowering(
    _platform,
    lambda context, *args, plain, usual: mlir.lower_fun(plain)(context, *args),
    platform="tpu",
)
