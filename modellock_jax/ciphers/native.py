"""The ciphers as compiled calls on CPUs, where `native/` of a clone is installed."""

import functools
import importlib
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax.interpreters import batching, mlir

__all__ = [
    "Body",
    "aes_through",
    "chacha20",
    "has_aes",
    "has_chacha20",
    "has_digest",
    "on_cpu",
    "tree_digest",
]


@functools.cache
def _registered() -> frozenset[str]:
    """Register the calls that are there, as `modellock_jax_` and their name, and name them."""
    try:
        module = importlib.import_module("modellock_jax_native")
    except ModuleNotFoundError:
        return frozenset()
    # XLA runs calls compiled for an older interface; of a newer one it would refuse all work on CPUs.
    if getattr(module, "API", (0, 0)) > _api():
        warnings.warn(
            "modellock_jax_native was compiled for a newer jaxlib and is left out; from a clone, run "
            "pip install --force-reinstall --no-deps --no-build-isolation ./native",
            stacklevel=2,
        )
        return frozenset()
    names = {"chacha20", "aes_through", "tree_digest"} & set(vars(module))
    for name in names:
        jax.ffi.register_ffi_target(_target(name), getattr(module, name), platform="cpu")
    return frozenset(names)


def _api() -> tuple[int, int]:
    """Return the version of the interface for compiled calls that the installed jaxlib has."""
    header = Path(jax.ffi.include_dir(), "xla/ffi/api/c_api.h").read_text()
    major, minor = re.findall(r"#define XLA_FFI_API_M(?:AJ|IN)OR (\d+)", header)
    return int(major), int(minor)


def _target(name: str) -> str:
    return f"modellock_jax_{name}"


def has_chacha20() -> bool:
    """Whether `chacha20` can be called here.

    Returns:
        True where it can.
    """
    return "chacha20" in _registered()


def has_aes() -> bool:
    """Whether `aes_through` can be called here: it needs a processor with AES instructions too.

    Returns:
        True where it can.
    """
    return "aes_through" in _registered()


def chacha20(
    key: jax.Array,
    nonce: jax.Array,
    first: jax.Array,
    skip: jax.Array,
    data: jax.Array,
    in_place: bool = False,
) -> jax.Array:
    """XOR spans of bytes with the key stream of ChaCha20 (RFC 8439), each from its own place on.

    Args:
        key: uint32 `[8]`.
        nonce: uint32 `[3]`.
        first: The block in which each span begins, uint32 `[spans]`.
        skip: The bytes of that block before it, uint32 `[spans]`, 0 to 63.
        data: The spans one after the other, of any dtype and as many bytes each, at least one.
        in_place: Whether the result takes the memory of `data`, which is copied first if it is
            needed later.

    Returns:
        Like `data`.
    """
    call = jax.ffi.ffi_call(
        _target("chacha20"),
        jax.ShapeDtypeStruct(data.shape, data.dtype),
        input_output_aliases={4: 0} if in_place else None,
    )
    return call(key, nonce, first, skip, data)


def aes_through(
    words: jax.Array, counts: jax.Array, blocks: jax.Array, inverse: bool, in_place: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pass blocks of 16 bytes through the S-box of AES, each with its own round key.

    Args:
        words: Of the schedule, uint32 `[4]` or `[8]`.
        counts: Its rcon and middle, uint32 `[2]`.
        blocks: Whole blocks, of any dtype.
        inverse: Whether to undo it.
        in_place: As in `chacha20`.

    Returns:
        All three, after.
    """
    call = jax.ffi.ffi_call(
        _target("aes_through"),
        [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (words, counts, blocks)],
        input_output_aliases={2: 2} if in_place else None,
    )
    words, counts, blocks = call(words, counts, blocks, inverse=bool(inverse))
    return words, counts, blocks


def has_digest() -> bool:
    """Whether `tree_digest` can be called here.

    Returns:
        True where it can.
    """
    return "tree_digest" in _registered()


def tree_digest(
    key: jax.Array,
    table: jax.Array,
    starts: jax.Array,
    leaves: Sequence[jax.Array],
    *,
    numbers: Sequence[int],
    shapes: Sequence[Sequence[int]],
    stretches: Sequence[tuple[int, int]],
) -> jax.Array:
    """Return what a part of each leaf adds to a tree's digest.

    Args:
        key: uint32 `[8]`.
        table: uint32 `[8, 2, words]`, for the places in a row.
        starts: uint32 `[axes of all leaves]`, where on each axis of its leaf a part begins.
        leaves: the parts, of any dtype, none empty or a scalar.
        numbers: of each leaf, below 2^32.
        shapes: of each whole leaf.
        stretches: for each leaf, an axis and how much of it a row takes.

    Returns:
        uint32 `[leaves, 8]`.
    """
    axes, lengths = np.array(stretches, np.int64).T
    call = jax.ffi.ffi_call(
        _target("tree_digest"), jax.ShapeDtypeStruct((len(leaves), 8), jnp.uint32)
    )
    return call(
        key,
        table,
        starts,
        *leaves,
        numbers=np.array(numbers, np.int64),
        shapes=np.array([n for shape in shapes for n in shape], np.int64),
        axes=axes,
        lengths=lengths,
    )


Body = Callable[..., list[jax.Array]]


def on_cpu(native: Body, default: Body) -> Body:
    """Call `native` where it is lowered for a CPU to run here; elsewhere `default`, of the same bits.

    Elsewhere: on accelerators, under `vmap`, and in `jax.export`, whose programs run without our
    package.

    Args:
        native: Takes arrays, and gives a list of arrays with the shapes and dtypes of the last
            ones.
        default: The same in JAX alone.

    Returns:
        Such a function too.
    """

    def choose(*args: jax.Array) -> list[jax.Array]:
        return _choice.bind(*args, native=native, default=default)

    return choose


_choice = jax.extend.core.Primitive("modellock_jax_on_cpu")
_choice.multiple_results = True


def _impl(*args: jax.Array, native: Body, default: Body) -> list[jax.Array]:
    return jax.jit(on_cpu(native, default))(*args)


def _abstract_eval(*args: Any, native: Body, default: Body) -> list[Any]:
    return jax.make_jaxpr(default)(*args).out_avals


def _over_axes(args: Any, axes: Any, *, native: Body, default: Body) -> Any:
    found = jax.vmap(default, axes)(*args)
    return found, [0] * len(found)


def _lower(context: Any, *args: Any, native: Body, default: Body) -> Any:
    for_export = context.module_context.lowering_parameters.for_export
    return mlir.lower_fun(default if for_export else native)(context, *args)


_choice.def_impl(_impl)
_choice.def_abstract_eval(_abstract_eval)
batching.primitive_batchers[_choice] = _over_axes
mlir.register_lowering(
    _choice, lambda context, *args, native, default: mlir.lower_fun(default)(context, *args)
)
mlir.register_lowering(_choice, _lower, platform="cpu")
