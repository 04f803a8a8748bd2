"""Strict settings for every test: no silent promotion of dtypes or ranks, several devices."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
