"""What a lock does to the entries of a leaf, done by each device on its own part of it.

XLA cannot tell that a key stream may be made anywhere, and would send it from device to device. So it is
told, by `custom_partitioning`; but TPUs with several chips do not know that
(https://github.com/jax-ml/jax/issues/38196). There a lock is written in operations that XLA splits by
itself.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import NamedSharding, P, lax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import (
    SdyShardingRule,
    custom_partitioning,
)
from jax.sharding import AxisType

from modellock_jax.core._parts import (
    Part,
    axes_of,
    mesh_axes,
    parts_here,
    sharding_rule,
    whole_parts,
)
from modellock_jax.core.platforms import on_tpus
from modellock_jax.core.stacked import Stacked

__all__ = ["Body", "Part", "as_on_tpus", "by_leaves", "by_parts", "by_platform", "sum_over_parts"]


Body = Callable[..., list[jax.Array]]
_Tree = TypeVar("_Tree")

as_on_tpus = jax.make_user_context(default_value=False)
"""`with as_on_tpus(True)`: take the TPUs' way on any platform, to test it."""


def by_parts(
    body: Body, plain: Body | None = None
) -> Callable[[Hashable, Any, Sequence[jax.Array]], list[jax.Array]]:
    """Compile `f(static, args, leaves) -> leaves` that keeps shapes and shardings.

    Leaves that are not sharded are whole, and so are those under `vmap` on a mesh with automatic axes.
    Inside a `shard_map` the part there is the leaf.

    Args:
        body: `body(static, args, parts, leaves)` gets all of `args`, a tree of arrays, on every
            device, and the parts of `leaves` that lie on one device, each with its `Part`; it
            returns as many parts, of the same shapes.
        plain: Takes its place on TPUs, by default `body`: of the same bits, in operations that XLA
            splits without collectives, since with automatic axes its parts are whole leaves there.

    Returns:
        `f(static, args, leaves)`, whose `static` is hashable.

    **Guarantees.** On a mesh whose axes are all automatic, or all explicit, no device talks to another
    unless `body` does so or `args` are sharded. `jax.export` saves a program for several devices only
    from explicit axes, which `jax.make_mesh` makes; one for a single device, always.
    """
    plain = plain or body

    def on_mesh(static: Hashable, _: Any, shardings: Any, whole: Any) -> Callable[..., Any]:
        names = mesh_axes(shardings, whole)

        def on_parts(body: Body, args: Any, leaves: Sequence[jax.Array]) -> list[jax.Array]:
            return body(static, args, parts_here(whole, names), leaves)

        return partial(_choose, plain, body, on_parts)

    return _compiled(
        body, plain, on_mesh, lambda _, shardings: shardings, partial(sharding_rule, True)
    )


