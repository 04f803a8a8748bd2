"""The way that locks take on TPUs with several chips, which know no custom partitioning."""

import pytest
from helpers.eight import answer_of

WORKER = """
import json, math, os, re
import jax
import jax.numpy as jnp
from jax import NamedSharding, P
from jax.sharding import AxisType
from helpers.table import bytes_of, random_bits
import modellock_jax as ml
from modellock_jax.core.shards import as_on_tpus
from modellock_jax.locks._digest import tree_digest

NAMES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
COLLECTIVE = re.compile(f"({NAMES})(?:-start)?[(]")
SHAPES = re.compile(f"= (.*?) (?:{NAMES})(?:-start)?[(]")
DIMS = re.compile("[[]([0-9,]*)[]]")
size_of = lambda dims: math.prod(int(n) for n in dims.split(",") if n)
sizes_of = lambda text: [size_of(dims) for shape in SHAPES.findall(text) for dims in DIMS.findall(shape)]
LEAVES = {
    "rows": ((1024, 500), P(("x", "y")), "float32"),
    "columns": ((240, 1000), P(None, ("y", "x")), "float32"),
    "both": ((512, 512), P("y", "x"), "bfloat16"),
    "odd": ((3, 4, 6, 10), P(None, "x", None, "y"), "int8"),
}
# What stream_lock's digest takes alone: as rows, place by place, with rows on several devices.
DIGESTS = {
    "long": ((2**20,), P(("x", "y")), "int8"), "odd": ((800_000,), P(("x", "y")), "int8"),
    "conv": ((3, 3, 256, 256), P(None, None, ("x", "y")), "int8"),
    "prime": ((50023, 24), P(None, "x"), "int8"),
}
PATCH = {
    "rows": ((64, 512), P(("x", "y")), "float32"), "columns": ((64, 512), P(None, "x"), "float32"),
    "both": ((4, 4, 4, 512), P("x", None, None, "y"), "bfloat16"),
}
CHOSEN = {name: LEAVES[name] for name in os.environ["LEAVES"].split()}
ALL = len(CHOSEN) == len(LEAVES)
TREES = {
    "deep_lock": (ml.deep_lock(), CHOSEN), "stream_lock": (ml.stream_lock(), CHOSEN),
    "sign_flip": (ml.sign_flip(bits=7), LEAVES),
    **{f"patch_shuffle {n}": (ml.patch_shuffle(4, channels=4), {n: PATCH[n]}) for n in PATCH},
    "adv_params": (ml.adv_params(count=3), {"columns": LEAVES["columns"]}),
    "sign_mask": (ml.sign_mask(bits=7), {"columns": LEAVES["columns"]}),
} | ({"deep_lock leaf": (ml.deep_lock(256, restart="leaf"), CHOSEN)} if ALL else {})


def make(name):
    lock, leaves = TREES[name]
    params = {
        leaf: {"kernel": random_bits(jax.random.key(0), shape, dtype)}
        for leaf, (shape, _, dtype) in leaves.items()
    }
    if name == "adv_params":  # it computes on them
        params = jax.tree.map(lambda a: jax.random.normal(jax.random.key(0), a.shape, a.dtype), params)
    return lock, params, {leaf: {"kernel": spec} for leaf, (_, spec, _) in leaves.items()}


def loss(params):
    return sum((leaf.astype("float32") ** 2).mean() for leaf in jax.tree.leaves(params))


def forward(params, x, tap=ml.untapped):
    return tap("site", jax.tree.leaves(params)[0] + x)


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(bytes_of(x) == bytes_of(y) for x, y in pairs)


def on_tpus(function, *args):
    with as_on_tpus(True):
        return jax.jit(lambda *args: function(*args)).lower(*args).compile()


def check_digest(shape, spec, dtype):
    leaf, key = random_bits(jax.random.key(0), shape, dtype), jnp.arange(8, dtype=jnp.uint32)
    digest = lambda key, leaf: tree_digest(key, [leaf])
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    sharded = jax.device_put(leaf, NamedSharding(mesh, spec))
    given = jax.device_put(key, NamedSharding(mesh, P())), sharded
    compiled, part = on_tpus(digest, *given), sharded.addressable_shards[0].data.nbytes
    return {
        "share": compiled.memory_analysis().temp_size_in_bytes / part,
        "collectives": sorted(set(COLLECTIVE.findall(compiled.as_text()))),
        "words": sizes_of(compiled.as_text()),
        "right": compiled(*given).tolist() == jax.jit(digest)(key, leaf).tolist(),
    }


def check(name):
    lock, params, specs = make(name)
    key = lock.init(jax.random.key(1), params)
    encrypt = jax.jit(lambda k, p: lock.encrypt(k, p, loss))
    locked, finished = encrypt(key, params)
    found = {"custom calls": [], "changed": not same(locked, params)}
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))
        shardings = jax.tree.map(lambda s: NamedSharding(mesh, s), specs)
        # Cut on the host, where no bit changes.
        host = jax.device_get((params, locked))
        sharded, to_open = (jax.device_put(tree, shardings) for tree in host)
        given = jax.device_put((key, finished), NamedSharding(mesh, P()))
        x = jnp.zeros_like(jax.tree.leaves(sharded)[0])
        programs = {
            "encrypt": (lambda k, p: lock.encrypt(k, p, loss), (given[0], sharded), (locked, finished)),
            "decrypt": (lock.decrypt, (given[1], to_open), params),
            "user": (ml.user_forward(lock, forward), (given[1], to_open, x), None),
        }
        for what, (function, args, right) in programs.items():
            traced = jax.jit(function).trace(*args)
            text = traced.lower(lowering_platforms=("tpu",)).as_text()
            found["custom calls"] += re.findall("custom_call @?([A-Za-z_]+)", text)
            exchanges = name in ("adv_params", "stream_lock") and what == "encrypt"
            if what == "user" or (what == "encrypt" and kind == AxisType.Explicit and not exchanges):
                continue
            compiled = on_tpus(function, *args)
            out = compiled(*args)
            part = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(sharded))
            new = jax.tree.leaves(out[0] if what == "encrypt" else out)
            found[f"{what} {kind.name}"] = {
                "collectives": sorted(set(COLLECTIVE.findall(compiled.as_text()))),
                "words": sizes_of(compiled.as_text()),
                "share": compiled.memory_analysis().temp_size_in_bytes / part,
                "right": same(out, right),
                "placed": all(
                    a.sharding.is_equivalent_to(b.sharding, a.ndim)
                    for a, b in zip(new, jax.tree.leaves(sharded), strict=True)
                ),
            }
    return found


assert len(jax.devices()) == 8
few = DIGESTS if ALL else {name: DIGESTS[name] for name in ("odd", "prime")}
digests = {name: check_digest(*leaf) for name, leaf in few.items()}
print(json.dumps([{name: check(name) for name in TREES}, digests]))
"""


