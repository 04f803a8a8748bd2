"""The seven laws, held by every lock and every chain, with jit and without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from table import CASES, FLOATS, INTEGERS, forward, images, loss, make_params, same_bits

import modellock_jax as ml

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
jit_or_not = pytest.mark.parametrize("jit", [jax.jit, lambda f: f], ids=["jit", "eager"])


def lock_it(case, rng, params, jit=jax.jit):
    """(locked, key), compiled or not."""

    def make(rng, params):
        return case.lock.encrypt(case.lock.init(rng, params), params, loss)

    return jit(make)(rng, params)


@every_case
@jit_or_not
@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
def test_1_decrypt_inverts_encrypt_on_bits(case, jit, dtype):
    params = make_params(dtype=dtype)
    locked, key = lock_it(case, jax.random.key(1), params, jit)
    assert same_bits(jit(case.lock.decrypt)(key, locked), params)


@every_case
@jit_or_not
def test_2_structure_shapes_and_dtypes_are_kept(case, jit):
    params = make_params(dtype="bfloat16")
    before = case.lock.init(jax.random.key(1), params)
    locked, key = jit(lambda k, p: case.lock.encrypt(k, p, loss))(before, params)
    opened = jit(case.lock.decrypt)(key, locked)
    describe = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)  # noqa: E731
    assert describe(locked) == describe(opened) == describe(params)
    assert describe(key) == describe(before)


@every_case
@jit_or_not
def test_2_shardings_are_kept(case, jit):
    mesh = Mesh(np.array(jax.devices()[:4]), ("x",))
    rows = NamedSharding(mesh, PartitionSpec("x"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = make_params()
    params = jax.tree.map(
        lambda a: jax.device_put(a, rows if a.ndim and a.shape[0] % 4 == 0 else everywhere), params
    )
    key = jax.device_put(case.lock.init(jax.random.key(1), params), everywhere)
    locked, key = jit(lambda k, p: case.lock.encrypt(k, p, loss))(key, params)
    opened = jit(case.lock.decrypt)(key, locked)
    for tree in (locked, opened):
        for new, old in zip(jax.tree.leaves(tree), jax.tree.leaves(params)):
            assert new.sharding.is_equivalent_to(old.sharding, new.ndim)
    assert same_bits(opened, params)


@every_case
@jit_or_not
def test_3_the_user_computes_what_the_owner_trained(case, jit):
    params, x = make_params(), images()
    locked, key = lock_it(case, jax.random.key(1), params)
    mine = jit(ml.owner_forward(case.lock, forward))(key, params, x)
    theirs = jit(ml.user_forward(case.lock, forward))(key, locked, x)
    assert same_bits(theirs, mine)


@every_case
@jit_or_not
def test_4_vmap_over_keys_is_a_loop(case, jit):
    params, x = make_params(), images()
    rngs = jax.random.split(jax.random.key(1), 3)
    pairs = [lock_it(case, rng, params) for rng in rngs]
    stacked, keys = jax.tree.map(lambda *a: jnp.stack(a), *pairs)

    def both(key, locked):
        return ml.user_forward(case.lock, forward)(key, locked, x)

    looped = jnp.stack([jit(both)(key, locked) for locked, key in pairs])
    mapped = jit(jax.vmap(both))(keys, stacked)
    # A batched matmul may sum in another order; the weights and inputs it sums are the same bits.
    np.testing.assert_allclose(mapped, looped, rtol=2e-6, atol=2e-6)
    opened = jit(jax.vmap(case.lock.decrypt))(keys, stacked)
    assert same_bits(opened, jax.tree.map(lambda a: jnp.stack([a] * 3), params))
    shuffled = jit(jax.vmap(case.lock.scramble, (0, None)))(keys, x)
    assert same_bits(shuffled, jnp.stack([case.lock.scramble(key, x) for _, key in pairs]))


@every_case
@jit_or_not
def test_5_gradients_through_the_owners_forward_are_finite(case, jit):
    params = make_params()
    _, key = lock_it(case, jax.random.key(1), params)
    used = {name: params[name] for name in ("dense", "head")}

    def objective(used, x):
        return (ml.owner_forward(case.lock, forward)(key, {**params, **used}, x) ** 2).sum()

    gradients = jit(jax.grad(objective, argnums=(0, 1)))(used, images())
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradients))
    assert all(bool((g != 0).any()) for g in jax.tree.leaves(gradients[0]))


BIT_LOCKS = [
    n for n, c in CASES.items() if {*c.schemes} & {"deep_lock", "stream_lock", "sign_flip"}
]


@pytest.mark.parametrize("name", BIT_LOCKS)
@jit_or_not
def test_5_a_gradient_through_bits_raises(name, jit):
    lock = CASES[name].lock
    params = {"dense": {"kernel": jnp.ones((16, 8))}}
    key = lock.init(jax.random.key(1), params)
    with pytest.raises(TypeError, match="works on bits and has no gradient"):
        jit(jax.grad(lambda p: lock.decrypt(key, p)["dense"]["kernel"].sum()))(params)
    if "adv_params" not in CASES[name].schemes:
        with pytest.raises(TypeError, match="works on bits and has no gradient"):
            jit(jax.grad(lambda p: lock.encrypt(key, p)[0]["dense"]["kernel"].sum()))(params)


@pytest.mark.parametrize("name", BIT_LOCKS)
def test_5_inputs_keep_their_gradient_behind_a_bit_lock(name):
    params = make_params()
    locked, key = lock_it(CASES[name], jax.random.key(1), params)
    user = ml.user_forward(CASES[name].lock, forward)
    gradient = jax.jit(jax.grad(lambda x: user(key, locked, x).sum()))(images())
    assert bool(jnp.isfinite(gradient).all())
    assert bool((gradient != 0).any())


@every_case
def test_6_another_key_gives_another_answer(case):
    params, x = make_params(), images()
    locked, key = lock_it(case, jax.random.key(1), params)
    _, other = lock_it(case, jax.random.key(2), params)
    user = jax.jit(ml.user_forward(case.lock, forward))
    assert not same_bits(user(other, locked, x), user(key, locked, x))


@every_case
@pytest.mark.parametrize("seed", range(3))
def test_6_so_does_one_bit_or_swap(case, seed):
    params, x = make_params(), images()
    locked, key = lock_it(case, jax.random.key(1), params)
    right = ml.user_forward(case.lock, forward)(key, locked, x)
    for link in range(len(case.schemes)):
        near = case.near(jax.random.key(seed), key, link)
        changed = jax.tree.map(lambda a, b: int((a != b).sum()), near, key)
        assert 1 <= sum(jax.tree.leaves(changed)) <= 2
        assert not same_bits(ml.user_forward(case.lock, forward)(near, locked, x), right)


@every_case
def test_7_a_second_key_costs_no_second_trace(case):
    params, x = make_params(), images()
    traces = []

    def counted(params, x, tap):
        traces.append(1)
        return forward(params, x, tap)

    user = jax.jit(ml.user_forward(case.lock, counted))
    for seed in (1, 2, 3):
        locked, key = lock_it(case, jax.random.key(seed), params)
        user(key, locked, x)
    assert len(traces) == 1
