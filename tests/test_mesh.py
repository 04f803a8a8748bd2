"""Keys and seeds spread over a mesh: the same numbers as on one device, none lost, memory bounded."""

import jax
import jax.numpy as jnp
import pytest
from helpers.eight import answer_of

from modellock_jax.core.over_keys import over_keys

WORKER = """
import json, sys
import jax, jax.numpy as jnp
import numpy as np
from helpers import table
import modellock_jax as ml
from modellock_jax.attacks import fine_tune, random_keys, run_seeds
from modellock_jax.core.over_keys import over_keys
from modellock_jax.models import mlp

COUNTS, CHUNK = (1, 7, 8, 20), 2
mesh = jax.make_mesh((8,), ("keys",))
params = {part: table.make_params()[part] for part in ("dense", "head")}
x, y = table.images(), jnp.arange(6, dtype=jnp.int32) % 3


def same(a, b):
    a, b = jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b))
    return all(u.shape == v.shape and u.tobytes() == v.tobytes() for u, v in zip(a, b))


def sweep(name, count):
    lock = table.LOCKS[name]
    user = ml.user_forward(lock, table.forward)
    keys = jax.vmap(lambda r: lock.init(r, params))(jax.random.split(jax.random.key(3), count))

    def go(mesh, keys, params):
        # Locked parameters are closed over, as in a search: each device gets them whole.
        return over_keys(lambda k: (user(k, params, x), k), keys, chunk=CHUNK, mesh=mesh)

    alone, spread = (jax.jit(lambda k, p, m=m: go(m, k, p))(keys, params) for m in (None, mesh))
    return same(alone, spread) and same(spread[1], keys)


def searched(mesh):
    lock = ml.sign_mask(8)
    return jax.jit(lambda p: random_keys(
        lock, table.forward, p, x, y, jax.random.key(5),
        keys=20, first=3, survivors=7, chunk=CHUNK, mesh=mesh,
    ))(params)


def seeds(mesh):
    model = mlp(3, (4,))
    start = model.init(jax.random.key(0), x[:1])
    attack = fine_tune(model, 1e-2, x)
    rngs = jax.random.split(jax.random.key(1), 7)
    return jax.jit(lambda p, r: run_seeds(
        attack, p, x, y, r, steps=3, batch_size=4, chunk=1, mesh=mesh
    ))(start, rngs)


def programs():
    keys = jax.device_put(
        jax.random.bits(jax.random.key(0), (64, 2)), jax.NamedSharding(mesh, jax.P("keys"))
    )

    def heavy(key):
        return jax.random.normal(jax.random.wrap_key_data(key), (4096,)).sum()

    def temporary(chunk):
        go = jax.jit(lambda k: over_keys(heavy, k, chunk=chunk, mesh=mesh))
        return go.lower(keys).compile()

    few, many = temporary(1), temporary(8)
    held = [p.memory_analysis().temp_size_in_bytes for p in (few, many)]
    found = few(keys)
    shards = [s.data.shape for s in found.addressable_shards]
    words = ("all-gather", "all-reduce", "collective-permute", "all-to-all")
    return held, shards, [w for w in words if w in few.as_text()]


held, shards, collectives = programs()
spread = seeds(mesh)
print(json.dumps({
    "devices": jax.device_count(),
    "keys": [sweep("sign_mask", n) for n in COUNTS],
    "bits": sweep("deep_lock", 20),
    "search": same(searched(None), searched(mesh)),
    "seeds": same(seeds(None), spread),
    "differ": len(np.unique(np.asarray(spread[1]), axis=0)),
    "held": held, "shards": shards, "collectives": collectives,
}))
"""


@pytest.fixture(scope="module")
def found():
    found = answer_of(WORKER)
    assert found["devices"] == 8
    return found


def test_a_sweep_over_eight_devices_is_that_of_one_bit_for_bit(found):
    """1, 7, 8 and 20 keys in chunks of 2: devices without a key, with a part of a chunk, with more."""
    assert found["keys"] == [True] * 4
    assert found["bits"]


def test_a_key_search_over_eight_devices_finds_the_same(found):
    assert found["search"]


def test_seeds_over_eight_devices_are_those_of_one(found):
    assert found["seeds"]
    assert found["differ"] == 7


def test_devices_share_the_work_exchange_nothing_and_hold_a_chunk_at_a_time(found):
    assert found["shards"] == [[8]] * 8
    assert found["collectives"] == []
    few, many = found["held"]
    assert few < 2 * 4 * 4096 * 4  # about two arrays of one key
    assert many > 3 * few


def test_keys_are_spread_over_one_axis_only():
    mesh = jax.make_mesh((2, 2), ("x", "y"), devices=jax.devices()[:4])
    with pytest.raises(ValueError, match="a mesh of one axis, not of 2"):
        over_keys(lambda key: key, jnp.arange(4), mesh=mesh)
