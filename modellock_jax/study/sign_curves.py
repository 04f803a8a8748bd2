"""What decides how much of a sign key the weights alone give away: one thing changed at a time.

A perceptron is trained under the key of its hidden layers, and the key is read off its weights. Curves:
its width, depth, epochs and weight decay, the length of the key, a key of its own for each layer, and
its activation. Under an even one, as `abs`, a sign changes no output: there is no lock to be read.
"""

import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from modellock_jax.attacks.keys.sign_pairs import sign_pairs
from modellock_jax.attacks.keys.signs_from_weights import LEVEL, Pair, read_signs
from modellock_jax.core.compose import chain, only
from modellock_jax.core.lock import Lock, owner_forward, user_forward
from modellock_jax.locks.sign import sign_mask
from modellock_jax.models import linen
from modellock_jax.study._signs import counted
from modellock_jax.study._single import grid_of, listed, mean
from modellock_jax.study.config import Settings
from modellock_jax.study.context import Context, prepare, rng_for
from modellock_jax.study.curve_figures import CURVES
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.record import Study
from modellock_jax.study.report import Grid, seeds_text
from modellock_jax.study.rows import Valued
from modellock_jax.study.scale import scale_of
from modellock_jax.study.store import Rows
from modellock_jax.train import fit

__all__ = ["STUDY", "Config", "CurveRow"]

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "tanh": jnp.tanh,
    "z": lambda z: z,
    "abs": jnp.abs,
    "z²": jnp.square,
    "relu(z) - z/2": lambda z: nn.relu(z) - z / 2,
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The study's settings.

    Attributes:
        width: Of each hidden layer, and the length of the key, where no curve says otherwise.
        depth: Hidden layers.
        widths: The points of a curve; so of the others.
        depths: Of two curves, of one key for all layers, and of a key for each.
        lengths: Epochs of training.
        decays: Weight decay.
        bits: Of the key.
        activations: By their names.
    """

    model: str = "mlp"
    seeds: int = 3
    epochs: int = 8
    width: int = 128
    depth: int = 2
    widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    depths: tuple[int, ...] = (1, 2, 3, 4, 6)
    lengths: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    decays: tuple[float, ...] = (0.0, 0.1, 1.0, 3.0, 10.0)
    bits: tuple[int, ...] = (16, 32, 64, 128, 1024)
    activations: tuple[str, ...] = tuple(_ACTIVATIONS)


def _config(model: str = "cnn", **given: Any) -> Config:
    """Take the study's own perceptrons for the model that the command line names where nobody does."""
    if model not in ("cnn", "mlp") or given.get("locks"):
        raise ValueError("sign_curves: is of perceptrons and locks of its own; name no others")
    return Config(**given)


class CurveRow(Valued):
    """What was read off the model of one point of a curve and one seed."""

    curve: Annotated[str, "what was changed"]
    at: Annotated[str, "to what"]
    seed: Annotated[int, "the seed of the model and its keys, from 0"]
    no_key: Annotated[float, "test value without a key"]
    right_key: Annotated[float, "with the right key"]
    keys: Annotated[int, "keys that there are: one, or one for each hidden layer"]
    read: Annotated[int, "of these, read at the level of 1 %"]
    in_use: Annotated[int, "signs of the keys that some layer has"]
    signs_right: Annotated[int, "of these, right, those of each key all negated or not"]
    surest_wrong: Annotated[int, "of the three quarters of each that are most certain, wrong"]


class _Point(NamedTuple):
    """How a model is made and locked."""

    width: int
    depth: int
    epochs: int
    bits: int
    decay: float = 0.0
    activation: str = "relu"
    own: bool = False


def _points(c: Config) -> dict[tuple[str, str], _Point]:
    """List the points by curve and place on it."""
    base = _Point(c.width, c.depth, c.epochs, c.width)
    curves: dict[str, list[tuple[Any, _Point]]] = {
        "width": [(n, base._replace(width=n, bits=n)) for n in c.widths],
        "depth": [(n, base._replace(depth=n)) for n in c.depths],
        "depth, a key for each layer": [(n, base._replace(depth=n, own=True)) for n in c.depths],
        "epochs": [(n, base._replace(epochs=n)) for n in c.lengths],
        "weight decay": [(n, base._replace(decay=n)) for n in c.decays],
        "bits of the key": [(n, base._replace(bits=n)) for n in c.bits],
        "activation": [(name, base._replace(activation=name)) for name in c.activations],
    }
    return {(curve, f"{at}"): point for curve, of in curves.items() for at, point in of}


