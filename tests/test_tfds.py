"""Reading sets that TFDS holds: splits, sizes, channels, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers.sets import check, encoded, examples, png, prepare
from PIL import Image

from modellock_jax import data
from modellock_jax.data import _tfds as tfds_images
from modellock_jax.data import load


def assert_pixels_follow_labels(loaded: data.Data) -> None:
    for x, y in ((loaded.train_x, loaded.train_y), (loaded.test_x, loaded.test_y)):
        expected = np.broadcast_to((20 * y + 15)[:, None, None, None], (len(y), 4, 4, 3))
        np.testing.assert_array_equal(x, expected.astype(np.float32) / np.float32(255))


def test_tfds_train_and_test(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tfds_images, "_READ_AT_ONCE", 2)
    prepare(
        tmp_path,
        {
            "train": examples([0, 1, 2, 3, 9]),
            "validation": examples([5]),
            "test": examples([7, 8]),
        },
    )
    capfd.readouterr()
    loaded = load("tiny_set", data_dir=str(tmp_path))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    check(loaded)
    assert_pixels_follow_labels(loaded)
    assert sorted(loaded.train_y) == [0, 1, 2, 3, 9]
    assert sorted(loaded.test_y) == [7, 8]
    assert loaded.classes == 10


@pytest.mark.parametrize("hidden", [[], [-1, -1]], ids=["no test split", "test labels withheld"])
def test_tfds_validation_stands_in_for_test(tmp_path: Path, hidden: list[int]) -> None:
    splits = {"train": examples([0, 1]), "validation": examples([5, 6, 7])}
    if hidden:
        splits["test"] = [{"image": png(0), "label": label} for label in hidden]
    prepare(tmp_path, splits)
    loaded = load("tiny_set", data_dir=str(tmp_path))
    assert_pixels_follow_labels(loaded)
    assert sorted(loaded.test_y) == [5, 6, 7]


def test_tfds_train_alone_gives_a_fifth_of_each_class(tmp_path: Path) -> None:
    prepare(tmp_path, {"train": examples([0] * 5 + [1] * 10)})
    loaded = load("tiny_set", data_dir=str(tmp_path))
    assert_pixels_follow_labels(loaded)
    np.testing.assert_array_equal(np.bincount(loaded.train_y), [4, 8])
    np.testing.assert_array_equal(np.bincount(loaded.test_y), [1, 2])


def test_tfds_images_of_several_sizes(tmp_path: Path) -> None:
    ramp = Image.fromarray(np.array([[[0, 40, 9], [200, 80, 9]]], np.uint8))
    images = [(encoded(ramp), 0), (png(1), 1), (png(2, 9), 2)]
    prepare(
        tmp_path,
        {
            "train": [{"image": image, "label": label} for image, label in images],
            "test": examples([3]),
        },
    )
    with pytest.raises(
        ValueError,
        match=r"'tiny_set'.*sizes vary \(\(\d, \d\) and .*load\('tiny_set', size=\(32, 32\)\)",
    ):
        load("tiny_set", data_dir=str(tmp_path))
    loaded = load("tiny_set", size=(3, 4), data_dir=str(tmp_path))
    check(loaded)
    levels = np.round(loaded.train_x[np.argsort(loaded.train_y)] * 255).astype(int)
    assert levels.shape == (3, 3, 4, 3)
    # Bilinear: pixel centres of the four columns fall at -1/4, 1/4, 3/4 and 5/4 of the two.
    row = [[0, 40, 9], [50, 50, 9], [150, 70, 9], [200, 80, 9]]
    np.testing.assert_array_equal(levels[0], [row] * 3)
    np.testing.assert_array_equal(levels[1], np.full((3, 4, 3), 35))
    np.testing.assert_array_equal(levels[2], np.full((3, 4, 3), 55))
    assert loaded.test_x.shape == (1, 3, 4, 3)


def test_tfds_images_have_the_channels_their_set_declares(tmp_path: Path) -> None:
    colours = Image.new("RGB", (4, 4), (255, 0, 0))
    stored = [
        encoded(colours),
        encoded(colours.quantize(2)),
        encoded(colours.convert("CMYK"), "jpeg"),
        encoded(Image.new("L", (4, 4), 77)),
    ]
    prepare(
        tmp_path,
        {
            "train": [{"image": image, "label": i} for i, image in enumerate(stored)],
            "test": examples([0]),
        },
    )
    loaded = load("tiny_set", data_dir=str(tmp_path))
    levels = np.round(loaded.train_x[np.argsort(loaded.train_y)] * 255)
    for image, colour in zip(levels, [(255, 0, 0)] * 3 + [(77, 77, 77)]):
        np.testing.assert_allclose(image, np.broadcast_to(colour, (4, 4, 3)), atol=2)


@pytest.mark.parametrize(
    "features",
    [
        {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)},
        {"image": tfds.features.Image(), "label": tfds.features.Scalar(np.int64)},
        {
            "image": tfds.features.Image(shape=(4, 4, 1), dtype=np.uint16),
            "label": tfds.features.ClassLabel(num_classes=2),
        },
        {
            "image": tfds.features.Image(shape=(None, None, None)),
            "label": tfds.features.ClassLabel(num_classes=2),
        },
    ],
    ids=["text", "scalar label", "16 bits", "channels unknown"],
)
def test_tfds_other_than_image_classification(tmp_path: Path, features: dict[str, Any]) -> None:
    fields = {"text": "a", "image": png(0), "label": 0}
    prepare(tmp_path, {"train": [{key: fields[key] for key in features}]}, features)
    with pytest.raises(ValueError, match=r"'tiny_set'.*not an image classification set.*'label'"):
        load("tiny_set", data_dir=str(tmp_path))


def test_tfds_without_a_train_split(tmp_path: Path) -> None:
    prepare(tmp_path, {"test": examples([1])})
    with pytest.raises(ValueError, match=r"'tiny_set'.*no train split, only \['test'\]"):
        load("tiny_set", data_dir=str(tmp_path))


def test_tfds_copy_without_random_access(tmp_path: Path) -> None:
    info = prepare(tmp_path, {"train": examples([1])}) / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match=r"'tiny_set'.*without random access.*another data_dir"):
        load("tiny_set", data_dir=str(tmp_path))
