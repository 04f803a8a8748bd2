"""Strict settings for every test: no silent promotion of dtypes or ranks, several devices."""

import tempfile

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)


def pytest_configure(config):
    # Tests that build the same program again need not compile it again. Each process has a cache
    # of its own, since JAX writes an entry in place, where another would read it half written.
    config.compiled = tempfile.TemporaryDirectory(prefix="compiled-")
    jax.config.update("jax_compilation_cache_dir", config.compiled.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def pytest_unconfigure(config):
    config.compiled.cleanup()


@pytest.fixture(autouse=True)
def no_lists(monkeypatch):
    # No test obeys the revocation lists of whoever runs it.
    monkeypatch.delenv("MODELLOCK_REVOKED", raising=False)


@pytest.fixture(autouse=True)
def strict(request):
    # optax's Adam itself promotes an int32 count to float32.
    promotion = "standard" if request.node.get_closest_marker("optax") else "strict"
    with jax.numpy_dtype_promotion(promotion), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def optimised(monkeypatch):
    """Compile as users do: for what is said of memory, and for programs that run for long."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
