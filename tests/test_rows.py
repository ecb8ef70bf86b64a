"""Blocks of rows."""

import numpy as np
import torch

from torchlogistic._rows import Rows, buffer_block, view_block


def test_view_and_buffer():
    X = torch.arange(30.0, dtype=torch.float64).view(10, 3)
    rows = Rows(X, X[:, 0] / 3)
    view = view_block(rows)
    assert np.shares_memory(view.X, rows.X.numpy())
    assert view.X.shape == (10, 3)
    buffer = buffer_block(rows, 4, fit_intercept=True)
    assert buffer.X.shape == (4, 4)
    assert buffer.X[:, 3].tolist() == [1] * 4
    assert buffer_block(rows, 4, fit_intercept=False).X.shape == (4, 3)
