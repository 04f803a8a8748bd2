"""What every search of keys, step by step, holds on its way."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax.attacks._programs import bind, compiled
from modellock_jax.attacks.attack import Attack
from modellock_jax.attacks.case import Case, Found, with_key
from modellock_jax.attacks.keys.key_search import key_loss
from modellock_jax.core.lock import Forward, Key, Lock, Params, user_forward
from modellock_jax.core.over_keys import over_keys
from modellock_jax.tasks import Task, classify

__all__ = ["Search", "accept", "best_forward", "init_search", "losses_of_keys", "run_search"]


class Search(NamedTuple):
    """A search on its way.

    Attributes:
        keys: A tree `[restarts, ...]`.
        losses: Theirs, float32 `[restarts]`.
        best: The best key so far.
        best_loss: Its loss, float32.
        steps: How many were made, int32.
        locked: The locked parameters.
        rng: The generator.
    """

    keys: Key
    losses: jax.Array
    best: Key
    best_loss: jax.Array
    steps: jax.Array
    locked: Params
    rng: jax.Array


def losses_of_keys(
    lock: Lock, forward: Forward, chunk: int, task: Task = classify()
) -> Callable[..., jax.Array]:
    """Make the function that scores many keys on one batch.

    Args:
        lock: The lock that is searched.
        forward: `forward(params, x, tap)` of the architecture.
        chunk: How many keys are scored at a time, at least 1.
        task: What the model is for.

    Returns:
        `f(locked, keys, x, y)`, which gives the losses, float32 `[restarts, candidates]`, of keys
        of that shape.

    Raises:
        ValueError: For `chunk` below 1.
    """
    if chunk < 1:
        raise ValueError(f"key search: chunks must hold at least 1 key, not {chunk}")
    user = user_forward(lock, forward)

    def losses(locked: Params, keys: Key, x: Any, y: Any) -> jax.Array:
        shape = jax.tree.leaves(keys)[0].shape[:2]
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), keys)
        found = over_keys(lambda key: key_loss(user(key, locked, x), y, task), flat, chunk=chunk)
        return found.reshape(shape)

    return losses


def init_search(
    name: str, lock: Lock, kind: Any, restarts: int
) -> Callable[[jax.Array, Params], Search]:
    """Make the `init` of a search of keys of the type `kind`, from `restarts` keys of the lock.

    Args:
        name: Of the attack, for messages.
        lock: The lock that is searched.
        kind: The type of its key, a NamedTuple.
        restarts: How many keys are searched side by side, at least 1.

    Returns:
        `init(rng, locked) -> Search`; it raises `TypeError` for another kind of key.

    Raises:
        ValueError: For `restarts` below 1.
    """
    if restarts < 1:
        raise ValueError(f"{name}: needs at least one key to start from, not {restarts}")

    def init(rng: jax.Array, locked: Params) -> Search:
        rng, draw = jax.random.split(rng)
        keys = jax.vmap(lambda r: lock.init(r, locked))(jax.random.split(draw, restarts))
        if not isinstance(keys, kind):
            raise TypeError(
                f"{name}: searches a {kind.__name__}, but this lock's key is a "
                f"{type(keys).__name__}; see the attacks on that lock"
            )
        worst = jnp.float32(jnp.inf)
        first = jax.tree.map(lambda leaf: leaf[0], keys)
        losses = jnp.full((restarts,), worst)
        return Search(keys, losses, first, worst, jnp.int32(0), locked, rng)

    return init


def best_forward(lock: Lock, forward: Forward) -> Callable[[Search, Any], Any]:
    """Return the `forward` of a search: the user's, with the best key so far.

    Args:
        lock: The lock that is searched.
        forward: `forward(params, x, tap)` of the architecture.

    Returns:
        `f(state, x)`, the model's answers `[B, ...]`.
    """
    user = user_forward(lock, forward)
    return lambda state, x: user(state.best, state.locked, x)


def accept(
    state: Search, keys: Key, losses: jax.Array, choice: jax.Array | None
) -> tuple[Search, jax.Array]:
    """Take candidate `choice` `[restarts]` of keys `[restarts, candidates, ...]`, or all as they are.

    Args:
        state: The search.
        keys: Candidates, a tree `[restarts, candidates, ...]`, or without `choice` `[restarts,
            ...]`.
        losses: Theirs, float32 `[restarts, candidates]`, or `[restarts]`.
        choice: The candidate that each restart takes, int `[restarts]`; None for all as they are.

    Returns:
        The next state, and the losses of its keys, float32 `[restarts]`.
    """
    if choice is not None:
        rows = jnp.arange(choice.shape[0])
        keys, losses = jax.tree.map(lambda leaf: leaf[rows, choice], (keys, losses))
    leader = jnp.argmin(losses)
    better = losses[leader] < state.best_loss
    best, best_loss = jax.tree.map(
        lambda new, old: jnp.where(better, new[leader], old),
        (keys, losses),
        (state.best, state.best_loss),
    )
    moved = state._replace(
        keys=keys, losses=losses, best=best, best_loss=best_loss, steps=state.steps + 1
    )
    return moved, losses


def run_search(case: Case, make: Callable[[], Attack], steps: int, batch: Any) -> Found | None:
    """Return the best key after so many steps of a search on one batch.

    Args:
        case: What the attacker has.
        make: Makes a search, whose state is a `Search`; of equal ones one program serves all cases.
        steps: How many, at least 1.
        batch: What each step takes: inputs and what is known of them.

    Returns:
        The best key and the forward under it.
    """
    return with_key(case, compiled(bind(_search, make, steps))(case.rng, case.locked, batch))


def _search(
    make: Callable[[], Attack], steps: int, rng: jax.Array, locked: Params, batch: Any
) -> Key:
    attack = make()
    state = attack.init(rng, locked)
    return lax.scan(lambda s, _: attack.step(s, batch), state, length=steps)[0].best
