"""The signs of a key from labels or an unlocked model's answers, by what each sign would change."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax.attacks._programs import bind
from modellock_jax.attacks.attack import Attack
from modellock_jax.attacks.case import Case, Entry, Found
from modellock_jax.attacks.keys.key_search import CHUNK, Answers, key_loss, log_probabilities
from modellock_jax.attacks.keys.search import (
    Search,
    accept,
    best_forward,
    init_search,
    losses_of_keys,
    run_search,
)
from modellock_jax.attacks.keys.sign_search import SIGNS, as_mask, lowest_sets
from modellock_jax.core.lock import Forward, Lock, Params, user_forward
from modellock_jax.core.over_keys import over_keys
from modellock_jax.locks.sign import SignKey
from modellock_jax.tasks import Task, classify

__all__ = ["ENTRIES", "converge", "copies", "correct_signs", "linear_flips"]


def linear_flips(
    lock: Lock,
    forward: Forward,
    *,
    restarts: int = 4,
    iterations: int = 200,
    chunk: int = CHUNK,
    task: Task = classify(),
) -> Attack:
    """Correct sign keys by what each sign negated would change in the answers, all at once.

    A step takes `(x, y)`, inputs `[B, ...]` and their labels, int `[B, ...]`, or an unlocked model's
    `Answers`, of a task whose model answers with logits `[B, ..., classes]`. It computes the answers of
    `bits` keys for each restart, each with one sign negated, and by `iterations` of projected gradient
    the shares in [0, 1] of these changes that together explain y best: by cross-entropy for labels, by
    least squares for answers. Of the sets of signs above one half, of the largest 1, 2, 4, ... shares,
    and of the 1, 2, 4, ... that help most alone, it negates the one that explains y best, if any does
    better than the key. `forward(state, x)` answers with the best key so far.

    Args:
        lock: `sign_mask` or `sign_flip`.
        forward: `forward(params, x, tap)` of the architecture.
        restarts: How many keys are searched side by side, at least 1.
        iterations: Of projected gradient, at least 1.
        chunk: How many keys are scored at a time, at least 1.
        task: What the model is for.

    Returns:
        An attack whose `step(state, (x, y))` gives the losses, float32 `[restarts]`; its `init`
        raises `TypeError` for another kind of key.

    Raises:
        ValueError: For settings below 1.

    Threat model: the attacker has the locked weights, the scheme and labelled inputs of the right
    kind; with answers for y, an unlocked device.

    **Guarantees.** On the same inputs the losses never rise.

    The changes add up exactly for signs that act in the last hidden layer alone, and nearly for few
    wrong signs elsewhere. With labels the best key for the inputs given is not quite the right one:
    give several augmented copies of few inputs.

    Source: our own; that a layer's signs solve a linear system once those before it are known is the
    algebra of Li et al. (2024).
    """
    if iterations < 1:
        raise ValueError(f"linear_flips: needs at least 1 iteration, not {iterations}")
    losses_of, user = losses_of_keys(lock, forward, chunk, task), user_forward(lock, forward)

    def answers_of(state: Search, signs: jax.Array, x: Any) -> jax.Array:
        """Centred answers `[restarts, keys, B * ... * classes]` of signs `[restarts, keys, bits]`."""
        found = over_keys(
            lambda one: _centred(user(SignKey(one), state.locked, x)),
            signs.reshape(-1, signs.shape[-1]),
            chunk=chunk,
        )
        return found.reshape(*signs.shape[:2], -1)

    def step(state: Search, batch: Any) -> tuple[Search, jax.Array]:
        x, y = batch
        signs = state.keys.signs
        bits = signs.shape[1]
        one_off = signs[:, None] * (1 - 2 * jnp.eye(bits, dtype=signs.dtype))[None]
        now, tried = answers_of(state, signs[:, None], x), answers_of(state, one_off, x)
        gradient, labels = _gradient_of(y), y.logits[..., 0] if isinstance(y, Answers) else y
        alone = jax.vmap(jax.vmap(lambda a: key_loss(a.reshape(*labels.shape, -1), y, task)))(tried)
        shares = jax.vmap(lambda a, b: _shares(a, lambda c: gradient(b + c), iterations))(
            tried - now, now[:, 0]
        )
        sets = [(shares > 0.5)[:, None], lowest_sets(-shares), lowest_sets(alone)]
        several = jnp.where(jnp.concatenate(sets, 1), -signs[:, None], signs[:, None])
        losses = losses_of(state.locked, SignKey(several), x, y)
        return accept(state, SignKey(several), losses, jnp.argmin(losses, axis=1))

    return Attack(
        init_search("linear_flips", lock, SignKey, restarts), step, best_forward(lock, forward)
    )


def converge(attack: Attack, state: Search, batch: Any, max_steps: int, tolerance: float) -> Search:
    """Step on one batch until no loss falls, the best is within `tolerance`, or `max_steps` are made.

    Args:
        attack: `linear_flips`, or another search.
        state: Its state.
        batch: `(x, y)`, what each step takes.
        max_steps: How many at most, at least 1.
        tolerance: A loss that is low enough.

    Returns:
        The last state.
    """

    def improving(carry: tuple[Search, jax.Array]) -> jax.Array:
        state, before = carry
        moved = (state.losses < before).any()
        return (state.steps < max_steps) & (state.best_loss > tolerance) & moved

    def again(carry: tuple[Search, jax.Array]) -> tuple[Search, jax.Array]:
        state, _ = carry
        return attack.step(state, batch)[0], state.losses

    first = attack.step(state, batch)[0]
    return lax.while_loop(improving, again, (first, jnp.full_like(first.losses, jnp.inf)))[0]


def correct_signs(
    lock: Lock,
    forward: Forward,
    locked: Params,
    key: SignKey,
    x: Any,
    y: Any,
    task: Task = classify(),
) -> Search:
    """Return a sign key after up to ten `linear_flips` on labelled inputs and augmented copies of them.

    With the copies there are about 2000 inputs, though no input comes more than 20 times. The last step
    of the strongest attack with labels, after `relaxed_key`.

    Args:
        lock: `sign_mask` or `sign_flip`.
        forward: `forward(params, x, tap)` of the architecture.
        locked: The locked parameters, a tree of arrays.
        key: Where it starts.
        x: Inputs `[N, ...]`.
        y: Their labels, int `[N, ...]`.
        task: What the model is for.

    Returns:
        The search, whose `best` is the key and whose `steps` says how many flips were made.
    """
    times = copies(len(jax.tree.leaves(x)[0]))
    more = [task.augment(jax.random.key(i), x) for i in range(1, times)]
    batch = jax.tree.map(lambda *a: jnp.concatenate(a), (x, y), *((m, y) for m in more))
    attack = linear_flips(lock, forward, restarts=1, task=task)
    state = attack.init(jax.random.key(0), locked)._replace(keys=SignKey(key.signs[None]))
    return converge(attack, state, batch, 10, 0.0)


def copies(inputs: int) -> int:
    """How often `correct_signs` looks at each of its inputs.

    Args:
        inputs: How many there are, at least 1.

    Returns:
        Copies of each, in [1, 20].
    """
    return max(1, min(20, 2000 // inputs))


def _centred(logits: jax.Array) -> jax.Array:
    """Give log-probabilities in a row, those of each position about 0: linear in the logits."""
    log_p = log_probabilities(logits)
    return jnp.nan_to_num(log_p - log_p.mean(-1, keepdims=True)).ravel()


def _gradient_of(y: Any) -> Callable[[jax.Array], jax.Array]:
    """Return the gradient of the loss on y by the centred answers in a row; its slope is at most one."""
    if isinstance(y, Answers):
        return lambda found: found - _centred(y.logits)

    def gradient(found: jax.Array) -> jax.Array:
        p = jax.nn.softmax(found.reshape(*y.shape, -1))
        return (p - jax.nn.one_hot(y, p.shape[-1], dtype=p.dtype)).ravel()

    return gradient


def _shares(
    changes: jax.Array, gradient: Callable[[jax.Array], jax.Array], iterations: int
) -> jax.Array:
    """Find the u in [0, 1]^bits at which a convex loss of `u @ changes` is lowest, by its gradient.

    changes `[bits, answers]`. Accelerated projected gradient (Beck & Teboulle 2009) on unknowns
    scaled to changes of length one; a sign that changes nothing keeps share 0.
    """
    size = jnp.linalg.norm(changes, axis=1)
    unit = changes / jnp.where(size > 0, size, 1)[:, None]
    # The largest absolute row sum bounds the largest eigenvalue.
    rate = 1 / jnp.maximum(jnp.abs(unit @ unit.T).sum(1).max(), 1)

    def descend(carry: Any, _: None) -> tuple[Any, None]:
        u, ahead, t = carry
        new = jnp.clip(ahead - rate * (unit @ gradient(ahead @ unit)), 0, size)
        later = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
        return (new, new + (t - 1) / later * (new - u), later), None

    zero = jnp.zeros_like(size)
    (u, _, _), _ = lax.scan(descend, (zero, zero, jnp.float32(1)), length=iterations)
    return u / jnp.where(size > 0, size, 1)


def _linear_flips(case: Case, *, steps: int = 16, **settings: Any) -> Found | None:
    make = bind(linear_flips, as_mask(case)[0], case.model.forward, task=case.task, **settings)
    return run_search(case, make, steps, case.labels)


ENTRIES = (Entry("linear_flips", _linear_flips, SIGNS, ("labels",), "key"),)
