"""Data sets that are made, not downloaded."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import expit
from sklearn.datasets import make_moons
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

Data = tuple[np.ndarray, np.ndarray]  # X of (n, d) and y of (n,), zeros and ones

CHUNK_ROWS = 2**14


def chapter() -> Data:
    """The 80 x 2 of the chapter from which the package grew."""
    X, y = make_moons(n_samples=100, noise=0.3, random_state=0)
    X, _, y, _ = train_test_split(X, y, test_size=0.2, random_state=13)
    return StandardScaler().fit_transform(X).astype(np.float32), y


# Several cases in a row use the same large data.
@lru_cache(maxsize=1)
def gaussian(
    n_rows: int,
    n_features: int,
    *,
    dtype: str = "float32",
    correlation: float = 0.0,
    intercept: float = 0.0,
    seed: int = 0,
) -> Data:
    """Normal features, and labels drawn from a logistic model of them.

    Neighbouring features have a given correlation. The logits have a standard deviation
    of two, so that the classes overlap; ``intercept`` moves them to one class.
    """
    rng = np.random.default_rng(seed)
    coef = rng.standard_normal(n_features)
    X = np.empty((n_rows, n_features), dtype)
    z = np.empty(n_rows)
    for start in range(0, n_rows, CHUNK_ROWS):  # else the parts need more than X
        piece = X[start : start + CHUNK_ROWS]
        rng.standard_normal(out=piece, dtype=dtype)
        for j in range(1, n_features if correlation else 0):
            piece[:, j] *= np.sqrt(1 - correlation**2)
            piece[:, j] += correlation * piece[:, j - 1]
        z[start : start + CHUNK_ROWS] = piece @ coef.astype(dtype)
    z *= 2 / z.std()
    y = (rng.random(n_rows) < expit(z + intercept)).astype(np.int64)
    return X, y


def several_classes(n_rows: int, n_features: int, n_classes: int) -> Data:
    """Normal features, and labels drawn from a multinomial logistic model of them."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, n_features))
    z = X @ rng.standard_normal((n_features, n_classes))
    z *= 2 / z.std()
    return X, (z + rng.gumbel(size=z.shape)).argmax(axis=1)


class Shape(NamedTuple):
    """A problem: its data and the penalty."""

    n_rows: int
    n_features: int
    alpha: float
    correlation: float = 0.0
    intercept: float = 0.0


SHAPES = {
    "tall": Shape(100_000, 50, alpha=1e-4),
    "wide": Shape(500, 1_000, alpha=1e-2),
    "correlated": Shape(20_000, 100, alpha=1e-4, correlation=0.95),
    "imbalanced": Shape(100_000, 50, alpha=1e-5, intercept=-6.0),
}
