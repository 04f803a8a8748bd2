"""Adversarial examples: found where they are, not where they are not, and bad gradients noticed."""

import warnings
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

import modellock_jax as ml
from modellock_jax import attacks as evasion
from modellock_jax import data, models, train
from modellock_jax.attacks.evasion import _adversarial, auto_pgd
from modellock_jax.attacks.evasion.gradient_masking import gradient_masking

RNG = jax.random.key(7)
ATTACKS = {
    "fgsm": evasion.fgsm,
    "pgd": lambda f, x, y, eps: evasion.pgd(f, x, y, eps, RNG, steps=10),
    "apgd": lambda f, x, y, eps: evasion.apgd(f, x, y, eps, RNG, steps=10),
    "apgd-dlr": lambda f, x, y, eps: evasion.apgd(f, x, y, eps, RNG, steps=10, loss="dlr"),
    "square": lambda f, x, y, eps: evasion.square(f, x, y, eps, RNG, queries=600),
}


@pytest.fixture(scope="module")
def digits():
    """A model trained under a sign mask on digits, its user's and its thief's classifier."""
    found, model, lock = data.load("digits"), models.mlp(10, (32,)), ml.sign_mask(bits=32)
    start = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    key = lock.init(jax.random.key(1), start)
    params, _ = train.fit(
        partial(ml.owner_forward(lock, model.train), key),
        start,
        found.train_x,
        found.train_y,
        rng=jax.random.key(2),
        epochs=8,
        learning_rate=5e-3,
    )
    user = partial(ml.user_forward(lock, model.forward), key, params)
    x, y = jnp.asarray(found.test_x[:100]), jnp.asarray(found.test_y[:100])
    return SimpleNamespace(
        x=x, y=y, user=user, thief=partial(model.forward, params), lock=lock, model=model,
        key=key, params=params, clean=evasion.transfer(user, x, y, x).share,
    )  # fmt: skip


def linear(seed: int = 0):
    """A linear classifier, images inside [0.4, 0.6], and the eps at which each of them falls."""
    drawn = np.random.default_rng(seed)
    w = drawn.normal(size=12).astype(np.float32)
    x = drawn.uniform(0.4, 0.6, (40, 2, 2, 3)).astype(np.float32)

    def f(x):
        s = (x - 0.5).reshape(-1, 12) @ w
        return jnp.stack([s, -s, -s - 9.0], 1)

    s = (x - 0.5).reshape(-1, 12) @ w
    return f, x, (s < 0).astype(np.int32), np.abs(s) / np.abs(w).sum()


@pytest.mark.parametrize("name", ATTACKS)
def test_the_exact_radius_of_a_linear_model(name):
    f, x, y, radius = linear()
    eps = np.array([0.0, 0.01, 0.02, 0.04, 0.2], np.float32)
    found = jax.device_get(jax.jit(jax.vmap(lambda e: ATTACKS[name](f, x, y, e)))(eps))
    # No attack may do better, and none with a gradient worse; the search needs some room.
    beyond, within = eps[:, None] > 1.01 * radius[None], eps[:, None] < 0.99 * radius[None]
    slack = 1.5 if name == "square" else 1.0
    assert within.sum() > 20
    assert ((found.robust == 1) | ~within).all()
    assert ((found.robust == 0) | ~(eps[:, None] > 1.01 * slack * radius[None])).all()
    assert beyond.sum() > 20
    np.testing.assert_allclose(found.share, found.robust.mean(1), rtol=1e-6)
    # The images say the same, and lie where they may.
    again = jax.jit(jax.vmap(lambda images: evasion.transfer(f, x, y, images).robust))
    np.testing.assert_array_equal(again(found.inputs), found.robust)
    apart = np.abs(found.inputs - x[None]).max((1, 2, 3, 4))
    assert (apart <= eps + 1e-6).all()


def test_images_stay_images_and_more_steps_lose_nothing(digits):
    @partial(jax.jit, static_argnums=1)
    def found(eps, steps):
        return evasion.pgd(digits.user, digits.x, digits.y, eps, RNG, steps=steps, step_size=0.02)

    few, many = found(0.1, 2), found(0.1, 5)
    assert (many.robust <= few.robust).all()
    assert 0 < float(many.share) < float(few.share) < float(digits.clean)
    assert 0 <= float(many.inputs.min()) <= float(many.inputs.max()) <= 1


