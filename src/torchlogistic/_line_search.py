"""The objective along a line, and how far to go along it.

The logits of a linear model are linear along a line: at ``coef + t * direction`` they
are ``z + t * X @ direction``. The first step that is tried is evaluated in full, with
its gradient, in one pass over X; mostly it is the one that is taken. The difference of
the logits then gives every other step at the price of vectors of n entries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ._arrays import Array
from ._gradient import FullGradient
from ._objective import Coefficients, accumulator

SUFFICIENT_DECREASE = 1e-4  # c1 and c2 of Nocedal and Wright
CURVATURE = 0.9
MAX_TRIALS = 30


@dataclass
class Point:
    """The objective at a step: value, slope along the line, and the mean loss in it."""

    step: float
    value: float
    slope: float
    loss: float


class Line:
    """The objective restricted to ``coef + t * direction``.

    Parameters
    ----------
    full : FullGradient
        Its block holds the logits at ``coef``.
    coef : Coefficients
    direction : Tensor
        Of the shape of the coefficients.
    """

    def __init__(
        self, full: FullGradient, coef: Coefficients, direction: Tensor
    ) -> None:
        self.full = full
        self.coef = coef
        self.direction = direction
        self.wide = accumulator(coef.values)
        self.before = coef.values.clone()
        self.start = full.block.z + 0  # a copy, of either kind of array
        self.change: Array | None = None  # of the logits, for a step of one

    def slope(self, gradient: Tensor) -> float:
        """Slope along the line of a function with a gradient."""
        return torch.sum(gradient * self.direction, dtype=self.wide).item()

    def model_step(self, slope: float) -> float:
        """The step to the minimum of the quadratic model, for a product with X."""
        self.change = self.full.project(self.coef, self.direction)
        bend = self.full.curvature_along(self.change)
        weight = self.direction[: self.coef.n_features]
        bend += self.full.objective.l2 * weight.square().sum().item()
        return -slope / bend if bend > 0 and math.isfinite(bend) else 1.0

    def move(self, step: float) -> None:
        torch.add(self.before, self.direction, alpha=step, out=self.coef.values)

    def jump(self, step: float) -> Point:
        """Move to a step and evaluate there, gradient included: a pass over X."""
        self.move(step)
        loss = self.full.evaluate(self.coef)
        value = loss + self.full.objective.penalty(self.coef).item()
        if step > 0 and self.change is None:
            self.change = (self.full.block.z - self.start) / step
        return Point(step, value, self.slope(self.coef.gradient), loss)

    def at(self, step: float) -> Point:
        """Evaluate at a step, after a first jump, without reading X."""
        objective = self.full.objective
        loss, slope = self.full.along(self.start, self.change, step)
        self.move(step)
        weight = self.coef.weight
        direction = self.direction[: self.coef.n_features]
        bend = torch.sum(weight * direction, dtype=self.wide).item()
        value = loss + objective.penalty(self.coef).item()
        return Point(step, value, slope + objective.l2 * bend, loss)


def wolfe_step(line: Line, origin: Point, *, first: float, precision: float) -> Point:
    """Go to a step that satisfies the strong Wolfe conditions.

    The objective is convex, so that its slope rises along the line: the step is
    bracketed by doubling, then narrowed by the secant of the slope, kept off the ends
    of the bracket [1]_.

    Parameters
    ----------
    line : Line
    origin : Point
        The point at step zero; its slope is negative.
    first : float
        The first step to try.
    precision : float
        Differences of the value below this share of it are rounding.

    Returns
    -------
    Point
        Coefficients, logits and gradient are there. Step zero if no step lowers the
        value.

    References
    ----------
    .. [1] J. Nocedal and S. Wright, "Numerical Optimization", 2nd edition, 2006,
       section 3.5.
    """
    low, high = origin, None
    point = line.jump(first)
    evaluate = line.at if math.isfinite(point.value) else line.jump
    for trial in range(MAX_TRIALS):
        slack = precision * abs(origin.value)
        decrease = SUFFICIENT_DECREASE * point.step * origin.slope
        fell = point.value <= origin.value + decrease + slack
        if fell and abs(point.slope) <= -CURVATURE * origin.slope:
            return point if trial == 0 else line.jump(point.step)
        # A value that is not a number is too far, too.
        if fell and point.slope < 0:
            low = point
        else:
            high = point
        point = evaluate(2 * point.step if high is None else _between(low, high))
    return line.jump(low.step if low.value < origin.value else 0.0)


def _between(low: Point, high: Point) -> float:
    """A step inside a bracket: the secant's root, at least a tenth from the ends."""
    width = high.step - low.step
    rise = high.slope - low.slope
    share = -low.slope / rise if rise > 0 else 0.5
    return low.step + width * min(max(share, 0.1), 0.9)


def armijo_step(line: Line, origin: Point, *, precision: float) -> Point:
    """Go to a step of 1, 1/2, 1/4, ... that lowers the value enough.

    For objectives with an L1 norm, whose ``origin.slope`` is the change of the norm
    from step 0 to 1 plus the slope of the rest [1]_. Returns as :func:`wolfe_step`.

    References
    ----------
    .. [1] J. Lee, Y. Sun and M. Saunders, "Proximal Newton-Type Methods for Minimizing
       Composite Functions", SIAM Journal on Optimization 24(3), 2014.
    """
    point = line.jump(1.0)
    evaluate = line.at if math.isfinite(point.value) else line.jump
    slack = precision * abs(origin.value)
    for trial in range(MAX_TRIALS):
        decrease = SUFFICIENT_DECREASE * point.step * origin.slope
        if point.value <= origin.value + decrease + slack:
            return point if trial == 0 else line.jump(point.step)
        point = evaluate(point.step / 2)
    return line.jump(0.0)
