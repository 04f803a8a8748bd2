"""The digest that finishes a stream's nonce: as its page says, on any mesh, and no two trees alike."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from helpers.table import bytes_of, random_bits
from jax import NamedSharding, P
from jax.sharding import AxisType

import modellock_jax as ml
from modellock_jax.ciphers import native
from modellock_jax.ciphers.nonces import leaf_nonce
from modellock_jax.core.shards import Part
from modellock_jax.locks._digest import LANES, ROW, _added, stretch_of, structure, tree_digest

no_call = pytest.mark.skipif(not native.has_digest(), reason="no compiled call")
both_ways = pytest.mark.parametrize(
    "compiled",
    [pytest.param(True, marks=no_call, id="compiled"), pytest.param(False, id="JAX alone")],
)
KEY = jnp.arange(8, dtype=jnp.uint32) * np.uint32(0x1234567)
SHAPES = {
    (): "int32", (3,): "int8", (5, 7): "float16", (70, 513): "float32", (4096,): "bfloat16",
    (9, 1000, 3): "int8", (2, 3, 129): "float32", (1, 5000): "int32", (0, 4): "float32",
}  # fmt: skip


def words(key, counter, nonce, count):
    start = np.array([counter, *nonce], "<u4").tobytes()
    cipher = Cipher(algorithms.ChaCha20(bytes_of(key), start), None).encryptor()
    return np.frombuffer(cipher.update(bytes(64 * -(-count // 16))), "<u4")[:count].astype(object)


def oracle(key, leaves):
    """The digest with Python's integers, one piece of 16 bits after the other."""
    table = words(key, 0, (2**32 - 1, 0, 0), 2 * LANES * ROW // 4).reshape(LANES, 2, ROW // 4)
    total = [0] * LANES
    for number, leaf in enumerate(leaves):
        if not leaf.size:
            continue
        shape = leaf.shape or (1,)
        axis, length = stretch_of(shape, leaf.dtype.itemsize)
        inner = math.prod(shape[axis + 1 :]) * leaf.dtype.itemsize
        data, row = bytes_of(leaf), 0
        for start in range(0, len(data), shape[axis] * inner):
            whole = data[start : start + shape[axis] * inner]
            for at in range(0, len(whole), length * inner):
                pieces = whole[at : at + length * inner]
                pieces = np.frombuffer(pieces + bytes(-len(pieces) % 4), "<u2").tolist()
                factors = words(key, row, (number, 0, 0), LANES)
                for lane in range(LANES):
                    inside = sum(p * table[lane, i % 2, i // 2] for i, p in enumerate(pieces))
                    total[lane] += inside % 2**32 * factors[lane]
                row += 1
    return [lane % 2**32 for lane in total]


def leaves_of(shapes):
    rngs = jax.random.split(jax.random.key(0), len(shapes))
    return [random_bits(rng, shape, dtype) for rng, (shape, dtype) in zip(rngs, shapes.items())]


@both_ways
def test_it_is_what_its_page_says(compiled):
    leaves = leaves_of(SHAPES)
    assert tree_digest(KEY, leaves, compiled).tolist() == oracle(KEY, leaves)


@both_ways
def test_entries_of_64_bits(compiled):
    with jax.enable_x64(True):
        leaves = leaves_of({(3, 700): "float64", (5,): "int64", (): "float64"})
        assert tree_digest(KEY, leaves, compiled).tolist() == oracle(KEY, leaves)


# Even and uneven parts, along rows and within them: at words, at halves of words, at bytes.
PARTS = [
    ((24, 40), (3, 2), "int32"), ((10, 1000, 3), (4, 3, 2), "int8"), ((2, 5003), (1, 8), "bfloat16"),
    ((9, 130, 7), (2, 4, 1), "float16"), ((70000,), (3,), "int8"), ((1, 5), (3, 1), "int8"),
]  # fmt: skip


@both_ways
@pytest.mark.parametrize(("shape", "counts", "dtype"), PARTS)
def test_parts_add_up(shape, counts, dtype, compiled):
    leaf = random_bits(jax.random.key(4), shape, dtype)
    own = [-(-n // count) for n, count in zip(shape, counts)]
    # What lies past the leaf's end is thrown away, whatever it is.
    filled = np.full([n * count for n, count in zip(own, counts)], 99, leaf.dtype)
    filled[tuple(map(slice, shape))] = leaf
    names = tuple("x" if count > 1 else None for count in counts)

    @jax.jit
    def added(numbers, part):
        return _added((compiled, (6,)), KEY, [Part(shape, tuple(numbers), names)], [part])[0]

    total = np.zeros(LANES, np.uint32)
    for numbers in itertools.product(*map(range, counts)):
        place = tuple(slice(i * n, i * n + n) for i, n in zip(numbers, own))
        total += np.asarray(added([jnp.int32(i) for i in numbers], jnp.asarray(filled[place])))
    assert total.tolist() == oracle(KEY, [jnp.zeros(0, jnp.int8)] * 6 + [leaf])


def test_the_nonce_is_a_cascade_of_chacha20():
    params, lock = {"a": leaves_of(SHAPES)[3]}, ml.stream_lock()
    key = ml.StreamKey(KEY, jnp.array([1, 2, 3], jnp.uint32))
    hashing = jnp.asarray(words(KEY, 1, (0, 0, 0), 8).astype(np.uint32))
    state = words(KEY, 2, (1, 2, 3), 8)
    for block in (
        *structure(params).reshape(2, 4),
        *np.reshape(oracle(hashing, [params["a"]]), (2, 4)),
    ):
        state = words(np.array(state, np.uint32), int(block[0]), block[1:].tolist(), 8)
    assert lock.encrypt(key, params)[1].nonce.tolist() == state[:3].tolist()
    assert (
        leaf_nonce("a").tolist() == np.frombuffer(bytes.fromhex("ca978112ca1bbdca"), "<u4").tolist()
    )


SPECS = [
    (P("x"), P(None, ("x", "y")), P("y", "x"), P(("y", "x")), P(None, "y", None)),
    (P(("x", "y")), P("x"), P(None, "y"), P("y"), P(None, ("x", "y"), None)),
    (P(), P("y", "x"), P(None, "x"), P("x"), P("y", None, None)),
]
SPLIT = [((24, 40), "int32"), ((2048, 24), "bfloat16"), ((4, 12), "int8"), ((4096,), "float32"),
         ((8, 2000, 3), "int8")]  # fmt: skip


@both_ways
@pytest.mark.parametrize(
    "kind", [AxisType.Auto, pytest.param(AxisType.Explicit, marks=pytest.mark.slow)]
)
def test_it_is_the_same_on_any_mesh(kind, compiled):
    mesh = jax.make_mesh((2, 2), ("x", "y"), devices=jax.devices()[:4], axis_types=(kind, kind))
    leaves = [random_bits(jax.random.key(3), *one) for one in SPLIT]
    expected = oracle(KEY, leaves)
    for specs in SPECS:
        # From the host: between devices JAX compiles a copy, which may quiet NaNs.
        placed = [
            jax.device_put(np.asarray(a), NamedSharding(mesh, s)) for a, s in zip(leaves, specs)
        ]
        key = jax.device_put(KEY, NamedSharding(mesh, P()))
        digest = jax.jit(tree_digest, static_argnums=2)
        assert digest(key, placed, compiled).tolist() == expected


@both_ways
def test_one_bit_anywhere_changes_all_lanes(compiled):
    """Every lane, at the first and last bits of leaves and rows."""
    leaf = jnp.zeros((3, 1500), jnp.float32)
    digest = jax.jit(lambda leaf: tree_digest(KEY, [leaf], compiled))
    before = digest(leaf)
    for place in ((0, 0), (0, 1023), (0, 1024), (1, 1499), (2, 1499)):
        for bit in (0, 15, 16, 31):
            bits = jax.lax.bitcast_convert_type(leaf, jnp.uint32).at[place].set(np.uint32(1 << bit))
            assert (digest(jax.lax.bitcast_convert_type(bits, jnp.float32)) != before).all()
