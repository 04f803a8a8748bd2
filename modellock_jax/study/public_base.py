"""What a public base gives away: keys and changed weights by the direction of weights beside it.

The owner trains a base on half of the data, goes on with the other half, and locks the outcome. The
attacker has the locked weights and a base: "before fine-tuning", the owner's own; "untrained", the
weights that the base began with, as from a public seed; "noise 3 %", the owner's weights under normal
noise of 3 % of each leaf's standard deviation. Control: "unrelated", another seed's model.

`pixel_shuffle` is moved into the first layer, which must be dense.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, NotRequired

import jax

from modellock_jax.attacks.case import Case
from modellock_jax.attacks.keys.signs_from_base import read_signs_from_base
from modellock_jax.attacks.table import attempt
from modellock_jax.attacks.weights.localise import changed_weights
from modellock_jax.attacks.weights.weights_from_base import weights_from_base
from modellock_jax.core.lock import Key, Params
from modellock_jax.study._bases import BASES, bases, distance, moved, noise_name, other_seed, tuned
from modellock_jax.study._single import by_data, grid_of, key_value, listed, mean, only
from modellock_jax.study.config import Settings
from modellock_jax.study.context import Context, prepare, rng_for
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.record import Study
from modellock_jax.study.report import Grid, seeds_text
from modellock_jax.study.rows import Valued
from modellock_jax.study.scale import scale_of
from modellock_jax.study.store import Rows
from modellock_jax.study.training import encrypting

__all__ = ["STUDY", "BaseRow", "Config"]

_LOCKS = {"mlp": ("sign_flip", "patch_shuffle(patch=28)", "pixel_shuffle", "adv_params")}
_RECIPES: dict[str, dict[str, Any]] = {"fashion_mnist": {"epochs": 1}}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The study's settings.

    Attributes:
        noise: Of the bases that are the owner's weights under noise, in standard deviations of a leaf.
    """

    locks: tuple[str, ...] = ("sign_flip", "patch_shuffle", "adv_params")
    seeds: int = 5
    noise: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def _config(model: str = "cnn", **given: Any) -> Config:
    """Choose the locks that fit a model, and how it is trained on a data set."""
    locks = {"locks": _LOCKS[model]} if model in _LOCKS else {}
    found: Config = by_data(Config, _RECIPES, **{"model": model} | locks | given)
    return found


class BaseRow(Valued):
    """What one base gave away of one locked model."""

    lock: Annotated[str, "the lock's text"]
    seed: Annotated[int, "the seed of the model, the key and the noise, from 0"]
    base: Annotated[str, "the base"]
    distance: Annotated[float, "median over leaves: the base from the owner's, in their deviations"]
    base_value: Annotated[float, "test value of the base itself"]
    no_key: Annotated[float, "test value of the locked model without a key"]
    right_key: Annotated[float, "with the right key"]
    cpu_seconds: Annotated[float, "of all cores, for the attack"]
    found: Annotated[bool, "whether the base was taken for a relative, at the level of 1 %"]
    entries: Annotated[int, "signs, rows or changed weights that there are to find"]
    right: NotRequired[Annotated[int, "of these, found rightly; of signs, read in any case"]]
    false: NotRequired[Annotated[int, "weights put back that had not been changed"]]
    accuracy: NotRequired[Annotated[float, "test value of what the attacker ends with"]]


def _units(context: Context) -> list[Unit]:
    """Return the rows of each lock and seed together. Raises `ValueError` for another lock."""
    only(context.subjects, "public_base", *_ATTACKS)
    seeds = range(context.config.seeds)
    names = [*map(noise_name, context.config.noise), *BASES]
    return [
        Unit(
            _base_rows,
            (text, seed),
            tuple(_id(text, seed, base) for base in names),
            tuple(Unit(_train, (one,), ()) for one in (seed, other_seed(context, seed))),
        )
        for text in context.subjects
        for seed in seeds
    ]


def _id(text: str, seed: int, base: str) -> str:
    return f"base/{text}/{seed}/{base}"


def _train(context: Context, seed: int) -> list[Row]:
    tuned(context, seed)
    return []


class _Outcome(NamedTuple):
    """A key, or weights, if the base was taken for a relative; how much of it is right, and false."""

    opened: Any
    right: int | None
    false: int | None = None


