"""Strict settings for every test: no silent promotion of dtypes or ranks, several devices."""

import gc
import tempfile

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)


class Forgetful:
    """JAX keeps what each program was lowered to, 2 MB of it, and builds the next one the slower."""

    most, built = 600, 0

    def count(self, event, seconds, **more):
        self.built += event == "/jax/core/compile/backend_compile_duration"

    def pytest_runtest_logfinish(self):
        if self.built > self.most:
            jax.clear_caches()
            self.built = 0

    def pytest_collection_finish(self):
        # The collector need not walk all modules and tests again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)


# Their fixtures take long. Who has nothing left to run takes over what comes last with another, and
# would set them up again.
FIRST = {"test_tpu", "test_shards", "test_mesh", "test_league", "test_study", "test_export"}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in FIRST)


def pytest_configure(config):
    forgetful = Forgetful()
    jax.monitoring.register_event_duration_secs_listener(forgetful.count)
    config.pluginmanager.register(forgetful)
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


@pytest.fixture(scope="module")
def docs():
    """The modules that write the tables of README and docs, by name."""
    from helpers.reckoning import writers

    return writers()


@pytest.fixture(scope="module", params=["committed", "made up"])
def run(request, docs, tmp_path_factory):
    """`run(study, data)`: its rows and its settings; and the results, for the other program."""
    from helpers.reckoning import RESULTS, rows_of

    made_up = tmp_path_factory.mktemp("results") if request.param == "made up" else None
    return rows_of(made_up), docs["rows"].Results(made_up or RESULTS)
