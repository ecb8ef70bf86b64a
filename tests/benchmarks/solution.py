"""What a fit ended at, and whether two ended at the same.

All in float64 and independent of the package, with its convention: mean loss plus
``alpha * ((1 - l1_ratio) / 2 * ||w||^2 + l1_ratio * ||w||_1)``, intercept free.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logsumexp, softmax

CHUNK_ROWS = 2**14


class Solution(NamedTuple):
    """Coefficients of shape (d,) or (n_classes, d), and the intercept or intercepts."""

    coef: np.ndarray
    intercept: np.ndarray

    @classmethod
    def of(cls, coef: np.ndarray, intercept: object = 0.0) -> Solution:
        """From whatever shapes a peer has."""
        coef, intercept = np.array(coef, np.float64), np.array(intercept, np.float64)
        one = coef.ndim == 1 or len(coef) == 1
        return cls(*((coef.ravel(), intercept.sum()) if one else (coef, intercept)))


def chunks(
    X: np.ndarray, y: np.ndarray, solution: Solution
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """X, y and logits in float64, some rows at a time."""
    for start in range(0, len(X), CHUNK_ROWS):
        piece = slice(start, start + CHUNK_ROWS)
        rows = X[piece].astype(np.float64, copy=False)
        yield rows, y[piece], rows @ solution.coef.T + solution.intercept


def mean_loss(X: np.ndarray, y: np.ndarray, solution: Solution) -> float:
    losses = []
    for _, labels, z in chunks(X, y, solution):
        if z.ndim == 1:
            losses.append(np.sum(np.logaddexp(0, z) - labels * z))
        else:
            own = np.take_along_axis(z, labels[:, None], axis=1)[:, 0]
            losses.append(np.sum(logsumexp(z, axis=1) - own))
    return float(np.sum(losses) / len(X))


def objective(
    X: np.ndarray,
    y: np.ndarray,
    solution: Solution,
    alpha: float,
    l1_ratio: float = 0.0,
) -> float:
    w = solution.coef.ravel()
    norms = (1 - l1_ratio) / 2 * (w @ w) + l1_ratio * np.abs(w).sum()
    return mean_loss(X, y, solution) + alpha * float(norms)


def gradient(
    X: np.ndarray, y: np.ndarray, solution: Solution, alpha: float
) -> np.ndarray:
    """Gradient of the objective without an L1 norm, intercept last.

    Of shape (d + 1,) or (d + 1, n_classes).
    """
    total = np.zeros((X.shape[1] + 1, *solution.coef.shape[:-1]))
    for rows, labels, z in chunks(X, y, solution):
        if z.ndim == 1:
            residual = expit(z) - labels
        else:
            residual = softmax(z, axis=1) - np.eye(z.shape[1])[labels]
        total[:-1] += rows.T @ residual
        total[-1] += residual.sum(axis=0)
    total /= len(X)
    total[:-1] += alpha * solution.coef.T
    return total


def gradient_norm(
    X: np.ndarray, y: np.ndarray, solution: Solution, alpha: float
) -> float:
    """Its max-norm."""
    return float(np.abs(gradient(X, y, solution, alpha)).max())


def coefficients_differ(a: Solution, b: Solution) -> str:
    """Empty if two programs with the same seeds did the same, up to rounding."""
    pair = [np.append(*solution) for solution in (a, b)]
    if np.allclose(*pair, rtol=1e-3, atol=1e-4):
        return ""
    return f"coefficients differ by {np.abs(pair[0] - pair[1]).max():.1e}"


def losses_differ(value: float, other: float, tol: float) -> str:
    """Empty if two losses are the same up to a relative difference."""
    excess = (value - other) / other
    return "" if abs(excess) <= tol else f"loss differs by {excess:+.1e}"
