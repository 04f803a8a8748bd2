"""What inputs of evasion attacks may be, and within what bounds they stay."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_evasion import ATTACKS, RNG, linear

from modellock_jax import attacks as evasion


@pytest.mark.parametrize("name", ["pgd", "apgd", "square"])
def test_other_bounds_are_the_same_problem_in_another_unit(name):
    f, x, y, _ = linear()
    attack = {
        "pgd": partial(evasion.pgd, steps=4),
        "apgd": partial(evasion.apgd, steps=4),
        "square": partial(evasion.square, rng=RNG, queries=9),
    }[name]

    def stretched(x):
        return f((x + 2) / 4)

    here = jax.jit(lambda: attack(f, x, y, eps=0.03))()
    there = jax.jit(lambda: attack(stretched, 4 * x - 2, y, eps=0.12, bounds=(-2.0, 2.0)))()
    np.testing.assert_array_equal(here.robust, there.robust)
    assert 0 < float(here.share) < 1
    np.testing.assert_allclose(4 * here.inputs - 2, there.inputs, atol=1e-5)


def test_bounds_are_what_inputs_and_eps_are_held_against():
    f, x, y, _ = linear()
    wide = evasion.fgsm(f, x, y, 0.9, bounds=(0.39, 2.0))
    assert float(wide.inputs.min()) >= np.float32(0.39)
    assert float(wide.inputs.max()) > 1
    with pytest.raises(ValueError, match=r"inputs must lie in \[0.5, 1\]"):
        evasion.pgd(f, x, y, 0.1, bounds=(0.5, 1.0))
    with pytest.raises(ValueError, match=r"eps must be above 0 and at most 0\.25"):
        evasion.apgd(f, x, y, 0.3, bounds=(0.375, 0.625))
    for bounds in ((1.0, 0.0), (0.0, np.inf), (np.nan, 1.0)):
        with pytest.raises(ValueError, match="bounds must be"):
            evasion.fgsm(f, x, y, 0.1, bounds=bounds)
    # Where values cannot be seen the answer is no number.
    assert jnp.isnan(jax.jit(lambda x: evasion.fgsm(f, x, y, 0.1, bounds=(0.5, 1.0)).share)(x))


def test_inputs_need_not_be_images():
    f, x, y, _ = linear()
    flat = x.reshape(len(x), -1)
    found = evasion.fgsm(f, flat, y, 0.02)
    np.testing.assert_array_equal(found.robust, evasion.fgsm(f, x, y, 0.02).robust)
    with pytest.raises(ValueError, match="moves squares of images"):
        evasion.square(f, flat, y, 0.02, RNG)


def test_what_is_not_finite_counts_as_wrong():
    def f(x):
        return jnp.log(x.reshape(-1, 4)[:, :3] - 2)

    x, y = jnp.full((3, 2, 2, 1), 0.5), jnp.zeros(3, jnp.int32)
    for name in ("pgd", "apgd"):
        found = jax.jit(lambda name=name: ATTACKS[name](f, x, y, 0.1))()
        assert float(found.share) == 0
        assert bool(jnp.isfinite(found.inputs).all())


def test_bad_input():
    f, x, y, _ = linear()
    with pytest.raises(ValueError, match=r'"cross_entropy" or "dlr", not \'hinge\''):
        evasion.apgd(f, x, y, 0.1, loss="hinge")
    with pytest.raises(ValueError, match="at least 3 classes, not 2"):
        evasion.apgd(lambda x: f(x)[:, :2], x, y, 0.1, loss="dlr")
    with pytest.raises(ValueError, match="at least one step or query, not 0"):
        evasion.pgd(f, x, y, 0.1, steps=0)
    for attack, rng, restarts in ((evasion.pgd, RNG, 0), (evasion.apgd, None, 2)):
        with pytest.raises(ValueError, match=f"1 without an rng, not {restarts}"):
            attack(f, x, y, 0.1, rng, restarts=restarts)
    with pytest.raises(ValueError, match=r"inputs must be \[B, ...\] and labels \[B\]"):
        evasion.fgsm(f, x, y[1:], 0.1)
