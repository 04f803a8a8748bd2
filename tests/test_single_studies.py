"""The studies of single attacks, as tiny as can be: their rows, their tables, and their faults."""

import flax.linen as nn
import pytest

from modellock_jax import models
from modellock_jax.data import load
from modellock_jax.study import adv_params, own, runner, sign_masks

pytestmark = pytest.mark.optax
STUDIES = [sign_masks.STUDY, adv_params.STUDY]


class Net(nn.Module):
    """Of two layers: attacks compile quickly."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(32, name="hidden")(x.reshape(len(x), -1)))
        return nn.Dense(10, name="head")(x)


def run(study, **settings):
    settings = {"seeds": 1, "epochs": 12, "learning_rate": 0.02} | settings
    found = own.run(models.linen(Net()), "classify", load("digits"), study=study, **settings)
    assert all(grid.rows for grid in found.tables)
    return found.rows


def test_sign_masks():
    attempts = (("tanh", 40, 1, 20), ("relaxed_key, no labels", 40, 2, 30))
    attempts = (*attempts, ("sign_mask_oracle", 4, 2, 20))
    rows = run("sign_masks", locks=("sign_mask(bits=32)",), attempts=attempts)
    assert [row["attack"] for row in rows.values()] == [name for name, *_ in attempts]
    tanh, relaxed, oracle = rows.values()
    assert oracle["accuracy"] == oracle["right_key"] > 0.4
    assert oracle["live_signs_right"] == 1
    assert tanh["no_key"] < 0.4
    assert 0 <= relaxed["accuracy"] <= 1


def test_adv_params():
    rows = run("adv_params", locks=("adv_params(count=8)",), budget=0.1)
    (row,), (control,) = rows.of("adv_params"), rows.of("control")
    assert row["images"] == 144
    assert row["right_key"] == control["plain"] > 0.4
    assert row["changed"] == row["clamped_places"] == 8
    assert row["accuracy"]["restore"] > row["no_key"]
    assert control["stream_selective"] < 0.2


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_lock_that_a_study_is_not_of_is_refused_and_leaves_nothing(study, tmp_path):
    config = study.config(data="digits", model="mlp", locks=("deep_lock(key_bits=256)",))
    with pytest.raises(
        ValueError, match=rf"the study {study.name} is of .*, not of {config.locks[0][:9]}"
    ):
        runner.run(study, config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_follow_the_data_and_what_is_given():
    for study in STUDIES:
        assert study.config().epochs == 15
        assert study.config(data="fashion_mnist").epochs == 10
        assert study.config(data="fashion_mnist", epochs=2).epochs == 2
