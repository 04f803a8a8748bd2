"""Models of text and of pixels, and models of other people: locked, trained, stolen."""

from functools import partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.table import same_bits

import modellock_jax as ml
from modellock_jax import models, tasks, train
from modellock_jax.attacks.attack import run_batches, run_shuffled
from modellock_jax.attacks.keys.key_search import Answers, random_keys
from modellock_jax.attacks.keys.oracle import sign_mask_oracle
from modellock_jax.attacks.weights.distil import distil
from modellock_jax.attacks.weights.fine_tune import fine_tune, in_last_layer
from modellock_jax.attacks.weights.selective import selective
from modellock_jax.attacks.weights.sweep import trial
from modellock_jax.core.paths import paths
from modellock_jax.data import load

pytestmark = pytest.mark.optax
RNG = jax.random.key(0)
DRAWN = np.random.default_rng(0)
TOKENS = DRAWN.integers(0, 5, (12, 6), np.int32)
IMAGES = DRAWN.random((12, 8, 8, 1), np.float32)
# The next token is this one and one more; a pixel's class is whether it is bright.
CASES = {
    "decoder": (models.decoder(5, 8, 1, 2, 8), TOKENS, (TOKENS + 1) % 5, tasks.next_token(5)),
    "unet": (
        models.unet(2, 4, 1),
        IMAGES,
        (IMAGES[..., 0] > 0.5).astype("int32"),
        tasks.segment(2),
    ),
}
every = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def trained():
    """Each model trained under a sign mask: the lock, its key, the parameters, the losses."""
    found = {}
    for name, (model, x, y, task) in CASES.items():
        start, lock = jax.jit(model.init)(RNG, x[:1]), ml.sign_mask(8)
        key = lock.init(jax.random.key(3), start)
        owner = partial(ml.owner_forward(lock, model.train), key)
        settings = {"epochs": 60, "batch_size": 6, "learning_rate": 2e-2, "loss": task.loss}
        params, losses = train.fit(owner, start, x, y, rng=RNG, **settings)
        found[name] = lock, key, params, losses
    return found


@every
def test_training_lowers_the_loss_and_only_the_key_opens(trained, name):
    (model, x, y, task), (lock, key, params, losses) = CASES[name], trained[name]
    assert float(losses[-1]) < 0.7 * float(losses[0])
    user = jax.jit(ml.user_forward(lock, model.forward))
    owner = jax.jit(ml.owner_forward(lock, model.forward))
    np.testing.assert_array_equal(user(key, params, x), owner(key, params, x))
    wrong = ml.SignKey(-key.signs)
    values = [worth(task, partial(user, k, params), x, y) for k in (key, wrong)]
    assert values[0] > values[1]


@pytest.mark.parametrize("name", ["decoder", pytest.param("unet", marks=pytest.mark.slow)])
def test_a_cipher_comes_back_bit_for_bit(trained, name):
    params, lock = trained[name][2], ml.stream_lock()
    key = lock.init(jax.random.key(4), params)
    locked, key = jax.jit(lock.encrypt)(key, params)
    assert not same_bits(locked, params)
    assert same_bits(jax.jit(lock.decrypt)(key, locked), params)


def test_the_last_layer_of_other_models():
    for name, last in (("decoder", "Dense_0"), ("unet", "Conv_3")):
        model, x, *_ = CASES[name]
        params = jax.eval_shape(model.init, RNG, x[:1])
        found = in_last_layer(model, params, x)
        named = zip(jax.tree.leaves(paths(params)), jax.tree.leaves(found))
        here = {path for path, is_last in named if is_last}
        assert here == {f"params/{last}/bias", f"params/{last}/kernel"}


def bigram():
    """The smallest language model: a row of logits for every token."""

    def forward(params, x, tap=ml.untapped):
        return tap("table", params["table"]["kernel"][x])

    def init(rng, x):
        return {"table": {"kernel": jax.random.normal(rng, (5, 5))}}

    return models.Model(init, forward, lambda p, x, tap=ml.untapped: (forward(p, x, tap), p))