def sum_over_parts(
    body: Callable[..., jax.Array], plain: Callable[..., jax.Array]
) -> Callable[[Hashable, jax.Array, Sequence[jax.Array]], jax.Array]:
    """Compile `f(static, arg, leaves) -> sum`, whatever the leaves' shardings.

    Args:
        body: `body(static, arg, parts, leaves)` gets what that of `by_parts` does, and returns
            integers `[leaves, N]`: what each leaf's part adds to the sum `[N]`.
        plain: Takes its place on TPUs with automatic axes, where its parts are whole leaves.

    Returns:
        `f(static, arg, leaves)`, integers `[N]`.

    **Guarantees.** The only thing that devices exchange are the N integers, once. (On TPUs with
    automatic axes XLA adds them up leaf by leaf, and once for each axis of a leaf that is split.)
    """

    def total(added: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        return lambda *given: added(*given).sum(0, dtype=jnp.uint32)

    def on_mesh(static: Hashable, mesh: Any, shardings: Any, whole: Any) -> Callable[..., Any]:
        names = mesh_axes(shardings, whole)
        split = [{n for axis in axes for n in axes_of(axis)} for axes in names]
        used = tuple(name for name in mesh.axis_names if any(name in one for one in split))

        def here(arg: jax.Array, leaves: Sequence[jax.Array]) -> jax.Array:
            added = body(static, arg, parts_here(whole, names), leaves)
            # What several devices hold is counted on the first of them.
            counts = [
                jnp.all(jnp.array([lax.axis_index(n) == 0 for n in used if n not in one], bool))
                for one in split
            ]
            total = jnp.where(jnp.array(counts)[:, None], added, 0).sum(0, dtype=jnp.uint32)
            return lax.psum(total, used) if used else total

        return here

    def results(mesh: Any, _: Any) -> NamedSharding:
        return NamedSharding(mesh, P())

    return _compiled(total(body), total(plain), on_mesh, results, partial(sharding_rule, False))


def _compiled(
    body: Callable[..., Any],
    plain: Callable[..., Any],
    on_mesh: Callable[..., Callable[..., Any]],
    results: Callable[[Any, list[Any]], Any],
    rule: Callable[..., SdyShardingRule],
) -> Callable[[Hashable, Any, Sequence[jax.Array]], Any]:
    """Compile `f(static, args, leaves)`: a body on whole leaves, or on the part of each device.

    `on_mesh(static, mesh, shardings, leaves)` is what a device does with `args` and its parts of leaves;
    `results(mesh, shardings)` says how what that gives is sharded, and `rule` tells XLA.
    """

    def on_whole(body: Callable[..., Any]) -> Callable[..., Any]:
        # Compiled, so that constants in `body` are its own: custom_partitioning takes none.
        @partial(jax.jit, static_argnums=0)
        def whole(static: Hashable, args: Any, leaves: Sequence[jax.Array]) -> Any:
            return body(static, args, whole_parts(leaves), leaves)

        return whole

    whole = on_whole(body)
    plain_whole = whole if plain is body else on_whole(plain)

    def partition(static: Hashable, mesh: Any, given: Any, _: Any) -> Any:
        args, leaves = given
        shardings = [leaf.sharding for leaf in leaves]
        everywhere = jax.tree.map(lambda _: NamedSharding(mesh, P()), args)
        here = on_mesh(static, mesh, shardings, leaves)
        return mesh, here, results(mesh, shardings), (everywhere, shardings)

    automatic = custom_partitioning(whole, static_argnums=(0,))
    automatic.def_partition(partition, sharding_rule=rule)

    @partial(jax.jit, static_argnums=0)
    def apply(static: Hashable, args: Any, leaves: Sequence[jax.Array]) -> Any:
        leaves = [jnp.asarray(leaf) for leaf in leaves]
        shardings = [jax.typeof(leaf).sharding for leaf in leaves]
        explicit = [s for s in shardings if AxisType.Explicit in s.mesh.axis_types]
        if explicit:
            mesh, specs = explicit[0].mesh, [s.spec for s in shardings]
            out = jax.tree.map(lambda s: s.spec, results(mesh, shardings))
            here = on_mesh(static, mesh, shardings, leaves)
            mapped = jax.shard_map(
                here, mesh=mesh, in_specs=(P(), specs), out_specs=out, check_vma=False
            )
            return mapped(args, leaves)

        def choose(usual: Callable[..., Any], args: Any, leaves: Any) -> Any:
            if usual is plain_whole:
                return usual(static, args, leaves)
            return by_platform(partial(plain_whole, static), partial(usual, static), args, leaves)

        one = custom_vmap(partial(choose, whole if _without_jit() else automatic))

        @one.def_vmap
        def many(size: int, batched: Any, *given: Any) -> Any:
            axes = jax.tree.map(lambda b: 0 if b else None, batched)
            found = jax.vmap(partial(choose, whole), tuple(axes), axis_size=size)(*given)
            return found, jax.tree.map(lambda _: True, found)

        return one(args, leaves)

    return apply


def _without_jit() -> bool:
    """Under `jax.disable_jit`, where custom partitioning does not exist."""
    return bool(jax.config.jax_disable_jit)  # type: ignore[attr-defined]


def by_platform(plain: Callable[..., _Tree], usual: Callable[..., _Tree], *args: Any) -> _Tree:
    """Compute a function on TPUs, and another, of the same bits, elsewhere.

    Args:
        plain: TPUs' function; what it needs of a program that is being traced is in `args`.
        usual: That of all other platforms.
        *args: Trees of arrays.

    Returns:
        What the function of the platform gives, a tree of arrays.
    """
    if plain is usual or as_on_tpus.value:
        return plain(*args)
    return on_tpus(plain, usual, *args)


def _choose(
    plain: Body, usual: Body, call: Callable[..., list[jax.Array]], args: Any, leaves: Any
) -> list[jax.Array]:
    """`call(plain, args, leaves)` on TPUs, and elsewhere `call(usual, args, leaves)`."""
    if plain is usual:
        return call(usual, args, leaves)
    return by_platform(partial(call, plain), partial(call, usual), args, leaves)


def by_leaves(
    body: Body, plain: Body | None = None
) -> Callable[[Sequence[Hashable], Any, Sequence[Any]], list[Any]]:
    """`by_parts` for a body that treats each leaf alone: `f(static for each leaf, args, leaves)`.

    Of a `Stacked` leaf the body gets one layer, when it is used.

    Args:
        body: As that of `by_parts`.
        plain: As that of `by_parts`.

    Returns:
        `f(static for each leaf, args, leaves) -> leaves`.
    """
    at_once, plain = by_parts(body, plain), plain or body

    def apply(each: Sequence[Hashable], args: Any, leaves: Sequence[Any]) -> list[Any]:
        new = list(leaves)
        whole = [i for i, leaf in enumerate(leaves) if not isinstance(leaf, Stacked)]
        if whole:
            static = tuple(each[i] for i in whole)
            done = at_once(static, args, [leaves[i] for i in whole])
            for i, leaf in zip(whole, done):
                new[i] = leaf
        for i in set(range(len(leaves))) - set(whole):
            step = partial(_on_layer, plain, body, each[i], leaves[i].shape)
            new[i] = leaves[i].then(step, leaves[i].everywhere(args))
        return new

    return apply


def _on_layer(
    plain: Body,
    body: Body,
    static: Hashable,
    shape: tuple[int, ...],
    args: Any,
    number: Any,
    layer: jax.Array,
) -> jax.Array:
    rest = len(shape) - 1

    def on_part(body: Body, args: Any, given: Any) -> list[jax.Array]:
        number, layer = given
        part = Part(shape, (number, *[0] * rest), ("layers", *[None] * rest), True)
        return body((static,), args, [part], [layer[None]])

    return _choose(plain, body, on_part, args, (number, layer))[0][0]
