"""The objective along a line, and the step that satisfies the strong Wolfe conditions.

The logits of a linear model are linear along a line: at ``coef + t * direction`` they
are ``z + t * X @ direction``. After that one product a trial step costs vectors of n
entries and no pass over X.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._objective import Coefficients, Objective, accumulator
from ._rows import Block

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
    objective : Objective
        Its smooth part; L1 has no slope.
    block : Block
        Holds the logits at ``coef``.
    coef, direction : Coefficients
    """

    def __init__(
        self,
        objective: Objective,
        block: Block,
        coef: Coefficients,
        direction: Coefficients,
    ) -> None:
        self.objective = objective
        self.block = block
        self.coef = coef
        self.direction = direction
        self.start = block.logits.clone()
        self.change = objective.logits(
            block, direction, out=torch.empty_like(self.start)
        )
        self.wide = accumulator(coef.values)
        w, d = coef.weight.to(self.wide), direction.weight.to(self.wide)
        # ||w + t d||^2 is a parabola in t.
        self._norms = (w.square().sum(), (w * d).sum(), d.square().sum())

    def at(self, step: float) -> Point:
        """Evaluate at a step; leaves its logits and residuals in the block.

        One synchronization with the device.
        """
        block, objective = self.block, self.objective
        torch.add(self.start, self.change, alpha=step, out=block.logits)
        loss = objective.loss_sum(block).to(self.wide) * block.scale
        residual = objective.loss.residual(block.logits, block.y, block.residual)
        if block.weight is not None:
            residual.mul_(block.weight)
        slope = torch.sum(residual * self.change, dtype=self.wide) * block.scale
        ww, wd, dd = self._norms
        value = loss + objective.l2 / 2 * (ww + 2 * step * wd + step**2 * dd)
        slope = slope + objective.l2 * (wd + step * dd)
        numbers: list[float] = torch.stack([value, slope, loss]).tolist()
        return Point(step, *numbers)

    def accept(self, step: float) -> None:
        """Move the coefficients to a step, whose logits stand in the block."""
        self.coef.values.add_(self.direction.values, alpha=step)


def wolfe_step(line: Line, origin: Point, *, first: float, precision: float) -> Point:
    """Find a step that satisfies the strong Wolfe conditions.

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
        Its logits stand in the block. Step zero if no step lowers the value.

    References
    ----------
    .. [1] J. Nocedal and S. Wright, "Numerical Optimization", 2nd edition, 2006,
       section 3.5.
    """
    low, high = origin, None
    step = first
    for _ in range(MAX_TRIALS):
        point = line.at(step)
        slack = precision * abs(origin.value)
        bound = origin.value + SUFFICIENT_DECREASE * step * origin.slope + slack
        steep = abs(point.slope) > -CURVATURE * origin.slope
        if point.value <= bound and not steep:
            return point
        # A value that is not a number is too far, too.
        if point.value <= bound and point.slope < 0:
            low = point
        else:
            high = point
        step = 2 * step if high is None else _between(low, high)
    return line.at(low.step) if low.value < origin.value else line.at(0.0)


def _between(low: Point, high: Point) -> float:
    """A step inside a bracket: the secant's root, at least a tenth from the ends."""
    width = high.step - low.step
    rise = high.slope - low.slope
    share = -low.slope / rise if rise > 0 else 0.5
    return low.step + width * min(max(share, 0.1), 0.9)


def direction_like(coef: Coefficients, values: Tensor) -> Coefficients:
    """Present a tensor of the coefficients' shape as coefficients."""
    return Coefficients(values, fit_intercept=coef.fit_intercept)
