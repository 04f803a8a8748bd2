"""The studies of single attacks, as tiny as can be: their rows, their tables, and their faults."""

import sys

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from modellock_jax import models
from modellock_jax.attacks.keys.signs_from_weights import SignReading
from modellock_jax.data import load
from modellock_jax.study import deep_lock_rates, own, runner, training
from modellock_jax.study._signs import counted
from modellock_jax.study.table import STUDIES

pytestmark = pytest.mark.optax


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


def test_adv_params_steps():
    few = {"locks": ("adv_params(count=8)",), "budget": 0.1, "weights": 2}
    rows = run("adv_params_steps", **few)
    harm, loss = rows.of("steps")
    assert (harm["climbs"], loss["climbs"]) == ("harm", "loss")
    assert harm["no_key"] != loss["no_key"]
    for row in (harm, loss):
        assert row["right_key"] > 0.4
        assert row["named"]["neutral_key"] == row["changed"] == 8
        assert row["named"]["farthest"] <= 8
        assert row["accuracy"]["restore"] > row["no_key"]
    (bits,) = rows.of("bits")
    assert len(bits["accuracy"]) == len(bits["worst"]) == 32
    assert bits["right_key"] == harm["right_key"]
    # The lowest bit of a weight is nothing, the top one of its exponent is all.
    assert bits["accuracy"][0] == bits["right_key"] > bits["accuracy"][30] + 0.1
    assert all(low <= mean for low, mean in zip(bits["worst"], bits["accuracy"]))


def test_signs_from_weights():
    rows = run("signs_from_weights", locks=("sign_mask(bits=32, per='channel')",), epochs=4)
    trained, untrained, shuffled, stream = rows.values()
    assert trained["signs_right"] > 24
    for row in (untrained, shuffled, stream):
        assert not row["read"]
        assert row["right_key"] == trained["right_key"]
    assert "signs_right" not in stream


def test_signs_are_counted_up_to_one_for_all_and_without_those_that_no_layer_has():
    key = np.int8([1, -1, 1, -1, 1, 1, -1, 1, -1, -1])
    certainty = np.float32([9, 8, 7, 6, 5, 4, 3, 2, 0, 0])
    for side in (1, -1):
        found = side * key * np.int8([1, 1, -1, 1, 1, 1, 1, -1, -1, -1])
        reading = SignReading(jnp.asarray(found), jnp.asarray(certainty), 0.5, 0.01)
        counts = {"in_use": 8, "signs_right": 6, "surest_wrong": 1}
        assert counted(reading, jnp.asarray(key)) == counts


def test_sign_curves(tmp_path):
    none = dict.fromkeys(("widths", "lengths", "decays", "bits"), ())
    config = STUDIES["sign_curves"].config(
        data="digits", seeds=1, epochs=20, learning_rate=0.01, width=64, depths=(2,),
        activations=("abs",), **none,
    )  # fmt: skip
    shared, own_keys, even = runner.run(STUDIES["sign_curves"], config, tmp_path).rows.values()
    assert (shared["keys"], shared["in_use"]) == (1, 64)
    assert shared["signs_right"] >= 60
    assert (own_keys["keys"], own_keys["in_use"]) == (2, 128)
    assert own_keys["signs_right"] >= 90
    assert shared["no_key"] < shared["right_key"] - 0.2
    # Under an even activation there is no lock, and no key to read.
    assert even["no_key"] == even["right_key"] > 0.8
    assert not even["read"]


