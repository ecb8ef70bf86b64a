"""Full-batch quasi-Newton, one iteration at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from ._arrays import Array, as_array, as_tensor
from ._fullbatch import FullBatch
from ._line_search import (
    MAX_TRIALS,
    SUFFICIENT_DECREASE,
    Line,
    Point,
    wolfe_step,
)
from ._pairs import Pairs


class LBFGS(FullBatch):
    """Limited-memory BFGS [1]_; with an L1 penalty orthant-wise [2]_.

    One iteration reads X once, unless its first step is not good enough.

    References
    ----------
    .. [1] D. Liu and J. Nocedal, "On the limited memory BFGS method for large scale
       optimization", Mathematical Programming 45, 1989.
    .. [2] G. Andrew and J. Gao, "Scalable training of L1-regularized log-linear
       models", ICML 2007.
    """

    def reset(self) -> None:
        self.pairs = Pairs(self.coef.arrays.values.reshape(1, -1))
        self._renewed = float("inf")  # the value at which pairs were forgotten last

    def iterate(self) -> bool:
        # 1. The direction, downhill.
        coef = self.coef
        values, gradient = coef.arrays.values, coef.arrays.gradient + 0
        subgradient = gradient
        if self.objective.l1:
            subgradient = as_array(self.objective.subgradient(coef))
        direction = self.pairs.multiply(subgradient.reshape(1, -1))
        direction *= -1
        direction = direction.reshape(values.shape)
        if self.objective.l1:
            # Coordinates that the quasi-Newton direction would take uphill stay.
            uphill = direction * subgradient >= 0
            uphill[coef.n_features :] = False
            direction[uphill] = 0

        # 2. The step along it.
        before, fresh = values + 0, not self.pairs.known[0]
        origin, point = self.search(direction, subgradient, fresh=fresh)
        if point.step == 0.0:
            if fresh:
                return False  # there is nothing left to try
            self.pairs.forget(0)
            return self.iterate()

        # 3. What it tells of the curvature.
        moved, bent = values - before, coef.arrays.gradient - gradient
        self.pairs.add(moved.reshape(1, -1), bent.reshape(1, -1))
        if self.arrive(origin, point):
            return True
        return self.renew(point, partial(self.pairs.forget, 0))

    def renew(self, point: Point, forget: Callable[[], None]) -> bool:
        """Forget the pairs where the value does not fall any more.

        Rounding may have spoilt them before it hides the value's decrease. Returns
        False if the value has not fallen since that was done.
        """
        if not point.value < self._renewed - self.precision * abs(point.value):
            return False
        forget()
        self._renewed, self._idle = point.value, 0
        return True

    def search(
        self, direction: Array, subgradient: Array, *, fresh: bool
    ) -> tuple[Point, Point]:
        """Take a step along a direction.

        Parameters
        ----------
        direction, subgradient : Array of the shape of the coefficients
        fresh : bool
            Whether there are no pairs: the direction is the gradient, of any length.

        Returns
        -------
        origin, point : Point
            Where it starts and ends: at step zero if nothing lowers the objective.
        """
        line = Line(self.full, self.coef, direction)
        origin = self.origin()
        origin.slope = line.slope(subgradient)
        if not origin.slope < 0:  # rounding has spoilt the pairs
            return origin, origin
        first = line.model_step(origin.slope) if fresh else 1.0
        if self.objective.l1:
            return origin, self._orthant_step(line, origin, subgradient, first)
        return origin, wolfe_step(line, origin, first=first, precision=self.precision)

    def _orthant_step(
        self, line: Line, origin: Point, subgradient: Array, first: float
    ) -> Point:
        """Halve the step until it lowers the objective; weights do not change sign.

        Each trial is a pass over X, since steps that end at zero leave the line.
        """
        weight = self.coef.weight
        n = self.coef.n_features
        before, downhill = as_tensor(line.before)[:n], -as_tensor(subgradient)[:n]
        sign = torch.where(before != 0, before.sign(), downhill.sign())
        step = first
        for _ in range(MAX_TRIALS):
            line.move(step)
            weight.masked_fill_(weight.sign() != sign, 0.0)
            loss = self.full.evaluate(self.coef)
            value = loss + float(self.objective.penalty(self.coef))
            moved = self.coef.arrays.values - line.before
            fall = float(self.coef.xp.inner(moved, subgradient))
            point = Point(step, value, fall, loss)
            if falls_as_expected(origin, point, self.precision):
                return point
            step /= 2
        return line.jump(0.0)


def falls_as_expected(origin: Point, point: Point, precision: float) -> bool:
    """Whether an orthant-wise step lowers the objective enough.

    In place of the slope, ``point`` has the fall that the subgradient lets expect.
    """
    slack = precision * abs(origin.value)
    return point.value <= origin.value + SUFFICIENT_DECREASE * point.slope + slack
