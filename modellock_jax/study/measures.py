"""What the league measures beside its attacks: keys near the right one, and who finds a change."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.attacks.case import ANY
from modellock_jax.attacks.weights import localise
from modellock_jax.core.lock import Key, Params, user_forward
from modellock_jax.core.over_keys import over_keys
from modellock_jax.study.context import Context, Subject, rng_for
from modellock_jax.study.training import Locked

__all__ = ["FALSE_POSITIVES", "MEASURES", "Measure", "agreement", "distance", "roc"]

_CHANGES, _DRAWS, _IMAGES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256), 8, 2000
FALSE_POSITIVES = tuple(float(f) for f in np.geomspace(1e-5, 1, 26).round(7))


def distance(context: Context, subject: Subject, seed: int, owned: Locked) -> dict[str, Any]:
    """Accuracy against distance: the right key after so many random changes, each by one bit or swap.

    Args:
        context: The study.
        subject: The lock.
        seed: Of the changes, from 0 on.
        owned: The locked model and its key.

    Returns:
        `changes`, how many; `share` `[changes]`, entries of the key that are still right, a mean
        over draws; `accuracy` `[changes][draws]`, on the first 2,000 test images.
    """
    user = user_forward(subject.lock, context.model.forward)
    x, y = (jnp.asarray(a[:_IMAGES]) for a in (context.data.test_x, context.data.test_y))

    @jax.jit
    def measure(rngs: jax.Array, right: Key, locked: Params) -> tuple[jax.Array, jax.Array]:
        def walk(rng: jax.Array) -> Key:
            def change(key: Key, rng: jax.Array) -> tuple[Key, Key]:
                return subject.spec.near(rng, key), key

            keys = lax.scan(change, right, jax.random.split(rng, _CHANGES[-1] + 1))[1]
            return jax.tree.map(lambda leaf: leaf[jnp.array(_CHANGES)], keys)

        keys = jax.tree.map(
            lambda leaf: leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:]), jax.vmap(walk)(rngs)
        )
        found = over_keys(
            lambda k: context.measure(partial(user, k, locked), x, y).value, keys, chunk=4
        )
        share = jax.vmap(lambda k: agreement(k, right))(keys)
        return found.reshape(-1, _DRAWS), share.reshape(-1, _DRAWS).mean(1)

    accuracy, share = measure(
        jax.random.split(rng_for(seed, "distance"), _DRAWS), owned.key, owned.locked
    )
    return {"changes": _CHANGES, "share": share.tolist(), "accuracy": accuracy.tolist()}


def agreement(found: Key, right: Key) -> jax.Array:
    """Return the share of a key's entries that are right, bit by bit where they are words: float32.

    Args:
        found: A key.
        right: The right one, a tree of the same shapes and dtypes.

    Returns:
        float32, in [0, 1].
    """
    shares = []
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(right)):
        if a.dtype == jnp.uint32:
            shares.append(1 - lax.population_count(a ^ b).mean(dtype=jnp.float32) / 32)
        else:
            shares.append((a == b).mean(dtype=jnp.float32))
    return jnp.stack(shares).mean()


def roc(context: Context, subject: Subject, seed: int, owned: Locked) -> dict[str, Any]:
    """Whether the changed weights can be found without data: true against false positives.

    Args:
        context: The study.
        subject: The lock.
        seed: Of the model, from 0 on.
        owned: The locked model and its key.

    Returns:
        For each score of `localise.SCORES` the area under the curve, `auc`, and the curve, `tpr`,
        at the false positive rates `fpr`.
    """
    truth = localise.changed_weights(owned.locked, owned.params)
    aucs, curves = {}, {}
    for name, scores in localise.SCORES.items():
        found = jax.jit(lambda p, t, f=scores: localise.roc(f(p), t))(owned.locked, truth)
        last = np.searchsorted(np.asarray(found.fpr), FALSE_POSITIVES, side="right") - 1
        aucs[name], curves[name] = float(found.auc), np.asarray(found.tpr)[last].tolist()
    return {"changed": int(truth.sum()), "auc": aucs, "fpr": FALSE_POSITIVES, "tpr": curves}


class Measure(NamedTuple):
    """`measure(context, subject, seed, owned)` gives a row; `against`: names of schemes, or `ANY`."""

    measure: Callable[[Context, Subject, int, Locked], dict[str, Any]]
    against: tuple[str, ...]

    def fits(self, scheme: str) -> bool:
        """Whether it says something of locks of that scheme.

        Args:
            scheme: The name of a lock's record.

        Returns:
            True if it does.
        """
        return self.against == ANY or scheme in self.against


MEASURES: dict[str, Measure] = {
    "distance": Measure(distance, ANY),
    "roc": Measure(roc, ("adv_params",)),
}
"""What is measured of the locks of a league, by name."""
