"""The keys of sign masks: by gradient descent on the key, and exactly, through an unlocked device.

What the attacker has, beside weights and scheme:

- `relaxed_key`: labelled training inputs; `linear_flips` corrects the key on the same inputs and
  augmented ones. `relaxed_key, no labels`: the inputs alone; `relaxed_key, weights first`: the same,
  from what the weights alone say of the key.
- `tanh`: plain Adam on tanh(theta), from one start: the yardstick.
- `sign_mask_oracle`: the logits that an unlocked device gives for some inputs.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from modellock_jax.attacks.attack import run_shuffled
from modellock_jax.attacks.keys.key_search import key_loss
from modellock_jax.attacks.keys.oracle import sign_mask_oracle
from modellock_jax.attacks.keys.relaxation import relaxed_signs
from modellock_jax.attacks.keys.relaxed_key import best_key, relaxed_key
from modellock_jax.attacks.keys.sign_algebra import correct_signs
from modellock_jax.attacks.keys.signs_of_model import read_model_signs
from modellock_jax.core.lock import Forward, Lock, Params, user_forward
from modellock_jax.core.over_keys import over_keys
from modellock_jax.locks.sign import SignKey
from modellock_jax.study._single import (
    RECIPES,
    by_data,
    grid_of,
    key_value,
    mean,
    model_of,
    models_of,
    only,
)
from modellock_jax.study.config import Settings
from modellock_jax.study.context import Context, prepare
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.record import Study
from modellock_jax.study.report import Grid, seeds_text
from modellock_jax.study.rows import Valued
from modellock_jax.study.scale import scale_of
from modellock_jax.study.store import Rows

__all__ = ["STUDY", "Config", "SignsRow"]

_HELD = 2000
"""How many training inputs attackers draw theirs from; whether a sign matters is seen on them too."""

_QUERIES = (4, 8, 16, 32, 64, 128)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The study's settings: of each attempt the attack, its inputs, its restarts and its steps."""

    locks: tuple[str, ...] = ("sign_mask(per='unit')", "sign_mask(per='channel')")
    attempts: tuple[tuple[str, int, int, int], ...] = (
        ("tanh", 50, 1, 150),
        ("relaxed_key", 50, 8, 400),
        ("relaxed_key", 500, 4, 1600),
        ("relaxed_key, no labels", 2000, 16, 800),
        ("relaxed_key, weights first", 2000, 6, 300),
        *(("sign_mask_oracle", queries, 4, 400) for queries in _QUERIES),
    )


_QUICK = {
    "seeds": 1,
    "epochs": 4,
    "locks": ("sign_mask(per='channel')",),
    "attempts": (
        ("tanh", 50, 1, 50),
        ("relaxed_key, no labels", 500, 2, 200),
        ("relaxed_key, weights first", 500, 2, 100),
        ("sign_mask_oracle", 16, 2, 100),
    ),
}
"""What `--quick` changes."""


class SignsRow(Valued):
    """One attack on the key of one sign mask and seed."""

    lock: Annotated[str, "the lock's text"]
    seed: Annotated[int, "the seed of the model, the key and the attacker's draws, from 0"]
    no_key: Annotated[float, "test value without a key"]
    right_key: Annotated[float, "with the right key"]
    signs_that_matter: Annotated[
        int, "signs of which negating one changes an answer to 2,000 training or test inputs"
    ]
    attack: Annotated[str, "the attack"]
    images: Annotated[int, "inputs that the attacker has, or asks a device"]
    seconds: Annotated[float, "how long the attack took, compilation included"]
    accuracy: Annotated[float, "test value with the key found; without a key if none was"]
    signs_right: Annotated[float | None, "share of the signs found that are right"]
    live_signs_right: Annotated[float | None, "the same of those that matter"]


