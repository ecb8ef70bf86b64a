"""Full-batch quasi-Newton, one iteration at a time."""

from __future__ import annotations

from collections import deque

from torch import Tensor

from ._fullbatch import FullBatch
from ._line_search import Line, direction_like, wolfe_step

MEMORY = 10


class LBFGS(FullBatch):
    """Limited-memory BFGS [1]_ with a line search that reuses the logits.

    One iteration reads X twice: for the change of the logits along the direction, and
    for the gradient at the accepted step.

    References
    ----------
    .. [1] D. Liu and J. Nocedal, "On the limited memory BFGS method for large scale
       optimization", Mathematical Programming 45, 1989.
    """

    def reset(self) -> None:
        self.pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=MEMORY)

    def iterate(self) -> bool:
        """One iteration; False if no step lowers the objective."""
        coef = self.coef
        gradient = coef.gradient.clone()
        before = coef.values.clone()
        line = Line(
            self.objective,
            self.block,
            coef,
            direction_like(coef, self._two_loops(gradient).neg_()),
        )
        origin = line.at(0.0)
        if origin.slope >= 0:  # rounding has spoilt the pairs
            return self._restart()
        # Without pairs the direction is the gradient, of any length.
        first = 1.0 if self.pairs else min(1.0, 1.0 / gradient.abs().sum().item())
        point = wolfe_step(line, origin, first=first, precision=self.precision)
        if point.step == 0.0:
            return self._restart()
        line.accept(point.step)
        self.loss = point.loss
        self.evaluate()
        s, y = coef.values - before, coef.gradient - gradient
        sy = (s * y).sum()
        if sy > 0:
            self.pairs.append((s, y, 1 / sy))
        return True

    def _restart(self) -> bool:
        """Forget the pairs; without any, there is nothing left to try."""
        if not self.pairs:
            return False
        self.reset()
        self.refresh_logits()
        return self.iterate()

    def _two_loops(self, gradient: Tensor) -> Tensor:
        """Approximate inverse Hessian times gradient: (n_features [+ 1], ...)."""
        q = gradient.clone()
        shares = []
        for s, y, rho in reversed(self.pairs):
            share = rho * (s * q).sum()
            q -= share * y
            shares.append(share)
        if self.pairs:
            s, y, rho = self.pairs[-1]
            q /= rho * y.square().sum()
        for (s, y, rho), share in zip(self.pairs, reversed(shares), strict=True):
            q += (share - rho * (y * q).sum()) * s
        return q