def test_apgd_halves_its_step():
    # The loss peaks inside the ball, and only near the peak is there an error.
    peak = jnp.array([0.53, 0.46, 0.515, 0.41])

    def f(x):
        away = ((x.reshape(-1, 4) - peak[None]) ** 2).sum(1)
        return jnp.stack([away - 4e-4, jnp.zeros_like(away), away - 1], 1)

    x, y = np.full((1, 2, 2, 1), 0.5, np.float32), np.zeros(1, np.int32)
    pgd = jax.jit(lambda: evasion.pgd(f, x, y, 0.1, steps=40, step_size=0.2).share)
    assert float(pgd()) == 1
    assert float(jax.jit(lambda: evasion.apgd(f, x, y, 0.1, steps=40).share)()) == 0
    assert np.flatnonzero(auto_pgd._checkpoints(100)).tolist() == [22, 41, 57, 70, 80, 87, 93, 99]


def test_dlr_where_the_cross_entropy_is_flat_and_the_flags_say_so():
    f, x, y, radius = linear()
    eps = float(2 * radius.max())

    def sure(x):
        return 1e5 * f(x)

    # At the image itself: a random start would help the flat loss along.
    flat = jax.jit(lambda: evasion.apgd(sure, x, y, eps, steps=5))()
    steep = jax.jit(lambda: evasion.apgd(sure, x, y, eps, steps=5, loss="dlr"))()
    assert float(flat.share) > 0.9
    assert float(steep.share) == 0

    def attack(f, x, y, eps, rng, bounds):
        return evasion.fgsm(f, x, y, eps, bounds=bounds)

    def masking(f, **settings):
        return jax.jit(lambda: gradient_masking(f, x, y, eps, RNG, attack=attack, **settings))()

    flags = masking(sure, queries=200)
    assert flags.zero_gradients > 0.9
    assert flags.black_box > 0.8
    assert flags.unbounded > 0.9
    assert flags.random == 0
    # The same decisions with gradients: no flag.
    assert masking(f, queries=200) == (0, 0, 0, 0)
    # A surrogate without the defect is a black box too.
    seen = masking(sure, surrogate=f, queries=1)
    assert seen.black_box > 0.9


def test_random_outputs_are_noticed():
    generator, (f, x, y, _) = np.random.default_rng(0), linear()

    def noisy(x):
        draw = partial(generator.normal, size=(1, 3))
        noise = io_callback(lambda: draw().astype("f4"), jax.ShapeDtypeStruct((1, 3), "float32"))
        return f(x) + noise

    def drawn(rng, x):
        return f(x) + jax.random.normal(rng, (1, 3))

    once = partial(evasion.pgd, steps=1)
    for g in (noisy, evasion.expectation(drawn, jax.random.split(RNG, 3))):
        masking = jax.jit(
            lambda g=g: gradient_masking(g, x, y, 0.1, RNG, attack=once, queries=1).random
        )
        assert masking() == 1


def test_an_expectation_is_a_mean_over_keys(digits):
    user, keys = ml.user_forward(digits.lock, digits.model.forward), jax.random.split(RNG, 4)
    keys = jax.vmap(lambda r: digits.lock.init(r, digits.params))(keys)

    def f(key, x):
        return user(key, digits.params, x)

    @jax.jit
    def both(x):
        look = _adversarial.make_gradient(
            evasion.expectation(f, keys), digits.y, _adversarial.cross_entropy
        )
        return look(x), jax.grad(loss)(x), logits(x).argmax(-1) == digits.y[None]

    def logits(x):
        return jnp.stack([f(ml.SignKey(keys.signs[i]), x) for i in range(4)])

    def loss(x):
        return jax.vmap(_adversarial.cross_entropy, (0, None))(logits(x), digits.y).mean(0).sum()

    look, gradient, right = both(digits.x)
    assert (jnp.sign(gradient) == look.direction).mean(dtype=jnp.float32) > 0.99
    np.testing.assert_allclose(1 - look.fooled, right.mean(0, dtype=jnp.float32), atol=1e-6)


