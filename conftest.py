"""How hard every test and example is compiled."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def effort(request):
    # A program that runs once, on little data, costs more to optimise than to run.
    once = request.node.get_closest_marker("run_once") is not None
    example = isinstance(request.node, pytest.Module) and "Doctest" in type(request.node).__name__
    jax.config.update("jax_disable_most_optimizations", once or example)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