def _units(context: Context) -> list[Unit]:
    """Return a row for each lock, seed and attempt. Raises `ValueError` for another lock."""
    only(context.subjects, "sign_masks", "sign_mask")
    return [
        Unit(
            _sign_rows, (text, seed, *attempt), (_id(text, seed, *attempt),), models_of(text, seed)
        )
        for text in context.subjects
        for seed in range(context.config.seeds)
        for attempt in context.config.attempts
    ]


def _id(text: str, seed: int, attack: str, images: int, *_: int) -> str:
    return f"signs/{text}/{seed}/{attack}/{images}"


class _Attacked(NamedTuple):
    """A model under a sign mask: what its attacker has, what it is to find, and how its rows begin."""

    forward: Forward
    lock: Lock
    bits: int
    per: str
    params: Params
    key: SignKey
    x: jax.Array
    y: jax.Array
    rng: jax.Array
    task: Any
    live: np.ndarray
    about: dict[str, Any]


@functools.lru_cache(maxsize=1)
def _attacked(context: Context, text: str, seed: int) -> _Attacked:
    subject, data = context.subjects[text], context.data
    bits = subject.settings["bits"]
    _, params, key = model_of(context, text, seed)
    mine = jax.random.permutation(jax.random.key(4000 + seed), len(data.train_x))[:_HELD]
    x, y = jnp.asarray(data.train_x)[mine], jnp.asarray(data.train_y)[mine]
    value = key_value(context, text)
    seen = jnp.concatenate([x, jnp.asarray(data.test_x[:_HELD])])
    live = np.asarray(_live(context, text)(params, key, seen))
    about = {**context.about, "lock": text, "seed": seed}
    about |= {"no_key": value(SignKey(jnp.ones(bits, jnp.int8)), params)}
    about |= {"right_key": value(key, params), "signs_that_matter": int(live.sum())}
    return _Attacked(
        context.model.forward, subject.lock, bits, subject.settings["per"], params, key, x, y,
        jax.random.key(5000 + seed), context.task, live, about,
    )  # fmt: skip


@functools.lru_cache(maxsize=1)
def _live(context: Context, text: str) -> Callable[[Params, SignKey, jax.Array], jax.Array]:
    """Return what finds the signs that change an answer when negated, bool `[bits]`."""
    user = user_forward(context.subjects[text].lock, context.model.forward)

    @jax.jit
    def live(params: Params, key: SignKey, x: jax.Array) -> jax.Array:
        one_off = SignKey(key.signs[None] * (1 - 2 * jnp.eye(len(key.signs), dtype=jnp.int8)))
        right = user(key, params, x)
        return over_keys(lambda k: (user(k, params, x) != right).any(), one_off, chunk=4)

    return live


def _sign_rows(
    context: Context, text: str, seed: int, attack: str, images: int, restarts: int, steps: int
) -> list[Row]:
    """Attack the key of one model."""
    case = _attacked(context, text, seed)
    begin = time.perf_counter()
    found = jax.block_until_ready(_ATTACKS[attack](case, images, restarts, steps))
    row = {"id": _id(text, seed, attack, images), "kind": "signs", **case.about}
    row |= {"attack": attack, "images": images, "seconds": time.perf_counter() - begin}
    # An attack that gives up leaves the thief without a key.
    if found is None:
        nothing = {"accuracy": case.about["no_key"], "signs_right": None, "live_signs_right": None}
        return [row | nothing]
    right = np.asarray(found.signs == case.key.signs)
    row |= {"accuracy": key_value(context, text)(found, case.params)}
    live = float(right[case.live].mean()) if case.live.any() else None
    return [row | {"signs_right": float(right.mean()), "live_signs_right": live}]


def _weights_first(case: _Attacked, images: int, restarts: int, steps: int) -> SignKey | None:
    reading = read_model_signs(case.forward, case.params, case.x[:1], case.bits, case.per)
    if reading is None:
        return None
    return _relaxed(case, images, restarts, steps, labels=False, prior=reading)


