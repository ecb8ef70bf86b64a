"""Logits of rows in float64, by NumPy alone, and what is predicted from them."""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.special import expit, softmax

from ._threads import Team

# Bytes of X in float64 at a time: a float32 X is converted in a core's cache, not as a
# second X in memory.
PIECE_BYTES = 2**19
# Fewer bytes of X are quicker in one thread.
SHARED_BYTES = 2**24


def linear_logits(X: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """``X @ coef.T + intercept``, computed in float64.

    Parameters
    ----------
    X : ndarray of shape (n, n_features), float32 or float64
    coef : ndarray of shape (n_outputs, n_features)
    intercept : ndarray of shape (n_outputs,)

    Returns
    -------
    z : ndarray of shape (n, n_outputs)
    """
    coef = np.asarray(coef, dtype=np.float64)
    intercept = np.asarray(intercept, dtype=np.float64)
    z = np.empty((len(X), len(coef)))
    team = Team() if X.nbytes > SHARED_BYTES else Team(1)
    step = -(-len(X) // team.size)
    parts = [slice(start, start + step) for start in range(0, len(X), step)]
    team.run([partial(_fill, X[part], coef, z[part]) for part in parts])
    z += intercept
    return z


def _fill(X: np.ndarray, coef: np.ndarray, z: np.ndarray) -> None:
    if X.dtype == np.float64:
        _product(X, coef, z)
        return
    step = max(1, PIECE_BYTES // (8 * X.shape[1]))
    wide = np.empty((min(step, len(X)), X.shape[1]))
    for start in range(0, len(X), step):
        piece = X[start : start + step]
        converted = wide[: len(piece)]
        np.copyto(converted, piece)
        _product(converted, coef, z[start : start + step])


def _product(X: np.ndarray, coef: np.ndarray, z: np.ndarray) -> None:
    if len(coef) == 1:  # a product with a vector is the faster one
        np.dot(X, coef[0], out=z[:, 0])
    else:
        np.dot(X, coef.T, out=z)


def class_index(z: np.ndarray) -> np.ndarray:
    """Number of the class that logits (n,) or (n, n_classes) predict: (n,)."""
    return (z > 0).astype(np.intp) if z.ndim == 1 else z.argmax(axis=1)


def probabilities(z: np.ndarray) -> np.ndarray:
    """Probabilities of the classes at logits (n,) or (n, n_classes): (n, n_classes)."""
    if z.ndim == 2:
        p: np.ndarray = softmax(z, axis=1)
        return p
    p = np.empty((len(z), 2))
    expit(z, out=p[:, 1])
    expit(-z, out=p[:, 0])  # keeps the digits that 1 - p would cancel
    return p
