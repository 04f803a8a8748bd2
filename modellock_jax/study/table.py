"""The table of all studies."""

from modellock_jax.study import (
    adv_params,
    adv_params_steps,
    deep_lock_keys,
    deep_lock_rates,
    evasion,
    key_throughput,
    league,
    main,
    matrix,
    pixel_shuffle,
    public_base,
    sign_curves,
    sign_masks,
    signs_from_weights,
    sweep,
)
from modellock_jax.study.record import Study

__all__ = ["STUDIES"]

_MODULES = (
    main,
    league,
    sweep,
    matrix,
    evasion,
    sign_masks,
    signs_from_weights,
    sign_curves,
    public_base,
    pixel_shuffle,
    adv_params,
    adv_params_steps,
    deep_lock_keys,
    deep_lock_rates,
    key_throughput,
)
STUDIES: dict[str, Study] = {module.STUDY.name: module.STUDY for module in _MODULES}
"""By name."""
