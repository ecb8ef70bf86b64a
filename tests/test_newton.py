"""Newton's Hessian against autograd."""

import pytest
import torch

from torchlogistic import TorchLogisticClassifier, _newton
from torchlogistic._loss import make_loss
from torchlogistic._newton import Newton
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows, view_block
from torchlogistic._threads import Team


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_hessian(n_classes, fit_intercept, weighted, monkeypatch):
    monkeypatch.setattr(_newton, "HESSIAN_ROWS", 16)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(50, 4, dtype=torch.float64, generator=generator)
    loss = make_loss(n_classes)
    labels = torch.randint(n_classes, (50,), generator=generator)
    weight = torch.rand(50, dtype=X.dtype, generator=generator) if weighted else None
    rows = Rows(X, loss.targets(labels, X.dtype), weight)
    coef = allocate_coefficients(rows, loss.n_outputs, fit_intercept=fit_intercept)
    coef.values.normal_(generator=generator)
    solver = Newton(
        Objective(loss, alpha=0.1), view_block(rows), coef, tol=0, team=Team(1)
    )

    def objective(flat):
        values = flat.view_as(coef.values)
        z = X @ values[:4] + (values[4] if fit_intercept else 0)
        losses = loss.value(z, rows.y)
        mean = (losses if weight is None else weight * losses).mean()
        return mean + 0.05 * values[:4].square().sum()

    expected = torch.autograd.functional.hessian(objective, coef.values.flatten())
    with torch.no_grad():
        solver.full.evaluate(coef)
        torch.testing.assert_close(solver._hessian(), expected)


@pytest.mark.parametrize("size", [1e160, 1e200])
def test_second_derivatives_that_overflow(size):
    X = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None].numpy() * size
    y = [0, 1] * 10
    clf = TorchLogisticClassifier(optimizer="newton", device="cpu")
    with pytest.raises(ValueError, match=r"overflow|diverged"):
        clf.fit(X, y)
