"""Sealed files opened onto devices: each decrypts what it holds, and the host never holds it all."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from modellock_jax.core.lock import Params
from modellock_jax.core.paths import paths
from modellock_jax.vault._tensors import Tensor
from modellock_jax.vault.checkpoint import to_tree
from modellock_jax.vault.sealed._chunks import CHUNK
from modellock_jax.vault.sealed.opened import Sealed

__all__ = ["on_devices"]

# Bytes of the rows that are decrypted at once where only a part of each is wanted.
_BLOCK = 4 * CHUNK


def on_devices(
    sealed: Sealed,
    sharding: Sharding | Callable[[str, jax.ShapeDtypeStruct], Sharding] | Params,
    like: Params | None = None,
) -> Params:
    """Open a sealed file onto devices: a pytree of `jax.Array`, decrypted one by one.

    Each process reads the shards of its own devices.

    Args:
        sealed: An open sealed file of arrays.
        sharding: One for all, a function of name, shape and dtype, or a tree of them like the
            result.
        like: As in `to_tree`.

    Returns:
        The tree.

    Raises:
        ValueError: If a sharding is missing, has no array or does not fit it; for 64-bit values
            unless `jax_enable_x64` is set; else as `to_tree`.
        TypeError: For what is no sharding.
        Tampered: If the file was changed.

    **Guarantees.** Bits are kept; plain values are written to no file. A shard that is a run of whole
    rows is decrypted alone, to the chunk of 2 MiB, and once for all devices that hold it; others
    with the rows that they share. The host holds one shard at a time, and some 20 MiB beside it.

    >>> import tempfile
    >>> from modellock_jax import vault
    >>> mesh = jax.make_mesh((jax.device_count(),), ("rows",))
    >>> rows = jax.NamedSharding(mesh, jax.P("rows"))
    >>> secret = vault.generate_key()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = f"{folder}/m.sealed"
    ...     arrays = {"a/w": np.ones((jax.device_count(), 2), np.float32)}
    ...     kind = vault.seal(arrays, file, [vault.public_key(secret)])
    ...     with vault.open(file, secret) as sealed:
    ...         params = on_devices(sealed, rows)
    >>> params["a"]["w"].sharding == rows, float(params["a"]["w"].mean())
    (True, 1.0)
    """
    found = sealed.directory.tensors
    shapes = {t.name: jax.ShapeDtypeStruct(t.shape, t.dtype) for t in found}
    to_tree(shapes, like)  # raises before anything is decrypted
    chosen = _shardings(sharding, shapes)
    for name, shape in shapes.items():
        if jax.dtypes.canonicalize_dtype(shape.dtype) != shape.dtype:
            raise ValueError(
                f"{name!r} is {shape.dtype}, which JAX narrows; set jax_enable_x64 first"
            )
        try:
            chosen[name].shard_shape(shape.shape)
        except (ValueError, IndexError) as error:
            why = "has too few axes" if isinstance(error, IndexError) else f"does not fit: {error}"
            raise ValueError(f"{name!r} of shape {list(shape.shape)} {why}") from None
    return to_tree({t.name: _put(sealed, t, chosen[t.name]) for t in found}, like)


def _shardings(
    sharding: Sharding | Callable[..., Sharding] | Params, shapes: Mapping[str, Any]
) -> dict[str, Sharding]:
    named: dict[str, Any]
    if isinstance(sharding, Sharding):
        named = dict.fromkeys(shapes, sharding)
    elif callable(sharding):
        named = {name: sharding(name, shape) for name, shape in shapes.items()}
    else:
        named = dict(zip(jax.tree.leaves(paths(sharding)), jax.tree.leaves(sharding)))
    for name, one in named.items():
        if not isinstance(one, Sharding):
            kind = type(one).__name__
            raise TypeError(f"{name!r}: a {kind} is no Sharding; give NamedSharding(mesh, spec)")
    if others := sorted(set(shapes) ^ set(named)):
        raise ValueError(
            f"the tree of shardings and the file differ in {len(others)} names: {', '.join(others[:4])}"
        )
    return named


def _put(sealed: Sealed, tensor: Tensor, sharding: Sharding) -> jax.Array:
    # jax.make_array_from_callback would hold the shards of all devices on the host at once.
    holders: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(tensor.shape).items():
        cut = tuple(part.indices(size)[:2] for part, size in zip(index or (), tensor.shape))
        holders.setdefault(cut, []).append(device)
    shards = []
    for bounds, devices in holders.items():
        host = np.empty([stop - start for start, stop in bounds], tensor.dtype)
        _fill(sealed, tensor, host, 0, tensor.shape, bounds)
        put = [jax.device_put(host, device) for device in devices]
        shards += jax.block_until_ready(put)
    return jax.make_array_from_single_device_arrays(
        tensor.shape, sharding, shards, dtype=tensor.dtype
    )


def _fill(
    sealed: Sealed,
    tensor: Tensor,
    out: np.ndarray,
    at: int,
    shape: tuple[int, ...],
    bounds: tuple[tuple[int, int], ...],
) -> None:
    """Fill a contiguous `out` with what `bounds`, one pair for each axis, cut out of an array.

    The array, of `shape`, begins at the byte `at` of the tensor.
    """
    if not out.size:
        return
    if not shape:
        return sealed.read(tensor, at, _bytes_of(out))
    (start, stop), inner = bounds[0], bounds[1:]
    row = math.prod(shape[1:]) * tensor.dtype.itemsize
    if inner == tuple((0, size) for size in shape[1:]):
        return sealed.read(tensor, at + start * row, _bytes_of(out))
    if row > _BLOCK:
        for i in range(start, stop):
            _fill(sealed, tensor, out[i - start], at + i * row, shape[1:], inner)
        return
    cut = tuple(slice(*pair) for pair in inner)
    for first in range(start, stop, _BLOCK // row):
        rows = np.empty((min(_BLOCK // row, stop - first), *shape[1:]), tensor.dtype)
        sealed.read(tensor, at + first * row, _bytes_of(rows))
        out[first - start :][: len(rows)] = rows[:, *cut]


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
