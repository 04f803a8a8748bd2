"""How often Deep-Lock's master key comes out of small leaves, narrow weights and either packing.

`deep_lock_keys` attacks whole leaves of 2,048 floats. Here a tree of several leaves is locked: leaf j
under key i is cut from large leaf i + j of a model, another piece each time around, in float32 or
converted; int8 weights are symmetric, the largest of a leaf at 127. The attack sees the locked tree and
nothing else.
"""

import dataclasses
import itertools
import time
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.attacks.keys.ciphertext_only import deep_lock_ciphertext_only
from modellock_jax.locks.deep_lock import DeepLockKey
from modellock_jax.study._single import grid_of, model_of, models_of, only
from modellock_jax.study.config import Settings
from modellock_jax.study.context import Context, prepare
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.record import Study
from modellock_jax.study.report import Grid
from modellock_jax.study.rows import Kind
from modellock_jax.study.store import Rows
from modellock_jax.study.training import PLAIN

__all__ = ["STUDY", "Config", "RatesRow", "share"]

_LONG = "deep_lock(key_bits=256)"
_WORD = "deep_lock(packing='word')"
_BOTH = "deep_lock(key_bits=256, packing='word')"


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The study's settings: `keys` of each row, and the `trees` that each lock is tried on.

    A tree is a text, `LEAVESxWEIGHTS DTYPE`, as "8x256 float32". Those in `narrow`, which take longer,
    are tried on keys of 128 bits alone.
    """

    locks: tuple[str, ...] = ("deep_lock", _LONG, _WORD, _BOTH, "stream_lock")
    seeds: int = 1
    keys: int = 50
    trees: tuple[str, ...] = (
        "1x2048 float32",
        "8x256 float32",
        "32x64 float32",
        "40x50 float32",
        "8x256 bfloat16",
    )
    narrow: tuple[str, ...] = ("1x2048 float16", "1x2048 int8")


class RatesRow(Kind):
    """The attack on many keys of one lock and one kind of tree."""

    lock: Annotated[str, "the lock's text"]
    leaves: Annotated[int, "leaves of the locked tree"]
    weights: Annotated[int, "weights of each"]
    dtype: Annotated[str, "what they are locked in"]
    seed: Annotated[int, "the seed of the model, from 0"]
    keys: Annotated[int, "keys attacked"]
    exact: Annotated[int, "keys found, every bit right"]
    false: Annotated[int, "keys given that are not right"]
    median_s: Annotated[float, "median seconds of one attack, compilation apart"]


def _units(context: Context) -> list[Unit]:
    """Return a row for each seed, lock and tree. Raises `ValueError` for another lock."""
    only(context.subjects, "deep_lock_rates", "deep_lock", "stream_lock")
    c, all_locks = context.config, context.subjects.items()
    short = [text for text, subject in all_locks if subject.settings.get("key_bits") == 128]
    cases = [*itertools.product(c.trees, context.subjects), *itertools.product(c.narrow, short)]
    return [
        Unit(
            _rates_rows,
            (seed, text, tree),
            (f"rates/{seed}/{text}/{tree}",),
            models_of(PLAIN, seed),
        )
        for seed in range(c.seeds)
        for tree, text in cases
    ]


def _rates_rows(context: Context, seed: int, text: str, tree: str) -> list[Row]:
    """Attack many keys, one after the other."""
    shape, dtype = tree.split()
    count, weights = map(int, shape.split("x"))
    params = model_of(context, PLAIN, seed).params
    large = [a.reshape(-1) for a in map(np.asarray, jax.tree.leaves(params)) if a.size >= weights]
    lock, settings = context.subjects[text].lock, context.subjects[text].settings
    attack = {name: settings[name] for name in ("key_bits", "packing") if name in settings}
    found, seconds = {"exact": 0, "false": 0}, []
    for i in range(context.config.keys):
        leaves = [_piece(large, i + j, j // len(large), weights, dtype) for j in range(count)]
        key = lock.init(jax.random.key(i), leaves)
        locked, _ = lock.encrypt(key, leaves)
        if i == 0:
            deep_lock_ciphertext_only(locked, **attack)  # compiles
        begin = time.perf_counter()
        master = deep_lock_ciphertext_only(locked, **attack)
        seconds.append(time.perf_counter() - begin)
        if master is not None:
            right = isinstance(key, DeepLockKey) and bool((master.master == key.master).all())
            found["exact" if right else "false"] += 1
    row: Row = {"id": f"rates/{seed}/{text}/{tree}", "kind": "rates", "lock": text}
    row |= {"leaves": count, "weights": weights, "dtype": dtype, "seed": seed}
    row |= {"keys": context.config.keys, **found, "median_s": float(np.median(seconds))}
    return [row]


def _piece(large: list[np.ndarray], leaf: int, part: int, weights: int, dtype: str) -> jax.Array:
    """Cut `weights` of a large leaf, the piece of that number if there are so many."""
    whole = large[leaf % len(large)]
    first = part % (whole.size // weights) * weights
    piece = jnp.asarray(whole[first : first + weights])
    if dtype == "int8":
        piece = jnp.round(piece * (127 / jnp.abs(piece).max()))
    return piece.astype(dtype)


def share(exact: int, keys: int) -> str:
    """Write how many keys were found with the 95 % interval of Clopper and Pearson, in percent.

    Args:
        exact: Keys found.
        keys: Keys attacked.

    Returns:
        As `50 of 50 [92.9, 100.0]`.

    >>> share(50, 50)
    '50 of 50 [92.9, 100.0]'
    """
    from scipy.stats import binomtest  # two seconds to import, for a table

    low, high = binomtest(exact, keys).proportion_ci()
    return f"{exact} of {keys} [{100 * low:.1f}, {100 * high:.1f}]"


def _grids(rows: Rows, config: Config) -> list[Grid]:
    """One line for each tree and lock."""
    cells = {
        "exact [95 %]": lambda of: share(of[0]["exact"], of[0]["keys"]),
        "false": lambda of: str(of[0]["false"]),
        "median seconds": lambda of: f"{of[0]['median_s']:.2f}",
    }
    title = f"Master keys from ciphertext: {config.data}, {config.model}"
    return [grid_of(title, rows, "rates", ("leaves", "weights", "dtype", "lock", "seed"), cells)]


STUDY = Study(
    name="deep_lock_rates",
    about="Deep-Lock's master key from small leaves and narrow weights, under both packings",
    config=Config,
    quick={"epochs": 1, "keys": 3, "trees": ("8x256 float32",), "narrow": ()},
    prepare=prepare,
    units=_units,
    kinds={"rates": RatesRow},
    grids=_grids,
    drawings={},
)
