"""Logits of rows in float64, without torch's threads, and what is predicted of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit, log_expit, log_softmax

from ._arrays import MIN_ROWS, SERIAL_COLUMNS, NumpyNamespace
from ._loss import write_softmax
from ._threads import Team

# Bytes in float64 of rows that are done at a time: a float32 X is converted in a core's
# cache, not as a second X in memory, and what is made of logits finds them there.
PIECE_BYTES = 2**19
LONG_PIECE_BYTES = 2**26  # where there are so many classes that this is not what counts
# Rows of fewer bytes are quicker in one thread.
SHARED_BYTES = {"X": 2**24, "logits": 2**21}
# NumPy's einsum converts a float32 X while it multiplies, by fewer numbers at a time:
# of rows with as many features it is sooner done than BLAS with converted ones.
EINSUM_FEATURES = 16


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
    n_outputs, n_features = coef.shape
    z = np.empty((len(X), n_outputs))
    multiply, size = _multiply_converted, PIECE_BYTES // 8 // n_features
    share = X.nbytes > SHARED_BYTES["X"]
    if n_outputs > 1:
        # Rows whose product wakes no threads of BLAS beside ours.
        serial = SERIAL_COLUMNS // (n_features * n_outputs)
        if serial >= MIN_ROWS:
            size = min(size, serial)
        else:  # a matter for those, and for long products
            size, share = LONG_PIECE_BYTES // 8 // n_features, False
    elif X.dtype == np.float32 and n_features >= EINSUM_FEATURES:
        multiply, size = _multiply_by_einsum, len(X)

    def write(rows: slice) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # the logits show it
            multiply(X[rows], coef, out=z[rows])
            NumpyNamespace.add_row(z[rows], intercept)

    _for_pieces(write, len(X), size, share=share)
    return z


def _multiply_by_einsum(X: np.ndarray, coef: np.ndarray, *, out: np.ndarray) -> None:
    np.einsum("ij,j->i", X, coef[0], out=out[:, 0])


def _multiply_converted(X: np.ndarray, coef: np.ndarray, *, out: np.ndarray) -> None:
    X = X.astype(np.float64, copy=False)
    if len(coef) == 1:  # a product with a vector is the faster one
        np.dot(X, coef[0], out=out[:, 0])
    else:
        np.dot(X, coef.T, out=out)


def class_index(z: np.ndarray) -> np.ndarray:
    """Number of the class that logits (n,) or (n, n_classes) predict: (n,)."""
    if z.ndim == 1:
        return (z > 0).astype(np.intp)
    index = np.empty(len(z), dtype=np.intp)

    def write(rows: slice) -> None:
        z[rows].argmax(axis=1, out=index[rows])

    _for_pieces_of_logits(write, z)
    return index


def probabilities(z: np.ndarray, *, overwrite: bool = False) -> np.ndarray:
    """Probabilities of the classes at logits (n,) or (n, n_classes): (n, n_classes).

    They may take the place of the logits of several classes.
    """
    if z.ndim == 1:
        p = np.empty((len(z), 2))
    else:
        p = z if overwrite else np.empty_like(z)

    def write(rows: slice) -> None:
        logits, out = z[rows], p[rows]
        if z.ndim == 2:
            write_softmax(logits, out)
        else:
            expit(logits, out=out[:, 1])
            expit(-logits, out=out[:, 0])  # keeps the digits that 1 - p would cancel

    _for_pieces_of_logits(write, z)
    return p


def log_probabilities(z: np.ndarray) -> np.ndarray:
    """Logarithms of these probabilities, which are finite where the logits are."""
    log_p = np.empty((len(z), 2) if z.ndim == 1 else z.shape)

    def write(rows: slice) -> None:
        logits, out = z[rows], log_p[rows]
        if z.ndim == 2:
            with np.errstate(invalid="ignore"):  # of infinite logits
                out[...] = log_softmax(logits, axis=1)
        else:
            log_expit(logits, out=out[:, 1])
            log_expit(-logits, out=out[:, 0])

    _for_pieces_of_logits(write, z)
    return log_p


def _for_pieces_of_logits(write: Callable[[slice], None], z: np.ndarray) -> None:
    size = PIECE_BYTES // 8 // (1 if z.ndim == 1 else z.shape[1])
    _for_pieces(write, len(z), size, share=z.nbytes > SHARED_BYTES["logits"])


def _for_pieces(
    write: Callable[[slice], None], n_rows: int, size: int, *, share: bool
) -> None:
    """Call a function for pieces of so many rows, which threads may share."""
    size = max(size, 1)
    team = Team() if share else Team(1)
    span = -(-n_rows // team.size)

    def write_span(start: int) -> None:
        end = min(start + span, n_rows)
        for first in range(start, end, size):
            write(slice(first, min(first + size, end)))

    team.map(write_span, range(0, n_rows, max(span, 1)))