def _relaxed(
    case: _Attacked, images: int, restarts: int, steps: int, labels: bool, prior: Any = None
) -> SignKey:
    relaxation = relaxed_signs(case.lock, case.bits, prior)
    options = {"restarts": restarts, "task": case.task, "learning_rate": 0.02 if prior else 0.1}
    attack = relaxed_key(relaxation, case.forward, steps, **options)

    @jax.jit
    def go(params: Params, x: jax.Array, y: jax.Array | None, rng: jax.Array) -> SignKey:
        state, _ = run_shuffled(
            attack, attack.init(rng, params), x, y, jax.random.fold_in(rng, 1),
            steps=steps, augment=case.task.augment,
        )  # fmt: skip
        found = best_key(relaxation, state)
        if y is None:
            return found
        return correct_signs(case.lock, case.forward, params, found, x, y, case.task).best

    return go(case.params, case.x[:images], case.y[:images] if labels else None, case.rng)


def _tanh(case: _Attacked, images: int, restarts: int, steps: int) -> SignKey:
    optimizer, user = optax.adam(0.1), user_forward(case.lock, case.forward)

    @jax.jit
    def go(theta: jax.Array, params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
        def loss(theta: jax.Array) -> jax.Array:
            return key_loss(user(SignKey(jnp.tanh(theta)), params, x), y, case.task)

        def step(carry: Any, _: None) -> tuple[Any, None]:
            theta, state = carry
            updates, state = optimizer.update(jax.grad(loss)(theta), state)
            return (optax.apply_updates(theta, updates), state), None

        return lax.scan(step, (theta, optimizer.init(theta)), length=steps)[0][0]

    start = 0.1 * jax.random.normal(case.rng, (case.bits,))
    theta = go(start, case.params, case.x[:images], case.y[:images])
    return SignKey(jnp.where(theta < 0, -1, 1).astype(jnp.int8))


def _oracle(case: _Attacked, images: int, restarts: int, steps: int) -> SignKey | None:
    device = partial(jax.jit(user_forward(case.lock, case.forward)), case.key, case.params)
    found = sign_mask_oracle(
        device, case.lock, case.bits, case.forward, case.params, case.x[:images], case.rng,
        steps=steps, restarts=restarts, task=case.task,
    )  # fmt: skip
    return None if found is None else found.key


_ATTACKS: dict[str, Callable[[_Attacked, int, int, int], SignKey | None]] = {
    "tanh": _tanh,
    "relaxed_key": partial(_relaxed, labels=True),
    "relaxed_key, no labels": partial(_relaxed, labels=False),
    "relaxed_key, weights first": _weights_first,
    "sign_mask_oracle": _oracle,
}


def _grids(rows: Rows, config: Config) -> list[Grid]:
    """One line for each lock, attack and number of inputs."""
    scale = scale_of(rows)

    def share(field: str) -> Callable[[list[Row]], str]:
        def text(of: list[Row]) -> str:
            known = [row[field] for row in of if row[field] is not None]
            return f"{100 * np.mean(known):.1f}" if known else ""

        return text

    cells: dict[str, Callable[[list[Row]], str]] = {
        "no key": mean(scale, "no_key"),
        "found": mean(scale, "accuracy"),
        "right key": mean(scale, "right_key"),
        "signs right, %": share("signs_right"),
        "of those that matter": share("live_signs_right"),
        "gave up": lambda of: str(sum(row["signs_right"] is None for row in of)),
        "median seconds": lambda of: f"{np.median([row['seconds'] for row in of]):.1f}",
    }
    title = f"Keys of sign masks: {config.data}, {config.model}, {seeds_text(config)}"
    return [grid_of(title, rows, "signs", ("lock", "attack", "images"), cells)]


STUDY = Study(
    name="sign_masks",
    about="keys of sign masks by gradients, and through an unlocked device",
    config=functools.partial(by_data, Config, RECIPES),
    quick=_QUICK,
    prepare=prepare,
    units=_units,
    kinds={"signs": SignsRow},
    grids=_grids,
    drawings={},
)