def _units(context: Context) -> list[Unit]:
    """Return a row for each point and seed. Raises `ValueError` for settings that the study has not."""
    c = context.config
    unknown = [name for name in c.activations if name not in _ACTIVATIONS]
    if unknown:
        known = ", ".join(_ACTIVATIONS)
        raise ValueError(f"sign_curves: the activation {unknown[0]!r} is none of {known}")
    return [
        Unit(_curve_rows, (curve, at, seed), (f"curve/{curve}/{at}/{seed}",))
        for curve, at in _points(c)
        for seed in range(c.seeds)
    ]


class _MLP(nn.Module):
    point: _Point
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(len(x), -1)
        for _ in range(self.point.depth):
            x = _ACTIVATIONS[self.point.activation](nn.Dense(self.point.width)(x))
        return nn.Dense(self.classes, name="head")(x)


def _lock(point: _Point) -> Lock:
    """Return the mask of all hidden layers, or that of each."""
    hidden = [f"Dense_{i}" for i in range(point.depth)]

    def masking(names: list[str]) -> Lock:
        return only(sign_mask(point.bits), lambda path: any(n in path.split("/") for n in names))

    return chain(*map(masking, [[name] for name in hidden] if point.own else [hidden]))


def _curve_rows(context: Context, curve: str, at: str, seed: int) -> list[Row]:
    """Train one model under its keys, and read them."""
    point = _points(context.config)[curve, at]
    row = {"id": f"curve/{curve}/{at}/{seed}", "kind": "curve", **context.about}
    return [row | {"curve": curve, "at": at, "seed": seed} | _measured(context, point, seed)]


@functools.lru_cache(maxsize=64)
def _measured(context: Context, point: _Point, seed: int) -> dict[str, Any]:
    """Train, read and compare; the point that curves share once a process."""
    model, lock = linen(_MLP(point, context.data.classes)), _lock(point)
    start = model.init(rng_for(seed, "init"), context.example)
    keys = lock.init(rng_for(seed, "key"), start)
    c, forward = context.config, partial(owner_forward(lock, model.forward), keys)
    params, _ = fit(
        forward,
        start,
        context.data.train_x,
        context.data.train_y,
        rng=rng_for(seed, "fit"),
        epochs=point.epochs,
        batch_size=c.batch_size,
        learning_rate=c.learning_rate,
        decay=point.decay,
        loss=context.task.loss,
        augment=context.task.augment,
    )
    pairs: list[Pair] = [
        (one.kernel, one.reader)
        for one in sign_pairs(model.forward, params, context.example)
        if one.reader is not None
    ]
    groups = [[pair] for pair in pairs] if point.own else [pairs]
    read = [_compared(of, key.signs) for of, key in zip(groups, keys, strict=True)]
    found = {"keys": len(read)} | {name: sum(one[name] for one in read) for name in read[0]}
    user = partial(user_forward(lock, model.forward), keys, params)
    values = {"no_key": partial(model.forward, params), "right_key": user}
    x, y = jnp.asarray(context.data.test_x), jnp.asarray(context.data.test_y)
    return found | {n: float(context.measure(jax.jit(f), x, y).value) for n, f in values.items()}


def _compared(pairs: list[Pair], signs: jax.Array) -> dict[str, int]:
    """Read one key, and count what is right of it."""
    reading = read_signs(pairs, len(signs))
    if reading is None:
        return {"read": 0, "in_use": 0, "signs_right": 0, "surest_wrong": 0}
    return {"read": int(reading.p_value <= LEVEL), **counted(reading, signs)}


def _grids(rows: Rows, config: Config) -> list[Grid]:
    """One line for each point."""
    scale = scale_of(rows)

    cells: dict[str, Callable[[list[Row]], str]] = {
        "keys read": lambda of: f"{sum(r['read'] for r in of)} of {sum(r['keys'] for r in of)}",
        "of": lambda of: str(max(row["in_use"] for row in of)),
        "signs right": listed("signs_right"),
        "wrong of the surest": listed("surest_wrong"),
        "no key": mean(scale, "no_key"),
        "right key": mean(scale, "right_key"),
    }
    title = f"Signs from the weights alone, by training: {config.data}, {seeds_text(config)}"
    return [grid_of(title, rows, "curve", ("curve", "at"), cells)]


STUDY = Study(
    name="sign_curves",
    about="sign keys read off the weights alone, by width, depth, training, key and activation",
    config=_config,
    quick={
        "seeds": 1,
        "epochs": 2,
        "width": 32,
        "widths": (32,),
        "depths": (1, 2),
        "lengths": (2,),
        "decays": (0.1,),
        "bits": (16,),
        "activations": ("relu", "abs"),
    },
    prepare=prepare,
    units=_units,
    kinds={"curve": CurveRow},
    grids=_grids,
    drawings=CURVES,
)