def test_sign_curves_refuse_what_they_do_not_look_at(tmp_path):
    study = STUDIES["sign_curves"]
    for other in ({"model": "resnet8"}, {"locks": ("sign_flip",)}):
        with pytest.raises(ValueError, match="of perceptrons and locks of its own"):
            study.config(**other)
    with pytest.raises(ValueError, match="the activation 'sin' is none of relu, gelu"):
        runner.run(study, study.config(data="digits", activations=("sin",)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_public_base():
    locks = ("sign_flip(bits=32)", "pixel_shuffle(block=4)", "adv_params(count=8)")
    rows = [*run("public_base", locks=locks, epochs=6, noise=(0.03, 1.0)).values()]
    assert len(rows) == 15
    for row in rows:
        assert row["found"] == (row["base"] != "unrelated")
        if row["base"] == "noise 3 %":
            assert row["right"] == row["entries"]
            assert row["accuracy"] == pytest.approx(row["right_key"], abs=0.01)
            assert row["distance"] == pytest.approx(0.03, rel=0.1)
            assert row["no_key"] < row["right_key"] - 0.1
        if row["base"] == "before fine-tuning":
            assert 0.15 < row["base_value"] < row["right_key"]
    signs, order, weights = rows[4::5]
    assert signs["right"] < 28
    assert not {"right", "accuracy"} & (order.keys() | weights.keys())


@pytest.fixture
def untrained(monkeypatch):
    monkeypatch.setattr(training, "fit", lambda forward, params, x, y, **_: (params, None))


def test_key_throughput(untrained):
    few = {"keys": 32, "called": 4, "uncompiled": 1, "rounds": 1, "images": 16}
    rows = run("key_throughput", locks=("sign_mask(bits=32)",), **few)
    assert [row["keys"] for row in rows.values()] == [32, 32, 4, 1]
    for row in rows.values():
        assert row["keys_per_s"] == pytest.approx(row["keys"] / row["seconds"])
    assert [*rows.values()][-1]["times_uncompiled"] == 1


def test_pixel_shuffle(untrained, tmp_path):
    study, few = STUDIES["pixel_shuffle"], {"images": (20,), "hill_steps": 1, "anneal_steps": 1}
    context = study.prepare(study.config(data="digits", model="mlp", **few), tmp_path)
    units = {unit.args[2]: unit for unit in study.units(context)}
    assert len(units) == 6
    del units["hill_climb"]  # as without labels
    found = {name: unit.work(context, *unit.args)[0] for name, unit in units.items()}
    for name in ("chosen_image", "known_pairs", "logit_oracle"):
        row = found[f"pixel_shuffle_{name}"]
        assert (row["entries_right"], row["images"], row["before"]) == (1, 1, None)
        assert row["after"] == row["right_key"]
    for name in ("anneal", "hill_climb, no labels"):
        assert found[name]["images"] == 20
        assert 0 <= found[name]["before"] <= 1


def test_deep_lock_keys(untrained):
    (row,) = run("deep_lock_keys", locks=("deep_lock",), keys=1, dtypes=("float32",)).values()
    assert (row["exact"], row["false"], row["leaves"]) == (1, 0, 1)


def test_deep_lock_rates(untrained):
    few = {"keys": 1, "trees": ("4x512 float32",), "narrow": ("1x2048 bfloat16",)}
    rows = run("deep_lock_rates", locks=("deep_lock", "stream_lock"), **few)
    assert [(row["lock"], row["dtype"], row["exact"], row["false"]) for row in rows.values()] == [
        ("deep_lock", "float32", 1, 0),
        ("stream_lock", "float32", 0, 0),
        ("deep_lock", "bfloat16", 1, 0),
    ]
    assert deep_lock_rates.share(50, 50) == "50 of 50 [92.9, 100.0]"
    assert deep_lock_rates.share(0, 50) == "0 of 50 [0.0, 7.1]"


def onnx_file(path, weights):
    tensor = onnx.numpy_helper.from_array(weights, "w")
    graph = onnx.helper.make_graph([], "net", [], [], initializer=[tensor])
    onnx.save(onnx.helper.make_model(graph), path)
    return str(path)


def test_deep_lock_keys_takes_the_weights_of_an_onnx_file(tmp_path):
    weights = np.random.default_rng(0).normal(0, 0.1, (64, 40)).astype(np.float32)
    study, file = STUDIES["deep_lock_keys"], onnx_file(tmp_path / "net.onnx", weights)
    context = study.prepare(study.config(model=file, keys=1), tmp_path)
    np.testing.assert_array_equal(context.leaves, [weights])
    assert [unit.needs for unit in study.units(context)] == [()] * 6
    (row,) = study.units(context)[4].work(context, 0, "stream_lock", "float32")
    assert (row["model"], row["exact"], row["false"]) == ("net", 0, 0)


def test_an_onnx_file_that_cannot_be_read_is_one_sentence(tmp_path, monkeypatch):
    prepare, config = STUDIES["deep_lock_keys"].prepare, STUDIES["deep_lock_keys"].config
    small = onnx_file(tmp_path / "small.onnx", np.zeros(9, np.float32))
    with pytest.raises(ValueError, match=r"small.onnx' has no float32 leaf of 2048 weights"):
        prepare(config(model=small), tmp_path)
    (tmp_path / "bad.onnx").write_bytes(b"\x1b]0;evil\x07" * 50)
    with pytest.raises(ValueError, match=r"bad.onnx' is no ONNX file, or a damaged one$"):
        prepare(config(model=str(tmp_path / "bad.onnx")), tmp_path)
    with pytest.raises(ValueError, match=r"none.onnx' cannot be read: No such file"):
        prepare(config(model=str(tmp_path / "none.onnx")), tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"onnx, which is missing: .*\[study\]"):
        prepare(config(model=small), tmp_path)


REFUSED = dict.fromkeys(
    ("sign_masks", "signs_from_weights", "public_base", "pixel_shuffle"), "deep_lock"
)
REFUSED |= dict.fromkeys(("adv_params", "adv_params_steps"), "deep_lock")
REFUSED |= dict.fromkeys(("deep_lock_keys", "deep_lock_rates"), "sign_flip")


@pytest.mark.parametrize("name", REFUSED)
def test_a_lock_that_a_study_is_not_of_is_refused_and_leaves_nothing(name, tmp_path):
    config = STUDIES[name].config(data="digits", model="mlp", locks=(REFUSED[name],))
    with pytest.raises(ValueError, match=f"the study {name} is of .*, not of {REFUSED[name]}"):
        runner.run(STUDIES[name], config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_follow_the_data_and_what_is_given():
    for name in ("sign_masks", "adv_params"):
        config = STUDIES[name].config
        assert config().epochs == 15
        assert config(data="fashion_mnist").epochs == 10
        assert config(data="fashion_mnist", epochs=2).epochs == 2
    assert STUDIES["pixel_shuffle"].config(data="painted_fashion_mnist").hill_steps == 50
    assert STUDIES["deep_lock_keys"].config(model="resnet").epochs == 3
    signs = STUDIES["signs_from_weights"].config
    assert signs(data="fashion_mnist").epochs == signs(model="resnet8").epochs == 15
    assert signs(data="fashion_mnist", model="resnet8").epochs == 1
    by_model = {name: STUDIES["public_base"].config(model=name).locks for name in ("mlp", "cnn")}
    assert ("pixel_shuffle" in by_model["mlp"], "pixel_shuffle" in by_model["cnn"]) == (True, False)
    assert STUDIES["public_base"].config(model="mlp", locks=("sign_flip",)).locks == ("sign_flip",)
