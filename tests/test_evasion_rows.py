"""What each attacker of the study of evasion has, and on what its images are scored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.stub_study import data, same

from modellock_jax.models import mlp
from modellock_jax.study import evasion, training
from modellock_jax.study.context import assemble
from modellock_jax.study.evasion_config import Config
from modellock_jax.study.training import PLAIN
from modellock_jax.tasks import classify

pytestmark = pytest.mark.optax
MASK = "sign_mask(bits=16)"
EPS = (0.1, 0.4)


@pytest.fixture
def context(monkeypatch, tmp_path):
    """Models that are not trained, and yet are others with a lock than without."""

    def fit(forward, params, x, y, progress, **_):
        return jax.tree.map(lambda leaf: leaf if PLAIN in progress else -2 * leaf, params), None

    monkeypatch.setattr(training, "fit", fit)
    config = Config(locks=(MASK,), seeds=1, images=12, eps=EPS, keys=3)
    return assemble(config, tmp_path, mlp(5, (16,)), classify(5), data())


def test_each_attacker_takes_the_gradients_of_what_it_has(context):
    x = jnp.asarray(context.data.test_x)
    target, plain = (evasion._target(context, text, 0) for text in (MASK, PLAIN))
    models = {
        name: evasion._model(context, MASK, 0, name)
        for name in ("known", "surrogate", "unknown", "expectation")
    }
    answers = {name: model(x) for name, model in models.items()}
    assert same(answers["known"], target.user(x))
    assert same(answers["surrogate"], context.model.forward(plain.params, x))
    assert same(answers["unknown"], context.model.forward(target.params, x))
    assert answers["expectation"].shape == (3, 30, 5)
    others = [*answers["expectation"], *(answers[n] for n in ("known", "surrogate", "unknown"))]
    assert not any(same(a, b) for a in others for b in others if a is not b)
    right = target.user.args[0].signs
    assert not any(same(key, right) for key in models["expectation"].args[0].signs)


def test_images_are_scored_on_the_users_model(context):
    target = evasion._target(context, MASK, 0)
    x, y = context.data.test_x[:12], context.data.test_y[:12]
    (row,) = evasion.evasion_rows(context, MASK, 0, "nothing")
    made = np.asarray(evasion._noise(context, target))
    right = np.asarray(target.user(jnp.asarray(x)).argmax(-1)) == y
    assert row["clean"] == pytest.approx(right.mean())
    for eps, images, accuracy in zip(EPS, made, row["accuracy"]):
        inside = (x > eps) & (x < 1 - eps)
        np.testing.assert_allclose(np.abs(images - x)[inside], eps, rtol=1e-5)
        assert 0 <= images.min() <= images.max() <= 1
        still = right & (np.asarray(target.user(jnp.asarray(images)).argmax(-1)) == y)
        assert accuracy == pytest.approx(still.mean())
    # On the model without the key they would count otherwise.
    keyless = context.model.forward(target.params, jnp.asarray(made[0])).argmax(-1) == y
    assert keyless.mean() != row["accuracy"][0]
