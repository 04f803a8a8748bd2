"""No block of a key stream is met by two blocks of plain text, whatever is locked under one key."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.table import bytes_of, random_bits, same_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import NamedSharding, P

import modellock_jax as ml
from modellock_jax.core.bits import stack
from modellock_jax.core.paths import paths

EXAMPLES = int(os.environ.get("EXAMPLES", "5"))  # that hypothesis draws; many take long to compile
LOCK = ml.stream_lock()
KEY = ml.StreamKey(np.arange(8, dtype=np.uint32), np.arange(3, dtype=np.uint32))
MESH = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))


class Met:
    """Blocks of key stream that were met, each by one place of a tree, or that of an equal tree."""

    def __init__(self):
        self.by, self.pairs = {}, 0

    def add(self, tree, plain, locked):
        """`tree`: what names the whole tree, equal for equal ones."""
        names = jax.tree.leaves(paths(plain))
        for name, old, new in zip(names, jax.tree.leaves(plain), jax.tree.leaves(locked)):
            old, new = (np.frombuffer(bytes_of(leaf), np.uint8) for leaf in (old, new))
            for start in range(0, old.size - 15, 64):  # of fewer bytes two may be alike by chance
                block = (old[start : start + 64] ^ new[start : start + 64]).tobytes()[:16]
                self.pairs += len(self.by)
                place = (tree, name, start)
                assert self.by.setdefault(block, place) == place


def told(tree):
    return tuple(
        (path, leaf.shape, str(leaf.dtype), bytes_of(leaf))
        for path, leaf in zip(jax.tree.leaves(paths(tree)), jax.tree.leaves(tree))
    )


def test_one_key_for_many_trees():
    """After training on, for another model, for parts of it: 1,500 blocks, a million pairs."""
    base = {"a": jax.random.normal(jax.random.key(0), (64, 16)), "b": jnp.zeros((64, 16))}
    encrypt, met = jax.jit(LOCK.encrypt), Met()
    trees = [base, {**base, "a": base["b"], "b": base["a"]}]
    trees += [{**base, "a": base["a"].at[i, i].add(1.0)} for i in range(10)]
    for tree in trees:
        locked, key = encrypt(KEY, tree)
        met.add(told(tree), tree, locked)
        assert same_bits(LOCK.decrypt(key, locked), tree)
        assert not (key.nonce == KEY.nonce).all()
    assert met.pairs > 10**6


NAMES = st.sampled_from(["a", "b", "a/b", "a.b", "0", "1", "a/0", "x/y/z"])
DTYPES = st.sampled_from(["float32", "bfloat16", "int8"])
LEAVES = st.tuples(st.sampled_from([(16,), (4, 16), (2, 8, 8), (40,)]), DTYPES, st.integers(0, 2))


def inner(some):
    named = st.dictionaries(NAMES, some, min_size=1, max_size=3)
    return named | st.lists(some, min_size=1, max_size=2)


TREES = st.recursive(LEAVES, inner, max_leaves=4)


def grown(drawn):
    if isinstance(drawn, dict):
        return {name: grown(value) for name, value in drawn.items()}
    if isinstance(drawn, list):
        return [grown(value) for value in drawn]
    shape, dtype, seed = drawn
    return random_bits(jax.random.key(seed), shape, dtype) if seed else jnp.zeros(shape, dtype)


def reads_alike(tree):
    """Whether a beginning of a path, up to a `/`, is two places of the tree, or none beside one."""
    ends = {}
    for keys, _ in jax.tree_util.tree_flatten_with_path(tree)[0]:
        names = [jax.tree_util.keystr((key,), simple=True) for key in keys]
        words = "/".join(names).split("/")
        for n in range(1, len(words) + 1):
            upto = "/".join(words[:n])
            whole = [m for m in range(1, len(names) + 1) if "/".join(names[:m]) == upto]
            place = (n == len(words), str(keys[: whole[0]]) if whole else None)
            ends.setdefault(upto, set()).add(place)
    return any(len(places) > 1 for places in ends.values())


def split(tree):
    """Each leaf over four devices, where its first axis divides."""

    def place(leaf):
        spec = P("x") if leaf.shape[0] % 4 == 0 else P()
        return jax.device_put(np.asarray(leaf), NamedSharding(MESH, spec))

    return jax.tree.map(place, tree)


@settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(
    drawn=st.lists(TREES, min_size=1, max_size=2), way=st.sampled_from(["whole", "split", "batch"])
)
def test_trees_of_any_names(met, drawn, way):
    """Names with `/`, `.` and digits, lists, shardings, batches; what reads alike is refused."""
    for tree in map(grown, drawn):
        if reads_alike(tree):
            with pytest.raises(ValueError, match="two places in the parameters read `"):
                LOCK.encrypt(KEY, tree)
            continue
        if way == "batch":
            both = jax.tree.map(lambda leaf: stack([leaf, leaf[::-1]]), tree)
            made = jax.device_get((both, *jax.vmap(lambda t: LOCK.encrypt(KEY, t))(both)))
            made = [jax.tree.map(lambda a, i=i: a[i], made) for i in range(2)]
        else:
            given_tree = split(tree) if way == "split" else tree
            made = [(tree, *LOCK.encrypt(KEY, given_tree))]
        for plain, locked, key in made:
            met.add(told(plain), plain, locked)
            assert same_bits(LOCK.decrypt(key, locked), plain)


@pytest.fixture(scope="module")
def met():
    found = Met()
    yield found
    print(f"{len(found.by)} blocks of key stream, {found.pairs} pairs")


def test_an_nnx_state_and_its_dict():
    module = nnx.Linear(16, 16, rngs=nnx.Rngs(0))
    met = Met()
    for tree in (nnx.state(module), ml.nnx_params(module)):
        locked, key = LOCK.encrypt(KEY, tree)
        met.add(told(tree), tree, locked)
        assert same_bits(LOCK.decrypt(key, locked), tree)


SAME = np.random.default_rng(3).normal(size=32).astype(np.float32)
ALIKE = {
    "swapped leaves": ({"a": SAME, "b": -SAME}, {"a": -SAME, "b": SAME}),
    "moved entries": ({"a": SAME}, {"a": np.roll(SAME, 1)}),
    "trailing zeros": ({"a": SAME}, {"a": np.pad(SAME, (0, 16))}),
    "another shape": ({"a": SAME}, {"a": SAME.reshape(4, 8)}),
    "a leading axis": ({"a": SAME}, {"a": SAME[None]}),
    "another dtype": ({"a": SAME}, {"a": SAME.view(np.int32)}),
    "another name": ({"a": SAME}, {"b": SAME}),
    "another leaf, empty": ({"a": SAME}, {"a": SAME, "b": np.zeros((0, 3), np.float32)}),
    "a leaf beside it": ({"a": SAME, "b": SAME}, {"a": SAME, "b": SAME + 1}),
    "signed zeros": (
        {"a": np.zeros(32, "f4")},
        {"a": np.where(np.arange(32) == 31, np.float32(-0.0), np.float32(0))},
    ),
    "one bit of a byte": (
        {"a": np.zeros(100, np.int8)},
        {"a": np.where(np.arange(100) == 99, np.int8(-128), np.int8(0))},
    ),
}


@pytest.mark.parametrize("what", ALIKE)
def test_what_looks_alike_has_streams_of_its_own(what):
    met, nonces = Met(), set()
    for tree in ALIKE[what]:
        locked, key = LOCK.encrypt(KEY, tree)
        met.add(told(tree), tree, locked)
        nonces.add(bytes_of(key.nonce))
    assert len(nonces) == 2


def test_equal_trees_may_give_equal_bits_and_a_finished_key_other_ones():
    tree = {"a": SAME}
    locked, key = LOCK.encrypt(KEY, tree)
    assert same_bits(LOCK.encrypt(KEY, {"a": SAME + 0})[0], locked)
    again, other = LOCK.encrypt(key, tree)
    assert not (other.nonce == key.nonce).all()
    met = Met()
    met.add("first", tree, locked)
    met.add("second", tree, again)


def batch(n=4):
    return {"w": jnp.stack([SAME + i for i in range(n)]), "b": jnp.zeros((n, 16))}


def one_by_one(function):
    """A batch of trees under one key, by a transformation of JAX: `(locked, keys)`."""
    return lambda trees: function(lambda tree: LOCK.encrypt(KEY, tree), trees)


WAYS = {
    "vmap": one_by_one(lambda f, trees: jax.vmap(f)(trees)),
    "jit of vmap": one_by_one(lambda f, trees: jax.jit(jax.vmap(f))(trees)),
    "lax.map": one_by_one(jax.lax.map),
    "pmap": one_by_one(lambda f, trees: jax.pmap(f)(trees)),
    "scan": one_by_one(lambda f, trees: jax.lax.scan(lambda c, t: (c, f(t)), 0, trees)[1]),
    "shard_map": one_by_one(
        lambda f, trees: jax.shard_map(
            lambda own: jax.tree.map(lambda a: a[None], f(jax.tree.map(lambda a: a[0], own))),
            mesh=MESH, in_specs=P("x"), out_specs=P("x"),
        )(trees)
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*pmap.*:DeprecationWarning")
@pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, marks=pytest.mark.slow) if way in ("jit of vmap", "lax.map") else way
        for way in WAYS
    ],
)
def test_a_batch_of_models_under_one_key(way):
    trees, met = batch(), Met()
    # Cut on the host: across devices JAX adds up what it picks, and denormal numbers become 0.
    made = jax.device_get((trees, *WAYS[way](trees)))
    for i in range(4):
        tree, own, key = jax.tree.map(lambda a, i=i: a[i], made)
        met.add(told(tree), tree, own)
        assert same_bits(LOCK.decrypt(key, own), tree)
        assert same_bits(LOCK.encrypt(KEY, tree), (own, key))


def test_layers_of_one_stack_and_parts_of_one_leaf():
    """Rows of zeros, and the parts of four devices: a leaf is one stream, wherever it is cut."""
    met, zeros = Met(), {"w": jnp.zeros((12, 16, 4))}
    for spec in (P(), P("x"), P(None, "x"), P(None, None, "x")):
        tree = {"w": jax.device_put(zeros["w"], NamedSharding(MESH, spec))}
        met.add(told(tree), tree, LOCK.encrypt(KEY, tree)[0])
    assert len(met.by) == 12 * 16 * 4 * 4 // 64


def test_a_chain_given_one_key_twice():
    tree = {"layer": {"kernel": SAME.reshape(4, 8)}}
    keys = {
        "stream": (ml.chain(LOCK, LOCK), (KEY, KEY)),
        "signs": (ml.chain(ml.sign_flip(8), ml.deep_lock(), ml.sign_flip(8)), None),
    }
    signs = ml.sign_flip(8).init(jax.random.key(0), tree)
    deep = ml.deep_lock().init(jax.random.key(1), tree)
    keys["signs"] = (keys["signs"][0], (signs, deep, signs))
    for lock, key in keys.values():
        with pytest.raises(ValueError, match="have the same key; draw one for each"):
            lock.encrypt(key, tree)
        with pytest.raises(ValueError, match="have the same key"):
            jax.jit(lambda k, lock=lock: lock.encrypt((k[0],) * len(k), tree))(key)
    # As two arguments of a program they are not seen to be one, and no stream is met twice.
    twice, finished = jax.jit(ml.chain(LOCK, LOCK).encrypt)((KEY, KEY), tree)
    assert not same_bits(twice, tree)
    once, _ = LOCK.encrypt(KEY, tree)
    met = Met()
    met.add("once", tree, once)
    met.add("then", once, twice)
    assert same_bits(ml.chain(LOCK, LOCK).decrypt(finished, twice), tree)