def _signs(case: Case, key: Key, owner: Params) -> _Outcome:
    found = attempt("signs_from_base", case)
    signs = read_signs_from_base(case.locked, case.public_base, len(key.signs)).signs
    return _Outcome(found and found.key, int((signs == key.signs).sum()))


def _order(case: Case, key: Key, owner: Params) -> _Outcome:
    found = attempt("permutation_from_base", case)
    if found is None:
        return _Outcome(None, None)
    assert found.key is not None
    return _Outcome(found.key, int((found.key.permutation == key.permutation).sum()))


def _weights(case: Case, key: Key, owner: Params) -> _Outcome:
    params = weights_from_base(case.locked, case.public_base, case.settings["count"])
    if params is None:
        return _Outcome(None, None)
    changed, back = (changed_weights(case.locked, tree) for tree in (owner, params))
    return _Outcome(params, int((changed & back).sum()), int((~changed & back).sum()))


_ATTACKS: dict[str, Callable[[Case, Key, Params], _Outcome]] = {
    "sign_flip": _signs,
    "patch_shuffle": _order,
    "pixel_shuffle": _order,
    "adv_params": _weights,
}


@functools.lru_cache(maxsize=1)
def _locked(context: Context, text: str, seed: int) -> tuple[Params, Key]:
    subject, (*_, owner) = context.subjects[text], tuned(context, seed)
    key = jax.jit(subject.lock.init)(rng_for(seed, "key"), owner)
    if subject.trained_under:
        return moved(subject.lock, key, owner, context.example.shape[1:]), key
    return encrypting(context, text)(key, owner)


def _base_rows(context: Context, text: str, seed: int) -> list[Row]:
    """Attack the locked model of one seed by each base."""
    subject, (*_, owner), rows = context.subjects[text], tuned(context, seed), list[Row]()
    locked, key = _locked(context, text, seed)
    value = key_value(context, text)
    about = {"kind": "base", **context.about, "lock": text, "seed": seed}
    about |= {"no_key": float(context.score(locked).value), "right_key": value(key, locked)}
    count = int(changed_weights(locked, owner).sum())
    about |= {"entries": count if subject.scheme == "adv_params" else len(key[0])}
    for name, base in bases(context, seed).items():
        case = Case(
            subject.lock, context.model, locked, rng_for(seed, "attack"), context.example,
            task=context.task, scheme=subject.scheme, settings=subject.settings, public_base=base,
        )  # fmt: skip
        begin = time.process_time()
        opened, right, false = _ATTACKS[subject.scheme](case, key, owner)
        row = {"id": _id(text, seed, name), **about, "base": name, "found": opened is not None}
        row |= {"cpu_seconds": time.process_time() - begin, "distance": distance(base, owner)}
        row |= {"base_value": float(context.score(base).value)}
        row |= {k: v for k, v in (("right", right), ("false", false)) if v is not None}
        if opened is not None:
            is_key = isinstance(opened, type(key))
            found = value(opened, locked) if is_key else float(context.score(opened).value)
            row |= {"accuracy": found}
        rows.append(row)
    return rows


def _grids(rows: Rows, config: Config) -> list[Grid]:
    """One line for each lock and base."""
    scale = scale_of(rows)

    cells: dict[str, Callable[[list[Row]], str]] = {
        "relative": lambda of: f"{sum(row['found'] for row in of)} of {len(of)}",
        "right": listed("right"),
        "of": lambda of: str(max(row["entries"] for row in of)),
        "false": listed("false"),
        "no key": mean(scale, "no_key"),
        "opened": mean(scale, "accuracy"),
        "right key": mean(scale, "right_key"),
        "the base itself": mean(scale, "base_value"),
    }
    title = f"With a public base: {config.data}, {config.model}, {seeds_text(config)}"
    return [grid_of(title, rows, "base", ("lock", "base"), cells)]


STUDY = Study(
    name="public_base",
    about="what a public model from which the owner's was fine-tuned gives away",
    config=_config,
    quick={"seeds": 1, "epochs": 4, "noise": (0.03, 1.0)},
    prepare=prepare,
    units=_units,
    kinds={"base": BaseRow},
    grids=_grids,
    drawings={},
)
