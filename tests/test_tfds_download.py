"""Preparing sets by TFDS: CIFAR-10 from files made here, and downloads that fail."""

import importlib.util
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from helpers.sets import check
from tensorflow_datasets.core.utils import lazy_imports_utils

from modellock_jax.data import _tfds as tfds_images
from modellock_jax.data import load


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
