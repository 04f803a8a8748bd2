"""What several users' copies of one model give away to each other.

The threat model behind every lock with a key per user: *a user who has a key holds the plain model*.
`decrypt(own key, own copy)` is the plain tree, the same for all users, so a legitimate user who
colludes has no use for another user's weights. What is left to lose is the other user's key:

| lock | what one user's key and another's copy give |
| --- | --- |
| `sign_flip` | the other key, exactly: `sign_flip_known_plaintext` |
| `deep_lock` | the other master key: `deep_lock_base_model(copy, plain)` |
| `stream_lock` | that copy's key stream and no key: the next copy has another stream and stays shut |
| `adv_params` | the other key's positions and true bits: `compare_copies([copy, plain])` |

Without any key, copies may still be compared, averaged, or put to the vote.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from modellock_jax.attacks._programs import bind
from modellock_jax.attacks._train import fit_best_rate, task_score
from modellock_jax.attacks.attack import Attack
from modellock_jax.attacks.case import ANY, Case, Entry, Found, with_key, with_weights
from modellock_jax.attacks.weights.fine_tune import fine_tune
from modellock_jax.core.bits import check_leaves, floats_as_bits, from_uint, to_uint
from modellock_jax.core.lock import Key, Lock, Params, owner_forward
from modellock_jax.core.outputs import output_axes
from modellock_jax.locks.sign import SignKey, sign_flip
from modellock_jax.models import Model
from modellock_jax.tasks import Task, classify

__all__ = [
    "ENTRIES",
    "average_copies",
    "compare_copies",
    "fine_tune_under_key",
    "sign_flip_known_plaintext",
    "tuned_under_key",
    "vote_copies",
]


def fine_tune_under_key(
    lock: Lock,
    model: Model,
    key: Key,
    learning_rate: Any,
    example: Any,
    task: Task = classify(),
) -> Attack:
    """`fine_tune` through a key of one's own: is a wrong key a head start on another user's copy?

    `init(rng, locked)` opens the other copy with this `key` and sanitises; every step and the answer
    run under it too. Steps and the other arguments are those of `fine_tune`.

    Args:
        lock: The lock with its settings, which are public.
        model: The architecture.
        key: The attacker's own key.
        learning_rate: Adam's; may be traced.
        example: Inputs `[B, ...]`, of which only shapes and dtypes count.
        task: What the model is for.

    Returns:
        An attack whose `step(state, (x, y))` gives the loss, a float32.

    Threat model: the user with `key` holds another user's copy and labelled data, and does not use
    that own copy plus key already are the plain model.

    **Guarantees.** With the copy's own key the first answer is the user's. Print it beside
    `fine_tune` without a key and on fresh weights.
    """
    owner, train = owner_forward(lock, model.forward), owner_forward(lock, model.train)
    under = Model(model.init, partial(owner, key), partial(train, key))
    attack = fine_tune(under, learning_rate, example, task=task)
    return attack._replace(init=lambda rng, locked: attack.init(rng, lock.decrypt(key, locked)))


def compare_copies(copies: Sequence[Params]) -> Params:
    """Where copies differ: bool, True where not all have the same bits. Two copies or more.

    Args:
        copies: Two or more locked trees of one structure.

    Returns:
        A tree like each of the copies, of bools of the leaves' shapes.

    Raises:
        ValueError: For fewer copies, or trees that do not fit each other.

    Threat model: the attacker holds the copies of two users, locked under two keys, and no key.

    **Guarantees.** Exact on bits. Under `adv_params` it marks changed weights and no other; those that
    every key drove to one bound are alike in all copies and stay unmarked.

    >>> import jax.numpy as jnp
    >>> compare_copies([jnp.array([1.0, 2.0]), jnp.array([1.0, -2.0])]).tolist()
    [False, True]
    """
    first, *others = _bits("compare_copies", copies, 2)

    def differ(a: jax.Array, *rest: jax.Array) -> jax.Array:
        return jnp.stack([a != b for b in rest]).any(0)

    return jax.tree.map(differ, first, *others)


def average_copies(copies: Sequence[Params]) -> Params:
    """Return the mean of each float weight over the copies; other leaves are those of the first copy.

    Args:
        copies: Two or more locked trees of one structure.

    Returns:
        A tree like each of the copies.

    Raises:
        ValueError: For fewer than two copies, or trees that do not fit each other.

    Threat model: the attacker holds the copies of several users and no key.

    **Guarantees.** A change that one of n copies has shrinks to 1/n of itself and does not go away;
    signs cancel at random; of bits under a cipher the mean is noise. See `vote_copies`.

    Source: averaging as in collusion on fingerprints, Cox et al. (1997).

    >>> import jax.numpy as jnp
    >>> average_copies([jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])]).tolist()
    [1.0, 3.0]
    """
    _bits("average_copies", copies, 2)

    def mean(*leaves: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaves[0].dtype, jnp.floating):
            return leaves[0]
        return jnp.stack(leaves).mean(0, dtype=jnp.float32).astype(leaves[0].dtype)

    return jax.tree.map(mean, *copies)


def vote_copies(copies: Sequence[Params]) -> Params:
    """Return the bits that most copies have, weight by weight; the earliest copy's where none leads.

    Args:
        copies: Three or more locked trees of one structure.

    Returns:
        A tree like each of the copies.

    Raises:
        ValueError: For fewer than three copies, or trees that do not fit each other.

    Threat model: the attacker holds the copies of three users or more, and no key.

    **Guarantees.** Exact where fewer than half of the copies change a weight: three copies under
    `adv_params` restore the plain model but for weights that two of the keys chose. Of no use where
    every copy changes every weight.

    Source: the majority attack on fingerprints, Boneh & Shaw (1998).

    >>> import jax.numpy as jnp
    >>> vote_copies([jnp.array([1.0, 9.0]), jnp.array([1.0, 2.0]), jnp.array([7.0, 2.0])]).tolist()
    [1.0, 2.0]
    """
    held = _bits("vote_copies", copies, 3)

    def vote(like: jax.Array, *leaves: jax.Array) -> jax.Array:
        found, votes = leaves[0], jnp.zeros(leaves[0].shape, jnp.int32)
        for leaf in leaves:
            mine = jnp.stack([leaf == other for other in leaves]).sum(0, dtype=jnp.int32)
            found, votes = jnp.where(mine > votes, leaf, found), jnp.maximum(mine, votes)
        return from_uint(found, like.dtype)

    return jax.tree.map(vote, copies[0], *held)


def sign_flip_known_plaintext(locked: Params, known: Params, bits: int = 256) -> SignKey | None:
    """Return the signs by which `sign_flip(bits)` changed `known` into `locked`.

    Bits that reach no channel are +1. Two users' locked copies give the product of their keys: one key
    then opens both.

    Args:
        locked: The locked parameters, a tree of arrays.
        known: The plain parameters, or what another key made of them.
        bits: The length of the key, at least 1.

    Returns:
        The key, +1 and -1, int8 `[bits]`; None if no key did that.

    Raises:
        ValueError: For trees that do not fit each other or a tree on which the lock does not act.

    Threat model: the attacker holds a copy and the plain weights, as every user with a key does. With a
    base that differs from them see `signs_from_base`.

    **Guarantees.** Exact, from one row per channel; None if any weight contradicts it.

    >>> import jax, modellock_jax as ml
    >>> plain, lock = {"kernel": jax.numpy.ones((2, 3))}, ml.sign_flip(bits=3)
    >>> key = ml.SignKey(jax.numpy.array([1, -1, -1], "int8"))
    >>> sign_flip_known_plaintext(lock.encrypt(key, plain)[0], plain, bits=3).signs.tolist()
    [1, -1, -1]
    """
    ours, theirs = _bits("sign_flip_known_plaintext", [known, locked], 2)
    signs = jnp.ones(bits, jnp.int8)
    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)))
    for i, axis in output_axes("sign_flip_known_plaintext", known).items():
        differs = jnp.moveaxis(pairs[i][0] != pairs[i][1], axis, 0)
        flipped = differs.reshape(differs.shape[0], -1).any(1)
        negated = jnp.where(flipped, -1, 1).astype(jnp.int8)
        signs = signs.at[jnp.arange(flipped.size) % bits].min(negated)
    key = SignKey(signs)
    opened = floats_as_bits(sign_flip(bits).decrypt(key, locked))
    same = jax.tree.map(lambda a, b: (a == b).all(), opened, floats_as_bits(known))
    return key if bool(jax.tree.reduce(jnp.logical_and, same)) else None


def _bits(name: str, copies: Sequence[Params], least: int) -> list[Params]:
    """Return the bits of each copy, every leaf an unsigned integer."""
    if len(copies) < least:
        raise ValueError(f"{name}: needs at least {least} copies, not {len(copies)}")
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), copy) for copy in copies]
    if any(other != shapes[0] for other in shapes):
        raise ValueError(f"{name}: the copies differ in structure, shapes or dtypes")
    check_leaves(name, copies[0])
    return [jax.tree.map(to_uint, copy) for copy in copies]


def _plaintext(case: Case) -> Found | None:
    bits = case.settings.get("bits", 256)
    return with_key(case, sign_flip_known_plaintext(case.locked, case.public_base, bits))


def _average(case: Case) -> Found:
    return with_weights(case, average_copies([case.locked, *case.more_copies]))


def _vote(case: Case) -> Found:
    return with_weights(case, vote_copies([case.locked, *case.more_copies]))


def tuned_under_key(case: Case, key: Key, **settings: Any) -> Found:
    """Run `fine_tune_under_key` on all labels that the attacker has, with the best of some rates.

    Args:
        case: What the attacker has, labels among it.
        key: The key that they believe in.
        **settings: Learning rates, steps and batch size.

    Returns:
        What they end with.
    """

    def attack(rate: Any, example: Any) -> Attack:
        return fine_tune_under_key(case.lock, case.model, key, rate, example, case.task)

    score = bind(task_score, case.task)
    return fit_best_rate(case, attack, score, case.locked, *case.labels, **settings)


def _under_key(case: Case, **settings: Any) -> Found:
    return tuned_under_key(case, case.other_copy.key, **settings)


ENTRIES = (
    Entry("sign_flip_known_plaintext", _plaintext, ("sign_flip",), ("public_base",), "key"),
    Entry("average_copies", _average, ANY, ("more_copies",), "weights"),
    Entry("vote_copies", _vote, ANY, ("more_copies",), "weights"),
    Entry("fine_tune_under_key", _under_key, ANY, ("labels", "other_copy"), "weights"),
)
