"""The kernels under pytest-benchmark: `pytest benchmarks --benchmark-only -n0`."""

import jax
import pytest

from modellock_jax.bench.ciphers import LOCKS, limits, programs, weights


@pytest.mark.parametrize("name", LOCKS)
def test_decrypt_16_mib(benchmark, name):  # type: ignore[no-untyped-def]
    decrypt, key, locked = programs(name, weights("float32"))["decrypt"]
    jax.block_until_ready(decrypt(key, locked))
    benchmark(lambda: jax.block_until_ready(decrypt(key, locked)))


@pytest.mark.parametrize("name", limits(weights("float32", 1, 4096)))
def test_limit_16_mib(benchmark, name):  # type: ignore[no-untyped-def]
    call = limits(weights("float32"))[name]
    benchmark(lambda: jax.block_until_ready(call()))
