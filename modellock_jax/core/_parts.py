"""Which parts of leaves the devices of a mesh hold, and what XLA is told of them."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.experimental.custom_partitioning import ArrayMapping, SdyShardingRule


class Part(NamedTuple):
    """Which part of a leaf a device holds.

    `shape`: that of the whole leaf. `numbers`: for each axis, which of its equal parts this is, from
    0, an int or an int32 scalar. `names`: for each axis, the mesh axes over which it is split, or
    None. The last parts of an axis may reach past its end: what they hold there is thrown away.
    `is_layer`: whether it is a layer of a `Stacked` leaf, fetched from it to be used once.
    """

    shape: tuple[int, ...]
    numbers: tuple[Any, ...]
    names: tuple[Any, ...]
    is_layer: bool = False


def axes_of(names: Any) -> tuple[str, ...]:
    return () if names is None else (names,) if isinstance(names, str) else tuple(names)


def mesh_axes(shardings: Any, leaves: Any) -> list[tuple[Any, ...]]:
    """For each leaf and axis, the mesh axes over which it is split, or None."""
    return [(*s.spec, *[None] * (leaf.ndim - len(s.spec))) for s, leaf in zip(shardings, leaves)]


def whole_parts(leaves: Sequence[jax.Array]) -> list[Part]:
    """Return the parts of leaves that are whole."""
    return [Part(leaf.shape, (0,) * leaf.ndim, (None,) * leaf.ndim) for leaf in leaves]


def parts_here(whole: Any, names: list[tuple[Any, ...]]) -> list[Part]:
    """Return the parts of leaves on the device where this is traced."""
    return [
        Part(leaf.shape, tuple(0 if not n else lax.axis_index(n) for n in axes), axes)
        for leaf, axes in zip(whole, names)
    ]


def sharding_rule(keeps: bool, _: Hashable, mesh: Any, given: Any, results: Any) -> SdyShardingRule:
    """Tell XLA that any axis of any leaf may be split, and then that of its result if it `keeps` it.

    All that comes before the leaves, and a sum over them, is whole on every device.
    """
    axes = [
        ArrayMapping(*(f"axis{i}_{k}" for k in range(len(value.shape))))
        for i, value in enumerate(given)
    ]
    first = len(given) - len(results) if keeps else 1
    made = axes[first:] if keeps else [ArrayMapping("sum")]
    alone = axes[:first] if keeps else axes[:first] + made
    names = tuple(name for mapping in alone for name in mapping)
    return SdyShardingRule(tuple(axes), tuple(made), need_replication_factors=names)
