"""Whether a secret key keeps adversarial examples away: the user's accuracy with and without it.

For the plain model and each lock, the user's model, with the right key, is attacked on the first test
images. What the attacker has:

- `known`: the key.
- `key by ...`: a key that they recovered first, by the attacks of the table that their rights allow.
- `unknown`: the weights only; images come from the forward without a key.
- `expectation`: the weights and some random keys; gradients averaged over them.
- `surrogate`: a plain model of its own, trained on the same data.
- `queries`: the user's answers to many inputs for each image (the random search `square`).
- `nothing`: noise of +-eps in every pixel, the yardstick for all without the key.

For each model one more row has the signs of gradient masking at eps 0.1.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.attacks.evasion.auto_pgd import apgd
from modellock_jax.attacks.evasion.gradient_masking import gradient_masking
from modellock_jax.attacks.evasion.methods import square, transfer
from modellock_jax.study._evaders import attackers, images, model_of, noise, recovered, target
from modellock_jax.study.context import Context, prepare, rng_for
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.evasion_config import (
    ATTACKERS,
    QUICK,
    RECOVERIES,
    Config,
    EvasionRow,
    FlagsRow,
)
from modellock_jax.study.record import Study
from modellock_jax.study.report import Grid, interval, seeds_text
from modellock_jax.study.store import Rows
from modellock_jax.study.training import PLAIN, trainings

__all__ = ["STUDY", "evasion_rows", "flags_rows", "units"]


def units(context: Context) -> list[Unit]:
    """Return the rows of each model and attacker together, and one row of flags for each model.

    Args:
        context: The study.

    Returns:
        Units.

    Raises:
        ValueError: If the data are not images with classes.
    """
    if context.task.name != "classify" or context.data.train_x.ndim != 4:
        of = context.config.data
        raise ValueError(f"the study evasion is of images with classes, which {of} is not")
    found = []
    for seed in range(context.config.seeds):
        for text in (PLAIN, *context.subjects):
            needs = trainings(context, PLAIN, text)
            for attacker in attackers(context, text):
                ids = tuple(_id(text, seed, attacker, name) for name in ATTACKERS[attacker])
                found.append(Unit(evasion_rows, (text, seed, attacker), ids, needs))
            found.append(Unit(flags_rows, (text, seed), (f"flags/{text}/{seed}",), needs))
    return found


def _id(text: str, seed: int, attacker: str, name: str) -> str:
    return f"evasion/{text}/{seed}/{attacker}/{name}"


@functools.lru_cache(maxsize=1)
def _programs(context: Context) -> tuple[Any, Any]:
    """`move(name, f, rng)`, `[eps, B, H, W, C]`; and `score(f, images)`, `[eps]`."""
    c, (x, y) = context.config, images(context)
    methods: dict[str, Callable[..., Any]] = {
        "apgd-ce": functools.partial(apgd, steps=c.steps, restarts=c.restarts),
        "apgd-dlr": functools.partial(apgd, steps=c.steps, restarts=c.restarts, loss="dlr"),
        "square": functools.partial(square, queries=c.queries),
    }

    @functools.partial(jax.jit, static_argnums=0)
    def move(name: str, f: Any, rng: jax.Array) -> jax.Array:
        return lax.map(lambda e: methods[name](f, x, y, e, rng).inputs, jnp.array(c.eps))

    @jax.jit
    def score(f: Any, moved: jax.Array) -> jax.Array:
        return lax.map(lambda a: transfer(f, x, y, a).share, moved)

    return move, score


def _about(context: Context, text: str, seed: int) -> dict[str, Any]:
    x, y = images(context)
    clean = float(transfer(target(context, text, seed).user, x, y, x).share)
    return {"lock": text, "seed": seed, "clean": clean}


def evasion_rows(context: Context, text: str, seed: int, attacker: str) -> list[Row]:
    """Let one attacker change the images, in every way that it knows.

    Args:
        context: The study.
        text: The lock's text, or `PLAIN`.
        seed: Of the model, the key and the attacker, from 0 on.
        attacker: A name of `ATTACKERS`.

    Returns:
        A row for each of the attacker's ways.
    """
    about = _about(context, text, seed)
    found = recovered(context, text, seed, attacker) if attacker in RECOVERIES else None
    key = {"found_by": found and found.by, "key_right": found and found.right}
    # Who found the key is who has it.
    model = "known" if found is not None and found.right == 1 else attacker
    rows = []
    for name in ATTACKERS[attacker]:
        begin = {"id": _id(text, seed, attacker, name), "kind": "evasion", **about}
        accuracy = list(_accuracy(context, text, seed, model, name))
        rows.append(begin | {"attacker": attacker, "attack": name, "accuracy": accuracy} | key)
    return rows


@functools.lru_cache(maxsize=8)
def _accuracy(
    context: Context, text: str, seed: int, attacker: str, name: str
) -> tuple[float, ...]:
    """Return the user's accuracy on what an attacker made of the images, for each eps."""
    (move, score), user = _programs(context), target(context, text, seed).user
    if attacker == "nothing":
        moved = noise(context, seed, images(context)[0])
    elif attacker == "queries":
        moved = move(name, user, rng_for(seed, "queries"))
    else:
        moved = move(name, model_of(context, text, seed, attacker), rng_for(seed, "starts"))
    return tuple(score(user, moved).tolist())