@pytest.fixture(scope="module")
def text():
    """A trained bigram, its text and its task."""
    model, task = bigram(), tasks.next_token(5)
    x, y = TOKENS, (TOKENS + 1) % 5
    start = model.init(RNG, x)
    params, _ = train.fit(
        model.train, start, x, y, rng=RNG, epochs=60, learning_rate=0.1, loss=task.loss
    )
    return model, params, x, y, task


def worth(task, forward, x, y):
    @jax.jit
    def score(x, y):
        return tasks.merit(task, tasks.measure(task, forward, x, y).value)

    return float(score(x, y))


def test_harm_is_what_adv_params_climbs(text):
    model, params, x, y, task = text
    lock = ml.adv_params(count=3)

    @jax.jit
    def encrypt(key, params):
        return lock.encrypt(key, params, lambda p: task.harm(model.forward(p, x), y))

    locked, key = encrypt(lock.init(RNG, params), params)
    before, after = (worth(task, partial(model.forward, p), x, y) for p in (params, locked))
    assert before > after + 0.1
    assert same_bits(lock.decrypt(key, locked), params)
    # The thief's refit never does worse on what it holds out.
    found = jax.jit(partial(selective, model.forward, count=3, iterations=4, task=task))(
        locked, x, y
    )
    opened = ml.adv_params(3).decrypt(found, locked)
    score = jax.jit(lambda p: task.loss(model.forward(p, x[-3:]), y[-3:]).mean())
    held = [float(score(p)) for p in (opened, locked)]
    assert held[0] < held[1]


def test_thieves_train_where_less_is_better(text):
    model, params, x, y, task = text
    fresh = model.init(jax.random.key(9), x)
    one = jax.jit(trial(model, x, steps=20, stops=2, batch_size=4, task=task))
    found = one(RNG, fresh, 0.1, x, y, 10)
    held = jax.vmap(lambda p: tasks.measure(task, partial(model.forward, p), x[:2], y[:2]).value)
    np.testing.assert_allclose(found.value, held(found.params), rtol=1e-4)
    assert float(found.value[-1]) < float(found.value[0])
    copy = distil(model, 0.1, x, task)
    given = jax.tree.map(lambda a: jnp.stack([a] * 40), (x, model.forward(params, x)))
    state, losses = jax.jit(lambda p: run_batches(copy, copy.init(RNG, p), given))(fresh)
    assert float(losses[-1]) < 0.2 * float(losses[0])
    assert worth(task, partial(copy.forward, state), x, y) > -2


def test_keys_of_a_language_model_are_found_as_those_of_a_classifier(text):
    model, plain, x, y, task = text
    lock = ml.sign_mask(5)
    key = lock.init(jax.random.key(3), plain)
    # What is trained under the mask is the plain table, masked: signs undo themselves.
    params = {"table": {"kernel": plain["table"]["kernel"] * key.signs[None]}}
    device = partial(ml.user_forward(lock, model.forward), key, params)
    found = sign_mask_oracle(
        device, lock, 5, model.forward, params, x, RNG, steps=30, restarts=2, task=task
    )
    assert found.key.signs.tolist() == key.signs.tolist()
    search = jax.jit(partial(random_keys, lock, model.forward, task=task, keys=200, survivors=8))
    for known in (y, Answers(device(x))):
        best = search(params, x[:8], jax.tree.map(lambda a: a[:8], known), RNG)
        assert best.key.signs.tolist() == key.signs.tolist()


def test_without_truths_a_key_is_scored_by_logits_only(text):
    x = jnp.ones((8, 3))

    def forward(w, x, tap):
        return tap("w", x @ w)[:, 0]

    with pytest.raises(ValueError, match=r"by logits .*answers with"):
        random_keys(ml.sign_mask(3), forward, jnp.eye(3), x, None, RNG, keys=2, survivors=1)


def test_no_token_sees_a_later_one():
    model, x, *_ = CASES["decoder"]
    params, forward = model.init(RNG, x[:1]), jax.jit(model.forward)
    one, other = (forward(params, t) for t in (x, (x + (np.arange(6) >= 4)) % 5))
    np.testing.assert_array_equal(one[:, :4], other[:, :4])
    assert not np.allclose(one[:, 4:], other[:, 4:])


