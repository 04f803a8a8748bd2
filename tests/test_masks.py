"""A mask that would change nothing is an error, found while a forward is traced."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.table import forward, images, make_params

import modellock_jax as ml

MASK = ml.sign_mask(bits=4)
RNG = jax.random.key(0)
BOTH = pytest.mark.parametrize("who", [ml.owner_forward, ml.user_forward])
WAYS = pytest.mark.parametrize(
    "way",
    [jax.jit, lambda f: f, lambda f: lambda k, p, x: jax.vmap(f, (None, None, 0))(k, p, x[None])],
    ids=["jit", "eager", "vmap"],
)


class LinenLora(nn.Module):
    """A dense layer and an adapter beside it, with kernels of their own."""

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.lecun_normal()
        kernel, a, b = (
            self.param(name, init, shape)
            for name, shape in [("kernel", (4, 3)), ("a", (4, 2)), ("b", (2, 3))]
        )
        return x @ kernel + x @ a @ b


class NnxDense(nnx.Module):
    def __init__(self):
        self.kernel = nnx.Param(jnp.ones((4, 3)))

    def __call__(self, x):
        return x @ self.kernel


def linen():
    module = LinenLora()
    return ml.from_linen(module), module.init(RNG, jnp.ones((1, 4)))


def of_nnx():
    module = NnxDense()
    return ml.from_nnx(module), ml.nnx_params(module)


def by_hand():
    return lambda params, x, tap: x @ params["kernel"], {"kernel": jnp.ones((4, 3))}


def run(who, way, lock, forward, params, x):
    return way(who(lock, forward))(lock.init(RNG, params), params, x)


@pytest.mark.parametrize("make", [linen, of_nnx, by_hand])
@pytest.mark.parametrize("link", [False, True])
@BOTH
@WAYS
def test_a_forward_without_taps_is_refused(make, link, who, way):
    forward, params = make()
    lock = ml.chain(ml.deep_lock(), MASK) if link else MASK
    with pytest.raises(ValueError, match=r"never called `tap`.*from_linen and from_nnx do so for"):
        run(who, way, lock, forward, params, jnp.ones((2, 4)))


WHERE = {
    "a leaf's path": ml.only(MASK, lambda path: path == "dense/kernel"),
    "in a chain whose other mask meets sites": ml.chain(
        MASK, ml.only(MASK, lambda path: path == "dense/kernel")
    ),
    "of a chain": ml.only(ml.chain(ml.deep_lock(), MASK), lambda path: path == "dense/kernel"),
    "of a lock by hand": ml.only(
        ml.Lock(lambda rng, params: jnp.ones(()), mask=lambda key, site, h: h * key),
        lambda path: path == "dense/kernel",
    ),
    "of one that chooses another site": ml.only(
        ml.only(MASK, lambda path: path.startswith("dense")),
        lambda path: path in ("dense/kernel", "head"),
    ),
}


@pytest.mark.parametrize("lock", WHERE.values(), ids=WHERE.keys())
@BOTH
@WAYS
def test_a_mask_that_no_site_meets_is_refused_by_the_sites_there_are(lock, who, way):
    with pytest.raises(
        ValueError, match=r"no site satisfies `where`.*the sites are (dense(, head)?|head)\b"
    ):
        run(who, way, lock, forward, make_params(), images())


def deep(params, x, tap=ml.untapped):
    """A loop over layers, traced once, with `remat`."""

    def layer(h, kernel):
        return jnp.tanh(tap("layer", h @ kernel)), None

    return tap("head", jax.lax.scan(jax.checkpoint(layer), x, params["layers"])[0])


@BOTH
@pytest.mark.parametrize("site", ["layer", "head"])
def test_loops_remat_gradients_and_many_keys_are_no_false_alarm(who, site):
    params = {"layers": jnp.eye(4)[None].repeat(3, 0)}
    x = jnp.ones((2, 4))
    lock = ml.only(MASK, lambda path: path in (site, "layers"))
    keys = jax.vmap(lambda rng: lock.init(rng, params))(jax.random.split(RNG, 3))

    def total(params, key, x):
        return who(lock, deep)(key, params, x).sum()

    for way in (lambda f: f, jax.jit):
        found = way(jax.vmap(jax.value_and_grad(total), (None, 0, None)))(params, keys, x)
        assert len(set(found[0].tolist())) > 1


def test_locks_without_a_mask_need_no_tap():
    def plain(params, x, tap):
        return x @ params["kernel"]

    locks = [
        ml.deep_lock(),
        ml.chain(ml.deep_lock(), ml.chain(ml.stream_lock(), ml.sign_flip(4))),
        ml.only(ml.chain(ml.deep_lock()), lambda path: True),
    ]
    params = {"kernel": jnp.ones((4, 3))}
    for lock in locks:
        assert lock.mask is ml.Lock._field_defaults["mask"]
        assert lock.scramble is ml.Lock._field_defaults["scramble"]
        assert run(ml.owner_forward, jax.jit, lock, plain, params, jnp.ones((2, 4))).shape == (2, 3)


KERNELS = {
    "a scalar": ({"kernel": np.float32(1)}, "`a/kernel` has shape .., so there is nothing"),
    "no outputs": ({"kernel": np.ones((4, 0), np.float32)}, r"`a/kernel` has shape \[4, 0\]"),
    "no inputs": ({"kernel": np.ones((0, 4), np.float32)}, r"`a/kernel` has shape \[0, 4\]"),
    "unsigned": (
        {"kernel": np.ones((4, 4), np.uint8)},
        "`a/kernel` has dtype uint8, which has no neg",
    ),
    "bool": ({"kernel": np.ones((4, 4), bool)}, "`a/kernel` has dtype bool"),
    "complex": ({"kernel": np.ones((4, 4), np.complex64)}, "`a/kernel` has dtype complex64"),
    "another's bias": (
        {"kernel": np.ones((4, 4), np.float32), "bias": np.ones(3, np.float32)},
        r"`a/bias` \[3\] is no bias of the kernel beside it, \[4, 4\]",
    ),
    "a scalar bias": (
        {"kernel": np.ones((4, 1), np.float32), "bias": np.ones((), np.float32)},
        "`a/bias` has shape",
    ),
    "an unsigned bias": (
        {"kernel": np.ones((4, 1), np.float32), "bias": np.ones(1, np.uint32)},
        "`a/bias`",
    ),
    "no kernel": ({"bias": np.ones(3, np.float32)}, "no leaf is named `kernel`"),
}


@pytest.mark.parametrize(("layer", "message"), KERNELS.values(), ids=KERNELS.keys())
@pytest.mark.parametrize("in_jit", [False, True])
def test_sign_flip_says_at_init_on_what_it_cannot_act(layer, message, in_jit):
    lock, params = ml.sign_flip(4), {"a": layer, "b": {"scale": jnp.ones(4)}}
    with pytest.raises((ValueError, TypeError), match=message):
        jax.eval_shape(lock.init, RNG, params) if in_jit else lock.init(RNG, params)
    key = lock.init(RNG, {"kernel": jnp.ones((4, 4))})
    for method in (lock.encrypt, lock.decrypt):
        with pytest.raises((ValueError, TypeError), match=message):
            method(key, params)


def test_sign_flip_acts_on_kernels_of_one_axis_and_on_a_bias_of_several():
    params = {
        "kernel": jnp.ones(3),
        "one": {"kernel": jnp.ones((2, 2, 3)), "bias": jnp.ones((2, 3))},
    }
    signs = jnp.array([1.0, -1, 1, -1])
    locked, _ = ml.sign_flip(4).encrypt(ml.SignKey(signs.astype(jnp.int8)), params)
    for leaf in jax.tree.leaves(locked):
        assert (np.asarray(leaf) == np.broadcast_to(signs[:3], leaf.shape)).all()
