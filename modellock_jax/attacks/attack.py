"""The shape of an attack, how to run one, and the attacker's first step on unusable weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from modellock_jax.core.lock import Params
from modellock_jax.core.over_keys import over_keys
from modellock_jax.train import batches

__all__ = ["Attack", "State", "blank", "run_batches", "run_seeds", "run_shuffled", "sanitise"]

State = Any


class Attack(NamedTuple):
    """An attack mirrors a lock: three pure functions of an attacker without the key.

    `init(rng, locked) -> state`; `step(state, batch) -> (state, info)`; `forward(state, x) -> y`.
    `vmap` over `rng` gives seeds, over `locked` gives models.
    """

    init: Callable[[jax.Array, Params], State]
    step: Callable[[State, Any], tuple[State, Any]]
    forward: Callable[[State, jax.Array], jax.Array]


def run_batches(attack: Attack, state: State, steps: Any) -> tuple[State, Any]:
    """Step through batches, `steps`, a tree of arrays `[steps, ...]`, in one `lax.scan`.

    Args:
        attack: Any attack.
        state: The attack's state.
        steps: Batches, a tree of arrays `[steps, ...]`.

    Returns:
        The last state, and the `info` of every step, a tree `[steps, ...]`.
    """
    return lax.scan(attack.step, state, steps)


def run_shuffled(
    attack: Attack,
    state: State,
    x: Any,
    y: Any,
    rng: jax.Array,
    *,
    steps: int,
    batch_size: int = 64,
    augment: Callable[[jax.Array, Any], Any] | None = None,
) -> tuple[State, Any]:
    """Step through random batches of inputs x and what is known of them, y. Pure.

    Args:
        attack: Any attack.
        state: The attack's state.
        x: Inputs, a tree `[N, ...]`.
        y: What is known of them, a tree `[N, ...]`; None for nothing.
        rng: A JAX PRNG key.
        steps: How many batches.
        batch_size: Entries of a batch, at most N.
        augment: `augment(rng, x) -> x`, the task's; None for none.

    Returns:
        The last state, and the `info` of every step, a tree `[steps, ...]`.
    """
    n = len(jax.tree.leaves(x)[0])
    size = min(batch_size, n)
    order, noise = jax.random.split(rng)

    def step(state: State, at: tuple[jax.Array, jax.Array]) -> tuple[State, Any]:
        index, r = at
        inputs, known = jax.tree.map(lambda a: a[index], (x, y))
        return attack.step(state, (inputs if augment is None else augment(r, inputs), known))

    rows = batches(order, n, steps, size)
    return lax.scan(step, state, (rows, jax.random.split(noise, steps)))


def run_seeds(
    attack: Attack,
    locked: Params,
    x: Any,
    y: Any,
    rngs: jax.Array,
    *,
    chunk: int = 8,
    mesh: Mesh | None = None,
    **settings: Any,
) -> tuple[State, Any]:
    """`init` and `run_shuffled` for each generator of `rngs` `[K]`, in one program. Pure.

    Args:
        attack: Any attack.
        locked: The locked parameters, a tree of arrays.
        x: Inputs, a tree `[N, ...]`.
        y: What is known of them, a tree `[N, ...]`; None for nothing.
        rngs: JAX PRNG keys `[K]`.
        chunk: How many seeds are trained at a time.
        mesh: A mesh of one axis, whose devices share the work; see `over_keys`.
        **settings: Those of `run_shuffled`.

    Returns:
        The last states and every step's `info`, trees `[K, ...]`.

    **Guarantees.** Seed number i starts from `attack.init(a, locked)` and draws its batches with `b`,
    where `a, b = jax.random.split(rngs[i])`.
    """

    def one(rng: jax.Array) -> tuple[State, Any]:
        begin, order = jax.random.split(rng)
        return run_shuffled(attack, attack.init(begin, locked), x, y, order, **settings)

    return over_keys(one, rngs, chunk=chunk, mesh=mesh)


def blank(example: Any) -> Any:
    """One input of zeros, of the shapes and dtypes of `example`, a tree `[B, ...]`: for `Model.init`.

    Args:
        example: Inputs, a tree `[B, ...]`, of which only shapes and dtypes count.

    Returns:
        A tree `[1, ...]` of zeros.
    """
    return jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), example)


def sanitise(
    locked: Params, fresh: Params, largest: float = 10.0, smallest: float = 1e-12
) -> Params:
    """Replace what no trained network holds, so that training can begin at all.

    `fresh` is a newly initialised tree of the same shapes: the attacker knows the architecture. An
    entry of a float leaf is unusable if it is not finite, above `largest`, or not zero but below
    `smallest`, in absolute value; it gets the fresh value. A leaf with more than half of its entries
    unusable is replaced whole. Other leaves stay as they are.

    Args:
        locked: The locked parameters, a tree of arrays.
        fresh: A newly initialised tree of the same shapes: the attacker knows the architecture.
        largest: Absolute values above it are unusable.
        smallest: So are those below it that are not 0.

    Returns:
        A tree like `locked` whose float leaves hold usable numbers alone.

    **Guarantees.** Compares and selects only, so it may be run on ciphertext. Weights that hold
    nothing unusable come back bit for bit.

    >>> import jax.numpy as jnp
    >>> locked = {"w": jnp.array([0.5, jnp.nan, -0.25, 0.0])}
    >>> sanitise(locked, {"w": jnp.full(4, 7.0)})["w"].tolist()
    [0.5, 7.0, -0.25, 0.0]
    """

    def heal(leaf: jax.Array, new: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        size = jnp.abs(leaf)
        usable = (size <= largest) & ((size >= smallest) | (size == 0))
        mostly = usable.mean(dtype=jnp.float32) >= 0.5
        return jnp.where(usable & mostly, leaf, new)

    return jax.tree.map(heal, locked, fresh)
