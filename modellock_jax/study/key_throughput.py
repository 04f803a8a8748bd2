"""How many sign keys a second one compiled program scores, beside slower ways to do the same.

Each key is scored by its loss on the same training inputs: by `random_keys` with early rejection; by
the same program without, every key on all inputs; by one compiled call a key; and one key at a time
uncompiled, operation by operation. The last two score fewer keys: theirs are rates per key. The ways
take turns, and the best of their rounds counts; compilation is apart.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from modellock_jax.attacks.keys.key_search import key_loss, random_keys
from modellock_jax.core.lock import Params, user_forward
from modellock_jax.study._single import grid_of, model_of, models_of
from modellock_jax.study.config import Settings
from modellock_jax.study.context import Context, prepare
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.record import Study
from modellock_jax.study.report import Grid
from modellock_jax.study.rows import Kind
from modellock_jax.study.store import Rows

__all__ = ["STUDY", "Config", "SpeedRow"]

_WAYS = (
    "early rejection, one program",
    "all images, one program",
    "one compiled call a key",
    "uncompiled, a key at a time",
)
_SURVIVORS = 256


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The study's settings.

    `images` inputs, of which early rejection sees the `first`; `keys` for the programs, `called` for
    one call a key and `uncompiled` ones; `rounds` of which the best counts.
    """

    locks: tuple[str, ...] = ("sign_mask(per='unit')",)
    seeds: int = 1
    epochs: int = 3
    images: int = 64
    first: int = 8
    keys: int = 10_240
    called: int = 200
    uncompiled: int = 3
    rounds: int = 2


class SpeedRow(Kind):
    """One way to score keys, on the model of one lock and seed."""

    lock: Annotated[str, "the lock's text"]
    seed: Annotated[int, "the seed of the model and of the keys, from 0"]
    way: Annotated[str, "how keys are scored"]
    images: Annotated[int, "inputs that a key is scored on"]
    keys: Annotated[int, "how many keys"]
    seconds: Annotated[float, "the best round"]
    compile_s: Annotated[float, "seconds of compilation, apart"]
    keys_per_s: Annotated[float, "keys a second"]
    times_uncompiled: Annotated[float, "how many times as fast as uncompiled"]


def _units(context: Context) -> list[Unit]:
    """Return the rows of each lock and seed together: they are measured side by side."""
    return [
        Unit(
            _speed_rows,
            (text, seed),
            tuple(f"speed/{text}/{seed}/{way}" for way in _WAYS),
            models_of(text, seed),
        )
        for text in context.subjects
        for seed in range(context.config.seeds)
    ]


class _Way(NamedTuple):
    """One way: how many keys a call scores, the call, and the seconds of its compilation."""

    keys: int
    call: Callable[[], Any]
    compile_s: float


def _ways(context: Context, text: str, seed: int) -> list[_Way]:
    c, data, lock = context.config, context.data, context.subjects[text].lock
    forward, params = context.model.forward, model_of(context, text, seed).params
    x, y = jnp.asarray(data.train_x[: c.images]), jnp.asarray(data.train_y[: c.images])
    rng, user = jax.random.key(5000 + seed), user_forward(lock, forward)

    def search(**settings: Any) -> _Way:
        draw = partial(random_keys, lock, forward, task=context.task, keys=c.keys, **settings)
        begin = time.perf_counter()
        program = jax.jit(draw).lower(params, x, y, rng).compile()
        compile_s = time.perf_counter() - begin
        return _Way(c.keys, lambda: jax.block_until_ready(program(params, x, y, rng)), compile_s)

    def one(rng: jax.Array, params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
        return key_loss(user(lock.init(rng, params), params, x), y, context.task)

    begin = time.perf_counter()
    alone = jax.jit(one).lower(rng, params, x, y).compile()
    compile_s = time.perf_counter() - begin
    rngs = jax.random.split(rng, max(c.called, c.uncompiled))

    def one_by_one() -> None:
        for i in range(c.called):
            jax.block_until_ready(alone(rngs[i], params, x, y))

    def uncompiled() -> None:
        with jax.disable_jit():
            for i in range(c.uncompiled):
                jax.block_until_ready(one(rngs[i], params, x, y))

    return [
        search(first=c.first, survivors=min(_SURVIVORS, c.keys)),
        search(first=c.images, survivors=1, chunk=4),
        _Way(c.called, one_by_one, compile_s),
        _Way(c.uncompiled, uncompiled, 0.0),
    ]


def _speed_rows(context: Context, text: str, seed: int) -> list[Row]:
    """Measure all ways in turn."""
    ways, best = _ways(context, text, seed), dict[str, float]()
    for _ in range(context.config.rounds):
        for name, way in zip(_WAYS, ways):
            begin = time.perf_counter()
            way.call()
            best[name] = min(best.get(name, float("inf")), time.perf_counter() - begin)
    slow = ways[-1].keys / best[_WAYS[-1]]
    return [
        {
            "id": f"speed/{text}/{seed}/{name}",
            "kind": "speed",
            "lock": text,
            "seed": seed,
            "way": name,
            "images": context.config.images,
            "keys": way.keys,
            "seconds": best[name],
            "compile_s": way.compile_s,
            "keys_per_s": way.keys / best[name],
            "times_uncompiled": way.keys / best[name] / slow,
        }
        for name, way in zip(_WAYS, ways)
    ]


def _grids(rows: Rows, config: Config) -> list[Grid]:
    """One line for each lock, seed and way."""

    def first(field: str) -> Callable[[list[Row]], str]:
        return lambda of: f"{of[0][field]:.2f}"

    fields = {"seconds": "seconds", "compilation": "compile_s", "keys/s": "keys_per_s"}
    fields |= {"times uncompiled": "times_uncompiled"}
    cells = {name: first(field) for name, field in fields.items()}
    title = f"Keys scored a second: {config.data}, {config.model}, {config.images} images"
    return [grid_of(title, rows, "speed", ("lock", "seed", "way", "keys"), cells)]


STUDY = Study(
    name="key_throughput",
    about="keys scored a second, by one program and by slower ways",
    config=Config,
    quick={"epochs": 1, "keys": 1024, "called": 20, "uncompiled": 1},
    prepare=prepare,
    units=_units,
    kinds={"speed": SpeedRow},
    grids=_grids,
    drawings={},
)
