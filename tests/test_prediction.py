"""Logits of rows: float64 whatever the rows are, in pieces and by threads."""

import numpy as np
import pytest

from torchlogistic import _prediction
from torchlogistic._prediction import linear_logits


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("n_rows", [1, 7, 100])
def test_equals_the_formula_in_float64(n_rows, n_outputs, dtype, shared, monkeypatch):
    monkeypatch.setattr(_prediction, "PIECE_BYTES", 8 * 5 * 3)
    monkeypatch.setattr(_prediction, "SHARED_BYTES", 0 if shared else 2**30)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, 5)).astype(dtype)
    coef = rng.normal(size=(n_outputs, 5)).astype(np.float32)
    intercept = rng.normal(size=n_outputs).astype(np.float32)
    z = linear_logits(X, coef, intercept)
    assert z.dtype == np.float64
    expected = X.astype(np.float64) @ coef.astype(np.float64).T + intercept
    np.testing.assert_allclose(z, expected, rtol=1e-13, atol=1e-13)
