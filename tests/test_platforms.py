"""Of two ways, for TPUs and for all else, a program has the one that it is compiled for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modellock_jax.core.platforms import on_tpus

X = np.arange(3, dtype=np.float32)


@pytest.fixture
def ways():
    """A function, and which of its two ways were traced."""
    traced = []

    def plain(tree):
        traced.append("plain")
        return {"sum": tree["x"] + 1}

    def usual(tree):
        traced.append("usual")
        return {"sum": tree["x"] + 2}

    return lambda x: on_tpus(plain, usual, {"x": x})["sum"], traced


def test_only_the_way_that_is_compiled_for_is_traced(ways):
    function, traced = ways
    np.testing.assert_array_equal(jax.jit(function)(X), X + 2)
    assert traced == ["usual"]
    text = jax.jit(function).trace(X).lower(lowering_platforms=("tpu",)).as_text()
    assert "plain" in traced
    assert "1.0" in text
    assert "2.0" not in text


def test_a_program_for_both_has_both(ways):
    text = jax.jit(ways[0]).trace(X).lower(lowering_platforms=("cpu", "tpu")).as_text()
    assert "1.0" in text
    assert "2.0" in text


@pytest.mark.parametrize("jit", [True, False])
def test_without_jit_and_under_vmap_it_is_the_same(ways, jit):
    function, traced = ways
    with jax.disable_jit(not jit):
        np.testing.assert_array_equal(function(X), X + 2)
        np.testing.assert_array_equal(jax.vmap(function)(jnp.stack([X, X])), [X + 2, X + 2])
    assert "plain" not in traced