def test_who_has_the_key_needs_less(digits):
    """Known, unknown and random keys, against the user's model: the key is the attacker's help."""
    x, y, user = digits.x, digits.y, digits.user
    both = ml.user_forward(digits.lock, digits.model.forward)
    keys = jax.vmap(lambda r: digits.lock.init(r, digits.params))(jax.random.split(RNG, 4))
    mean = evasion.expectation(lambda key, x: both(key, digits.params, x), keys)

    score = jax.jit(lambda images: evasion.transfer(user, x, y, images).share)

    def attacked(f):
        images = jax.jit(lambda: evasion.pgd(f, x, y, 0.2, RNG, steps=10).inputs)()
        return float(score(images))

    known = attacked(user)
    assert known < 0.3
    for other in (digits.thief, mean):
        assert known + 0.3 < attacked(other) <= digits.clean


def test_through_the_right_key_no_attack_is_weaker_than_through_another(digits):
    """As the attacker's table runs it: a key that was found, one sign of four wrong, and random keys."""
    case = evasion.Case(
        digits.lock, digits.model, digits.params, RNG, digits.x[:1], scheme="sign_mask",
        labels=(digits.x, digits.y),
    )  # fmt: skip
    wrong = ml.SignKey(digits.key.signs.at[::4].multiply(-1))
    score = jax.jit(lambda moved: evasion.transfer(digits.user, digits.x, digits.y, moved).share)

    def share(name, key):
        settings = {} if name == "fgsm" else {"steps": 5}
        found = evasion.attempt(name, case, eps=0.2, key=key, keys=4, **settings)
        assert found.key is key
        return float(score(found.adversarial))

    for name in ("fgsm", "pgd", "apgd"):
        right, off, random = (share(name, key) for key in (digits.key, wrong, None))
        assert right + 0.1 < off <= digits.clean
        assert right + 0.3 < random <= digits.clean


@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_of_several_starts_the_worst_counts(digits, name):
    attack = partial(getattr(evasion, name), steps=2)
    rngs = [RNG, *(jax.random.fold_in(RNG, i) for i in (1, 2))]

    @partial(jax.jit, static_argnums=1)
    def attacked(rng, restarts):
        return attack(digits.user, digits.x, digits.y, 0.1, rng, restarts=restarts)

    alone = np.stack([attacked(rng, 1).robust for rng in rngs])
    found = attacked(RNG, 3)
    np.testing.assert_array_equal(found.robust, alone.min(0))
    assert found.share < alone.mean(1).min()
    # The images say the same.
    again = evasion.transfer(digits.user, digits.x, digits.y, found.inputs)
    np.testing.assert_array_equal(again.robust, found.robust)


def test_no_worse_than_foolbox(digits):
    with warnings.catch_warnings():
        # It imports a name that scipy is about to move.
        warnings.simplefilter("ignore")
        import foolbox

        theirs = foolbox.JAXModel(jax.jit(digits.user), bounds=(0, 1))
    eps, size, steps = [0.02, 0.05, 0.1], 0.01, 10
    attacks = {
        "fgsm": (foolbox.attacks.LinfFastGradientAttack(), evasion.fgsm),
        "pgd": (
            foolbox.attacks.LinfPGD(abs_stepsize=size, steps=steps, random_start=False),
            partial(evasion.pgd, steps=steps, step_size=size),
        ),
    }
    for other, ours in attacks.values():
        with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):
            warnings.simplefilter("ignore")
            with jax.numpy_dtype_promotion("standard"):
                _, _, theirs_fooled = other(theirs, digits.x, digits.y, epsilons=eps)
        found = jax.jit(jax.vmap(lambda e, a=ours: a(digits.user, digits.x, digits.y, e)))(
            jnp.array(eps)
        )
        theirs_fooled = np.asarray(getattr(theirs_fooled, "raw", theirs_fooled))
        # The same start and steps: what they find we find, up to a rounding here and there.
        assert ((found.robust == 0) | ~theirs_fooled).mean() > 0.99
        assert (found.robust == 0).sum() >= theirs_fooled.sum() > 20
