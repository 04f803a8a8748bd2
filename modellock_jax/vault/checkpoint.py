"""Parameters as named arrays, `"a/b/c"`, and back; checkpoints read and written."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from modellock_jax._atomic import need_directory
from modellock_jax._printing import printable
from modellock_jax.core.lock import Params
from modellock_jax.core.paths import paths
from modellock_jax.vault import _sources, _tensors
from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.sealed._content import directory_of

__all__ = ["read_checkpoint", "to_names", "to_tree", "write_orbax"]


def to_names(params: Params) -> dict[str, np.ndarray]:
    """Return the leaves of a pytree by path, `"params/Dense_0/kernel"`, in tree order.

    Args:
        params: A tree of arrays.

    Returns:
        Arrays by name, on the host.

    Raises:
        ValueError: For an empty tree, and where two leaves have one name or a name is both a leaf
            and a branch (`"a"` and `"a/b"`).
        TypeError: For a leaf that is no array of a safetensors dtype.

    **Guarantees.** Bits are kept. `to_tree` gives dicts back as they were, whose keys are text
    without `/`; other containers with `like`.

    >>> sorted(to_names({"a": {"b": np.ones(2), "c": np.zeros(3)}}))
    ['a/b', 'a/c']
    """
    found: dict[str, np.ndarray] = {}
    for name, leaf in zip(jax.tree.leaves(paths(params)), jax.tree.leaves(params)):
        if name in found:
            raise ValueError(f"two leaves have the name {name!r}; rename one of them")
        if getattr(leaf, "dtype", None) not in _tensors.NAMES:
            what = f"dtype {leaf.dtype}" if hasattr(leaf, "dtype") else f"a {type(leaf).__name__}"
            raise TypeError(f"the leaf {name!r} is {what}, which safetensors does not have")
        found[name] = np.asarray(leaf)
    _check_branches(found)
    return found


def to_tree(named: Mapping[str, Any], like: Params | None = None) -> Params:
    """Return the inverse of `to_names`, for any leaves.

    Args:
        named: Leaves by name.
        like: A tree of the same leaves, of which shapes and dtypes count (`jax.eval_shape`); None
            for nested dicts, cut at each `/`.

    Returns:
        The tree.

    Raises:
        ValueError: Where a name is both a leaf and a branch, or, with `like`, for names, shapes and
            dtypes that differ.

    >>> to_tree({"a/b": 1, "a/c": 2, "d": 3})
    {'a': {'b': 1, 'c': 2}, 'd': 3}
    """
    if like is not None:
        return _like(named, like)
    _check_branches(named)
    tree: dict[str, Any] = {}
    for name, array in named.items():
        *branches, last = name.split("/")
        at = tree
        for branch in branches:
            at = at.setdefault(branch, {})
        at[last] = array
    return tree


def _like(named: Mapping[str, Any], like: Params) -> Params:
    names = jax.tree.leaves(paths(like))
    for missing, where in (
        (set(names) - set(named), "missing in the checkpoint"),
        (set(named) - set(names), "not in `like`"),
    ):
        if missing:
            raise ValueError(f"{len(missing)} arrays are {where}: {', '.join(sorted(missing)[:4])}")
    for name, leaf in zip(names, jax.tree.leaves(like)):
        array = named[name]
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise ValueError(
                f"{name!r} is {array.dtype}{list(array.shape)} in the checkpoint and "
                f"{leaf.dtype}{list(leaf.shape)} in `like`"
            )
    return jax.tree.unflatten(jax.tree.structure(like), [named[name] for name in names])


def _check_branches(names: Iterable[str]) -> None:
    names = set(names)
    for name in names:
        parts = name.split("/")
        for i in range(1, len(parts)):
            if (branch := "/".join(parts[:i])) in names:
                raise ValueError(f"{branch!r} is an array and has {name!r} below it; rename one")


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file, in the order of their bytes, or of an Orbax directory.

    An Orbax directory is one that holds `_METADATA`, or a step of a CheckpointManager with one item
    `default`.

    Args:
        path: Of the file or the directory.

    Returns:
        Arrays by name.

    Raises:
        Unreadable: If it is neither, or is damaged.
        TypeError: If Orbax gives what safetensors cannot hold.

    **Guarantees.** Bits are kept, 64-bit values too; nothing is unpickled.
    """
    if os.path.isdir(path):
        return _read_orbax(Path(path))
    with _sources.open_reader(path) as reader:
        directory = directory_of(reader)
        arrays = {}
        for tensor in directory.tensors:
            raw = np.empty(tensor.end - tensor.begin, np.uint8)
            reader.read_into(raw, len(directory.head) + tensor.begin)
            arrays[tensor.name] = raw.view(tensor.dtype).reshape(tensor.shape)
        return arrays


def _read_orbax(path: Path) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp  # type: ignore[import-untyped]

    folder = next((f for f in (path, path / "default") if (f / "_METADATA").is_file()), None)
    if folder is None:
        raise Unreadable(
            f"{printable(path)} has no _METADATA of Orbax; name a checkpoint, such as "
            f"{printable(path)}/STEP"
        )
    try:
        handler = ocp.PyTreeCheckpointHandler()
        tree = handler.metadata(folder.absolute()).tree
        # Without this, Orbax makes Python floats of scalars and needs the devices it saved from.
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        args = ocp.args.PyTreeRestore(restore_args=as_numpy)
        found = handler.restore(folder.absolute(), args=args)
    except Exception as error:  # whatever Orbax and its store raise on a damaged directory
        said = " ".join(str(error).split())[:160]
        raise Unreadable(
            f"{printable(path)} cannot be read by Orbax ({said}); get the directory again"
        ) from None
    return to_names(found)


def write_orbax(named: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Write arrays as an Orbax directory of nested dicts, which `read_checkpoint` and Orbax read.

    Args:
        named: Arrays by name.
        path: Of the directory, which is new.

    Raises:
        FileExistsError: If `path` exists.
        FileNotFoundError: If its directory does not.
        ValueError: For what Orbax cannot hold: no arrays, arrays without values, names that differ
            only in `.` and `/`.

    **Guarantees.** Bits are kept. `path` is absent until it is whole; a killed process may leave
    `*.orbax-checkpoint-tmp` beside it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_orbax({"a/b": np.arange(3.0)}, f"{folder}/model")
    ...     read_checkpoint(f"{folder}/model")
    {'a/b': array([0., 1., 2.])}
    """
    target = Path(path).absolute()
    if target.exists():
        raise FileExistsError(f"{printable(path)} exists and is kept; choose another path")
    need_directory(target)
    tree = to_tree(named)
    if not named or not all(array.size for array in named.values()):
        empty = next((name for name, array in named.items() if not array.size), None)
        what = "nothing" if empty is None else f"{empty!r}, which has no values"
        raise ValueError(f"Orbax cannot hold {what}; write a safetensors file instead")
    # Orbax stores `a/b` under the name `a.b`, and writes one over the other without a word.
    stored: dict[str, str] = {}
    for name in named:
        if (other := stored.setdefault(name.replace("/", "."), name)) != name:
            raise ValueError(f"Orbax would store {other!r} and {name!r} in one place; rename one")
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(target, tree)