@pytest.mark.parametrize(("data", "model"), [("story", "decoder"), ("shapes", "unet")])
def test_data_models_and_tasks_fit_by_name(data, model):
    found = load(data)
    made, task = models.MODELS[model](found.classes), tasks.TASKS[found.task](found.classes)
    params = jax.eval_shape(made.init, RNG, found.train_x[:1])
    out = jax.eval_shape(made.forward, params, found.test_x)
    assert jax.eval_shape(task.loss, out, found.test_y).shape == (len(found.test_x),)
    for y in (found.train_y, found.test_y):
        assert y.dtype == np.int32
        assert 0 <= y.min() <= y.max() < found.classes
    with pytest.raises(ValueError, match="has one size, so omit size"):
        load(data, size=(8, 8))


class Dropping(nn.Module):
    """Statistics, dropout and a flag, as many modules have them."""

    @nn.compact
    def __call__(self, x, deterministic):
        h = nn.BatchNorm(use_running_average=deterministic)(nn.Dense(16)(x))
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=deterministic)(h))


class DroppingNnx(nnx.Module):
    def __init__(self, rngs):
        self.first, self.norm = nnx.Linear(4, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs)
        self.drop, self.last = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(self.norm(self.first(x))))


@pytest.mark.parametrize(
    "make",
    [lambda: models.linen(Dropping()), lambda: models.nnx(lambda rngs: DroppingNnx(rngs))],
    ids=["linen", "nnx"],
)
def test_dropout_and_statistics_of_a_module_follow_what_the_model_does(make):
    model = make()
    x = jax.random.normal(RNG, (16, 4))
    params, forward, learn = model.init(RNG, x[:1]), jax.jit(model.forward), jax.jit(model.train)
    assert same_bits(params, model.init(RNG, x[:1]))
    assert not same_bits(params, model.init(jax.random.key(1), x[:1]))
    out, new = learn(params, x)
    assert same_bits((out, new), learn(params, x))  # a step is a function
    assert jax.tree.structure(new) == jax.tree.structure(params)
    assert not same_bits(new, params)
    assert not np.allclose(out, forward(params, x))
    assert not same_bits(forward(new, x), forward(params, x))
    # Parameters that differ by a rounding drop other units, and so answer otherwise.
    moved = jax.tree.map(lambda a: a * (1 + 1e-6) if a.dtype == jnp.float32 else a, params)
    assert not np.allclose(out, learn(moved, x)[0], atol=1e-3)
    assert len(ml.sites(model.forward, params, x)) == 2


def equinox_model():
    def forward(params, x, tap=ml.untapped):
        h = jax.nn.relu(tap("first", jax.vmap(params[0])(x)))
        return tap("last", jax.vmap(params[1])(h))

    def init(rng, x):
        return [eqx.nn.Linear(4, 16, key=rng), eqx.nn.Linear(16, 2, key=rng)]

    return models.Model(init, forward, lambda p, x, tap=ml.untapped: (forward(p, x, tap), p))


def test_an_equinox_model_is_locked_and_stolen_like_any_other():
    model, x = equinox_model(), jax.random.normal(RNG, (32, 4))
    y = (x[:, 0] > 0).astype(jnp.int32)
    params = model.init(RNG, x[:1])
    lock = ml.stream_lock()
    locked, key = lock.encrypt(lock.init(RNG, params), params)
    assert same_bits(lock.decrypt(key, locked), params)
    attack = fine_tune(model, 1e-2, x)
    state, losses = jax.jit(
        lambda p: run_shuffled(attack, attack.init(RNG, p), x, y, RNG, steps=60)
    )(locked)
    assert float(losses[-1]) < 0.5 * float(losses[0])
    with pytest.raises(ValueError, match=r"taps 'last' last, and no parameters lie"):
        fine_tune(model, 1e-2, x, "new_last").init(RNG, params)
    assert tasks.measure(tasks.classify(2), partial(attack.forward, state), x, y).value > 80


def test_bad_input():
    with pytest.raises(ValueError, match="at most 8 tokens, not 9"):
        CASES["decoder"][0].init(RNG, jnp.zeros((1, 9), jnp.int32))
    with pytest.raises(ValueError, match="multiples of 2, not 7 and 8"):
        CASES["unet"][0].init(RNG, jnp.zeros((1, 7, 8, 1)))
    with pytest.raises(ValueError, match="multiple of heads, not 9 of 4"):
        models.decoder(5, width=9)
