"""The table of all studies."""

from modellock_jax.study import adv_params, evasion, league, main, sign_masks, sweep
from modellock_jax.study.record import Study

__all__ = ["STUDIES"]

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        main.STUDY,
        league.STUDY,
        sweep.STUDY,
        evasion.STUDY,
        sign_masks.STUDY,
        adv_params.STUDY,
    )
}
"""By name."""
