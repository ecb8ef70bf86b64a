"""One pass over X: the same loss and gradient as autograd, however it is cut."""

import pytest
import torch

from torchlogistic import _gradient
from torchlogistic._gradient import FullGradient, run_together
from torchlogistic._loss import make_loss
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows, view_block


def problem(n_classes, *, weighted=True, fit_intercept=True, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(203, 5, dtype=dtype, generator=generator)
    loss = make_loss(n_classes)
    labels = torch.randint(n_classes, (203,), generator=generator)
    weight = torch.rand(203, dtype=dtype, generator=generator) if weighted else None
    rows = Rows(X, loss.targets(labels, dtype), weight)
    coef = allocate_coefficients(rows, loss.n_outputs, fit_intercept=fit_intercept)
    coef.values.normal_(generator=generator)
    return Objective(loss, alpha=0.3), rows, coef


def by_autograd(objective, rows, coef):
    values = coef.values.clone().requires_grad_()
    n = coef.n_features
    z = rows.X @ values[:n] + (values[n] if coef.fit_intercept else 0)
    losses = objective.loss.value(z, rows.y)
    mean = (losses if rows.weight is None else rows.weight * losses).mean()
    (mean + objective.l2 / 2 * values[:n].square().sum()).backward()
    return mean.item(), values.grad


@pytest.fixture(params=["one piece", "pieces", "more pieces than groups"])
def piece_bytes(request, monkeypatch):
    size = {"one piece": 2**20, "pieces": 40 * 30, "more pieces than groups": 40 * 7}
    monkeypatch.setattr(_gradient, "PIECE_BYTES", size[request.param])


@pytest.mark.usefixtures("piece_bytes")
@pytest.mark.parametrize("n_classes", [2, 3, 11])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_equals_autograd(n_classes, weighted, fit_intercept):
    objective, rows, coef = problem(
        n_classes, weighted=weighted, fit_intercept=fit_intercept
    )
    loss, gradient = by_autograd(objective, rows, coef)
    full = FullGradient(objective, view_block(rows))
    with torch.no_grad():
        assert full.evaluate(coef) == pytest.approx(loss, rel=1e-13)
        torch.testing.assert_close(coef.gradient, gradient)
        coef.gradient.zero_()
        assert full.at_logits(coef) == pytest.approx(loss, rel=1e-13)
        torch.testing.assert_close(coef.gradient, gradient)


@torch.no_grad()
@pytest.mark.usefixtures("piece_bytes")
def test_number_of_threads_changes_no_bit():
    objective, rows, coef = problem(2, dtype=torch.float32)
    full = FullGradient(objective, view_block(rows))
    n_threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append((full.evaluate(coef), coef.gradient.tolist()))
    finally:
        torch.set_num_threads(n_threads)
    assert results[0] == results[1] == results[2]


@torch.no_grad()
def test_frozen_coefficients_have_no_gradient():
    objective, rows, coef = problem(2)
    coef.frozen = [False, True]
    FullGradient(objective, view_block(rows)).evaluate(coef)
    assert coef.intercept_gradient.item() == 0
    assert coef.weight_gradient.all()


def test_an_exception_in_any_task_is_raised():
    done = []

    def fail():
        raise RuntimeError("in a thread")

    with pytest.raises(RuntimeError, match="in a thread"):
        run_together([lambda: done.append(1), fail, lambda: done.append(2)])
    assert sorted(done) == [1, 2]
