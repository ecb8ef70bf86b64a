"""Newton's Hessian against autograd."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer

from torchlogistic import TorchLogisticClassifier, _newton
from torchlogistic._loss import make_loss
from torchlogistic._newton import Newton
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows, view_block
from torchlogistic._threads import Team


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("width", [0, 64], ids=["threads of BLAS", "threads of ours"])
def test_hessian(n_classes, fit_intercept, weighted, width, monkeypatch):
    monkeypatch.setattr(_newton, "WIDTH", width)
    monkeypatch.setattr(_newton, "HESSIAN_ROWS", 16)
    monkeypatch.setattr(_newton, "PART_ROWS", 5)
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
        solver.refresh()
        torch.testing.assert_close(solver._hessian(), expected)


@pytest.mark.parametrize("size", [1e160, 1e200])
def test_second_derivatives_that_overflow(size):
    X = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None].numpy() * size
    y = [0, 1] * 10
    clf = TorchLogisticClassifier(optimizer="newton", device="cpu")
    with pytest.raises(ValueError, match=r"overflow|diverged"):
        clf.fit(X, y)


def large_rows(n_rows, *, rare=False):
    """Rows of which a part stands for all, or in which no part shows a rare feature."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, 4))
    if rare:
        X[:, 3] = 0
        X[1::1000, 3] = 30.0
    y = (X @ [1.0, -2.0, 0.5, 0.1] + rng.logistic(size=n_rows) > 1).astype(int)
    return X, y


def strides(monkeypatch):
    """The strides of the Hessians of later fits."""
    seen = []
    hessian = Newton._hessian

    def record(self):
        seen.append(self.stride)
        return hessian(self)

    monkeypatch.setattr(Newton, "_hessian", record)
    return seen


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "parameters", [{}, {"l1_ratio": 0.5}, {"fit_intercept": False}], ids=str
)
def test_a_part_of_many_rows_leads_to_the_same_optimum(
    parameters, weighted, monkeypatch
):
    X, y = large_rows(6000)
    weight = np.random.default_rng(1).uniform(0.5, 2, len(y)) if weighted else None
    clf = TorchLogisticClassifier(
        optimizer="newton", alpha=0.01, tol=1e-10, device="cpu", **parameters
    )
    seen = strides(monkeypatch)
    sampled = clone(clf).fit(X, y, weight)
    assert min(seen) > 1  # the last Hessian, too
    monkeypatch.setattr(_newton, "MAX_STRIDE", 1)
    full = clf.fit(X, y, weight)
    np.testing.assert_allclose(sampled.coef_, full.coef_, rtol=1e-7)
    np.testing.assert_allclose(sampled.intercept_, full.intercept_, rtol=1e-7)


@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
def test_features_of_any_scale_with_an_l1_penalty(l1_ratio):
    X, y = load_breast_cancer(return_X_y=True)  # from 0.003 to 570 on average
    clf = TorchLogisticClassifier(
        optimizer="newton", alpha=0.01, l1_ratio=l1_ratio, epochs=20, device="cpu"
    )
    clf.fit(X, y)  # without a warning
    assert clf.n_iter_ < 15
    assert 0 < (clf.coef_ != 0).sum() < 10


def test_takes_all_rows_where_a_part_misleads(monkeypatch):
    X, y = large_rows(6000, rare=True)
    seen = strides(monkeypatch)
    clf = TorchLogisticClassifier(
        optimizer="newton", alpha=1e-4, tol=1e-9, device="cpu"
    )
    clf.fit(X, y)  # without a warning
    assert seen[0] > 1
    assert seen[-1] == 1
    assert clf.n_iter_ < 15


def test_a_part_of_the_rows_gives_its_hessian():
    X, y = large_rows(100)
    rows = Rows(torch.from_numpy(X), torch.from_numpy(y).double())
    part = Rows(rows.X[::3].clone(), rows.y[::3].clone())
    hessians = []
    for each, stride in ((rows, 3), (part, 1)):
        coef = allocate_coefficients(each, 1, fit_intercept=True)
        coef.values.copy_(torch.linspace(-1, 1, 5))
        objective = Objective(make_loss(2), alpha=0.1)
        solver = Newton(objective, view_block(each), coef, tol=0, team=Team(1))
        solver.refresh()
        solver.stride = stride
        hessians.append(solver._hessian())
    torch.testing.assert_close(*hessians)
