"""What a study is about: the data, the model, the locks, and the draws of each seed."""

import dataclasses
import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modellock_jax.attacks.attack import blank
from modellock_jax.core.lock import Lock, Params
from modellock_jax.data import Data, load
from modellock_jax.locks import LockText, parse
from modellock_jax.locks.patch_shuffle import patch_side
from modellock_jax.models import MODELS, Model
from modellock_jax.tasks import TASKS, Score, Task, measure, merit

__all__ = ["Context", "Subject", "assemble", "fresh", "prepare", "rng_for", "subject_of"]


class Subject(NamedTuple):
    """A lock under study: its text as it was given, and what that says of inputs of a `shape`."""

    text: str
    spec: LockText
    lock: Lock

    @property
    def scheme(self) -> str:
        """The name of the lock; of a chain the names of its links, joined by `+`."""
        return self.spec.name

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of the lock; none of a chain, whose links have their own."""
        return self.spec.links[0].settings if len(self.spec.links) == 1 else {}

    @property
    def trained_under(self) -> bool:
        """Whether the key acts in training: on inputs or pre-activations."""
        return any(scheme.trained_under for scheme in self.spec.schemes)


def subject_of(text: str, shape: tuple[int, ...]) -> Subject:
    """Return a lock for inputs of this shape.

    Args:
        text: A lock text, as "sign_mask(bits=64)".
        shape: That of one input, `(H, W, C)` of images.

    Returns:
        The lock with all its settings.

    Raises:
        ValueError: For a text without a lock.

    >>> subject_of("pixel_shuffle", (28, 28, 1)).settings
    {'block': 14, 'channels': 1, 'image_shape': (28, 28, 1)}
    """
    spec = parse(text).complete(shape)
    return Subject(text, spec, spec.lock)


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """What all units of a study share in one process; the run folder is for trained models."""

    config: Any
    folder: Path
    task: Task
    data: Data
    model: Model
    subjects: dict[str, Subject]
    """By their texts."""

    answers: Callable[[Params], Any]
    """The plain forward on the whole test set, compiled once for all locks."""

    score: Callable[[Params], Score]
    """Its score."""

    @property
    def example(self) -> jax.Array:
        """One input of zeros."""
        return blank(self.data.train_x)

    def measure(self, forward: Callable[[Any], Any], x: Any, y: Any) -> Score:
        """Return the score of a forward as rows have it: a unit in % as a share.

        Args:
            forward: `forward(x) -> out`, its parameters and its key closed over.
            x: Inputs, a tree `[N, ...]`.
            y: What is true of them, a tree `[N, ...]`.

        Returns:
            The value, and the share of answers that are not finite.
        """
        found = measure(self.task, forward, x, y)
        return found._replace(value=found.value / 100) if self.percent else found

    @property
    def percent(self) -> bool:
        """Whether the task's unit is in %."""
        return "%" in self.task.unit

    def best(self, values: list[float]) -> float:
        """Return the best of some values, as the task has it.

        Args:
            values: As rows have them, at least one.

        Returns:
            One of them.
        """
        return max(values, key=lambda value: float(merit(self.task, jnp.float32(value))))

    @property
    def prior(self) -> float:
        """What a model that knows nothing reaches: of classes, the share of the most frequent one."""
        if self.about:
            return self.task.chance / (100 if self.percent else 1)
        y = jnp.asarray(self.data.test_y)
        return float(jnp.bincount(y).max() / len(y))

    @property
    def about(self) -> dict[str, Any]:
        """What rows say of the task; nothing where it is classification."""
        t = self.task
        if (t.name, t.unit) == ("classify", "accuracy in %"):
            return {}
        told = {"name": t.name, "unit": t.unit, "chance": float(t.chance), "best": float(t.best)}
        return {"task": told}


def prepare(config: Any, folder: Path, data: Data | None = None) -> Context:
    """Check the whole configuration before anything is written.

    Args:
        config: The study's settings.
        folder: That of the run, which need not exist.
        data: What the owner has; None for the data set of the settings.

    Returns:
        Model, task, data and locks, for the study's units.

    Raises:
        ValueError: For an unknown data set, model, lock or setting, one that does not fit the data
            or the model, or a lock named twice.
        ConnectionError: If the data set cannot be had.
    """
    if config.model not in MODELS:
        raise ValueError(f"there is no model {config.model!r}; the models are {', '.join(MODELS)}")
    data = data or load(config.data)
    factory = MODELS[config.model]
    options: dict[str, Any] = {}
    if "patch" in inspect.signature(factory).parameters:
        options["patch"] = patch_side(data.train_x.shape[1:])
    model = factory(data.classes, **options)
    return assemble(config, folder, model, TASKS[data.task](data.classes), data)


def assemble(config: Any, folder: Path, model: Model, task: Task, data: Data) -> Context:
    """Check that locks, model, task and data fit each other.

    Args:
        config: The study's settings.
        folder: That of the run, which need not exist.
        model: Functions of the inputs of `data`.
        task: What the model is for.
        data: The arrays.

    Returns:
        All of it, for the study's units.

    Raises:
        ValueError: As in `prepare`.
    """
    if config.seeds < 1:
        raise ValueError(f"a study needs at least one seed, not {config.seeds}")
    for text in config.locks:
        if config.locks.count(text) > 1:
            raise ValueError(f"the lock {text!r} is named twice; name each lock once")
    subjects = {text: subject_of(text, data.train_x.shape[1:]) for text in config.locks}
    example = blank(data.train_x)
    try:
        params = jax.eval_shape(lambda rng: model.init(rng, example), jax.random.key(0))
        # As in training: some models take every input, and answer it with nonsense.
        jax.eval_shape(lambda p: task.loss(model.forward(p, example), data.train_y[:1]), params)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the model {config.model} does not fit the data {config.data}, inputs "
            f"{list(data.train_x.shape[1:])} for {task.name}: {str(error).splitlines()[0]}"
        ) from None
    for subject in subjects.values():
        jax.eval_shape(subject.lock.init, jax.random.key(0), params)

    @jax.jit
    def answers(params: Params) -> Any:
        return model.forward(params, jnp.asarray(data.test_x))

    @jax.jit
    def score(params: Params) -> Score:
        return context.measure(
            lambda x: model.forward(params, x), jnp.asarray(data.test_x), jnp.asarray(data.test_y)
        )

    context = Context(config, folder, task, data, model, subjects, answers, score)
    return context


def rng_for(seed: int, purpose: str) -> jax.Array:
    """Derive a generator for one purpose of one seed, by the hash of both: none is used twice.

    Args:
        seed: From 0 on.
        purpose: In a few words.

    Returns:
        A JAX PRNG key.
    """
    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    return jax.random.key(int.from_bytes(digest[:4]))


def fresh(context: Context, seed: int) -> Params:
    """Return the untrained model of one seed.

    Args:
        context: The study.
        seed: From 0 on.

    Returns:
        Parameters, a tree of arrays.
    """
    return context.model.init(rng_for(seed, "init"), context.example)
