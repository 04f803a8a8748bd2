"""Attacks: what the attacker makes of a locked model without the key."""

from modellock_jax.attacks.attack import Attack, run, sanitise
from modellock_jax.attacks.ciphertext_only import deep_lock_ciphertext_only
from modellock_jax.attacks.fine_tune import fine_tune
from modellock_jax.attacks.known_plaintext import deep_lock_base_model, deep_lock_known_plaintext
from modellock_jax.attacks.stream_reuse import stream_reuse

__all__ = [
    "Attack",
    "deep_lock_base_model",
    "deep_lock_ciphertext_only",
    "deep_lock_known_plaintext",
    "fine_tune",
    "run",
    "sanitise",
    "stream_reuse",
]
