"""What each attacker of the study of evasion has, and on what its images are scored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.stub_study import data, rows_of, same, shown

from modellock_jax.attacks import ATTACKS, Found, NotGiven
from modellock_jax.locks.sign import SignKey
from modellock_jax.models import mlp
from modellock_jax.study import _evaders, evasion, training
from modellock_jax.study.context import assemble
from modellock_jax.study.evasion_config import RECOVERIES, Config
from modellock_jax.study.training import PLAIN
from modellock_jax.tasks import classify

pytestmark = pytest.mark.optax
MASK = "sign_mask(bits=16)"
EPS = (0.02, 0.1)


@pytest.fixture
def context(monkeypatch, tmp_path):
    """Models that are not trained, and yet are others with a lock than without."""

    def fit(forward, params, x, y, progress, **_):
        return jax.tree.map(lambda leaf: leaf if PLAIN in progress else -2 * leaf, params), None

    monkeypatch.setattr(training, "fit", fit)
    config = Config(
        locks=(MASK,), seeds=1, images=30, eps=EPS, keys=3, steps=3, restarts=2, budgets=(0.2,)
    )
    return assemble(config, tmp_path, mlp(5, (16,)), classify(5), data())


@pytest.fixture
def keys(context, monkeypatch):
    """Attacks on keys that were made here: of some signs, by name; `asked` holds the rights of each."""
    right = _evaders.target(context, MASK, 0).key.signs
    found = {
        "signs_from_weights": 1,
        "relaxed_key": 8,
        "sign_mask_oracle": 0,
    }  # signs that are wrong
    asked = {}

    def attempt(name, case):
        asked[name] = set(case.rights)
        if found[name] is None:
            return None
        key = SignKey(right.at[: found[name]].multiply(-1))
        return Found(lambda x: _evaders._answering(context, MASK)(key, case.locked, x), key)

    monkeypatch.setattr(_evaders, "attempt", attempt)
    return found, asked


def test_each_attacker_takes_the_gradients_of_what_it_has(context, keys):
    x = jnp.asarray(context.data.test_x)
    target, plain = (_evaders.target(context, text, 0) for text in (MASK, PLAIN))
    names = ("known", "surrogate", "unknown", "expectation", "key by weights")
    models = {name: _evaders.model_of(context, MASK, 0, name) for name in names}
    answers = {name: model(x) for name, model in models.items()}
    assert same(answers["known"], target.user(x))
    assert same(answers["surrogate"], context.model.forward(plain.locked, x))
    assert same(answers["unknown"], context.model.forward(target.locked, x))
    assert answers["expectation"].shape == (3, 30, 5)
    others = [*answers["expectation"], *(answers[n] for n in names if n != "expectation")]
    assert not any(same(a, b) for a in others for b in others if a is not b)
    right = target.key.signs
    assert not any(same(key, right) for key in models["expectation"].args[0].signs)
    near = SignKey(right.at[0].multiply(-1))
    assert same(
        answers["key by weights"], _evaders._answering(context, MASK)(near, target.locked, x)
    )


def test_who_recovers_the_key_has_their_rights_and_no_others(context, keys):
    found, asked = keys
    assert _evaders.attackers(context, PLAIN) == ["known", "nothing", "queries"]
    who = [name for name in _evaders.attackers(context, MASK) if name in RECOVERIES]
    assert who == ["key by weights", "key by labels", "key by device"]
    for name in who:
        _evaders.recovered(context, MASK, 0, name)
        tried = [attack for attack in RECOVERIES[name] if attack in found]
        rights = {right for attack in tried for right in ATTACKS[attack].needs}
        assert all(asked[attack] == rights for attack in tried)
    assert not asked["signs_from_weights"] - {"labels"}
    with pytest.raises(NotGiven):
        _ = _evaders.case_of(context, MASK, 0)[0].only().labels


@pytest.mark.parametrize(("best", "wrong"), [("signs_from_weights", 1), ("relaxed_key", 8)])
def test_of_several_keys_the_one_that_answers_best_on_their_own_labels(
    context, keys, monkeypatch, best, wrong
):
    case, (target, _) = _evaders.case_of(context, MASK, 0)[0], _target(context)
    key = SignKey(target.key.signs.at[:wrong].multiply(-1))
    y = _evaders._answering(context, MASK)(key, target.locked, case.labels[0]).argmax(-1)
    mine = case.replace(labels=(case.labels[0], y))
    monkeypatch.setattr(_evaders, "case_of", lambda *_: (mine, {}))
    found = _evaders.recovered(context, MASK, 0, "key by labels")
    assert (found.by, found.right) == (best, 1 - wrong / 16)
    assert same(found.key, key)


def _target(context):
    return _evaders.target(context, MASK, 0), jnp.asarray(context.data.test_x)


def test_rows_say_by_which_key(context, keys):
    """One that is right is as good as the key itself; without any it is the forward without a key."""
    keys[0]["signs_from_weights"] = None
    rows = {
        who: evasion.evasion_rows(context, MASK, 0, who)
        for who in ("known", "unknown", "key by weights", "key by labels", "key by device")
    }
    told = {who: [(row["found_by"], row["key_right"]) for row in of] for who, of in rows.items()}
    assert told == {
        "known": [(None, None)] * 2,
        "unknown": [(None, None)] * 2,
        "key by weights": [(None, None)] * 2,
        "key by labels": [("relaxed_key", 0.5)] * 2,
        "key by device": [("sign_mask_oracle", 1.0)] * 2,
    }
    accuracy = {who: [row["accuracy"] for row in of] for who, of in rows.items()}
    assert accuracy["key by device"] == accuracy["known"] != accuracy["key by labels"]
    assert accuracy["key by weights"] == accuracy["unknown"] != accuracy["known"]
    worst = {who: np.min(of, 0) for who, of in accuracy.items()}
    assert all((worst["known"] <= of + 1e-6).all() for of in worst.values())


def test_images_are_scored_on_the_users_model(context):
    target, _ = _target(context)
    x, y = context.data.test_x[:30], context.data.test_y[:30]
    (row,) = evasion.evasion_rows(context, MASK, 0, "nothing")
    made = np.asarray(_evaders.noise(context, 0, jnp.asarray(x)))
    right = np.asarray(target.user(jnp.asarray(x)).argmax(-1)) == y
    assert row["clean"] == pytest.approx(right.mean())
    for eps, images, accuracy in zip(EPS, made, row["accuracy"]):
        inside = (x > eps) & (x < 1 - eps)
        np.testing.assert_allclose(np.abs(images - x)[inside], eps, rtol=1e-5)
        assert 0 <= images.min() <= images.max() <= 1
        still = right & (np.asarray(target.user(jnp.asarray(images)).argmax(-1)) == y)
        assert accuracy == pytest.approx(still.mean())
    # On the model without the key they would count otherwise.
    keyless = context.model.forward(target.locked, jnp.asarray(made[0])).argmax(-1) == y
    assert keyless.mean() != row["accuracy"][0]


def test_the_table_has_intervals_over_models_of_each_ones_worst_attack():
    values = {0: {"a": [0.5], "b": [0.3]}, 1: {"a": [0.2], "b": [0.6]}}
    rows = [
        {
            "id": f"{seed}{name}", "kind": "evasion", "lock": MASK, "seed": seed, "clean": 0.9,
            "attacker": "known", "attack": name, "accuracy": accuracy, "found_by": None,
            "key_right": None,
        }
        for seed, of in values.items() for name, accuracy in of.items()
    ]  # fmt: skip
    (grid,) = evasion.STUDY.grids(rows_of(*rows), Config(seeds=2, eps=(0.1,)))
    (line,) = shown(grid)
    # Student-t of two: 12.706 times 0.05.
    assert line["eps 0.1"] == "25.0 [0.0, 88.5]"
    assert "2 seeds, 128 images" in grid.title
