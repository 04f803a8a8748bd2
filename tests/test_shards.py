"""Sharded trees on eight simulated devices: no device talks to another, and every bit is the same."""

import pytest
from helpers.eight import answer_of

from modellock_jax.ciphers import native

WORKER = """
import json, os, re
import jax
import jax.numpy as jnp
import numpy as np
from jax import NamedSharding, P
from jax.sharding import AxisType
from helpers.table import bytes_of, random_bits
import modellock_jax as ml
from modellock_jax.core.bits import to_uint
from modellock_jax.locks.stream_lock import in_jax

NAMES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
COLLECTIVE = re.compile(f"= ([a-z0-9]+.[0-9,]*.)[^ ]* ({NAMES})(?:-start)?[(]")
# On a device three rows of 40 entries, or five columns: no multiple of a block of any dtype.
LEAVES = {
    "rows": ((24, 40), P("x"), "float32"), "rows8": ((24, 40), P(("x", "y")), "bfloat16"),
    "columns": ((24, 40), P(None, ("y", "x")), "float32"), "both": ((24, 40), P("y", "x"), "int8"),
    "conv": ((3, 4, 6, 10), P(None, "x", None, "y"), "float16"),
    "long": ((64, 64), P("x", "y"), "float32"),
}
LOCKS = {
    "stream_lock": ml.stream_lock(), "deep_lock": ml.deep_lock(), "adv_params": ml.adv_params(count=40),
    "chain": ml.chain(
        ml.sign_flip(bits=7), ml.only(ml.deep_lock(256, restart="leaf"), lambda path: "rows" in path)
    ),
    **{f"patch_shuffle {n}": ml.patch_shuffle(2, channels=6) for n in ("rows8", "columns", "both")},
}


def tree(name):
    leaves = {
        leaf: (shape, spec, dtype) for leaf, (shape, spec, dtype) in LEAVES.items()
        if not (name == "adv_params" and dtype == "int8")
        and (name.startswith("patch_shuffle") or leaf in os.environ["LEAVES"].split())
    }
    params = {
        leaf: {"kernel": random_bits(jax.random.key(0), shape, dtype)}
        for leaf, (shape, _, dtype) in leaves.items()
    }
    specs = {leaf: {"kernel": spec} for leaf, (_, spec, _) in leaves.items()}
    params["rows"] |= {"bias": jnp.arange(40.0), "empty": jnp.zeros((0, 4)), "count": jnp.int32(3)}
    specs["rows"] |= {"bias": P(("x", "y")), "empty": P(), "count": P()}
    return params, specs


def finished(key, params):
    # A finished key of adv_params: entries of every leaf, the first and the last among them.
    leaves = jax.tree.leaves(params)
    layers = [i for i, leaf in enumerate(leaves) if leaf.ndim > 1 and leaf.size]
    leaf = np.array([layers[j % len(layers)] for j in range(40)], "i4")
    place = [(j * 131 if j % 3 else -1) % leaves[i].size for j, i in enumerate(leaf)]
    return key._replace(
        leaf=jnp.asarray(leaf), position=jnp.array(place), bits=jnp.arange(40, dtype=jnp.uint32) + 7
    )


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(bytes_of(x) == bytes_of(y) for x, y in pairs)


def placed(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.sharding.is_equivalent_to(y, x.ndim) for x, y in pairs)


def check(name):
    lock, (params, spec) = LOCKS[name], tree(name)
    if name.startswith("patch_shuffle"):  # it acts on one leaf
        leaf = name.split()[1]
        params, spec = {leaf: params[leaf]}, {leaf: spec[leaf]}
    key = lock.init(jax.random.key(1), params)
    key = finished(key, params) if name == "adv_params" else key
    encrypt = lambda k, p: lock.encrypt(k, p)[0]
    found = []

    def program(what, function, kind, given=False):
        mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))
        shardings = jax.tree.map(lambda s: NamedSharding(mesh, s), spec)
        everywhere = NamedSharding(mesh, P())
        told = {"in_shardings": (everywhere, shardings), "out_shardings": shardings} if given else {}
        # Cut on the host, where no bit changes.
        sharded = jax.device_put(jax.device_get(params), shardings)
        compiled = jax.jit(function, **told).lower(key, sharded).compile()
        out = compiled(*jax.device_put((key, sharded), compiled.input_shardings[0]))
        right = jax.jit(function)(key, params)
        found.append({
            "what": what,
            "collectives": sorted(COLLECTIVE.findall(compiled.as_text())),
            "right": same(out, right) and not same(out, params),
            "placed": placed(out, shardings),
        })

    program("decrypt as committed", lock.decrypt, AxisType.Auto)
    program("decrypt on an explicit mesh", lock.decrypt, AxisType.Explicit)
    if name != "adv_params":  # its encrypt needs a loss over all the weights
        program("encrypt as told", encrypt, AxisType.Auto, given=True)
    return found


def beside(lock, *ways):
    # Bytes that a device needs beside its part of a leaf: one device alone, by rows, by columns.
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    leaf = jnp.zeros((1024, 1000))
    key = lock.init(jax.random.key(0), leaf)
    return [
        jax.jit(function).lower(key, x).compile().memory_analysis().temp_size_in_bytes
        for function in ways
        for x in (leaf, *(jax.device_put(leaf, NamedSharding(mesh, s)) for s in (P("x"), P(None, "x"))))
    ]


assert len(jax.devices()) == 8
alone, lock = in_jax(), ml.stream_lock()
both = [beside(alone, alone.decrypt), beside(lock, lock.decrypt, lock.encrypt)]
print(json.dumps({"beside": both} | {name: check(name) for name in LOCKS}))
"""


