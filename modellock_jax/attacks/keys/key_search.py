"""Key search: how a key is scored, and keys drawn at random.

Each search needs only the user's forward and a few inputs of the model's kind. The loss is the
task's on truths `y`; where `y` are `Answers`, an unlocked model's logits `[B, ..., classes]`, the mean
squared difference of log-probabilities; with `y=None` the mean entropy of the predictions less the
entropy of their mean (Krause et al. 2010), which needs no labels. A key under which any answer is not
finite has loss infinity.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from modellock_jax.attacks._programs import bind, compiled
from modellock_jax.attacks.case import ANY, Case, Entry, Found, with_key
from modellock_jax.core.lock import Forward, Key, Lock, Params, user_forward
from modellock_jax.core.over_keys import over_keys
from modellock_jax.tasks import Task, classify, cross_entropy, finite

__all__ = [
    "CHUNK",
    "ENTRIES",
    "Answers",
    "KeyScores",
    "key_loss",
    "log_probabilities",
    "random_keys",
]

CHUNK = 16  # keys scored at a time: their activations on 8 inputs should fit a CPU's cache


class Answers(NamedTuple):
    """What an unlocked device answered to the inputs beside it, in place of truths.

    Attributes:
        logits: float `[B, ..., classes]`, or log-probabilities.
    """

    logits: jax.Array


class KeyScores(NamedTuple):
    """What `random_keys` finds.

    Attributes:
        key: The best key.
        loss: Its loss on all inputs, float32.
        first_losses: Every key's on the first inputs, float32 `[keys]`.
        survivors: Which keys were scored on all inputs, int32 `[survivors]`.
        losses: Theirs there, float32 `[survivors]`.
    """

    key: Key
    loss: jax.Array
    first_losses: jax.Array
    survivors: jax.Array
    losses: jax.Array


def random_keys(
    lock: Lock,
    forward: Forward,
    locked: Params,
    x: Any,
    y: Any,
    rng: jax.Array,
    *,
    task: Task = classify(),
    keys: int = 10_000,
    first: int = 8,
    survivors: int = 256,
    chunk: int = CHUNK,
    mesh: Mesh | None = None,
) -> KeyScores:
    """Draw `keys` keys, score all on the `first` inputs and the best `survivors` on all inputs.

    Inputs x `[B, ...]`, and y, their truths, `Answers` or None (see the module). Pure: jit it with
    the lock and the counts closed over, and it is one program, in memory for `chunk` keys on the
    first inputs: of survivors it takes as many fewer at a time as all inputs are more. What comes
    before the first mask does not depend on the key and is computed once a chunk. The devices of a
    `mesh` of one axis share the keys (see `over_keys`).

    Args:
        lock: The lock with its settings, which are public.
        forward: `forward(params, x, tap)` of the architecture.
        locked: The locked parameters, a tree of arrays.
        x: Inputs, a tree `[B, ...]`.
        y: Their truths, `Answers` or None (see the module).
        rng: A JAX PRNG key.
        task: What the model is for.
        keys: How many keys are drawn.
        first: How many inputs score every key, at most B.
        survivors: How many keys are scored on all inputs, at most `keys`.
        chunk: How many keys are scored at a time on the first inputs.
        mesh: A mesh of one axis, whose devices share the work; see `over_keys`.

    Returns:
        The best key, and what every key scored; see `KeyScores`.

    Raises:
        ValueError: For counts below 1 or more than there are.

    Threat model: the attacker has the locked weights, the scheme and a few inputs of the right kind.

    **Guarantees.** Key number i is `lock.init(jax.random.split(rng, keys)[i], locked)`. With `first`
    all inputs and `survivors` all keys nothing is rejected early.

    Source: the random search of AprilPyone & Kiya (2020).

    >>> import jax, modellock_jax as ml
    >>> def forward(params, x, tap=ml.untapped):
    ...     return tap("dense", x @ params)
    >>> lock, x = ml.sign_mask(bits=3), jax.numpy.eye(3)
    >>> params = jax.numpy.diag(jax.numpy.array([4.0, 4.0, -4.0]))
    >>> found = random_keys(lock, forward, params, x, jax.numpy.arange(3), jax.random.key(0),
    ...                     keys=40, first=2, survivors=4)
    >>> found.key.signs.tolist()
    [1, 1, -1]
    """
    n = len(jax.tree.leaves(x)[0])
    if not 1 <= survivors <= keys or not 1 <= first <= n or chunk < 1:
        raise ValueError(
            f"random_keys: {survivors} survivors of {keys} keys, the first {first} of {n} "
            f"inputs, chunks of {chunk}: each must be at least 1 and at most what there is"
        )
    user, rngs = user_forward(lock, forward), jax.random.split(rng, keys)

    def losses(rngs: jax.Array, inputs: int, chunk: int) -> jax.Array:
        some, known = jax.tree.map(lambda a: a[:inputs], (x, y))

        def one(words: jax.Array) -> jax.Array:
            key = lock.init(jax.random.wrap_key_data(words, impl=impl), locked)
            return key_loss(user(key, locked, some), known, task)

        return over_keys(one, jax.random.key_data(rngs), chunk=chunk, mesh=mesh)

    impl = jax.random.key_impl(rng)
    first_losses = losses(rngs, first, chunk)
    # Infinities sort last, and equal losses in order of their keys.
    chosen = lax.top_k(-first_losses, survivors)[1]
    final = losses(rngs[chosen], n, max(1, chunk * first // n))
    best = jnp.argmin(final)
    key = lock.init(rngs[chosen[best]], locked)
    return KeyScores(key, final[best], first_losses, chosen, final)


def key_loss(out: Any, y: Any, task: Task = classify()) -> jax.Array:
    """Return the loss that a key is scored by (see the module): answers `[B, ...]`, one float32.

    Args:
        out: The model's answers under a key, `[B, ...]`.
        y: Truths `[B, ...]`, `Answers`, or None.
        task: What the model is for.

    Returns:
        The loss, a float32; infinity where an answer is not finite.

    Raises:
        ValueError: Where y are no truths and `out` are no logits.

    >>> import jax.numpy as jnp
    >>> sure = 5 * jnp.eye(2)
    >>> [round(float(key_loss(sure, y)), 3) for y in (jnp.array([0, 1]), jnp.array([1, 0]), None)]
    [0.007, 5.007, -0.653]
    """
    if y is None:
        log_p = log_probabilities(out)
        # In logarithms, since the gradient of 0 log 0 is no number.
        axes = tuple(range(log_p.ndim - 1))
        mean = jax.nn.logsumexp(log_p, axes) - math.log(log_p[..., 0].size)
        loss = (jnp.exp(mean) * mean).sum() - (jnp.exp(log_p) * log_p).sum(-1).mean()
    elif isinstance(y, Answers):
        loss = ((log_probabilities(out) - log_probabilities(y.logits)) ** 2).mean()
    elif task.loss is cross_entropy:
        # The number that it gives, rounded like those of the two other kinds of evidence.
        loss = -jnp.take_along_axis(log_probabilities(out), y[..., None], -1).mean()
    else:
        loss = task.loss(out, y).mean()
    return jnp.where(finite(out).all(), loss, jnp.inf)


def log_probabilities(logits: Any) -> jax.Array:
    """Return log-probabilities of logits.

    Args:
        logits: float `[B, ..., classes]`.

    Returns:
        float32 `[B, ..., classes]`.

    Raises:
        ValueError: For what cannot be logits.
    """
    if not isinstance(logits, jax.Array) or logits.ndim < 2 or logits.shape[-1] < 2:
        found = [getattr(leaf, "shape", leaf) for leaf in jax.tree.leaves(logits)]
        raise ValueError(
            "key search: without truths a key is scored by logits [B, ..., classes], and this model "
            f"answers with {found}; give y, the truths of the inputs"
        )
    return jax.nn.log_softmax(logits.astype(jnp.float32))


def _random_keys(case: Case, **counts: Any) -> Found | None:
    x, y = case.labels
    counts = {"keys": 2000, "first": 8, "survivors": 256} | counts
    search = bind(random_keys, case.lock, case.model.forward, task=case.task, **counts)
    return with_key(case, compiled(search)(case.locked, x[:64], y[:64], case.rng).key)


ENTRIES = (Entry("random_keys", _random_keys, ANY, ("labels",), "key"),)
