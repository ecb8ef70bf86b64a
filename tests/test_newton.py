"""Newton's steps: damped, of a part of the rows, with an L1 penalty."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer

from torchlogistic import TorchLogisticClassifier, _newton
from torchlogistic._hessian import Hessian
from torchlogistic._loss import make_loss
from torchlogistic._newton import Newton
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows, view_block
from torchlogistic._threads import Team


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
    evaluate = Hessian.evaluate

    def record(self, stride):
        seen.append(stride)
        return evaluate(self, stride)

    monkeypatch.setattr(Hessian, "evaluate", record)
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
    # The last one, too, unless rounding hid what a part of the rows could gain.
    assert seen.count(1) <= 1 < seen[-2]
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


def test_a_model_that_rounding_left_without_a_minimum():
    """In float32, H + 1e-7 of its mean diagonal is not positive definite here."""
    rng = np.random.default_rng(13)
    X = rng.normal(size=(13, 7))
    logits = X @ rng.normal(size=(7, 11))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    X *= 10.0 ** rng.uniform(0, 3.0, size=7)
    loss, X = make_loss(11), torch.from_numpy(X).float()
    rows = Rows(X, loss.targets(torch.from_numpy(labels), X.dtype))
    coef = allocate_coefficients(rows, 11, fit_intercept=True)
    objective = Objective(loss, alpha=1e-6, l1_ratio=0.6)
    solver = Newton(objective, view_block(rows), coef, tol=1e-6, team=Team(1))
    losses = []
    for _ in range(20):
        solver.epoch()
        losses.append(solver.loss)
    assert losses[-1] < 1e-4
    assert np.isfinite(losses).all()
    assert coef.values.abs().max() < 100


def test_a_direction_that_is_not_a_number_leads_nowhere():
    X, y = large_rows(100)
    rows = Rows(torch.from_numpy(X), torch.from_numpy(y).double())
    coef = allocate_coefficients(rows, 1, fit_intercept=True)
    solver = Newton(
        Objective(make_loss(2)), view_block(rows), coef, tol=0, team=Team(1)
    )
    solver.refresh()
    origin, point = solver.search(np.full(5, np.inf))
    assert point.step == 0
    assert not solver.conclude(origin, point)
    assert (coef.values == 0).all()


def test_repeated_features_with_an_l1_penalty():
    """Without the raised diagonal of the Hessian they have no Newton step."""
    X, y = large_rows(200)
    clf = TorchLogisticClassifier(
        optimizer="newton", alpha=0.02, l1_ratio=1.0, tol=1e-9, device="cpu"
    )
    once, twice = clone(clf).fit(X, y), clone(clf).fit(np.hstack([X, X]), y)
    both = twice.coef_[:, :4] + twice.coef_[:, 4:]
    np.testing.assert_allclose(both, once.coef_, atol=1e-7)
