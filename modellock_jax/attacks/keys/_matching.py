"""The order of rows in which a matrix of theirs fits another best: quadratic assignment."""

import numpy as np
from scipy import optimize

ITERATIONS = 15


def matched(products: np.ndarray, like: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return a doubly stochastic P near the order that maximises how `products` fit `like`.

    Both are `[entries, blocks, entries, blocks]`; the fit is the sum over all pairs of blocks of the
    trace of Gᵀ P S Pᵀ. By Frank-Wolfe steps from `start` `[entries, entries]`, each of the best length,
    as in Vogelstein et al. (2015).
    """
    p, gradient = start, _gradient(products, like, start)
    for _ in range(ITERATIONS):
        step = matrix(assigned(gradient)) - p
        along = _gradient(products, like, step)
        # The fit at p + t * step is that at p, and b t + a t².
        a, b = (along * step).sum(), 2 * (gradient * step).sum()
        length = 1.0 if a >= 0 else min(1.0, -b / (2 * a))
        p, gradient = p + length * step, gradient + length * along
        if length * abs(b) <= 1e-6 * abs((gradient * p).sum()):
            break
    return p


def assigned(scores: np.ndarray) -> np.ndarray:
    """Return the permutation with the largest sum of scores `[entries, entries]`."""
    return optimize.linear_sum_assignment(-scores)[1]


def matrix(permutation: np.ndarray) -> np.ndarray:
    """Return a permutation as a matrix, with ones at (i, permutation[i])."""
    return np.eye(len(permutation))[permutation]


def fit_of(products: np.ndarray, like: np.ndarray, permutation: np.ndarray) -> float:
    """Return how well rows in this order fit."""
    return float((products * like[permutation][:, :, permutation]).sum())


def _gradient(products: np.ndarray, like: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return half of the gradient of the fit at p; products and `like` are symmetric."""
    n, blocks = products.shape[:2]
    # [j, b, l, a] of P S, then the sum over j, b and a.
    mixed = np.tensordot(p, like, (1, 0)).transpose(0, 1, 3, 2).reshape(n * blocks * blocks, n)
    return products.transpose(0, 2, 3, 1).reshape(n, -1) @ mixed
