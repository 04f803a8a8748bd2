"""Whether a secret key keeps adversarial examples away: the user's accuracy with and without it.

For the plain model and each lock, the user's model, with the right key, is attacked on the first test
images. What the attacker has:

- `known`: the key. `unknown`: the weights only; images come from the forward without a key.
- `expectation`: the weights and some random keys; gradients averaged over them.
- `surrogate`: a plain model of its own, trained on the same data.
- `queries`: the user's answers to many inputs for each image (the random search `square`).
- `nothing`: noise of +-eps in every pixel, the yardstick for all without the key.

For each model one more row has the signs of gradient masking at eps 0.1.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.attacks.evasion.auto_pgd import apgd
from modellock_jax.attacks.evasion.gradient_masking import gradient_masking
from modellock_jax.attacks.evasion.methods import expectation, fgsm, pgd, square, transfer
from modellock_jax.core.lock import Key, Lock, Params, user_forward
from modellock_jax.study.context import Context, prepare
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.evasion_config import ATTACKERS, QUICK, Config, EvasionRow, FlagsRow
from modellock_jax.study.record import Study
from modellock_jax.study.report import Grid, seeds_text
from modellock_jax.study.store import Rows
from modellock_jax.study.training import PLAIN, Draws, lock_of, owned

__all__ = ["STUDY", "evasion_rows", "flags_rows", "train", "units"]


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
        plain = Unit(train, (PLAIN, seed), ())
        for text in (PLAIN, *context.subjects):
            needs = (plain,) if text == PLAIN else (plain, Unit(train, (text, seed), ()))
            for attacker in ATTACKERS if text != PLAIN else list(ATTACKERS)[:3]:
                ids = tuple(_id(text, seed, attacker, name) for name in ATTACKERS[attacker])
                found.append(Unit(evasion_rows, (text, seed, attacker), ids, needs))
            found.append(Unit(flags_rows, (text, seed), (f"flags/{text}/{seed}",), needs))
    return found


def _id(text: str, seed: int, attacker: str, name: str) -> str:
    return f"evasion/{text}/{seed}/{attacker}/{name}"


class _Target(NamedTuple):
    """The model of one lock and seed, its user, and the generators of attackers."""

    lock: Lock
    fresh: Params
    params: Params
    user: Any
    starts: jax.Array
    draws: jax.Array


def train(context: Context, text: str, seed: int) -> list[Row]:
    """Train a model for other units; no rows.

    Args:
        context: The study.
        text: The lock's text, or `PLAIN`.
        seed: Of the model and the key, from 0 on.

    Returns:
        An empty list.
    """
    _target(context, text, seed)
    return []


@functools.lru_cache(maxsize=2)
def _target(context: Context, text: str, seed: int) -> _Target:
    inits, keys, fits, starts, draws = jax.random.split(jax.random.key(seed), 5)
    fresh, params, key = owned(context, text, seed, Draws(inits, keys, fits))
    # Partials are trees: jit takes their weights as arguments, not as constants to fold.
    user = jax.tree_util.Partial(_answering(context, text), key, params)
    return _Target(lock_of(context, text), fresh, params, user, starts, draws)


@functools.lru_cache(maxsize=2)
def _answering(context: Context, text: str) -> Callable[[Key, Params, jax.Array], jax.Array]:
    return user_forward(lock_of(context, text), context.model.forward)


@functools.lru_cache(maxsize=1)
def _programs(context: Context) -> tuple[Any, Any, dict[str, Any]]:
    """`images(name, f, rng)`, `[eps, B, H, W, C]`; `score(f, images)`, `[eps]`; and the attacks."""
    c, x, y = context.config, *_images(context)
    methods: dict[str, Callable[..., Any]] = {
        "fgsm": lambda f, x, y, eps, rng: fgsm(f, x, y, eps),
        "pgd": functools.partial(pgd, steps=c.steps),
        "apgd-ce": functools.partial(apgd, steps=c.steps),
        "apgd-dlr": functools.partial(apgd, steps=c.steps, loss="dlr"),
        "square": functools.partial(square, queries=c.queries),
    }

    @functools.partial(jax.jit, static_argnums=0)
    def images(name: str, f: Any, rng: jax.Array) -> jax.Array:
        return lax.map(lambda e: methods[name](f, x, y, e, rng).inputs, jnp.array(c.eps))

    @jax.jit
    def score(f: Any, images: jax.Array) -> jax.Array:
        return lax.map(lambda a: transfer(f, x, y, a).share, images)

    return images, score, methods


def _images(context: Context) -> tuple[jax.Array, jax.Array]:
    n, data = context.config.images, context.data
    return jnp.asarray(data.test_x[:n]), jnp.asarray(data.test_y[:n])


def _about(context: Context, text: str, seed: int) -> dict[str, Any]:
    x, y = _images(context)
    clean = float(transfer(_target(context, text, seed).user, x, y, x).share)
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
    images, score, _ = _programs(context)
    target, about, rows = _target(context, text, seed), _about(context, text, seed), []
    for name in ATTACKERS[attacker]:
        if attacker == "nothing":
            made = _noise(context, target)
        elif attacker == "queries":
            made = images(name, target.user, target.draws)
        else:
            made = images(name, _model(context, text, seed, attacker), target.starts)
        begin = {"id": _id(text, seed, attacker, name), "kind": "evasion", **about}
        rows.append(
            begin
            | {"attacker": attacker, "attack": name}
            | {"accuracy": score(target.user, made).tolist()}
        )
    return rows


def _model(context: Context, text: str, seed: int, attacker: str) -> Any:
    """Return the model that an attacker takes gradients of."""
    target = _target(context, text, seed)
    if attacker == "known":
        return target.user
    if attacker == "surrogate":
        return _target(context, PLAIN, seed).user
    if attacker == "unknown":
        return jax.tree_util.Partial(context.model.forward, target.params)
    draws = jax.random.split(target.draws, context.config.keys)
    guesses = jax.vmap(target.lock.init, (0, None))(draws, target.fresh)
    return jax.tree_util.Partial(_mean(context, text), guesses, target.params)


@functools.lru_cache(maxsize=1)
def _mean(context: Context, text: str) -> Callable[[Key, Params, jax.Array], jax.Array]:
    """Return the answers with each of many keys, as `expectation` gives them."""
    answer = _answering(context, text)
    return lambda keys, params, x: expectation(lambda key, x: answer(key, params, x), keys)(x)


def _noise(context: Context, target: _Target) -> jax.Array:
    x, _ = _images(context)
    ball = jnp.array(context.config.eps)[:, None, None, None, None]
    signs = jax.random.rademacher(target.draws, x.shape, x.dtype)
    return jnp.clip(x[None] + ball * signs[None], 0, 1)


def flags_rows(context: Context, text: str, seed: int) -> list[Row]:
    """Look for signs of gradient masking.

    Args:
        context: The study.
        text: The lock's text, or `PLAIN`.
        seed: Of the model and the key, from 0 on.

    Returns:
        One row.
    """
    methods, target = _programs(context)[2], _target(context, text, seed)
    flags = gradient_masking(
        target.user, *_images(context), 0.1, target.draws, attack=methods["apgd-ce"],
        surrogate=_target(context, PLAIN, seed).user if text != PLAIN else None,
        queries=context.config.queries,
    )  # fmt: skip
    found = {name: float(value) for name, value in flags._asdict().items()}
    begin = {"id": f"flags/{text}/{seed}", "kind": "flags", **_about(context, text, seed)}
    return [begin | {"flags": found}]


def _grids(rows: Rows, config: Config) -> list[Grid]:
    """One row for each model, attacker and attack: means over seeds."""
    together: dict[tuple[str, str, str], list[list[float]]] = {}
    for row in rows.of("evasion"):
        name = row["lock"], row["attacker"], row["attack"]
        together.setdefault(name, []).append([row["clean"], *row["accuracy"]])
    header = ["lock", "attacker", "attack", "clean", *(f"eps {eps:g}" for eps in config.eps)]
    title = (
        f"Evasion: the user's accuracy in %, {config.data}, {config.model}, {seeds_text(config)}"
    )
    lines = [
        [*name, *(f"{mean:.1f}" for mean in 100 * np.mean(shares, 0))]
        for name, shares in together.items()
    ]
    return [Grid(title, header, lines, [])]


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
