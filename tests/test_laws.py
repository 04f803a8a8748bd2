"""The seven laws, held by every lock and every chain, with jit and without."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from helpers.table import CASES, forward, images, loss, make_params, marks_of, same_bits
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import modellock_jax as ml
from modellock_jax.core.bits import stack
from modellock_jax.locks import SCHEMES
from modellock_jax.vault.keys.secret import Secret

every_case = pytest.mark.parametrize(
    "case", [pytest.param(case, id=name, marks=marks_of(name)) for name, case in CASES.items()]
)
both_ways = pytest.mark.parametrize("way", ["jit", "eager"])
# A chain does in turn what its locks do, compiled or not, and so does a lock with other settings.
locks_both_ways = pytest.mark.parametrize(
    ("case", "way"),
    [
        pytest.param(case, way, id=f"{name}-{way}", marks=marks_of(name))
        for name, case in CASES.items()
        for way in ("jit", "eager")
        if way == "jit" or name in SCHEMES
    ],
)


@pytest.fixture(autouse=True)
def effort_of_a_law(request):
    # Optimisations may move sums of floats, so the law that compares them is held under all.
    if request.node.name.startswith("test_3"):
        request.getfixturevalue("optimised")


def made(case, way):
    """(locked, key) of the parameters of seed 0, and the programs of that way."""
    pair = case.pair(1) if way == "jit" else case.eager_pair(1)
    return *pair, getattr(case, way)


EACH_ALONE = parameterized.named_parameters((name, name) for name in SCHEMES)
TYPICAL, THE_OTHERS = (
    parameterized.named_parameters(
        (name, name) for name in CASES if name not in SCHEMES and bool(marks_of(name)) == slow
    )
    for slow in (False, True)
)


class Checks(chex.TestCase):
    """Laws of decrypt and of the forwards, of one lock or chain."""

    def check_1(self, name):
        case = CASES[name]
        locked, key = case.pair(1)
        assert same_bits(self.variant(case.lock.decrypt)(key, locked), case.params())

    def check_2(self, name):
        case, params = CASES[name], CASES[name].params()
        before = case.lock.init(jax.random.key(1), params)
        if "adv_params" in case.schemes:  # its search is no part of the law: decrypt is
            locked, key = case.pair(1)
        else:
            locked, key = self.variant(case.lock.encrypt)(before, params)
        opened = self.variant(case.lock.decrypt)(key, locked)
        chex.assert_trees_all_equal_shapes_and_dtypes(params, locked, opened)
        chex.assert_trees_all_equal_structs(params, locked, opened)
        chex.assert_trees_all_equal_shapes_and_dtypes(before, key)
        chex.assert_trees_all_equal_structs(before, key)

    def check_3(self, name):
        case, x = CASES[name], images()
        locked, key = case.pair(1)
        user, owner = (
            self.variant(make(case.lock, forward)) for make in (ml.user_forward, ml.owner_forward)
        )
        y = user(key, locked, x)
        chex.assert_shape(y, (len(x), 3))
        assert same_bits(y, owner(key, case.params(), x))


class Variants(Checks):
    """Compiled or not, of arrays on a device or on the host."""

    @chex.variants(with_jit=True, without_jit=True, without_device=True)
    @EACH_ALONE
    def test_1_decrypt_inverts_encrypt_on_bits(self, name):
        self.check_1(name)

    @chex.variants(with_jit=True)
    @TYPICAL
    def test_1_as_the_locks_alone(self, name):
        self.check_1(name)

    @chex.variants(with_jit=True, without_jit=True)
    @EACH_ALONE
    def test_2_structure_shapes_and_dtypes_are_kept(self, name):
        self.check_2(name)

    @chex.variants(with_jit=True)
    @TYPICAL
    def test_2_as_the_locks_alone(self, name):
        self.check_2(name)

    @chex.variants(with_jit=True, without_jit=True)
    @EACH_ALONE
    def test_3_the_user_computes_what_the_owner_trained(self, name):
        self.check_3(name)

    @chex.variants(with_jit=True)
    @TYPICAL
    def test_3_as_the_locks_alone(self, name):
        self.check_3(name)


@pytest.mark.slow
class Others(Checks):
    """Of every chain and with every setting."""

    @chex.variants(with_jit=True)
    @THE_OTHERS
    def test_1_as_the_locks_alone(self, name):
        self.check_1(name)

    @chex.variants(with_jit=True)
    @THE_OTHERS
    def test_2_as_the_locks_alone(self, name):
        self.check_2(name)

    @chex.variants(with_jit=True)
    @THE_OTHERS
    def test_3_as_the_locks_alone(self, name):
        self.check_3(name)


@locks_both_ways
def test_2_shardings_are_kept(case, way):
    mesh = Mesh(np.array(jax.devices()[:4]), ("x",))
    rows = NamedSharding(mesh, PartitionSpec("x"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(
        lambda a: jax.device_put(
            a, rows if a.ndim and a.size and a.shape[0] % 4 == 0 else everywhere
        ),
        case.params(),
    )
    locked, key, programs = made(case, way)
    key = jax.device_put(key, everywhere)
    if "adv_params" not in case.schemes:  # its search is no part of the law: decrypt is
        before = jax.device_put(case.lock.init(jax.random.key(1), params), everywhere)
        encrypt = jax.jit(case.lock.encrypt) if way == "jit" else case.lock.encrypt
        locked, key = encrypt(before, params)
        check_shardings(locked, params)
    locked = jax.tree.map(lambda a, b: jax.device_put(a, b.sharding), locked, params)
    opened = programs.decrypt(key, locked)
    check_shardings(opened, params)
    assert same_bits(opened, case.params())


def check_shardings(tree, like):
    for new, old in zip(jax.tree.leaves(tree), jax.tree.leaves(like)):
        assert new.sharding.is_equivalent_to(old.sharding, new.ndim)


@both_ways
def test_2_adv_params_keeps_shardings_in_its_search(way):
    mesh = Mesh(np.array(jax.devices()[:4]), ("x",))
    params = {"kernel": jax.random.normal(jax.random.key(0), (8, 8))}
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec("x")))
    lock = ml.adv_params(count=3)
    encrypt = jax.jit(lock.encrypt, static_argnums=2) if way == "jit" else lock.encrypt
    key = jax.device_put(lock.init(jax.random.key(1), params), NamedSharding(mesh, PartitionSpec()))
    locked, key = encrypt(key, params, lambda p: (p["kernel"] ** 2).sum())
    check_shardings(locked, params)
    assert same_bits(lock.decrypt(key, locked), params)


@locks_both_ways
def test_4_vmap_over_keys_is_a_loop(case, way):
    pairs = [case.pair(seed) for seed in (1, 2, 3)]
    stacked, keys = stack(pairs)
    x = images()

    def told(params, x, tap):
        return params, x, forward(params, x, tap)

    user = jax.vmap(ml.user_forward(case.lock, told), (0, 0, None))
    opened, scrambled, y = (jax.jit if way == "jit" else lambda f: f)(user)(keys, stacked, x)
    assert same_bits(opened, stack([case.params()] * 3))
    assert same_bits(scrambled, jnp.stack([case.lock.scramble(key, x) for _, key in pairs]))
    # A batched matmul may sum in another order; the weights and inputs it sums are the same bits.
    looped = jnp.stack([case.jit.user(key, locked, x) for locked, key in pairs])
    np.testing.assert_allclose(y, looped, rtol=2e-6, atol=2e-6)


@every_case
@both_ways
def test_5_gradients_through_the_owners_forward_are_finite(case, way):
    _, key, programs = made(case, way)
    params = case.params()
    used = {name: params[name] for name in ("dense", "head")}

    def objective(used, x):
        return (programs.owner(key, {**params, **used}, x) ** 2).sum()

    gradients = jax.grad(objective, argnums=(0, 1))(used, images())
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradients))
    assert all(bool((g != 0).any()) for g in jax.tree.leaves(gradients[0]))


ON_BITS = {"deep_lock", "stream_lock", "sign_flip", "patch_shuffle", "adv_params"}
BIT_LOCKS = [
    n for n, c in CASES.items() if {*c.schemes} & {"deep_lock", "stream_lock", "sign_flip"}
]


@pytest.mark.parametrize("name", BIT_LOCKS)
@both_ways
def test_5_a_gradient_through_bits_raises(name, way):
    lock = CASES[name].lock
    compiled = jax.jit if way == "jit" else lambda f: f
    params = {"dense": {"kernel": jnp.ones((16, 8))}}
    key = lock.init(jax.random.key(1), params)
    with pytest.raises(TypeError, match="works on bits and has no gradient"):
        compiled(jax.grad(lambda p: lock.decrypt(key, p)["dense"]["kernel"].sum()))(params)
    if "adv_params" not in CASES[name].schemes:
        with pytest.raises(TypeError, match="works on bits and has no gradient"):
            compiled(jax.grad(lambda p: lock.encrypt(key, p)[0]["dense"]["kernel"].sum()))(params)


@pytest.mark.parametrize("name", BIT_LOCKS)
def test_5_inputs_keep_their_gradient_behind_a_bit_lock(name):
    locked, key = CASES[name].pair(1)
    gradient = jax.grad(lambda x: CASES[name].jit.user(key, locked, x).sum())(images())
    assert bool(jnp.isfinite(gradient).all())
    assert bool((gradient != 0).any())


@every_case
def test_6_another_key_gives_another_answer(case):
    locked, key = case.pair(1)
    _, other = case.pair(2)
    x = images()
    assert not same_bits(case.jit.user(other, locked, x), case.jit.user(key, locked, x))


@every_case
@pytest.mark.parametrize("seed", range(3))
def test_6_so_does_one_bit_or_swap(case, seed):
    locked, key = case.pair(1)
    x = images()
    right = case.jit.user(key, locked, x)
    for link in range(len(case.schemes)):
        near = case.near(jax.random.key(seed), key, link)
        changed = jax.tree.map(lambda a, b: int((a != b).sum()), near, key)
        assert 1 <= sum(jax.tree.leaves(changed)) <= 2
        assert not same_bits(case.jit.user(near, locked, x), right)


@every_case
def test_7_a_second_key_costs_no_second_trace(case):
    x, traces = images(), []
    for seed in (1, 2, 3, 4):
        locked, key = case.pair(seed)
        case.jit.user(key, locked, x)
        traces.append(case.traces)
    assert traces[0] > 0
    assert len(set(traces)) == 1


def test_the_loss_of_the_table_sees_the_layers():
    gradients = jax.grad(lambda p: loss({**make_params(), **p}))({"head": make_params()["head"]})
    assert bool((gradients["head"]["kernel"] != 0).any())


@every_case
def test_keys_come_from_a_host_secret_too(case):
    secret, params = Secret(bytes(range(32))), case.params()

    def describe(tree):
        return jax.tree.map(lambda a: (a.shape, a.dtype), tree)

    key = case.lock.init(secret.source("model/v1"), params)
    assert same_bits(key, case.lock.init(secret.source("model/v1"), params))
    assert not same_bits(key, case.lock.init(secret.source("model/v2"), params))
    assert describe(key) == describe(case.lock.init(jax.random.key(0), params))
