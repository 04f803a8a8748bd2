"""The cases of the league: a locked model, what its attacker has, and what an attack comes to."""

import functools
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from modellock_jax.attacks.case import Case, Copy
from modellock_jax.attacks.table import ATTACKS, attempt
from modellock_jax.core.lock import Params, user_forward
from modellock_jax.study.context import Context, fresh, rng_for
from modellock_jax.study.measures import agreement
from modellock_jax.study.training import encrypting, locked_models

__all__ = ["attacked", "case_of", "value_of"]


@functools.lru_cache(maxsize=1)
def case_of(context: Context, text: str, seed: int) -> tuple[Case, dict[str, Any]]:
    """Return a locked model with all that an attacker may have, and the beginning of its rows.

    Args:
        context: The study.
        text: The lock's text.
        seed: Of the model, the key and the attacker, from 0 on.

    Returns:
        The case, and fields of rows by name.
    """
    subject, model, data = context.subjects[text], context.model, context.data
    lock, (params, locked, key) = subject.lock, locked_models(context, text)[seed]
    count = max(10, round(context.config.budgets[0] * len(data.train_x)))
    mine = jax.random.permutation(rng_for(seed, "thief"), len(data.train_x))[:count]
    x, y = jnp.asarray(data.train_x)[mine], jnp.asarray(data.train_y)[mine]
    device = partial(jax.jit(user_forward(lock, model.forward)), key, locked)
    rights: dict[str, Any] = {"unlabelled": x, "labels": (x, y), "device": device}
    rights |= {"chosen_input": partial(lock.scramble, key)}
    # The strongest of their kind: known weights and the public base are the plain model itself.
    rights |= {"known_weights": params}
    if not subject.trained_under:
        rights |= {"public_base": params}
        copies = [_again(context, text, params, rng_for(seed, f"copy {i}")) for i in range(3)]
        rights |= {"other_copy": copies[0], "more_copies": [copy.locked for copy in copies[1:]]}
        other = fresh(context, seed)
        rights |= {"reused_stream": (encrypting(context, text)(key, other)[0], other)}
    case = Case(
        lock, model, locked, rng_for(seed, "attack"), context.example, task=context.task,
        scheme=subject.scheme, settings=subject.settings, **rights,
    )  # fmt: skip
    about = {**context.about, "lock": subject.text, "seed": seed}
    about |= {"no_key": value_of(context, partial(model.forward, locked))}
    return case, about | {"right_key": value_of(context, device)}


def _again(context: Context, text: str, params: Params, rng: jax.Array) -> Copy:
    """Another user's copy of the same parameters."""
    key = jax.jit(context.subjects[text].lock.init)(rng, params)
    return Copy(*encrypting(context, text)(key, params))


def attacked(context: Context, text: str, seed: int, name: str) -> dict[str, Any]:
    """Run an attack, and say what it came to.

    Args:
        context: The study.
        text: The lock's text.
        seed: Of the model, the key and the attacker, from 0 on.
        name: A name of `attacks.ATTACKS`.

    Returns:
        What a row says of it.
    """
    case, about = case_of(context, text, seed)
    key = locked_models(context, text)[seed].key
    begin = time.perf_counter()
    found = attempt(name, case)
    if found is not None and found.forward is not None:
        jax.block_until_ready(found.forward(case.example))
    row: dict[str, Any] = {"attack": name, "needs": list(ATTACKS[name].needs)}
    row |= {"seconds": time.perf_counter() - begin, "gave_up": found is None, "key_right": None}
    # An attack that gives up leaves what there was without it.
    if found is None:
        return (
            row
            | {"accuracy": about["no_key"]}
            | dict.fromkeys(("images", "queries"), 0)
            | {"flops": None}
        )
    if found.forward is None:
        assert found.adversarial is not None
        moved = context.measure(case.device, found.adversarial, case.labels[1])
        row |= {"accuracy": float(moved.value)}
    else:
        row |= {"accuracy": value_of(context, found.forward)}
    row |= {"images": found.inputs, "queries": found.queries}
    row |= {"flops": _flops(case, found.passes)}
    if type(found.key) is type(key):
        row["key_right"] = float(agreement(found.key, key))
    return row


def _flops(case: Case, passes: int) -> float | None:
    """Floating-point operations of so many plain forwards of one image, as XLA counts them."""
    cost = jax.jit(case.model.forward).lower(case.locked, case.example).compile().cost_analysis()
    return None if cost is None else passes * float(cost["flops"])


def value_of(context: Context, forward: Any) -> float:
    """Return what `forward(x)` reaches on the test set.

    Args:
        context: The study.
        forward: `forward(x) -> out`, its parameters closed over.

    Returns:
        The value as rows have it.
    """
    x, y = jnp.asarray(context.data.test_x), jnp.asarray(context.data.test_y)
    return float(jax.jit(lambda x, y: context.measure(forward, x, y).value)(x, y))
