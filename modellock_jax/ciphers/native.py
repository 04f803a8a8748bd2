"""ChaCha20 (RFC 8439) as a compiled call on CPUs, where `modellock-jax-native` is installed."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core
from jax.interpreters import batching, mlir

_TARGET = "modellock_jax_chacha20"


@functools.cache
def is_installed() -> bool:
    """Whether the compiled call is there. The first call of it tells XLA."""
    try:
        module = importlib.import_module("modellock_jax_native")
    except ModuleNotFoundError:
        return False
    jax.ffi.register_ffi_target(_TARGET, module.chacha20, platform="cpu")
    return True


def xor(
    key: jax.Array, nonce: jax.Array, first: jax.Array, skip: jax.Array, data: jax.Array
) -> jax.Array:
    """Runs of bytes XOR the key stream of ChaCha20, each from its own place on. On CPUs only.

    `key`: uint32 `[8]`; `nonce`: uint32 `[3]`; `first`: uint32 `[runs]`, the block in which each run
    begins; `skip`: uint32 `[runs]`, the bytes of that block before it, 0 to 63; `data`: the runs one
    after the other, of any dtype and as many bytes each, at least one.
    """
    call = jax.ffi.ffi_call(_TARGET, jax.ShapeDtypeStruct(data.shape, data.dtype))
    return call(key, nonce, first, skip, data)


Body = Callable[..., list[jax.Array]]


def on_cpu(native: Body, default: Body) -> Body:
    """`native` where it is lowered for a CPU to run here; elsewhere `default`, of the same bits.

    Elsewhere: on accelerators, under `vmap`, and in `jax.export`, whose programs run without our
    package. Both take arrays and give a list of arrays with the shapes and dtypes of the last.
    """

    def run(*args: jax.Array) -> list[jax.Array]:
        return _choice.bind(*args, native=native, default=default)

    return run


_choice = jax.extend.core.Primitive("modellock_jax_on_cpu")
_choice.multiple_results = True


@_choice.def_impl
def _(*args: jax.Array, native: Body, default: Body) -> list[jax.Array]:
    return jax.jit(on_cpu(native, default))(*args)


@_choice.def_abstract_eval
def _(*args: Any, native: Body, default: Body) -> list[Any]:
    return jax.make_jaxpr(default)(*args).out_avals


def _over_axes(args: Any, axes: Any, *, native: Body, default: Body) -> Any:
    found = jax.vmap(default, axes)(*args)
    return found, [0] * len(found)


def _lower(context: Any, *args: Any, native: Body, default: Body) -> Any:
    for_export = context.module_context.lowering_parameters.for_export
    return mlir.lower_fun(default if for_export else native)(context, *args)


batching.primitive_batchers[_choice] = _over_axes
mlir.register_lowering(
    _choice, lambda context, *args, native, default: mlir.lower_fun(default)(context, *args)
)
mlir.register_lowering(_choice, _lower, platform="cpu")
