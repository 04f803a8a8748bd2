"""The shape of a task, and how well a model does at one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax.tasks.augment import unchanged

__all__ = ["Out", "Score", "Tally", "Task", "finite", "measure", "merit", "share", "squared_error"]

Out = Any
Tally = Any


def squared_error(out: Out, answers: Out) -> jax.Array:
    """Compute the mean squared difference of each example.

    An example whose answer is not finite gives 0: it teaches nothing.

    Args:
        out: A model's answers, float, a tree `[B, ...]`.
        answers: Another model's, of the same shapes.

    Returns:
        float `[B]`.
    """
    usable = finite(answers)

    def one(a: jax.Array, b: jax.Array) -> jax.Array:
        known = usable.reshape(-1, *(1,) * (a.ndim - 1))
        return (
            jnp.where(known, jnp.square(a - jnp.where(known, b, 0)), 0).reshape(len(a), -1).mean(-1)
        )

    return jax.tree.reduce(jnp.add, jax.tree.map(one, out, answers))


class Task(NamedTuple):
    """What a model is for: pure functions of its answers `out`, a tree `[B, ...]`, and the truth `y`.

    Attributes:
        name: As in `TASKS`.
        unit: Of `value`, such as "accuracy in %".
        loss: `(out, y) -> [B]`, what training lowers.
        harm: `(out, y) -> scalar`, a smooth count of errors, which locks that want a model to fail
            raise.
        tally: `(out, y) -> Tally`, a tree of numbers of which those of two batches are added.
        value: `(Tally) -> scalar`, in `unit`.
        chance: The value of a model that knows nothing.
        best: The value of one that makes no error; more is better if it is above `chance`, else less.
        augment: `(rng, x) -> x`, inputs changed so that y stays true.
        match: `(out, answers) -> [B]`, how far a model's answers are from another's, 0 where they are
            equal and where the other's are not finite.

    **Guarantees** of the tasks here, and what any other should keep
      * An answer that is not finite counts as the worst there is, in `loss`, `harm` and `value`.
      * The sum of the tallies of two batches is the tally of both together, but for the rounding of
        sums of floats; zeros are the tally of nothing.
      * The order of examples counts nowhere, again but for rounding.

    >>> from modellock_jax.tasks import classify
    >>> import jax.numpy as jnp
    >>> task, out, y = classify(2), jnp.array([[2.0, 1.0], [jnp.nan, 0.0]]), jnp.array([0, 0])
    >>> float(task.value(task.tally(out, y))), task.unit
    (50.0, 'accuracy in %')
    """

    name: str
    unit: str
    loss: Callable[[Out, Any], jax.Array]
    harm: Callable[[Out, Any], jax.Array]
    tally: Callable[[Out, Any], Tally]
    value: Callable[[Tally], jax.Array]
    chance: float
    best: float
    augment: Callable[[jax.Array, Any], Any] = unchanged
    match: Callable[[Out, Out], jax.Array] = squared_error


class Score(NamedTuple):
    """How well a model does at a task.

    Attributes:
        value: float32, in the task's unit.
        non_finite: The share of examples with a NaN or an infinity in their answers, float32 in [0, 1].
    """

    value: jax.Array
    non_finite: jax.Array


def finite(out: Out) -> jax.Array:
    """Which examples hold neither NaN nor infinity.

    Args:
        out: Answers, a tree `[B, ...]`.

    Returns:
        bool `[B]`.
    """
    leaves = [jnp.isfinite(leaf).reshape(len(leaf), -1).all(-1) for leaf in jax.tree.leaves(out)]
    return jnp.stack(leaves).all(0)


def share(part: jax.Array, whole: jax.Array) -> jax.Array:
    """Divide counts, part / whole, float32: 1 for all of them, whatever the number.

    Args:
        part: Counts, integers `[...]`.
        whole: Counts, at least 1 and `part`, `[...]`.

    Returns:
        float32 `[...]`, in [0, 1].

    >>> import jax
    >>> float(jax.jit(lambda n: share(n, jax.numpy.int32(6)))(jax.numpy.int32(6)))
    1.0
    """
    # A constant is divided by as its reciprocal is multiplied by, which rounds twice.
    part, whole = lax.optimization_barrier((part, whole))
    return part.astype(jnp.float32) / whole.astype(jnp.float32)


def merit(task: Task, value: jax.Array) -> jax.Array:
    """Return the value, negated where less is better: of two merits the higher is the better one.

    Args:
        task: What the model is for.
        value: In the task's unit.

    Returns:
        float, of the value's shape.
    """
    return value if task.best > task.chance else -value


def measure(
    task: Task, forward: Callable[[Any], Out], x: Any, y: Any, batch: int | None = None
) -> Score:
    """Score a model at a task.

    Args:
        task: What the model is for.
        forward: `forward(x) -> out`, its parameters and its key closed over.
        x: Inputs, a tree `[N, ...]`.
        y: What is true of them, a tree `[N, ...]`.
        batch: How many inputs `forward` gets at a time; all if None.

    Returns:
        The value in the task's unit, and the share of answers that are not finite, in [0, 1]. It is
        pure, so jit it with `task` and `forward` closed over.

    Raises:
        ValueError: If there are no inputs, or not as many as truths, or `batch` is below 1.

    **Guarantees.** An answer that is not finite counts as the worst (see `Task`).

    >>> import jax.numpy as jnp
    >>> from modellock_jax.tasks import classify
    >>> logits = jnp.array([[2.0, 1.0], [jnp.nan, 0.0], [0.0, 1.0], [3.0, 0.0]])
    >>> score = measure(classify(2), lambda x: logits[x], jnp.arange(4), jnp.array([0, 0, 1, 1]))
    >>> [float(number) for number in score]
    [50.0, 0.25]
    """
    sizes = {len(leaf) for leaf in jax.tree.leaves((x, y))}
    n = min(sizes, default=0)
    if len(sizes) != 1 or n == 0 or (batch is not None and batch < 1):
        raise ValueError(
            "measure: needs as many inputs as truths, at least one, and batches of at least 1, not "
            f"{sorted(sizes)} and {batch}"
        )

    def part(x: Any, y: Any) -> tuple[Tally, jax.Array]:
        out = forward(x)
        return task.tally(out, y), (~finite(out)).sum(dtype=jnp.int32)

    if batch is None or batch >= n:
        tally, bad = part(x, y)
    else:
        whole = n - n % batch
        rows = jax.tree.map(lambda a: a[:whole].reshape(-1, batch, *a.shape[1:]), (x, y))
        rest = jax.tree.map(lambda a: a[whole:], (x, y))
        found = jax.tree.map(lambda a: a.sum(0, dtype=a.dtype), lax.map(lambda at: part(*at), rows))
        tally, bad = jax.tree.map(jnp.add, found, part(*rest)) if n % batch else found
    return Score(task.value(tally), share(bad, jnp.int32(n)))
