"""Full-batch quasi-Newton, one iteration at a time."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from ._arrays import Array, Number, as_array
from ._fullbatch import FullBatch
from ._line_search import (
    MAX_TRIALS,
    SUFFICIENT_DECREASE,
    Line,
    Point,
    wolfe_step,
)

MEMORY = 10


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
        # Steps and changes of the gradient, each in one row, and their 1 / (s @ y).
        self.pairs: deque[tuple[Array, Array, Number]] = deque(maxlen=MEMORY)

    def iterate(self) -> bool:
        # 1. The direction, downhill.
        coef = self.coef
        gradient = coef.gradient.clone()
        subgradient = self.objective.subgradient(coef)
        direction = self._two_loops(subgradient).neg_()
        if self.objective.l1:
            # Coordinates that the quasi-Newton direction would take uphill stay.
            direction[: coef.n_features].masked_fill_(
                (direction * subgradient)[: coef.n_features] >= 0, 0.0
            )
        line = Line(self.full, coef, direction)
        origin = self.origin()
        origin.slope = line.slope(subgradient)
        if origin.slope >= 0:  # rounding has spoilt the pairs
            return self._restart()
        # Without pairs the direction is the gradient, of any length.
        first = 1.0 if self.pairs else line.model_step(origin.slope)

        # 2. The step along it.
        if self.objective.l1:
            point = self._orthant_step(line, origin, subgradient, first)
        else:
            point = wolfe_step(line, origin, first=first, precision=self.precision)
        if point.step == 0.0:
            return self._restart()

        # 3. What it tells of the curvature.
        moved, bent = coef.values - line.before, coef.gradient - gradient
        s, y = (as_array(change.view(-1)) for change in (moved, bent))
        sy = s @ y
        if sy > 0:
            self.pairs.append((s, y, 1 / sy))
        return self.arrive(origin, point)

    def _restart(self) -> bool:
        """Forget the pairs; without any, there is nothing left to try."""
        if not self.pairs:
            return False
        self.reset()
        return self.iterate()

    def _two_loops(self, gradient: Tensor) -> Tensor:
        """Approximate inverse Hessian times gradient: (n_features [+ 1], ...)."""
        direction = gradient.clone()
        q = as_array(direction.view(-1))
        shares = []
        for s, y, rho in reversed(self.pairs):
            share = rho * (s @ q)
            q -= share * y
            shares.append(share)
        if self.pairs:
            s, y, rho = self.pairs[-1]
            q /= rho * (y @ y)
        for (s, y, rho), share in zip(self.pairs, reversed(shares), strict=True):
            q += (share - rho * (y @ q)) * s
        return direction

    def _orthant_step(
        self, line: Line, origin: Point, subgradient: Tensor, first: float
    ) -> Point:
        """Halve the step until it lowers the objective; weights do not change sign.

        Each trial is a pass over X, since steps that end at zero leave the line.
        """
        weight = self.coef.weight
        n = self.coef.n_features
        before = line.before[:n]
        sign = torch.where(before != 0, before.sign(), -subgradient[:n].sign())
        step = first
        for _ in range(MAX_TRIALS):
            line.move(step)
            weight.masked_fill_(weight.sign() != sign, 0.0)
            loss = self.full.evaluate(self.coef)
            value = loss + self.objective.penalty(self.coef).item()
            moved = self.coef.values - line.before
            fall = torch.sum(moved * subgradient, dtype=line.wide).item()
            slack = self.precision * abs(origin.value)
            if value <= origin.value + SUFFICIENT_DECREASE * fall + slack:
                return Point(step, value, fall, loss)
            step /= 2
        return line.jump(0.0)
