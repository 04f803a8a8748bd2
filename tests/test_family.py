"""Many comparisons at once, against scipy and by simulation."""

import numpy as np
import pytest
from scipy import stats

from modellock_jax.study.family import LEVEL, draws_needed, holm, p_value, simultaneous


def test_the_p_value_is_that_of_the_t_test():
    values = np.random.default_rng(0).normal(0.5, 1, 7)
    assert p_value(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_holm_rejects_step_by_step():
    p = [0.04, 0.011, 0.001, 0.02]
    adjusted = holm(p)
    assert adjusted == pytest.approx([0.04, 0.033, 0.004, 0.04])
    # Less is asked of each than Bonferroni asks, and the first that fails ends it.
    assert holm([0.012, 0.03, 0.9]) == pytest.approx([0.036, 0.06, 0.9])


def test_holm_errs_in_one_family_of_twenty():
    rng = np.random.default_rng(1)
    families = [[p_value(rng.normal(size=5)) for _ in range(8)] for _ in range(1500)]
    wrong = np.mean([min(holm(family)) <= LEVEL for family in families])
    assert stats.binomtest(round(1500 * wrong), 1500, LEVEL).pvalue > 0.001


def test_intervals_hold_together():
    rng = np.random.default_rng(2)

    def hold():
        ends = (simultaneous(rng.normal(size=5), 4)[1:] for _ in range(4))
        return all(low <= 0 <= high for low, high in ends)

    missed = sum(not hold() for _ in range(1000))
    assert stats.binomtest(missed, 1000, LEVEL).pvalue > 0.001


@pytest.mark.parametrize("between", [0.0, 0.7])
def test_as_many_draws_as_the_width_needs(between):
    rng, models, half = np.random.default_rng(3), 5, 2.0

    def study(draws):
        mine = rng.normal(0, between, (models, 1)) + rng.normal(0, 3, (models, draws))
        _, low, high = simultaneous(mine.mean(1), 4)
        return (high - low) / 2 <= half

    large = rng.normal(0, between, (400, 1)) + rng.normal(0, 3, (400, 40))
    needed = draws_needed(large, models, 4, half)
    assert 1 < needed < 256
    reached = [np.mean([study(draws) for _ in range(1500)]) for draws in (needed, needed // 2)]
    assert abs(reached[0] - 0.8) < 0.06
    assert reached[1] < 0.7


def test_no_number_of_draws_makes_up_for_models_that_differ():
    pilot = np.array([[9.0, 9.1], [-9.0, -9.1], [0.0, 0.1]])
    assert draws_needed(pilot, 5, 1, 1.0, most=32) == 32


def test_holm_keeps_the_order_of_the_tests():
    assert holm([0.01, 0.5, 0.011]) == pytest.approx([0.03, 0.5, 0.03])
