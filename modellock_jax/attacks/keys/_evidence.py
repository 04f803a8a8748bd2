"""What one layer says about a sign key: products of two Gram matrices, entry by entry."""

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.jit, static_argnums=(2, 3))
def evidence(writer: jax.Array, reader: jax.Array, used: int, wide: int) -> jax.Array:
    """Return what a layer says of two bits `[used, used]`, from each `wide` units beside each other."""
    w, v = usable(writer), usable(reader).T
    parts = [slice(at, at + wide) for at in range(0, w.shape[1], wide)]
    sums = [folded(gram(w[:, part]) * gram(v[:, part]), used) for part in parts]
    return unit(sum(sums, jnp.zeros((used, used), w.dtype)))


def usable(kernel: jax.Array) -> jax.Array:
    """Return a kernel at most 1 in size: all zero where not all is finite, as of a ciphertext."""
    kernel = jnp.where(jnp.isfinite(kernel).all(), kernel, 0)
    return kernel / or_one(jnp.abs(kernel).max())


def gram(kernel: jax.Array) -> jax.Array:
    """Return the products of columns, norm one or zero, without the diagonal."""
    products = _off_diagonal(jnp.matmul(kernel.T, kernel, precision="highest"))
    return unit(products)


def or_one(size: jax.Array) -> jax.Array:
    """Return what to divide by: the size, or one for zero."""
    return jnp.where(size > 0, size, 1)


def _off_diagonal(matrix: jax.Array) -> jax.Array:
    return jnp.where(jnp.eye(len(matrix), dtype=bool), 0, matrix)


def folded(products: jax.Array, used: int) -> jax.Array:
    """Return the sums over the bits' units `[used, used]` of products `[n, n]`."""
    times = -(-len(products) // used)
    padded = jnp.pad(products, (0, times * used - len(products)))
    return _off_diagonal(padded.reshape(times, used, times, used).sum((0, 2)))


def unit(matrix: jax.Array, axis: int | None = None) -> jax.Array:
    """Return a matrix, or its parts along an axis, of norm one or zero."""
    return matrix / or_one(jnp.linalg.norm(matrix, axis=axis, keepdims=True))
