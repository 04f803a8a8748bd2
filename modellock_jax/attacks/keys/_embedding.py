"""Where a block's entries lie, roughly: a graph joins those whose rows are alike, and is drawn flat."""

from collections.abc import Iterator

import numpy as np

from modellock_jax.attacks.keys._matching import assigned

_NEIGHBOURS = 8  # of an entry, in each channel: those around it in the image
_ANGLES = 4  # at which the drawing may lie, in a quarter of a turn


def drawn(products: np.ndarray, block: int, channels: int) -> Iterator[np.ndarray]:
    """Yield orders `[entries]` of a block, one of which is near the secret one, or a mirror image of it.

    `products` `[entries, blocks, entries, blocks]` say how alike rows are. The two smoothest functions
    on the graph of the most alike (eigenvectors of its Laplacian, Belkin & Niyogi 2003) are its plane
    drawing; by their ranks entries are assigned to the places of a square, at several angles, since
    on a square the two are equally smooth.
    """
    alike = np.einsum("ibjb->ij", products)
    size = np.sqrt(np.maximum(np.diag(alike), np.finfo(float).tiny))
    alike = alike / size[:, None] / size
    np.fill_diagonal(alike, -np.inf)
    count = min(_NEIGHBOURS * channels, len(alike) - 1)
    joined = np.zeros_like(alike)
    np.put_along_axis(joined, np.argsort(-alike, 1)[:, :count], 1, 1)
    joined = np.maximum(joined, joined.T)
    degrees = joined.sum(1)
    laplacian = np.eye(len(joined)) - joined / np.sqrt(degrees[:, None] * degrees)
    plane = np.linalg.eigh(laplacian)[1][:, 1:3] / np.sqrt(degrees)[:, None]
    places = np.indices((block, block, channels))[:2].reshape(2, -1).T
    for angle in np.arange(_ANGLES) * np.pi / 2 / _ANGLES:
        rotated = plane @ np.array(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
        ranks = (rotated.argsort(0).argsort(0) + 0.5) / len(rotated) * block - 0.5
        yield assigned(-((ranks[:, None] - places) ** 2).sum(-1))
