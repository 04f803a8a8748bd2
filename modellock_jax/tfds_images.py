"""Image classification sets of TensorFlow Datasets, without TensorFlow.

TFDS reads prepared sets without TensorFlow, and what it asks of it while it prepares most image
sets is done here by Pillow and the standard library.
"""

import contextlib
import glob
import importlib.util
import io
import logging
import os
import sys
import urllib.error
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np

_PROBE_SECONDS = 10.0

Labelled = tuple[np.ndarray, np.ndarray]
"""Images `[N, H, W, C]` and labels `[N]`."""


def load_splits(name: str, data_dir: str | None) -> tuple[Labelled, Labelled | None, int]:
    """The training part of a TFDS set, its test part if it has a labelled one, and its classes.

    Images uint8 `[N, H, W, C]`, labels int `[N]`. Raises what `data.load` says.
    """
    # TFDS reports on stdout, which belongs to our callers' results.
    with contextlib.redirect_stdout(sys.stderr), _absl_errors_only(), _without_tensorflow():
        builder = _prepared(name, data_dir)
        splits = {split: builder.info.splits[split].num_examples for split in builder.info.splits}
        if not splits.get("train"):
            raise ValueError(
                f"load({name!r}): the set has no train split, only {sorted(splits)}; name a set "
                "that has one"
            )
        train = _read_split(builder, "train", name)
        classes = builder.info.features["label"].num_classes
        for split in ("test", "validation"):
            if splits.get(split):
                test = _read_split(builder, split, name)
                if test[1].min() >= 0:  # TFDS marks withheld labels by -1
                    return train, test, classes
        return train, None, classes


def _prepared(name: str, data_dir: str | None) -> Any:
    """The TFDS builder of an image classification set whose files are on disk."""
    import requests
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (ValueError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"load({name!r}): no such data set ({reason}); built in are mnist5k, digits and "
            "fashion_mnist, and any TFDS image classification set works by its TFDS name, such as "
            "'cifar10'"
        ) from None
    features = builder.info.features
    held = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    if not (
        isinstance(held.get("image"), tfds.features.Image)
        and isinstance(held.get("label"), tfds.features.ClassLabel)
        and held["image"].np_dtype == np.uint8
    ):
        raise ValueError(
            f"load({name!r}): not an image classification set, which needs uint8 images under "
            f"'image' and classes under 'label'; it holds {sorted(held)}, so name another set"
        )
    if not builder.data_path.exists():
        _check_network(builder, name)
        try:
            builder.download_and_prepare(file_format="array_record")
        except (
            requests.RequestException,
            urllib.error.URLError,
            tfds.download.DownloadError,
        ) as error:
            raise ConnectionError(
                f"load({name!r}): the download failed ({error}); try again, or copy a prepared "
                f"set to {builder.data_path}"
            ) from None
    return builder


def _check_network(builder: Any, name: str) -> None:
    """Ask the hosts of a set once: TFDS itself would retry for minutes."""
    import requests

    hosts = {urlsplit(url).netloc: url for url in builder.url_infos if url.startswith("http")}
    for url in hosts.values():
        try:
            requests.head(url, timeout=_PROBE_SECONDS)
        except requests.ConnectionError:
            continue
        except requests.Timeout:
            return  # it took the connection, so there is a network
        return
    if hosts:
        raise ConnectionError(
            f"load({name!r}): {', '.join(hosts)} cannot be reached and no prepared set is at "
            f"{builder.data_path}; connect to a network or copy a prepared set there"
        )


def _read_split(builder: Any, split: str, name: str) -> Labelled:
    try:
        source: Iterable[dict[str, Any]] = builder.as_data_source(split)
    except NotImplementedError:
        raise ValueError(
            f"load({name!r}): {builder.data_path} is prepared in a format without random access; "
            "pass another data_dir, or remove that copy to have it prepared as array_record"
        ) from None
    images: list[np.ndarray] = []
    labels: list[int] = []
    for example in source:
        images.append(example["image"])
        labels.append(example["label"])
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"load({name!r}): image sizes vary ({images[0].shape} and {images[-1].shape}); "
                "choose a set of one size, or resize the images and build a Data from them"
            )
    return np.stack(images), np.array(labels)


@contextlib.contextmanager
def _absl_errors_only() -> Iterator[None]:
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _TensorflowPart(SimpleNamespace):
    def __getattr__(self, attribute: str) -> Any:
        raise ImportError(f"tensorflow has no stand-in for {attribute}", name="tensorflow")


@contextlib.contextmanager
def _without_tensorflow() -> Iterator[None]:
    """Let TFDS prepare image sets where TensorFlow is not installed.

    TFDS imports TensorFlow on first use, to open local files and to write arrays as PNG. Only
    TFDS sees this stand-in, and only inside the context; any other use of TensorFlow is an
    ImportError.
    """
    from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow as lazy

    if importlib.util.find_spec("tensorflow") is not None:
        yield
        return
    gfile = _TensorflowPart(
        GFile=open,
        exists=os.path.exists,
        isdir=os.path.isdir,
        listdir=os.listdir,
        glob=glob.glob,
        walk=os.walk,
    )
    vars(lazy)["_module"] = _TensorflowPart(
        executing_eagerly=lambda: True,
        image=_TensorflowPart(encode_png=_encode_png),
        io=_TensorflowPart(gfile=gfile),
    )
    try:
        yield
    finally:
        vars(lazy).pop("_module", None)


def _encode_png(image: np.ndarray) -> SimpleNamespace:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "png")
    return SimpleNamespace(numpy=buffer.getvalue)
