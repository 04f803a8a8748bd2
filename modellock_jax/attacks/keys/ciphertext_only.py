"""Deep-Lock's master key from the locked weights alone.

The key schedule is weak in itself: it falls apart into four chains, each of which is searched alone. The
schedule runs on from leaf to leaf, so that the weights of many small leaves add up.
"""

from modellock_jax.attacks.case import Case, Entry, Found
from modellock_jax.attacks.keys._chains import solve
from modellock_jax.attacks.keys._deep_lock_evidence import KINDS, evidence_of, stretches
from modellock_jax.attacks.keys.known_plaintext import decrypt_as_deep_lock, deep_lock_settings
from modellock_jax.core.lock import Params
from modellock_jax.locks.deep_lock import DeepLockKey

__all__ = ["ENTRIES", "deep_lock_ciphertext_only"]

_SURE = 40  # bits of evidence, beyond the size of a chain, before a key is believed


def deep_lock_ciphertext_only(
    locked: Params, key_bits: int = 128, packing: str = "byte"
) -> DeepLockKey | None:
    """Return the master key from locked weights alone: no plain weight is needed.

    Float32, bfloat16, float16 and int8 weights are used, those that lie nearest to one another in the
    tree first, whether in one leaf or in many. Weights of a network are small and alike, so their top
    bytes take few values; guessing four (eight) of them in a chain of the schedule fixes the chain, and
    the other weights say whether the guess was right. Under `packing="word"` two neighbours' top
    bytes are compared: they differ by an S-box image of the chain, and by little else.

    Args:
        locked: A tree locked by `deep_lock(key_bits, packing=packing)`, or its first leaves.
        key_bits: 128 or 256.
        packing: As of the lock.

    Returns:
        The key; None where no weights give one.

    Raises:
        ValueError: For other settings.

    Threat model: the attacker holds the locked weights and knows the scheme. Under
    `restart="leaf"` pass one leaf: the key that comes out opens that leaf and no other.

    **Guarantees.** A key is returned only on evidence that uniform bytes, such as `stream_lock`
    leaves, give with probability below 2**-100. `None` proves nothing: rates of success are in
    `results/deep_lock_keys/`, float16 and int8 weights take longer and fail more often.

    >>> import jax, modellock_jax as ml
    >>> lock, w = ml.deep_lock(), jax.random.normal(jax.random.key(1), (8, 128)) / 10
    >>> leaves = list(w)
    >>> locked, key = lock.encrypt(lock.init(jax.random.key(0), leaves), leaves)
    >>> bool((deep_lock_ciphertext_only(locked).master == key.master).all())
    True
    >>> deep_lock_ciphertext_only(leaves) is None
    True
    """
    if key_bits not in (128, 256):
        raise ValueError(f"deep_lock_ciphertext_only: key_bits must be 128 or 256, not {key_bits}")
    if packing not in ("byte", "word"):
        raise ValueError(
            f'deep_lock_ciphertext_only: packing must be "byte" or "word", not {packing!r}'
        )
    words = key_bits // 32
    for stretch in stretches(locked, packing, words // 4):
        for guess in range(max(len(kind.guesses) for kind in KINDS.values())):
            shown = evidence_of(stretch, words, packing, guess)
            if shown is None or guess >= len(KINDS[shown[1]].guesses):
                break
            evidence, dtype = shown
            search = getattr(KINDS[dtype], packing)[key_bits]
            master, bits = solve(evidence, search)
            if (bits > 8 * words + _SURE).all():
                return DeepLockKey(master)
    return None


def _ciphertext_only(case: Case) -> Found | None:
    key = deep_lock_ciphertext_only(case.locked, **deep_lock_settings(case))
    return decrypt_as_deep_lock(case, key)


ENTRIES = (
    Entry("deep_lock_ciphertext_only", _ciphertext_only, ("deep_lock", "stream_lock"), (), "key"),
)
