"""Second derivatives of all rows against autograd."""

import pickle

import pytest
import torch

from torchlogistic import _gradient, _hessian
from torchlogistic._gradient import FullGradient
from torchlogistic._hessian import Hessian
from torchlogistic._loss import make_loss
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows, view_block
from torchlogistic._threads import Team


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "limits",
    [
        {"WIDTH": 0, "HESSIAN_ROWS": 16},
        {"NARROW": 0},
        {},
        # Slices of two rows, or of four without an intercept.
        {"NARROW_ROWS": 7, "SERIAL_PRODUCT": 64, "NARROW_BYTES": 2 * 4 * 6 * 8},
        {"ROOT_BYTES": 0},
    ],
    ids=["threads of BLAS", "threads of ours", "narrow", "in slices", "row by row"],
)
def test_hessian(n_classes, fit_intercept, weighted, limits, monkeypatch):
    for name, value in {"PART_ROWS": 5, **limits}.items():
        monkeypatch.setattr(_hessian, name, value)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(50, 4, dtype=torch.float64, generator=generator)
    loss = make_loss(n_classes)
    labels = torch.randint(n_classes, (50,), generator=generator)
    weight = torch.rand(50, dtype=X.dtype, generator=generator) if weighted else None
    rows = Rows(X, loss.targets(labels, X.dtype), weight)
    coef = allocate_coefficients(rows, loss.n_outputs, fit_intercept=fit_intercept)
    coef.values.normal_(generator=generator)
    full = FullGradient(Objective(loss, alpha=0.1), view_block(rows), Team(1))

    def objective(flat):
        values = flat.view_as(coef.values)
        z = X @ values[:4] + (values[4] if fit_intercept else 0)
        losses = loss.value(z, rows.y)
        mean = (losses if weight is None else weight * losses).mean()
        return mean + 0.05 * values[:4].square().sum()

    expected = torch.autograd.functional.hessian(objective, coef.values.flatten())
    with torch.no_grad():
        full.evaluate(coef)
        torch.testing.assert_close(Hessian(full, coef).evaluate(), expected)


def test_threads_do_not_share_room(monkeypatch):
    """The same sums from any number of threads, again and again."""
    monkeypatch.setattr(_hessian, "PART_ROWS", 8)
    monkeypatch.setattr(_gradient, "SERIAL_BYTES", 0)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(2000, 6, dtype=torch.float64, generator=generator)
    loss = make_loss(3)
    rows = Rows(X, loss.targets(torch.arange(2000) % 3, X.dtype))
    coef = allocate_coefficients(rows, 3, fit_intercept=True)
    coef.values.normal_(generator=generator)
    found = []
    for size in (1, 4):
        full = FullGradient(Objective(loss), view_block(rows), Team(size))
        full.evaluate(coef)
        hessian = Hessian(full, coef)
        found += [hessian.evaluate().clone() for _ in range(10)]
        assert len(hessian._spare) <= size
    assert all(H.equal(found[0]) for H in found)
    assert not pickle.loads(pickle.dumps(hessian))._spare


def test_a_part_of_the_rows_gives_its_hessian():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(100, 4, dtype=torch.float64, generator=generator)
    y = torch.randint(2, (100,), generator=generator).double()
    rows = Rows(X, y)
    part = Rows(rows.X[::3].clone(), rows.y[::3].clone())
    hessians = []
    for each, stride in ((rows, 3), (part, 1)):
        coef = allocate_coefficients(each, 1, fit_intercept=True)
        coef.values.copy_(torch.linspace(-1, 1, 5))
        objective = Objective(make_loss(2), alpha=0.1)
        full = FullGradient(objective, view_block(each), Team(1))
        full.evaluate(coef)
        hessians.append(Hessian(full, coef).evaluate(stride))
    torch.testing.assert_close(*hessians)
