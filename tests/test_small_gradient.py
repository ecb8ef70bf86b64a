"""Gradients of small batches: against autograd, and against the objective's own."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from torchlogistic._arrays import SERIAL_PRODUCT
from torchlogistic._loss import make_loss
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows, buffer_block, view_block
from torchlogistic._small_gradient import FEW_ROWS, SmallGradient

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}

weights = pytest.mark.parametrize("weighted", [False, True])
alphas = pytest.mark.parametrize("alpha", [0.0, 0.3])
intercepts = pytest.mark.parametrize("fit_intercept", [True, False])
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)


def problem(
    n_rows=30,
    *,
    n_classes=2,
    weighted=False,
    fit_intercept=True,
    alpha=0.0,
    dtype=torch.float64,
    size=1.0,
):
    """Objective, coefficients, and a buffer that is filled with rows."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n_rows, 4, dtype=dtype, generator=generator) * size
    loss = make_loss(n_classes)
    y = loss.targets(torch.randint(n_classes, (n_rows,), generator=generator), dtype)
    weight = torch.rand(n_rows, dtype=dtype, generator=generator) + 0.5
    rows = Rows(X, y, weight if weighted else None)
    coef = allocate_coefficients(rows, loss.n_outputs, fit_intercept=fit_intercept)
    coef.values.copy_(torch.randn(coef.values.shape, generator=generator))
    block = buffer_block(rows, n_rows, fit_intercept=fit_intercept)
    block.X[:, :4], block.y[...] = X, y
    if weighted:
        block.weight.reshape(-1)[...] = weight
    return Objective(loss, alpha), coef, block


def autograd(objective, coef, block):
    """Gradient of the objective on a block, by torch."""
    values = coef.values.double().requires_grad_()
    logits = torch.from_numpy(block.X).double() @ values
    weight = None if block.weight is None else torch.from_numpy(block.weight).double()
    loss = F.binary_cross_entropy_with_logits(logits, block.targets.double(), weight)
    loss = loss + objective.l2 / 2 * values[: coef.n_features].square().sum()
    return torch.autograd.grad(loss, values)[0]


@weights
@alphas
@intercepts
@dtypes
def test_gradient_of_each_batch_is_that_of_autograd(
    weighted, alpha, fit_intercept, dtype
):
    arguments = {"weighted": weighted, "alpha": alpha, "fit_intercept": fit_intercept}
    objective, coef, block = problem(**arguments, dtype=dtype)
    write = SmallGradient(objective, coef).make_gradient(coef, block)
    for batch in block.split(8):  # the last one is shorter
        expected = autograd(objective, coef, batch)
        write(batch)
        tolerance = TOLERANCE[dtype] * 10
        torch.testing.assert_close(
            coef.gradient.double(), expected, rtol=tolerance, atol=tolerance
        )
        logits = torch.from_numpy(batch.X) @ coef.values
        torch.testing.assert_close(batch.logits, logits)


@weights
@alphas
@intercepts
@dtypes
def test_descent_is_a_step_along_the_gradient(weighted, alpha, fit_intercept, dtype):
    arguments = {"weighted": weighted, "alpha": alpha, "fit_intercept": fit_intercept}
    objective, coef, block = problem(**arguments, dtype=dtype)
    descend = SmallGradient(objective, coef).make_descent(coef, block, 0.7, None)
    for batch in block.split(8):
        expected = coef.values.double() - 0.7 * autograd(objective, coef, batch)
        descend(batch)
        tolerance = TOLERANCE[dtype] * 10
        torch.testing.assert_close(
            coef.values.double(), expected, rtol=tolerance, atol=tolerance
        )


@weights
@alphas
@dtypes
def test_listener_hears_the_gradient_and_changes_no_bit(weighted, alpha, dtype):
    both = [problem(weighted=weighted, alpha=alpha, dtype=dtype) for _ in range(2)]
    heard = []

    def listen():
        heard.append(both[1][1].gradient.clone())

    for (objective, coef, block), listener in zip(both, (None, listen), strict=True):
        descend = SmallGradient(objective, coef).make_descent(
            coef, block, 0.5, listener
        )
        for batch in block.split(8):
            expected = autograd(objective, coef, batch)
            descend(batch)
            if listener:
                torch.testing.assert_close(
                    heard[-1].double(), expected, rtol=1e-5, atol=1e-6
                )
    assert both[0][1].values.equal(both[1][1].values)
    assert len(heard) == 4


def test_listener_may_change_the_gradient():
    objective, coef, block = problem(alpha=0.1)
    before = coef.values.clone()

    def clip():
        coef.gradient.clamp_(-0.01, 0.01)

    SmallGradient(objective, coef).make_descent(coef, block, 2.0, clip)(block)
    assert coef.gradient.abs().max() == 0.01
    assert coef.values.equal(before - 2.0 * coef.gradient)


@weights
@dtypes
@pytest.mark.parametrize("n_rows", [1, 30, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_loss_is_that_of_the_objective(weighted, dtype, n_rows, size):
    """Of logits that overflow in the exponential, too."""
    objective, coef, block = problem(n_rows, weighted=weighted, dtype=dtype, size=size)
    small = SmallGradient(objective, coef)
    small.make_gradient(coef, block)(block)
    assert np.isfinite(block.z).all()
    found = float(small.loss_sum(block))
    tolerance = TOLERANCE[dtype]
    assert found == pytest.approx(objective.loss_sum(block).item(), rel=tolerance)


def test_logits_beyond_the_exponential_have_residuals():
    objective, coef, block = problem(size=1e4)
    SmallGradient(objective, coef).make_gradient(coef, block)(block)
    expected = autograd(objective, coef, block)
    torch.testing.assert_close(coef.gradient, expected)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_compute_the_same(copied):
    objective, coef, block = problem()
    small = SmallGradient(objective, coef)
    small.make_gradient(coef, block)(block)
    other = copied(small)
    other.make_gradient(other.coef, block)(block)
    assert other.coef.gradient.equal(coef.gradient)
    assert other.coef.gradient.data_ptr() != coef.gradient.data_ptr()


def serves(objective, coef, block):
    return SmallGradient.serves(objective, coef, block)


class TestServes:
    def test_binary_rows_in_a_buffer(self):
        assert serves(*problem())
        assert serves(*problem(fit_intercept=False))

    def test_not_several_logits(self):
        assert not serves(*problem(n_classes=3))

    def test_not_rows_without_the_column_of_ones(self):
        objective, coef, block = problem()
        rows = Rows(block.features, block.targets)
        assert not serves(objective, coef, view_block(rows))

    def test_not_rows_that_blas_would_copy(self):
        objective, coef, block = problem(fit_intercept=False)
        rows = Rows(torch.from_numpy(block.X).t().contiguous().t(), block.targets)
        assert not serves(objective, coef, view_block(rows))

    def test_not_so_many_that_blas_wakes_threads(self):
        n_rows = SERIAL_PRODUCT // 5
        assert serves(*problem(n_rows))
        assert not serves(*problem(n_rows + 1))