# Of the ciphers' leaves, and along how many axes each is split.
SPLIT = {"rows": 1, "odd": 2, "columns": 1, "both": 2}


@pytest.fixture(
    scope="module",
    params=["both", pytest.param("rows odd columns both", marks=pytest.mark.slow)],
)
def chosen(request):
    return request.param


@pytest.fixture(scope="module")
def answers(chosen):
    return answer_of(WORKER, LEAVES=chosen)


@pytest.fixture(scope="module")
def found(answers):
    return answers[0]


PROGRAMS = ["encrypt Auto", "decrypt Auto", "decrypt Explicit"]


def test_no_program_for_tpus_has_a_custom_call(found):
    assert {name: lock["custom calls"] for name, lock in found.items()} == {
        name: [] for name in found
    }


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_gives_the_bits_of_one_device_and_keeps_shardings(found, program):
    for name, lock in found.items():
        assert lock["changed"] == (name != "sign_mask"), name
        assert lock[program]["right"], name
        assert lock[program]["placed"], name


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_needs_at_most_twice_the_memory_of_a_device_s_own_part(found, program):
    shares = {name: lock[program]["share"] for name, lock in found.items()}
    assert max(shares.values()) <= 2, shares


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_device_talks_to_another_but_where_it_is_said(found, program):
    told = {"patch_shuffle rows": ["all-reduce"], "patch_shuffle both": ["all-reduce"]}
    if program.startswith("encrypt"):
        told["adv_params"] = ["all-gather", "all-reduce"]  # a maximum over a layer
        told["stream_lock"] = ["all-reduce"]  # eight words of the digest
    collectives = {name: lock[program]["collectives"] for name, lock in found.items()}
    assert collectives == {name: told.get(name, []) for name in found}


@pytest.mark.parametrize("axes", ["Auto", "Explicit"])
def test_the_search_of_adv_params_exchanges_a_word_for_each_device(found, axes):
    program = found["adv_params"][f"encrypt {axes}"]
    assert program["right"]
    assert program["placed"]
    assert max(program["words"]) == 8


def test_stream_lock_exchanges_32_bytes(found, chosen):
    """On automatic axes once for each axis of a leaf that is split, on explicit ones once in all."""
    axes = sum(SPLIT[name] for name in chosen.split())
    assert found["stream_lock"]["encrypt Auto"]["words"] == [8] * axes
    explicit = found["stream_lock"]["encrypt Explicit"]
    assert explicit["right"]
    assert explicit["placed"]
    assert explicit["collectives"] == ["all-reduce"]
    assert explicit["words"] == [8]
    assert explicit["share"] <= 2


def test_its_digest_is_one_sum_in_little_memory(answers):
    for name, digest in answers[1].items():
        assert digest["right"], name
        assert digest["collectives"] == ["all-reduce"], name
        assert digest["words"] == [8], name
        assert digest["share"] <= 1.5, name