@pytest.fixture(
    scope="module",
    params=[
        "rows both conv",
        pytest.param("rows rows8 columns both conv long", marks=pytest.mark.slow),
    ],
)
def found(request):
    return answer_of(WORKER, LEAVES=request.param)


@pytest.mark.parametrize("name", ["stream_lock", "deep_lock", "adv_params", "chain"])
def test_no_device_talks_to_another(found, name):
    assert len(found[name]) == (2 if name == "adv_params" else 3)
    for program in found[name]:
        assert program["right"], program["what"]
        assert program["placed"], program["what"]
        # Their digests of what they lock are added up, 32 bytes once; else they exchange nothing.
        once = name == "stream_lock" and program["what"] == "encrypt as told"
        expected = [["u32[8]", "all-reduce"]] if once else []
        assert program["collectives"] == expected, program["what"]


@pytest.mark.parametrize("leaf", ["rows8", "columns", "both"])
def test_patch_shuffle_fetches_the_rows_it_permutes_and_nothing_else(found, leaf):
    """Where its rows lie on other devices, a permutation of them cannot be local."""
    for program in found[f"patch_shuffle {leaf}"]:
        assert program["right"], program["what"]
        assert program["placed"], program["what"]
        names = {name for _, name in program["collectives"]}
        assert names == (set() if leaf == "columns" else {"all-reduce"})


def test_each_device_makes_its_own_part_of_the_key_stream(found):
    """What JAX alone needs beside the weights, as a share of what one device alone needs."""
    alone, rows, columns = found["beside"][0]
    assert rows < 0.2 * alone
    assert columns < 0.3 * alone


def test_the_compiled_call_needs_no_memory_for_the_key_stream(found):
    """Of a leaf of 4 MB, only the places in the stream: of one run, or of 1,024 by columns."""
    pytest.importorskip("modellock_jax_native")
    alone, rows, columns = found["beside"][1][:3]
    assert max(alone, rows) < 1000
    assert columns < 1024 * 16


@pytest.mark.skipif(not native.has_digest(), reason="no compiled call")
def test_the_compiled_digest_copies_no_leaf(found):
    """Of a leaf of 4 MB, its table alone, 64 KiB, and what decrypt needs."""
    assert max(found["beside"][1][3:]) < 64 * 1024 * 2 + 1024 * 16
