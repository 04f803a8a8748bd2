"""Parameters as bits: what every lock that works on bits shares.

Byte order: a leaf is read in C order, each element as its little-endian bytes, the same on every
platform. Nothing here computes on a leaf as a number, so NaN payloads and negative zeros survive.
Where a leaf is moved about, it is moved as an unsigned integer: XLA may quiet NaNs otherwise.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Shaped, UInt, UInt8

from modellock_jax.core.lock import Params
from modellock_jax.core.paths import paths
from modellock_jax.core.stacked import Stacked

__all__ = [
    "bits_as_floats",
    "check_leaves",
    "floats_as_bits",
    "from_uint",
    "non_differentiable",
    "stack",
    "substitute",
    "to_blocks",
    "to_uint",
    "word_count",
    "words_like",
    "words_to_uints",
]

_Found = TypeVar("_Found")
_UINT = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}


def check_leaves(scheme: str, params: Params) -> None:
    """Refuse trees that cannot be locked bit for bit.

    Args:
        scheme: The lock's name, for the message.
        params: A tree of arrays, or of shapes and dtypes.

    Raises:
        ValueError: For an empty tree.
        TypeError: For a leaf that is no array, or whose elements are not integers or floats of 1,
            2, 4 or 8 whole bytes.
    """
    for path, leaf in zip(jax.tree.leaves(paths(params)), jax.tree.leaves(params)):
        if not hasattr(leaf, "dtype"):
            raise TypeError(
                f"{scheme}: the leaf `{path}` is a {type(leaf).__name__}, not an array; "
                "convert it with jax.numpy.asarray"
            )
        if not _whole_bytes(leaf.dtype):
            raise TypeError(
                f"{scheme}: the leaf `{path}` has dtype {leaf.dtype}, which is not an integer or "
                "float of whole bytes; leave it out with only(lock, where)"
            )
        if jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
            raise TypeError(
                f"{scheme}: the leaf `{path}` has dtype {leaf.dtype}, which JAX would narrow and "
                "so change its bits; set jax_enable_x64, or convert the leaf first"
            )


def _whole_bytes(dtype: Any) -> bool:
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.finfo(dtype).bits in (8, 16, 32, 64)
    return jnp.issubdtype(dtype, jnp.integer) and jnp.iinfo(dtype).bits in (8, 16, 32, 64)


def word_count(leaf: Any) -> int:
    """Return the number of 32-bit words that the bytes of `leaf` begin to fill.

    Args:
        leaf: An array, or its shape and dtype.

    Returns:
        ceil(bytes / 4), an int.
    """
    return -(-int(leaf.size) * int(leaf.dtype.itemsize) // 4)


def to_uint(leaf: jax.Array) -> jax.Array:
    """Return the bits of `leaf`, as unsigned integers of the same shape and width.

    Args:
        leaf: An array `[...]` of whole bytes.

    Returns:
        Unsigned integers `[...]` of its width.
    """
    return lax.bitcast_convert_type(leaf, _UINT[leaf.dtype.itemsize])


def from_uint(uint: jax.Array, dtype: Any) -> jax.Array:
    """Invert `to_uint`.

    Args:
        uint: Unsigned integers `[...]`.
        dtype: Of the same width.

    Returns:
        The same bits as `dtype`, `[...]`.
    """
    return lax.bitcast_convert_type(uint, dtype)


def floats_as_bits(tree: Params) -> Params:
    """Turn float leaves into unsigned integers, for a `scan`, which on CPU may quiet NaNs.

    Args:
        tree: A tree of arrays.

    Returns:
        A tree like it, floats as unsigned integers of their width.
    """
    return jax.tree.map(
        lambda leaf: to_uint(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )


def bits_as_floats(tree: Params, like: Params) -> Params:
    """Invert `floats_as_bits`; `like` holds the dtypes.

    Args:
        tree: What `floats_as_bits` gave, a tree of arrays.
        like: A tree of its structure that holds the dtypes, as of `jax.eval_shape`.

    Returns:
        The floats, bit for bit, in a tree like it.
    """

    def back(leaf: jax.Array, old: Any) -> jax.Array:
        return from_uint(leaf, old.dtype) if jnp.issubdtype(old.dtype, jnp.floating) else leaf

    return jax.tree.map(back, tree, like)


def words_to_uints(words: jax.Array, dtype: Any) -> jax.Array:
    """Return a key stream, uint32 `[N]`, as unsigned integers of another width.

    Args:
        words: uint32 `[N]`.
        dtype: Whose width it is, 1, 2, 4 or 8 bytes.

    Returns:
        Unsigned integers `[4 N / width]`, in the order of the stream's bytes.
    """
    size = jnp.dtype(dtype).itemsize
    if size == 8:
        words = words.reshape(-1, 2)
    return lax.bitcast_convert_type(words, _UINT[size]).reshape(-1)


def to_blocks(leaf: Shaped[jax.Array, "..."], blocks: int) -> Shaped[jax.Array, "{blocks} 4"]:
    """Return the bits of `leaf` as `[blocks, 4]` of 32 bits an entry, with zeros at the end.

    They are uint32, except those of a float32 leaf that fills its blocks: it stays as it is.

    Args:
        leaf: An array `[...]` of whole bytes.
        blocks: How many blocks of 16 bytes, enough for the leaf.

    Returns:
        `[blocks, 4]`, uint32 or float32.
    """
    size = leaf.dtype.itemsize
    if leaf.dtype == jnp.float32 and leaf.size == 4 * blocks:
        return leaf.reshape(blocks, 4)
    flat = jnp.pad(to_uint(leaf).reshape(-1), (0, 16 // size * blocks - leaf.size))
    grouped = flat.reshape(-1, 4 // size) if size < 4 else flat
    return lax.bitcast_convert_type(grouped, jnp.uint32).reshape(blocks, 4)


def words_like(words: jax.Array, leaf: Any) -> jax.Array:
    """Give words, uint32 `[at least word_count(leaf)]`, as unsigned integers in the shape of `leaf`.

    Args:
        words: uint32 `[at least word_count(leaf)]`.
        leaf: An array, or its shape and dtype.

    Returns:
        Unsigned integers of the leaf's shape and width.
    """
    return words_to_uints(words, leaf.dtype)[: leaf.size].reshape(leaf.shape)


def substitute(
    uint: UInt[jax.Array, "*shape"], table: UInt8[jax.Array, "256"]
) -> UInt[jax.Array, "*shape"]:
    """Replace every byte by its entry in `table`, uint8 `[256]`.

    Args:
        uint: Unsigned integers `[...]`.
        table: What each byte becomes, uint8 `[256]`.

    Returns:
        Like `uint`.
    """
    wide = lax.bitcast_convert_type(uint, jnp.uint8)
    # A byte cannot be out of bounds, and saying so saves the clamp.
    return lax.bitcast_convert_type(table.at[wide].get(mode="promise_in_bounds"), uint.dtype)


def non_differentiable(scheme: str) -> Callable[[Callable[..., _Found]], Callable[..., _Found]]:
    """Make a function on bits raise `TypeError` when differentiated, instead of giving zeros.

    Args:
        scheme: The lock's name, for the message.

    Returns:
        A decorator of functions of trees.
    """

    @jax.custom_jvp
    def guard(leaf: jax.Array) -> jax.Array:
        return leaf

    @guard.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        raise TypeError(
            f"{scheme} works on bits and has no gradient: differentiate the plain parameters, "
            "and in a chain put locks that need a loss before locks on bits"
        )

    def guarded(leaf: Any) -> Any:
        return leaf.on_leaf(guard) if isinstance(leaf, Stacked) else guard(leaf)

    def decorate(function: Callable[..., _Found]) -> Callable[..., _Found]:
        @functools.wraps(function)
        def on_bits(*trees: Params) -> _Found:
            with _unchecked():
                return function(*jax.tree.map(guarded, trees))

        return on_bits

    return decorate


@contextlib.contextmanager
def _unchecked() -> Iterator[None]:
    """Without JAX's search for NaN and infinity, of which a ciphertext has some by nature."""
    with contextlib.ExitStack() as stack:
        if jax.config.jax_debug_nans:  # type: ignore[attr-defined]
            stack.enter_context(jax.debug_nans(False))
        if jax.config.jax_debug_infs:  # type: ignore[attr-defined]
            stack.enter_context(jax.debug_infs(False))
        yield


def stack(trees: Sequence[Params]) -> Params:
    """Stack trees of one structure into one tree of leaves `[len(trees), ...]`, bit for bit.

    Use it instead of `jnp.stack` on locked leaves: on CPU, `jnp.stack` and `jnp.concatenate` quiet the
    signalling NaNs of bfloat16 and float8_e5m2, and so change bits.

    Args:
        trees: At least one tree of arrays; the others have its structure, shapes and dtypes.

    Returns:
        A tree of that structure.

    >>> import jax.numpy as jnp
    >>> stack([{"w": jnp.ones(2)}, {"w": jnp.zeros(2)}])["w"].tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(floats_as_bits, trees))
    return bits_as_floats(stacked, trees[0])
