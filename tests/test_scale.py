"""Ten million values of every dtype come back bit for bit; a thousand keys in one program."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import table
from table import CASES, DTYPES, LOCKS

import modellock_jax as ml
from modellock_jax.bits import from_uint, to_uint
from modellock_jax.metrics import over_keys
from modellock_jax.schemes import adv_params

BIG, SMALL = (2500, 4000), (300, 250)
# What stands in every leaf of 32 bits: zeros, infinities, NaNs of both kinds, a denormal.
SPECIAL = [0, 1 << 31, 0x7F800000, 0xFF800000, 0x7F800001, 0x7FC00001, 0xFFFFFFFF, 1]
KEYS = 1000


def bits(leaf: Any) -> np.ndarray:
    leaf = np.asarray(leaf)
    return leaf.view(f"u{leaf.dtype.itemsize}")


def same(a: Any, b: Any) -> bool:
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and np.array_equal(bits(x), bits(y)) for x, y in leaves)


def values(dtype: str, shape: tuple[int, ...]) -> jax.Array:
    """Random bits that begin with every pattern there is, or with special values of 32 bits."""
    size, type_ = math.prod(shape), jnp.dtype(dtype)
    raw = np.frombuffer(np.random.default_rng(1).bytes(size * type_.itemsize), np.uint8)
    uint = raw.view(f"u{type_.itemsize}").copy()
    first = SPECIAL if type_.itemsize == 4 else np.arange(256**type_.itemsize)
    uint[: len(first)] = np.asarray(first, uint.dtype)
    return jnp.asarray(uint.view(type_).reshape(shape))


def tree(shape: tuple[int, ...]) -> dict[str, Any]:
    return {dtype: {"kernel": values(dtype, shape)} for dtype in DTYPES}


@pytest.fixture(scope="module")
def big() -> dict[str, Any]:
    return tree(BIG)


BIT_LOCKS = ["deep_lock", "deep_lock-256", "deep_lock-leaf", "stream_lock", "sign_flip"]
every_bit_lock = pytest.mark.parametrize("name", BIT_LOCKS)


def check_changed(name: str, locked: Any, plain: Any) -> None:
    for path, leaf in plain.items():
        share = (bits(locked[path]["kernel"]) != bits(leaf["kernel"])).mean()
        assert share > (0.2 if name == "sign_flip" else 0.99), path


def test_the_values_are_all_there_are(big: dict[str, Any]) -> None:
    for dtype, leaf in big.items():
        assert leaf["kernel"].size == 10**7
        found = set(bits(leaf["kernel"])[0].tolist())
        if leaf["kernel"].dtype.itemsize == 4:
            assert found >= set(SPECIAL), dtype
        else:
            patterns = np.unique(bits(leaf["kernel"]))
            assert patterns.size == 256 ** leaf["kernel"].dtype.itemsize, dtype


@every_bit_lock
def test_ten_million_values_come_back(name: str, big: dict[str, Any]) -> None:
    lock = LOCKS[name][1]()
    locked, key = jax.jit(lock.encrypt)(lock.init(jax.random.key(1), big), big)
    check_changed(name, locked, big)
    assert same(jax.jit(lock.decrypt)(key, locked), big)


@every_bit_lock
def test_values_come_back_under_vmap(name: str) -> None:
    lock, small = LOCKS[name][1](), tree(SMALL)
    keys = jax.vmap(lambda rng: lock.init(rng, small))(jax.random.split(jax.random.key(1), 3))
    locked, keys = jax.jit(jax.vmap(lock.encrypt, (0, None)))(keys, small)
    opened = jax.jit(jax.vmap(lock.decrypt))(keys, locked)
    for i in range(3):
        check_changed(name, jax.tree.map(lambda a, i=i: np.asarray(a)[i], locked), small)
        assert same(jax.tree.map(lambda a, i=i: np.asarray(a)[i], opened), small)


@pytest.mark.parametrize("dtype", DTYPES)
def test_patch_shuffle_moves_ten_million_values(dtype: str, big: dict[str, Any]) -> None:
    lock, plain = ml.patch_shuffle(50, channels=1), big[dtype]
    locked, key = jax.jit(lock.encrypt)(lock.init(jax.random.key(1), plain), plain)
    np.testing.assert_array_equal(
        bits(locked["kernel"]), bits(plain["kernel"])[np.asarray(key.permutation)]
    )
    assert not same(locked, plain)
    assert same(jax.jit(lock.decrypt)(key, locked), plain)


@pytest.mark.parametrize("dtype", DTYPES)
def test_patch_shuffle_under_vmap(dtype: str) -> None:
    lock, plain = ml.patch_shuffle(10, channels=3), tree(SMALL)[dtype]
    keys = jax.vmap(lambda rng: lock.init(rng, plain))(jax.random.split(jax.random.key(1), 3))
    locked, keys = jax.jit(jax.vmap(lock.encrypt, (0, None)))(keys, plain)
    opened = jax.jit(jax.vmap(lock.decrypt))(keys, locked)
    for i in range(3):
        order = np.asarray(keys.permutation)[i]
        assert np.array_equal(bits(locked["kernel"])[i], bits(plain["kernel"])[order])
        assert np.array_equal(bits(opened["kernel"])[i], bits(plain["kernel"]))


def layer_loss(params: Any) -> jax.Array:
    return (params["layer"]["kernel"] ** 2).sum()


LAYER = {"kernel": jnp.linspace(-1.0, 2.0, 64).reshape(8, 8)}
FLOATS = [dtype for dtype in DTYPES if "float" in dtype]


def finished(leaf: jax.Array, number: int, seed: int, count: int) -> ml.AdvParamsKey:
    """A key that holds the true bits of `count` entries of a leaf, its ends among them."""
    inner = np.random.default_rng(seed).choice(leaf.size - 2, count - 2, replace=False) + 1
    places = np.concatenate([[0, leaf.size - 1], inner]).astype(np.int32)
    return ml.AdvParamsKey(
        jnp.zeros(8, jnp.uint32),
        jnp.full(count, number, jnp.int32),
        jnp.asarray(places),
        jnp.asarray(bits(leaf).ravel()[places].astype(np.uint32)),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_adv_params_beside_ten_million_values(dtype: str, big: dict[str, Any]) -> None:
    lock, params = ml.adv_params(count=2, pool=1.0), {"big": big[dtype]["kernel"], "layer": LAYER}
    encrypt = jax.jit(lambda key, params: lock.encrypt(key, params, layer_loss))
    locked, key = encrypt(lock.init(jax.random.key(1), params), params)
    assert 1 <= (bits(locked["layer"]["kernel"]) != bits(LAYER["kernel"])).sum() <= 2
    assert same(locked["big"], params["big"])
    assert same(jax.jit(lock.decrypt)(key, locked), params)


@pytest.mark.parametrize("dtype", FLOATS)
def test_adv_params_restores_entries_among_ten_million(dtype: str, big: dict[str, Any]) -> None:
    params = {"big": big[dtype]["kernel"], "layer": LAYER}
    key = finished(params["big"], 0, seed=2, count=1000)
    decrypt = jax.jit(ml.adv_params(count=1000).decrypt)
    changed = decrypt(key._replace(bits=~key.bits), params)
    expected = bits(params["big"]).ravel().copy()
    expected[np.asarray(key.position)] ^= np.array(-1).astype(expected.dtype)
    assert np.array_equal(bits(changed["big"]).ravel(), expected)
    assert same(changed["layer"], params["layer"])
    assert same(decrypt(key, changed), params)


def test_adv_params_under_vmap() -> None:
    """The search beside all dtypes at once, and keys that point into a leaf of each float."""
    lock, params = ml.adv_params(count=9, pool=1.0), {"layer": LAYER, **tree(SMALL)}
    keys = jax.vmap(lambda r: lock.init(r, params))(jax.random.split(jax.random.key(1), 3))
    encrypt = jax.jit(jax.vmap(lambda k, p: lock.encrypt(k, p, layer_loss), (0, None)))
    decrypt = jax.jit(jax.vmap(lock.decrypt))
    names = [path.split("/")[0] for path in jax.tree.leaves(ml.base.paths(params))]
    pointed = [
        jax.tree.map(
            lambda *fields: jnp.concatenate(fields),
            *(
                finished(params[d]["kernel"], names.index(d), seed + i, 3)
                for i, d in enumerate(trio)
            ),
        )._replace(seed=jnp.zeros(8, jnp.uint32))
        for seed, trio in enumerate([FLOATS[:3], FLOATS[2:], FLOATS[1:4]])
    ]
    true = jax.tree.map(lambda *fields: jnp.stack(fields), *pointed)
    spread = jax.tree.map(lambda a: from_uint(jnp.stack([to_uint(a)] * 3), a.dtype), params)
    wrong = decrypt(true._replace(bits=~true.bits), spread)
    for locked, right in [encrypt(keys, params), (wrong, true)]:
        opened = decrypt(right, locked)
        for i in range(3):
            assert not same(jax.tree.map(lambda a, i=i: np.asarray(a)[i], locked), params)
            assert same(jax.tree.map(lambda a, i=i: np.asarray(a)[i], opened), params)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [48, 51])
def test_over_keys_passes_bits_in_and_out(dtype: str, count: int) -> None:
    """48 is three chunks; 51 leaves a part of one. A scan on CPU quiets signalling NaNs."""
    held = {"w": values(dtype, (count, 1500)), "empty": jnp.zeros((count, 0, 2))}
    program = jax.jit(lambda held: over_keys(lambda one: (one, to_uint(one["w"])), held))
    out, seen = program(held) if "float" in dtype else (over_keys(lambda one: one, held), held["w"])
    assert same(out, held)
    assert np.array_equal(bits(seen), bits(held["w"]))


def as_numbers(leaf: jax.Array) -> jax.Array:
    """The bits of a float32 leaf as numbers in [-1, 1), so that any key gives finite outputs."""
    return jax.lax.bitcast_convert_type(leaf, jnp.int32).astype(jnp.float32) / 2.0**31


def forward(params: Any, x: jax.Array, tap: ml.Tap) -> jax.Array:
    used = {name: params[name] for name in ("dense", "head")}
    return table.forward(jax.tree.map(as_numbers, used), x, tap)


def checksums(params: Any) -> list[jax.Array]:
    """A sum of each leaf's bits, each bit pattern times an odd number of its own, modulo 2^32."""
    return [
        (
            to_uint(leaf).ravel().astype(jnp.uint32) * (2 * np.arange(leaf.size, dtype="u4") + 1)
        ).sum()
        for leaf in jax.tree.leaves(params)
    ]


