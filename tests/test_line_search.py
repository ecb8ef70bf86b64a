"""How far to go along a line: the conditions that hold there, and what it costs."""

import pytest
import torch

from torchlogistic._gradient import FullGradient
from torchlogistic._line_search import (
    CURVATURE,
    SUFFICIENT_DECREASE,
    Line,
    Point,
    armijo_step,
    wolfe_step,
)
from torchlogistic._loss import make_loss
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows, view_block
from torchlogistic._threads import Team


class Problem:
    """A line downhill from random coefficients, and how often X was read."""

    def __init__(self, n_classes):
        generator = torch.Generator().manual_seed(0)
        X = torch.randn(80, 5, dtype=torch.float64, generator=generator)
        loss = make_loss(n_classes)
        labels = torch.randint(n_classes, (80,), generator=generator)
        rows = Rows(X, loss.targets(labels, X.dtype))
        self.objective = Objective(loss, alpha=0.1)
        self.coef = allocate_coefficients(rows, loss.n_outputs, fit_intercept=True)
        self.coef.values.normal_(generator=generator)
        self.full = FullGradient(self.objective, view_block(rows), Team(1))
        self.origin = self.here()
        self.passes = 0
        self.full.evaluate = self.counted(self.full.evaluate)
        self.full.project = self.counted(self.full.project)
        gradient = self.coef.arrays.gradient
        self.line = Line(self.full, self.coef, -gradient)
        self.origin.slope = self.line.slope(gradient)

    def here(self):
        """The point at the coefficients."""
        loss = self.full.evaluate(self.coef)
        value = loss + float(self.objective.penalty(self.coef))
        return Point(0.0, value, float("nan"), loss)

    def counted(self, function):
        def call(*args):
            self.passes += 1
            return function(*args)

        return call

    def assert_there(self, point):
        """Coefficients, logits and gradient are where the point says."""
        values, gradient = self.coef.values.clone(), self.coef.gradient.clone()
        logits = self.full.block.logits.clone()
        slope = self.line.slope(self.coef.arrays.gradient)
        again = self.here()
        moved = torch.as_tensor(self.line.before + point.step * self.line.direction)
        torch.testing.assert_close(values, moved, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(gradient, self.coef.gradient)
        torch.testing.assert_close(logits, self.full.block.logits)
        assert point.value == pytest.approx(again.value, rel=1e-12)
        assert point.loss == pytest.approx(again.loss, rel=1e-12)
        assert point.slope == pytest.approx(slope, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("first", [1e-4, 0.1, 1.0, 30.0, 1e4])
def test_strong_wolfe_conditions(first, n_classes):
    with torch.no_grad():
        problem = Problem(n_classes)
        origin = problem.origin
        point = wolfe_step(problem.line, origin, first=first, precision=0.0)
        # However many steps were tried: at the first one, and at the last if it is not.
        assert problem.passes == (1 if point.step == first else 2)
        fall = SUFFICIENT_DECREASE * point.step * origin.slope
        assert point.value <= origin.value + fall
        assert abs(point.slope) <= CURVATURE * abs(origin.slope)
        problem.assert_there(point)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("factor", [0.1, 1.0, 300.0])
def test_halving_until_the_value_has_fallen(factor, n_classes):
    with torch.no_grad():
        problem = Problem(n_classes)
        origin, line = problem.origin, problem.line
        line.direction = line.direction * factor
        origin.slope *= factor
        point = armijo_step(line, origin, precision=0.0)
        assert problem.passes == (1 if point.step == 1.0 else 2)
        assert point.step == 2.0 ** round(torch.log2(torch.tensor(point.step)).item())
        assert (
            point.value
            <= origin.value + SUFFICIENT_DECREASE * point.step * origin.slope
        )
        problem.assert_there(point)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_first_step_by_the_quadratic_model(n_classes):
    """One product with X, which a later trial does without."""
    with torch.no_grad():
        problem = Problem(n_classes)
        line, origin = problem.line, problem.origin
        step = line.model_step(origin.slope)
        assert problem.passes == 1
        # A small step away the slope is what the model says, to the second order.
        t = 1e-4
        assert line.at(t).slope == pytest.approx(
            origin.slope * (1 - t / step), rel=1e-5
        )
        assert problem.passes == 1


def test_no_step_lowers_the_value():
    """Uphill, as rounding may say: back to where it started."""
    with torch.no_grad():
        problem = Problem(2)
        origin, line = problem.origin, problem.line
        line.direction = -line.direction
        point = wolfe_step(line, origin, first=1.0, precision=0.0)
        assert point.step == 0.0
        assert point.value == pytest.approx(origin.value, rel=1e-15)
        torch.testing.assert_close(
            problem.coef.arrays.values, line.before, atol=0, rtol=0
        )
