"""Every lock compiled for a TPU of eight chips by the TPU's own compiler, `.ci/tpu`."""

import importlib.util

import pytest
from helpers.eight import answer_of

WORKER = r"""
import json, math, re
import jax
import jax.numpy as jnp
import numpy as np
from jax import NamedSharding, P
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh
import modellock_jax as ml
from modellock_jax.core.shards import as_on_tpus

COLLECTIVE = re.compile(
    "= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?[(]"
)
DIMS = re.compile(r"\[([0-9,]*)\]")
LOCKS = {
    "deep_lock": ml.deep_lock(), "deep_lock leaf": ml.deep_lock(256, restart="leaf"),
    "stream_lock": ml.stream_lock(), "sign_flip": ml.sign_flip(bits=7),
    "patch_shuffle": ml.patch_shuffle(16, channels=16), "adv_params": ml.adv_params(count=3),
    "adv_params again": ml.adv_params(count=3, budget=2),
}
DEVICES = topologies.get_topology_desc("v5e:2x4", platform="tpu").devices


def loss(params):
    return sum((leaf.astype("float32") ** 2).mean() for leaf in jax.tree.leaves(params))


def placed(tree, mesh, spec):
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)


def check(lock, kind, spec, dtype):
    mesh = Mesh(np.array(DEVICES).reshape(4, 2), ("x", "y"), axis_types=(kind, kind))
    params = {"kernel": jax.ShapeDtypeStruct((4096, 4096), dtype)}
    key = placed(jax.eval_shape(lock.init, jax.random.key(0), params), mesh, P())
    params = placed(params, mesh, spec)
    programs = {"encrypt": lambda k, p: lock.encrypt(k, p, loss), "decrypt": lock.decrypt}
    found = {}
    for name, function in programs.items():
        with as_on_tpus(True):
            compiled = jax.jit(function).lower(key, params).compile()
        text = compiled.as_text()
        part = 4096 * 4096 * jnp.dtype(dtype).itemsize / 8
        words = [math.prod(int(n) for n in dims.split(",") if n)
                 for shape in COLLECTIVE.findall(text) for dims in DIMS.findall(shape)]
        found[name] = compiled.memory_analysis().temp_size_in_bytes / part, max(words, default=0)
    return found


print(json.dumps({
    f"{name}; {kind.name}; {spec}; {dtype}": check(lock, kind, spec, dtype)
    for name, lock in LOCKS.items()
    for kind in (AxisType.Auto, AxisType.Explicit)
    for spec, dtype in ((P(("x", "y")), "float32"), (P(None, ("x", "y")), "bfloat16"))
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu: .ci/tpu")
def test_programs_for_a_tpu_need_little_memory_and_exchange_few_words():
    found = answer_of(WORKER, TPU_SKIP_MDS_QUERY="1", XLA_FLAGS="")
    assert len(found) == 7 * 2 * 2
    shares = {name: max(share for share, _ in each.values()) for name, each in found.items()}
    assert max(shares.values()) <= 2, shares
    for name, programs in found.items():
        lock, _, spec, _ = name.split("; ")
        # Rows of 4,096 entries that the permutation carries to another device.
        moved = 4096 if lock == "patch_shuffle" and spec.startswith("P((") else 0
        said = 8 if lock in ("stream_lock", "adv_params", "adv_params again") else 0
        assert programs["encrypt"][1] == (moved or said), name
        assert programs["decrypt"][1] == moved, name
