"""What TensorFlow Datasets (TFDS) asks of TensorFlow while it prepares most image sets."""

import contextlib
import glob
import importlib.util
import io
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np


class _TensorflowPart(SimpleNamespace):
    def __getattr__(self, attribute: str) -> Any:
        raise ImportError(f"tensorflow has no stand-in for {attribute}", name="tensorflow")


@contextlib.contextmanager
def without_tensorflow() -> Iterator[None]:
    """Let TFDS prepare image sets where TensorFlow is not installed.

    TFDS imports TensorFlow on first use, to open local files and to write arrays as PNG.

    **Guarantees**
      * Only TFDS sees the stand-in, and only inside the context.
      * Any other use of TensorFlow by TFDS is an ImportError.
      * Where TensorFlow is installed, TFDS uses that.
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
