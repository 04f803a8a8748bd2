"""The exact key of a sign mask from what an unlocked model answers."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modellock_jax.attacks.attack import run_shuffled
from modellock_jax.attacks.case import Case, Entry, Found, with_key
from modellock_jax.attacks.keys.key_search import Answers
from modellock_jax.attacks.keys.relaxation import relaxed_signs
from modellock_jax.attacks.keys.relaxed_key import relaxed_key
from modellock_jax.attacks.keys.search import Search
from modellock_jax.attacks.keys.sign_algebra import converge, linear_flips
from modellock_jax.attacks.keys.sign_search import SIGNS, as_mask
from modellock_jax.core.lock import Forward, Lock, Params
from modellock_jax.locks.sign import SignKey
from modellock_jax.tasks import Task, classify

__all__ = ["ENTRIES", "OracleSigns", "sign_mask_oracle"]


class OracleSigns(NamedTuple):
    """What `sign_mask_oracle` finds.

    Attributes:
        key: The key found.
        queries: How many inputs were asked, int.
        misfit: The mean squared difference of its log-probabilities to the oracle's.
        flips: The steps of `linear_flips` in each attempt.
    """

    key: SignKey
    queries: int
    misfit: float
    flips: tuple[int, ...]


def sign_mask_oracle(
    oracle: Callable[[Any], jax.Array],
    lock: Lock,
    bits: int,
    forward: Forward,
    locked: Params,
    x: Any,
    rng: jax.Array,
    *,
    steps: int = 400,
    restarts: int = 4,
    max_steps: int = 16,
    tolerance: float = 1e-6,
    attempts: int = 4,
    task: Task = classify(),
) -> OracleSigns | None:
    """Return the key of `sign_mask(bits)` through an unlocked device: each input of x is asked once.

    First `relaxed_key` learns from the classes that the oracle named, on the inputs as the task
    augments them, which gets most signs right. Then `linear_flips` on the answers themselves corrects
    the rest: near the right key the answers are linear in the wrong signs, or nearly so. If after
    `max_steps` of them no key explains the answers to within `tolerance`, both begin anew, from other
    starts and on the same answers.

    Args:
        oracle: `oracle(x)` gives the user's logits or log-probabilities `[Q, ..., classes]`.
        lock: `sign_mask(bits)`.
        bits: The length of the key, at least 1.
        forward: `forward(params, x, tap)` of the architecture.
        locked: The locked parameters, a tree of arrays.
        x: Inputs `[Q, ...]`, natural ones best; their labels need not be known.
        rng: A JAX PRNG key.
        steps: Of `relaxed_key`, at least 1.
        restarts: How many keys are searched side by side, at least 1.
        max_steps: Of `linear_flips`, at least 1.
        tolerance: The largest misfit of a key that explains the answers.
        attempts: How often both begin anew, at least 1.
        task: What the model is for.

    Returns:
        The key and what it took; None after `attempts` in vain.

    Raises:
        ValueError: For settings below 1.

    Threat model: the attacker has the locked weights, the scheme, inputs of the right kind, and a
    device with the key inside that shows its logits.

    **Guarantees.** A key that explains every answer, or None; a sign can be wrong only if it changes
    no answer. Every query is counted.

    Source: the idea of Li et al. (2024), algebra after learning; the two steps here are our own.

    >>> import jax, modellock_jax as ml
    >>> def forward(params, x, tap=ml.untapped):
    ...     h = jax.nn.relu(tap("dense", x.reshape(len(x), -1) @ params["a"]))
    ...     return tap("head", h @ params["b"])
    >>> r, a, b = jax.random.split(jax.random.key(0), 3)
    >>> params = {"a": jax.random.normal(a, (4, 8)), "b": jax.random.normal(b, (8, 3))}
    >>> lock, x = ml.sign_mask(bits=8), jax.random.normal(r, (16, 2, 2, 1))
    >>> key = lock.init(jax.random.key(1), params)
    >>> device = jax.tree_util.Partial(ml.owner_forward(lock, forward), key, params)
    >>> found = sign_mask_oracle(device, lock, 8, forward, params, x, jax.random.key(2), steps=50)
    >>> found.queries, bool((found.key.signs == key.signs).all())
    (16, True)
    """
    queries = len(jax.tree.leaves(x)[0])
    if min(max_steps, attempts, queries) < 1:
        raise ValueError(
            f"sign_mask_oracle: needs inputs, max_steps and attempts, not {queries} inputs, "
            f"{max_steps=} and {attempts=}"
        )
    solve = _solve(lock, bits, forward, steps, restarts, max_steps, tolerance, task)
    answers = oracle(x)
    flips_made = []
    for attempt in jax.random.split(rng, attempts):
        found = solve(locked, x, answers, attempt)
        flips_made.append(int(found.steps))
        misfit = float(found.best_loss)
        if misfit <= tolerance:
            return OracleSigns(found.best, queries, misfit, tuple(flips_made))
    return None


@functools.lru_cache(maxsize=8)
def _solve(
    lock: Lock,
    bits: int,
    forward: Forward,
    steps: int,
    restarts: int,
    max_steps: int,
    tolerance: float,
    task: Task,
) -> Callable[..., Search]:
    relaxation = relaxed_signs(lock, bits)
    learn = relaxed_key(relaxation, forward, steps, restarts=restarts, task=task)
    flips = linear_flips(lock, forward, restarts=restarts, task=task)

    @jax.jit
    def solve(locked: Params, x: Any, answers: jax.Array, rng: jax.Array) -> Search:
        start, order = jax.random.split(rng)
        classes = answers.argmax(-1)
        learnt, _ = run_shuffled(
            learn, learn.init(start, locked), x, classes, order, steps=steps, augment=task.augment
        )
        state = flips.init(start, locked)._replace(keys=jax.vmap(relaxation.hard)(learnt.theta))

        return converge(flips, state, (x, Answers(answers)), max_steps, tolerance)

    return solve


def _sign_mask_oracle(
    case: Case, *, queries: int = 64, steps: int = 400, restarts: int = 4
) -> Found | None:
    lock, bits = as_mask(case)
    # An attacker with few inputs asks for augmented ones too.
    x, noise = case.unlabelled, jax.random.fold_in(case.rng, 1)
    more = case.task.augment(noise, jnp.resize(x, (queries, *x.shape[1:])))
    x = jnp.concatenate([x, more])[:queries]
    found = sign_mask_oracle(
        case.device, lock, bits, case.model.forward, case.locked, x, case.rng,
        steps=steps, restarts=restarts, task=case.task,
    )  # fmt: skip
    return with_key(case, None if found is None else found.key)


ENTRIES = (Entry("sign_mask_oracle", _sign_mask_oracle, SIGNS, ("unlabelled", "device"), "key"),)
