"""The objective along a line, and how far to go along it.

The logits of a linear model are linear along a line: at ``coef + t * direction`` they
are ``z + t * X @ direction``. The first step that is tried is evaluated in full, with
its gradient, in one pass over X; mostly it is the one that is taken. The difference of
the logits then gives every other step at the price of vectors of n entries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ._arrays import Array
from ._gradient import FullGradient
from ._objective import Coefficients

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
    direction : Array
        Of the shape of the coefficients.
    """

    def __init__(
        self, full: FullGradient, coef: Coefficients, direction: Array
    ) -> None:
        self.full = full
        self.coef = coef
        self.direction = direction
        self.before = coef.arrays.values + 0  # a copy, of either kind of array
        self.start = full.block.z + 0
        self.change: Array | None = None  # of the logits, for a step of one
        self.reached = 0.0  # the step whose logits stand in the block

    def slope(self, gradient: Array) -> float:
        """Slope along the line of a function with a gradient."""
        return float(self.coef.xp.inner(gradient, self.direction))

    def model_step(self, slope: float) -> float:
        """The step to the minimum of the quadratic model, for a product with X."""
        self.change = self.full.project(self.coef, self.direction)
        curvature = self.full.curvature_along(self.change)
        weight = self.direction[: self.coef.n_features]
        curvature += self.full.objective.l2 * float(self.coef.xp.inner(weight, weight))
        return -slope / curvature if curvature > 0 and math.isfinite(curvature) else 1.0

    def move(self, step: float) -> None:
        values = self.coef.arrays.values
        self.coef.xp.walk(self.before, self.direction, step, values)

    def jump(self, step: float) -> Point:
        """Move to a step and evaluate there, gradient included: a pass over X."""
        self.move(step)
        loss = self.full.evaluate(self.coef)
        value = loss + float(self.full.objective.penalty(self.coef))
        self.reached = step
        return Point(step, value, self.slope(self.coef.arrays.gradient), loss)

    def at(self, step: float) -> Point:
        """Evaluate at a step, after a first jump, without reading X."""
        objective, coef = self.full.objective, self.coef
        if self.change is None:
            self.change = (self.full.block.z - self.start) / self.reached
        loss, slope = self.full.along(self.start, self.change, step)
        self.move(step)
        along = self.direction[: coef.n_features]
        slope += objective.l2 * float(coef.xp.inner(coef.arrays.weight, along))
        value = loss + float(objective.penalty(coef))
        return Point(step, value, slope, loss)


def has_fallen(origin: Point, point: Point, precision: float) -> bool:
    """Whether the value is as low as the first of Wolfe's conditions asks for.

    Differences below ``precision`` times the value are rounding.
    """
    decrease = SUFFICIENT_DECREASE * point.step * origin.slope
    return point.value <= origin.value + decrease + precision * abs(origin.value)


def has_levelled(origin: Point, point: Point) -> bool:
    """Whether the slope is as small as the second, strong one asks for."""
    return abs(point.slope) <= -CURVATURE * origin.slope


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
        fell = has_fallen(origin, point, precision)
        if fell and has_levelled(origin, point):
            return point if trial == 0 else _land(line, origin, point, precision)
        # A value that is not a number is too far, too.
        if fell and point.slope < 0:
            low = point
        else:
            high = point
        point = evaluate(2 * point.step if high is None else _between(low, high))
    if low.value < origin.value:
        return _land(line, origin, low, precision)
    return line.jump(0.0)


def _land(line: Line, origin: Point, point: Point, precision: float) -> Point:
    """Go to a step that was evaluated by the difference of the logits.

    Of a step of a million, rounding makes another one: then to where it started.
    """
    landed = line.jump(point.step)
    return landed if has_fallen(origin, landed, precision) else line.jump(0.0)


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
    for trial in range(MAX_TRIALS):
        if has_fallen(origin, point, precision):
            return point if trial == 0 else _land(line, origin, point, precision)
        point = evaluate(point.step / 2)
    return line.jump(0.0)
