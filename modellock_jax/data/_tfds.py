"""Image classification sets of TensorFlow Datasets (TFDS), without TensorFlow itself."""

import contextlib
import io
import logging
import sys
import urllib.error
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from modellock_jax.data._tfds_stand_in import without_tensorflow

if TYPE_CHECKING:
    from PIL import Image

Labelled = tuple[np.ndarray, np.ndarray]
"""Images `[N, H, W, C]` and labels `[N]`."""

_PROBE_SECONDS = 10.0
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's names, by channels
_READ_AT_ONCE = 1024


def load_splits(
    name: str, *, size: tuple[int, int] | None = None, data_dir: str | None = None
) -> tuple[Labelled, Labelled | None, int]:
    """Read a TFDS image classification set, which is downloaded and prepared where it is missing.

    `name`, `size`, `data_dir` and what is raised are those of `modellock_jax.data.load`.

    Returns:
        The training part, the test part, and the number of classes; images are uint8
        `[N, H, W, C]`, labels int64 `[N]`. The test part is the first of the splits test and
        validation that has labels, and None where neither has.

    **Guarantees**
      * Nothing is written to stdout, whatever TFDS prints.

    >>> load_splits("no_such_set")
    Traceback (most recent call last):
    ValueError: load('no_such_set'): no such data set ...
    """
    # TFDS reports on stdout, which belongs to our callers' results.
    with contextlib.redirect_stdout(sys.stderr), _absl_errors_only(), without_tensorflow():
        builder = _prepared(name, data_dir)
        splits = {split: builder.info.splits[split].num_examples for split in builder.info.splits}
        if not splits.get("train"):
            raise ValueError(
                f"load({name!r}): the set has no train split, only {sorted(splits)}; name a set "
                "that has one"
            )
        train = _read_split(builder, "train", name, size)
        classes = builder.info.features["label"].num_classes
        for split in ("test", "validation"):
            if splits.get(split):
                test = _read_split(builder, split, name, size)
                if test[1].min() >= 0:  # TFDS marks withheld labels by -1
                    return train, test, classes
        return train, None, classes


def pixels(image: "Image.Image", size: tuple[int, int] | None) -> np.ndarray:
    """Return an 8-bit image as uint8 `[H, W, C]`, resized to `size` (height, width) if given.

    >>> from PIL import Image
    >>> pixels(Image.new("L", (3, 2)), size=(4, 5)).shape
    (4, 5, 1)
    """
    from PIL.Image import Resampling

    if size is not None:
        height, width = size
        image = image.resize((width, height), Resampling.BILINEAR)
    return np.atleast_3d(np.asarray(image))


def _prepared(name: str, data_dir: str | None) -> Any:
    """Return the TFDS builder of an image classification set whose files are on disk."""
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (ValueError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"load({name!r}): no such data set ({reason}); built in are story, shapes, mnist5k, "
            "digits and fashion_mnist, and any TFDS image classification set works by its TFDS "
            "name, such as 'cifar10'"
        ) from None
    features = builder.info.features
    held = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    if not (
        isinstance(held.get("image"), tfds.features.Image)
        and isinstance(held.get("label"), tfds.features.ClassLabel)
        and held["image"].np_dtype == np.uint8
        and held["image"].shape[-1] in _MODES
    ):
        raise ValueError(
            f"load({name!r}): not an image classification set, which needs uint8 images of 1 to 4 "
            f"channels under 'image' and classes under 'label'; it holds {sorted(held)}, so name "
            "another set"
        )
    if not builder.data_path.exists():
        _check_network(builder, name)
        try:
            builder.download_and_prepare(file_format="array_record")
        except (
            requests.RequestException,
            urllib.error.URLError,
            tfds.download.DownloadError,
            NonMatchingChecksumError,
        ) as error:
            reason = str(error).partition("\n")[0].rstrip(":")
            raise ConnectionError(
                f"load({name!r}): the download failed ({reason}); try again, or copy a prepared "
                f"set to {builder.data_path}"
            ) from None
        except (AssertionError, FileNotFoundError) as error:
            if not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
                raise
            raise FileNotFoundError(
                f"load({name!r}): TFDS cannot download all of this set itself, so put its files "
                f"into {builder.data_dir_root / 'downloads' / 'manual'} by these instructions: "
                + " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
            ) from error
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


def _read_split(builder: Any, split: str, name: str, size: tuple[int, int] | None) -> Labelled:
    import tensorflow_datasets as tfds
    from PIL import Image

    try:
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except NotImplementedError:
        raise ValueError(
            f"load({name!r}): {builder.data_path} is prepared in a format without random access; "
            "pass another data_dir, or remove that copy to have it prepared as array_record"
        ) from None
    mode = _MODES[builder.info.features["image"].shape[-1]]
    images: list[np.ndarray] = []
    labels: list[int] = []
    rows = range(len(source))
    for start in range(0, len(rows), _READ_AT_ONCE):
        for example in source.__getitems__(rows[start : start + _READ_AT_ONCE]):
            with Image.open(io.BytesIO(example["image"])) as image:
                images.append(pixels(image.convert(mode), size))
            labels.append(example["label"])
            if images[-1].shape != images[0].shape:
                raise ValueError(
                    f"load({name!r}): image sizes vary ({images[0].shape[:2]} and "
                    f"{images[-1].shape[:2]}); have them resized, for example by "
                    f"load({name!r}, size=(32, 32))"
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
