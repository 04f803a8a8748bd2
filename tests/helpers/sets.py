"""Sets made here for TFDS, without a network, and what must hold of every set loaded."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from modellock_jax import data


def check(loaded: data.Data) -> None:
    for x, y in ((loaded.train_x, loaded.train_y), (loaded.test_x, loaded.test_y)):
        assert x.dtype == np.float32
        assert y.dtype == np.int32
        assert x.ndim == 4
        assert y.shape == (len(x),)
        assert 0 <= x.min() <= x.max() <= 1
        assert set(np.unique(y)) <= set(range(loaded.classes))


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
