"""The table of all studies."""

from modellock_jax.study import evasion, league, main, sweep
from modellock_jax.study.record import Study

__all__ = ["STUDIES"]

STUDIES: dict[str, Study] = {
    study.name: study for study in (main.STUDY, league.STUDY, sweep.STUDY, evasion.STUDY)
}
"""By name."""
