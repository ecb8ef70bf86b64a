"""Systems of equations: constructed solutions."""

import numpy as np
import pytest
import torch

from torchlogistic import _cholesky
from torchlogistic._cholesky import solve_definite


@pytest.mark.parametrize("small_system", [2000, 0], ids=["NumPy", "torch"])
@pytest.mark.parametrize("size", [1, 5, 64, 65, 150])
def test_solve_definite(size, small_system, monkeypatch):
    monkeypatch.setattr(_cholesky, "SMALL_SYSTEM", small_system)
    rng = np.random.default_rng(0)
    A, x = rng.normal(size=(size, size)), rng.normal(size=size)
    H = A @ A.T + np.eye(size)
    H, b = torch.from_numpy(H), torch.from_numpy(H @ x)
    np.testing.assert_allclose(solve_definite(H, b), x, rtol=1e-8, atol=1e-10)
    assert solve_definite(-H, b) is None