def flags_rows(context: Context, text: str, seed: int) -> list[Row]:
    """Look for signs of gradient masking.

    Args:
        context: The study.
        text: The lock's text, or `PLAIN`.
        seed: Of the model and the key, from 0 on.

    Returns:
        One row.
    """
    c = context.config
    flags = gradient_masking(
        target(context, text, seed).user, *images(context), 0.1, rng_for(seed, "flags"),
        attack=functools.partial(apgd, steps=c.steps), queries=c.queries,
        surrogate=target(context, PLAIN, seed).user if text != PLAIN else None,
    )  # fmt: skip
    found = {name: float(value) for name, value in flags._asdict().items()}
    begin = {"id": f"flags/{text}/{seed}", "kind": "flags", **_about(context, text, seed)}
    return [begin | {"flags": found}]


def _grids(rows: Rows, config: Config) -> list[Grid]:
    """One line for each model and attacker: of each seed its worst attack, and the mean over seeds."""
    together: dict[tuple[str, str], dict[int, list[Row]]] = {}
    for row in rows.of("evasion"):
        mine = together.setdefault((row["lock"], row["attacker"]), {})
        mine.setdefault(row["seed"], []).append(row)
    lines = []
    for (lock, attacker), seeds in together.items():
        worst = [np.min([row["accuracy"] for row in of], axis=0) for of in seeds.values()]
        first = [of[0] for of in seeds.values()]
        right = [row["key_right"] for row in first if row["key_right"] is not None]
        key = f"{100 * np.mean(right):.1f}" if right else ""
        clean = f"{100 * np.mean([row['clean'] for row in first]):.1f}"
        cells = [_with_interval(values) for values in np.transpose(worst)]
        lines.append([lock, attacker, key, clean, *cells])
    header = ["lock", "attacker", "key right", "clean", *(f"eps {eps:g}" for eps in config.eps)]
    title = (
        f"Evasion: the user's accuracy in %, {config.data}, {config.model}, {seeds_text(config)}, "
        f"{config.images} images"
    )
    return [Grid(title, header, lines, [])]


def _with_interval(values: Any) -> str:
    mean, low, high = (100 * value for value in interval(values))
    return f"{mean:.1f} [{max(low, 0):.1f}, {min(high, 100):.1f}]"


STUDY = Study(
    name="evasion",
    about="adversarial examples against the user's model, with and without the key",
    config=Config,
    quick=QUICK,
    prepare=prepare,
    units=units,
    kinds={"evasion": EvasionRow, "flags": FlagsRow},
    grids=_grids,
    drawings={},
)
