"""A function of many keys at once, in chunks and over devices."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from modellock_jax.core.bits import bits_as_floats, floats_as_bits

__all__ = ["over_keys"]

_Tree = TypeVar("_Tree")


def over_keys(
    function: Callable[..., _Tree], *keys: Any, chunk: int = 16, mesh: Mesh | None = None
) -> _Tree:
    """Compute `vmap(function)(*keys)` in chunks: one program, memory for `chunk` keys at a time.

    Args:
        function: A function of one key, or of several that go together, to a tree of arrays; it may
            close over whatever it needs, which is copied to each device.
        *keys: Trees of arrays `[K, ...]`.
        chunk: How many keys are computed at a time on one device, at least 1.
        mesh: A mesh of one axis, whose devices share the chunks, each computing its own keys and holding
            its own results. Fewer chunks than devices leave some idle: choose a smaller chunk.

    Returns:
        A tree of arrays `[K, ...]`.

    Raises:
        ValueError: For a mesh of several axes.

    **Guarantees.** Every bit that `function` gets and gives is kept, NaN payloads included. Chunks
    have the same shape with a mesh as without, and devices exchange nothing while they work; results
    stay spread if chunks times devices divide K, and are copied to all at the end if not.

    >>> import jax, jax.numpy as jnp
    >>> over_keys(lambda k: k * 2, jnp.arange(5), chunk=2).tolist()
    [0, 2, 4, 6, 8]
    >>> mesh = jax.make_mesh((jax.device_count(),), ("keys",))
    >>> over_keys(lambda k: k * 2, jnp.arange(5), chunk=2, mesh=mesh).tolist()
    [0, 2, 4, 6, 8]
    """
    if mesh is not None and len(mesh.axis_names) != 1:
        raise ValueError(
            f"over_keys: keys are spread over a mesh of one axis, not of {len(mesh.axis_names)}; "
            'make one as in jax.make_mesh((8,), ("keys",))'
        )
    n = jax.tree.leaves(keys)[0].shape[0]
    chunk, devices = min(chunk, n), 1 if mesh is None else mesh.size
    chunks = -(-n // (chunk * devices)) * devices
    batch = jax.vmap(function)

    def one_chunk(chosen: Any) -> Any:
        return floats_as_bits(batch(*bits_as_floats(chosen, keys)))

    def over_chunks(chosen: Any) -> Any:
        return lax.map(one_chunk, chosen)

    if mesh is not None:
        spec = jax.P(mesh.axis_names[0])
        # With jax.make_mesh's explicit axes, shardings would be part of types.
        mesh = Mesh(mesh.devices, mesh.axis_names)
        whole = n % devices == 0
        keys = jax.device_put(keys, jax.NamedSharding(mesh, spec if whole else jax.P()))
        # Loops in `function` may begin with constants, which the check refuses as equal on all.
        over_chunks = jax.shard_map(
            over_chunks, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
        )

    def in_chunks(leaf: jax.Array) -> jax.Array:
        # The last chunks are filled up with the last key: lax.map's own refuse empty leaves.
        more = jnp.broadcast_to(leaf[-1:], (chunks * chunk - n, *leaf.shape[1:]))
        return jnp.concatenate([leaf, more]).reshape(chunks, chunk, *leaf.shape[1:])

    found = over_chunks(jax.tree.map(in_chunks, floats_as_bits(keys)))
    found = jax.tree.map(lambda leaf: leaf.reshape(chunks * chunk, *leaf.shape[2:])[:n], found)
    as_given: _Tree = bits_as_floats(found, jax.eval_shape(batch, *keys))
    return as_given
