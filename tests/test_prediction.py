"""Logits of rows, and what they predict: in float64, in pieces and by threads."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from torchlogistic import _prediction
from torchlogistic._prediction import class_index, linear_logits, probabilities


@pytest.fixture(params=["by one thread", "shared"])
def pieces(request, monkeypatch):
    """Pieces of three rows of X."""
    monkeypatch.setattr(_prediction, "PIECE_BYTES", 8 * 5 * 3)
    least = 0 if request.param == "shared" else 2**30
    monkeypatch.setattr(_prediction, "SHARED_BYTES", {"X": least, "logits": least})


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("n_rows", [1, 7, 100])
def test_logits_equal_the_formula_in_float64(n_rows, n_outputs, dtype):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, 5)).astype(dtype)
    coef = rng.normal(size=(n_outputs, 5)).astype(np.float32)
    intercept = rng.normal(size=n_outputs).astype(np.float32)
    z = linear_logits(X, coef, intercept)
    assert z.dtype == np.float64
    expected = X.astype(np.float64) @ coef.astype(np.float64).T + intercept
    np.testing.assert_allclose(z, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("spread", [1, 100, 1e6])
@pytest.mark.parametrize("n_rows", [1, 7, 100])
@pytest.mark.parametrize("n_outputs", [1, 3, 40])
def test_predictions_of_logits(n_rows, n_outputs, spread):
    """Of any size; the smallest probabilities keep their digits."""
    z = spread * np.random.default_rng(0).normal(size=(n_rows, n_outputs))
    p = softmax(z, axis=1)
    if n_outputs == 1:
        p, z = np.hstack([expit(-z), expit(z)]), z[:, 0]
    np.testing.assert_allclose(probabilities(z), p, rtol=1e-13)
    assert class_index(z).tolist() == p.argmax(axis=1).tolist()
    assert class_index(z).dtype == np.intp
    np.testing.assert_array_equal(
        probabilities(z.copy(), overwrite=True), probabilities(z)
    )


def test_logits_of_more_features_than_a_piece_holds():
    X = np.ones((3, _prediction.PIECE_BYTES // 8 + 1), dtype=np.float32)
    z = linear_logits(X, X[:2], np.ones(2))
    np.testing.assert_array_equal(z, X.shape[1] + 1)
