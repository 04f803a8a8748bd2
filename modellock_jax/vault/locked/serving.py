"""Locked files for a program that serves a model: the weights stay locked until the model runs."""

import os
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.core.lock import Key, Lock, Params
from modellock_jax.core.paths import paths
from modellock_jax.locks import parse
from modellock_jax.vault import checkpoint
from modellock_jax.vault._frames import clears_frames
from modellock_jax.vault._sources import AnySource
from modellock_jax.vault._tensors import Tensor
from modellock_jax.vault.keys.secret import Secret
from modellock_jax.vault.locked import _file_schemes, _format
from modellock_jax.vault.locked._reading import verified

__all__ = ["Serving", "open_locked"]


class Serving(NamedTuple):
    """What `user_forward(lock, forward)(key, locked, x)` takes.

    `lock`: its `decrypt` gives the plain tree; `key`: finished; `locked`: NumPy arrays by name, or a
    tree like that of the model.
    """

    lock: Lock
    key: Key
    locked: Params


@clears_frames
def open_locked(
    source: AnySource,
    secret: Secret,
    *,
    like: Params | None = None,
    revoked: Iterable[str | os.PathLike[str]] = (),
) -> Serving:
    """Return a locked file as lock, key and locked arrays, for `user_forward`.

    Values of 64 bits are two uint32 along the last axis in `locked`, bools are uint8; what
    `lock.decrypt` gives has the file's dtypes.

    Args:
        source: A path, bytes, or a binary file object.
        secret: The key that it was locked with.
        like: A tree with the file's names, shapes and dtypes; its leaves need no values.
        revoked: Revocation lists beside those that are found.

    Returns:
        `lock`, `key` and `locked`, a dict by name or a tree like `like`.

    Raises:
        WrongKey: As `unlock_file` does; and `Expired`, `Tampered` and `Unreadable`.
        ValueError: Names, shapes or dtypes are not those of `like`, or there are 64-bit numbers and
            JAX has none (`jax_enable_x64`).

    Threat model: a server whose disk others may read, and whose memory they cannot.

    **Guarantees.** The whole file is checked first. Plain weights are written nowhere, and are in
    memory when and where the model uses them; with `stacked` of `user_forward` a layer at a time.

    >>> import io
    >>> import modellock_jax as ml
    >>> from safetensors.numpy import save
    >>> from modellock_jax import vault
    >>> secret, file = vault.generate_key(), io.BytesIO()
    >>> info = vault.lock_file(save({"w": np.ones(3, "f4")}), file, secret, "stream_lock")
    >>> lock, key, weights = open_locked(file.getvalue(), secret)
    >>> user = ml.user_forward(lock, lambda params, x, tap: params["w"] @ x)
    >>> float(user(key, weights, jnp.ones(3)))
    3.0
    """
    with verified(source, secret, revoked, held=True) as found:
        assert found.held is not None
        parts = {tensor.name: tensor for tensor in found.directory.tensors}
    _check_widths(parts.values())
    scheme, tree = found.info.scheme, _file_schemes.tree_of(parts.values(), found.held)
    key_source = _format.source_of(found.info, secret)
    key = _file_schemes.opening_key(scheme, key_source, found.finish, tree)
    lock = _giving(parse(scheme).lock, parts)
    if like is None:
        return Serving(lock, key, tree)
    plain = {name: SimpleNamespace(shape=t.shape, dtype=t.dtype) for name, t in parts.items()}
    checkpoint.to_tree(plain, like)  # refuses what does not fit
    leaves = [tree[name] for name in jax.tree.leaves(paths(like))]
    return Serving(lock, key, jax.tree.unflatten(jax.tree.structure(like), leaves))


def _check_widths(parts: Iterable[Tensor]) -> None:
    wide = [repr(t.name) for t in parts if t.dtype.itemsize == 8 and t.dtype != np.complex64]
    if wide and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f"{', '.join(wide[:4])} has numbers of 64 bits, which JAX takes only after "
            'jax.config.update("jax_enable_x64", True); or use load_locked'
        )


def _giving(lock: Lock, parts: Mapping[str, Tensor]) -> Lock:
    """Return the lock, whose `decrypt` takes any tree with these paths and gives the file's dtypes."""

    def decrypt(key: Key, tree: Params) -> Params:
        leaves, structure = jax.tree.flatten(tree)
        names = jax.tree.leaves(paths(tree))
        # By name as when it was locked, since a lock may go from leaf to leaf in their order.
        opened = lock.decrypt(key, dict(zip(names, leaves)))
        return jax.tree.unflatten(structure, [_plain(opened[n], parts[n]) for n in names])

    return lock._replace(decrypt=decrypt)


def _plain(leaf: Any, tensor: Tensor) -> Any:
    """Return a leaf as the file has it: the inverse of `_file_schemes.taken_as`."""
    if _file_schemes.taken_as(tensor)[0] == tensor.dtype:
        return leaf
    if tensor.dtype == np.bool_:
        return jnp.asarray(leaf) != 0
    pairs = jnp.asarray(leaf).reshape(*tensor.shape, 2)
    if tensor.dtype == np.complex64:
        both = lax.bitcast_convert_type(pairs, jnp.float32)
        return lax.complex(both[..., 0], both[..., 1])
    return lax.bitcast_convert_type(pairs, tensor.dtype)
