"""Which unit a sign mask multiplies by which bit: the rule written out, at every shape."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modellock_jax as ml

SHAPES = [(3, 5), (2, 3, 7), (2, 4, 4, 32), (1, 49, 192), (2, 7, 4, 48), (2, 0, 3), (2, 3, 0), (4,)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bits", [1, 48, 256])
@pytest.mark.parametrize("per", ["channel", "unit"])
def test_unit_j_has_bit_j_modulo_bits(per, bits, shape):
    lock = ml.sign_mask(bits, per)
    key = lock.init(jax.random.key(bits), None)
    units = shape[-1:] if per == "channel" else shape[1:]
    order = np.arange(math.prod(units)) % bits
    signs = np.asarray(key.signs, np.float32)[order].reshape(units)
    h = np.asarray(jax.random.normal(jax.random.key(1), shape))
    assert (np.asarray(lock.mask(key, "site", jnp.asarray(h))) == h * signs).all()
    assert len(set(key.signs.tolist())) == min(bits, 2)
