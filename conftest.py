"""How hard every test and example is compiled."""

import functools
import os

import jax
import pytest
from jax._src import compiler

# XLA's older emitters compile in half the time, and run slower. Only JAX's own function takes options
# for all programs; where it, or XLA, no longer knows them, tests only take longer.
QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
OPTIONS = compiler.get_compile_options


def quick_options(*args, env_options_overrides=None, **kwargs):
    chosen = QUICK | (env_options_overrides or {})
    return OPTIONS(*args, env_options_overrides=chosen, **kwargs)


@functools.cache
def knows_quick_options():
    try:
        jax.jit(lambda x: x + 1).lower(1.0).compile(compiler_options=QUICK)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def optimise(much):
    """Compile with all optimisations, or with few."""
    jax.config.update("jax_disable_most_optimizations", not much)
    compiler.get_compile_options = OPTIONS if much or not knows_quick_options() else quick_options


@pytest.fixture(autouse=True, scope="module")
def effort(request):
    # A program that runs once, on little data, costs more to optimise than to run.
    once = request.node.get_closest_marker("run_once") is not None
    example = isinstance(request.node, pytest.Module) and "Doctest" in type(request.node).__name__
    optimise(not (once or example))
    # For child processes whose programs run once each; XLA ends one that has a flag it does not know.
    flags = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICK.items())
    os.environ["QUICK_XLA_FLAGS"] = flags if knows_quick_options() else ""
    yield
    optimise(True)


@pytest.fixture
def few_optimisations():
    optimise(False)
    yield
    optimise(True)
