"""Strict settings for every test: no silent promotion of dtypes or ranks, several devices."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture(autouse=True)
def strict(request):
    # optax's Adam itself promotes an int32 count to float32.
    promotion = "standard" if request.node.get_closest_marker("optax") else "strict"
    with jax.numpy_dtype_promotion(promotion), jax.numpy_rank_promotion("raise"):
        yield
