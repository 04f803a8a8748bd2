"""Attacks: what the attacker makes of a locked model without the key."""

from modellock_jax.attacks.attack import Attack, run_batches, run_seeds, run_shuffled, sanitise
from modellock_jax.attacks.case import ANY, RIGHTS, Case, Copy, Entry, Found, NotGiven
from modellock_jax.attacks.evasion._adversarial import Evasion
from modellock_jax.attacks.evasion.auto_pgd import apgd
from modellock_jax.attacks.evasion.gradient_masking import gradient_masking
from modellock_jax.attacks.evasion.methods import expectation, fgsm, pgd, square, transfer
from modellock_jax.attacks.keys.chosen_image import (
    chosen_images,
    pixel_shuffle_chosen_image,
    pixel_shuffle_known_pairs,
)
from modellock_jax.attacks.keys.chosen_levels import (
    ffx_chosen_images,
    negative_positive_chosen_image,
)
from modellock_jax.attacks.keys.ciphertext_only import deep_lock_ciphertext_only
from modellock_jax.attacks.keys.key_search import Answers, random_keys
from modellock_jax.attacks.keys.known_plaintext import (
    deep_lock_base_model,
    deep_lock_known_plaintext,
)
from modellock_jax.attacks.keys.logit_oracle import pixel_shuffle_logit_oracle
from modellock_jax.attacks.keys.negative_from_weights import negative_from_weights
from modellock_jax.attacks.keys.oracle import sign_mask_oracle
from modellock_jax.attacks.keys.permutation_from_base import permutation_from_base
from modellock_jax.attacks.keys.permutation_from_weights import permutation_from_weights
from modellock_jax.attacks.keys.permutation_search import anneal, hill_climb
from modellock_jax.attacks.keys.relaxation import relaxed_permutation, relaxed_signs
from modellock_jax.attacks.keys.relaxed_key import best_key, relaxed_key
from modellock_jax.attacks.keys.relaxed_values import relaxed_ffx, relaxed_negative
from modellock_jax.attacks.keys.sign_algebra import linear_flips
from modellock_jax.attacks.keys.sign_search import coordinate_flips, genetic
from modellock_jax.attacks.keys.signs_from_base import (
    BaseReading,
    read_signs_from_base,
    signs_from_base,
)
from modellock_jax.attacks.keys.signs_from_weights import (
    SignReading,
    read_signs,
    signs_from_weights,
)
from modellock_jax.attacks.table import ATTACKS, attempt
from modellock_jax.attacks.weights.descent import adv_params_descent
from modellock_jax.attacks.weights.distil import distil
from modellock_jax.attacks.weights.fine_tune import fine_tune
from modellock_jax.attacks.weights.leakage import (
    average_copies,
    compare_copies,
    fine_tune_under_key,
    sign_flip_known_plaintext,
    vote_copies,
)
from modellock_jax.attacks.weights.selective import restore, selective
from modellock_jax.attacks.weights.stream_reuse import stream_reuse
from modellock_jax.attacks.weights.weights_from_base import weights_from_base

__all__ = [
    "ANY",
    "ATTACKS",
    "RIGHTS",
    "Answers",
    "Attack",
    "BaseReading",
    "Case",
    "Copy",
    "Entry",
    "Evasion",
    "Found",
    "NotGiven",
    "SignReading",
    "adv_params_descent",
    "anneal",
    "apgd",
    "attempt",
    "average_copies",
    "best_key",
    "chosen_images",
    "compare_copies",
    "coordinate_flips",
    "deep_lock_base_model",
    "deep_lock_ciphertext_only",
    "deep_lock_known_plaintext",
    "distil",
    "expectation",
    "ffx_chosen_images",
    "fgsm",
    "fine_tune",
    "fine_tune_under_key",
    "genetic",
    "gradient_masking",
    "hill_climb",
    "linear_flips",
    "negative_from_weights",
    "negative_positive_chosen_image",
    "permutation_from_base",
    "permutation_from_weights",
    "pgd",
    "pixel_shuffle_chosen_image",
    "pixel_shuffle_known_pairs",
    "pixel_shuffle_logit_oracle",
    "random_keys",
    "read_signs",
    "read_signs_from_base",
    "relaxed_ffx",
    "relaxed_key",
    "relaxed_negative",
    "relaxed_permutation",
    "relaxed_signs",
    "restore",
    "run_batches",
    "run_seeds",
    "run_shuffled",
    "sanitise",
    "selective",
    "sign_flip_known_plaintext",
    "sign_mask_oracle",
    "signs_from_base",
    "signs_from_weights",
    "square",
    "stream_reuse",
    "transfer",
    "vote_copies",
    "weights_from_base",
]
