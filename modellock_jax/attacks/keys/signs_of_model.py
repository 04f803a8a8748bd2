"""The sign key of a whole model from its locked weights: which kernels to ask, and which sign."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from modellock_jax.attacks.case import Case, Entry, Found, with_key
from modellock_jax.attacks.keys.sign_pairs import Writer, sign_pairs
from modellock_jax.attacks.keys.sign_search import SIGNS, as_mask
from modellock_jax.attacks.keys.signs_from_weights import LEVEL, Pair, SignReading, read_signs
from modellock_jax.core.lock import Forward, Params
from modellock_jax.locks.sign import SignKey

__all__ = ["ENTRIES", "pairs_by_bit", "read_model_signs", "reading_of", "sign_votes"]


def pairs_by_bit(writers: Sequence[Writer], bits: int, per: str) -> list[Pair]:
    """Keep the pairs of a model whose column j is multiplied by bit j mod `bits`, under `per`.

    Per unit, a convolution's positions have signs of their own, unless rounds of the key end with its
    channels.

    Args:
        writers: The model's kernels, as `sign_pairs` finds them.
        bits: The length of the key, at least 1.
        per: "unit" or "channel", as in `sign_mask`.

    Returns:
        The pairs, in the order of the model.
    """
    return [
        (one.kernel, one.reader)
        for one in writers
        if one.reader is not None
        and (per == "channel" or one.positions == 1 or one.kernel.shape[1] % bits == 0)
    ]


def sign_votes(writers: Sequence[Writer], signs: jax.Array) -> float:
    """How far biases and the last layer are for these signs, > 0, or for their negative, < 0.

    Between a norm and an activation such as relu or gelu training adds mostly what is negative, so that
    units are off for most inputs. A softmax head over several classes reads activations that are mostly
    positive, and learns columns with a negative mean. Under the lock both have the signs of minus the
    key.

    Args:
        writers: The model's kernels, as `sign_pairs` finds them.
        signs: A key, +1 and -1, int8 `[bits]`.

    Returns:
        The vote, a float, in standard deviations of that of random signs; 0 where nothing shows them.
    """
    votes = [-np.asarray(one.shift) for one in writers]
    if writers[-1].reader is None:
        votes.append(-np.asarray(writers[-1].kernel.mean(0)))
    key = np.asarray(signs, np.float32)
    total = 0.0
    for vote in votes:
        size = float(np.linalg.norm(vote))
        if 0 < size < np.inf:
            total += float(vote @ key[np.arange(len(vote)) % len(key)]) / size
    return total


def read_model_signs(
    forward: Forward, params: Params, example: Any, bits: int, per: str
) -> SignReading | None:
    """Read the signs of a whole model off its weights, on the side that biases and the last layer show.

    Args:
        forward: `forward(params, x)` of the architecture.
        params: The locked parameters, a tree of arrays.
        example: Inputs `[1, ...]` whose values do not matter.
        bits: The length of the key, at least 1.
        per: "unit" or "channel", as in `sign_mask`.

    Returns:
        What `read_signs` says, with the side chosen by `sign_votes`; None if no layer can be read, or
        without evidence at the level of 1 %.
    """
    writers = sign_pairs(forward, params, example)
    pairs = pairs_by_bit(writers, bits, per)
    reading = read_signs(pairs, bits) if pairs else None
    if reading is None or reading.p_value > LEVEL:
        return None
    negated = sign_votes(writers, reading.signs) < 0
    return reading._replace(signs=-reading.signs) if negated else reading


def _signs_from_weights(case: Case) -> Found | None:
    reading = reading_of(case)
    return with_key(case, None if reading is None else SignKey(reading.signs))


def reading_of(case: Case) -> SignReading | None:
    """Return `read_model_signs` of a case under a sign lock.

    Args:
        case: What the attacker has, of which the weights alone are read.

    Returns:
        The reading; None without evidence.
    """
    bits, per = as_mask(case)[1], case.settings.get("per", "channel")
    return read_model_signs(case.model.forward, case.locked, case.example, bits, per)


ENTRIES = (Entry("signs_from_weights", _signs_from_weights, SIGNS, (), "key"),)