def program(lock: ml.Lock) -> Any:
    """What a key makes of a locked tree: the weights' checksums and the outputs."""

    def one(key: Any, locked: Any) -> Any:
        y = ml.user_forward(lock, forward)(key, locked, table.images())
        return checksums(lock.decrypt(key, locked)), y

    return one


@pytest.mark.parametrize("name", LOCKS)
def test_a_thousand_keys_in_one_program_are_the_loop(name: str) -> None:
    lock, locked = CASES[name].lock, table.make_params()
    draw = (lambda r: adv_params.guess(lock, r, locked)) if name == "adv_params" else None
    draw = draw or (lambda r: lock.init(r, locked))
    keys = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(3), KEYS))
    one = program(lock)
    together = jax.jit(lambda keys, locked: over_keys(lambda key: one(key, locked), keys, chunk=16))
    compiled = together.lower(keys, locked).compile()
    # All decrypted trees at once would take more than this.
    whole = KEYS * sum(leaf.nbytes for leaf in jax.tree.leaves(locked))
    assert compiled.memory_analysis().temp_size_in_bytes < whole / 2
    sums, outputs = jax.device_get(compiled(keys, locked))
    keys, alone = jax.device_get(keys), jax.jit(one)
    cheap = lock.decrypt is ml.Lock._field_defaults["decrypt"]
    for i in range(KEYS) if cheap else [*range(0, KEYS, 40), KEYS - 1]:
        own_sums, own_output = alone(jax.tree.map(lambda a, i=i: a[i], keys), locked)
        assert [int(s[i]) for s in sums] == [int(s) for s in own_sums]
        # A batched matmul may sum in another order; the weights and inputs it sums are the same.
        np.testing.assert_allclose(outputs[i], own_output, rtol=2e-6, atol=2e-6)
    assert len(np.unique(outputs, axis=0)) == KEYS


@pytest.mark.parametrize("name", ["deep_lock", "stream_lock", "sign_flip", "adv_params"])
def test_chunks_bound_the_memory(name: str) -> None:
    lock, params = LOCKS[name][1](), {"kernel": jnp.ones((64, 64))}
    draw = (lambda r: adv_params.guess(lock, r, params)) if name == "adv_params" else None
    draw = draw or (lambda r: lock.init(r, params))
    keys = jax.eval_shape(jax.vmap(draw), jax.random.split(jax.random.key(3), KEYS))

    def one(key: Any, params: Any) -> jax.Array:
        return jnp.ones((1, 64)) @ lock.decrypt(key, params)["kernel"]

    def temporary(f: Any) -> int:
        return jax.jit(f).lower(keys, params).compile().memory_analysis().temp_size_in_bytes

    chunked = temporary(lambda k, p: over_keys(lambda key: one(key, p), k, chunk=16))
    assert chunked < temporary(jax.vmap(one, (0, None))) / 10
