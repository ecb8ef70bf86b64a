"""What the full-batch solvers share: state, gradient, when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ._arrays import Array, as_array, as_tensor
from ._gradient import FullGradient
from ._line_search import Point
from ._objective import Coefficients, Objective
from ._rows import Block
from ._threads import Team

SAMPLE_ROWS = 1000
SMALLEST = float(np.finfo(np.float64).tiny)  # for features that are zero throughout


def _on_host(array: Array) -> np.ndarray:
    """A copy in float64."""
    return np.asarray(as_tensor(array).cpu(), dtype=np.float64)


class FullBatch:
    """One iteration an epoch; abstract: a solver defines ``reset`` and ``iterate``.

    Parameters
    ----------
    objective : Objective
    block : Block
        All rows.
    coef : Coefficients
    tol : float
        Max-norm of the gradient at which the solver has converged. With an L1 penalty
        it is that of the subgradient of least norm.
    team : Team
        Threads that share the passes over the rows.

    Attributes
    ----------
    loss : float
        Mean loss, without the penalty, at the coefficients.
    gradient_norm : float
        Max-norm of the gradient there.
    converged : bool
    stalled : bool
        Whether no step lowers the objective any more, at the precision of the dtype.
    """

    n_batches = 1
    # The slack that a line search grants to rounding could let it go round in circles:
    # so many iterations in a row it may take to lower the objective or, where rounding
    # hides what becomes of that, the gradient. An ill-conditioned problem takes many.
    patience = 100

    def __init__(
        self,
        objective: Objective,
        block: Block,
        coef: Coefficients,
        *,
        tol: float,
        team: Team,
    ) -> None:
        self.objective = objective
        self.block = block
        self.coef = coef
        self.tol = tol
        self.full = FullGradient(objective, block, team)
        self.loss = math.inf
        # Logits of some tens are rounded, and with them the losses, to so many units.
        self.precision = 32 * torch.finfo(coef.values.dtype).eps
        self.gradient_norm = math.inf
        self._seen: Tensor | None = None
        self._seen_frozen = list(coef.frozen)
        self._start_over()

    @property
    def converged(self) -> bool:
        return self.gradient_norm <= self.tol

    @property
    def done(self) -> bool:
        """Whether another iteration would change nothing."""
        return self.converged or self.stalled

    @property
    def separated(self) -> bool:
        """Whether the coefficients put every row on its side, where none is best."""
        y, z = self.block.y, self.block.z
        if z.ndim == 1:
            return bool(((z > 0) == (y > 0)).all())
        return bool((z.argmax(-1) == y.argmax(-1)).all())

    @property
    def separated_class(self) -> int | None:
        """A class that a hyperplane of the coefficients separates from all others.

        Its logit, less the mean of all, can be moved by the intercept alone.
        """
        z, y = self.block.logits, self.block.targets > 0
        if z.ndim == 1:
            return None
        margin = z - z.mean(-1, keepdim=True)
        inside = torch.where(y, margin, math.inf).amin(0)
        outside = torch.where(y, -math.inf, margin).amax(0)
        if self.coef.fit_intercept:
            apart = inside > outside
        else:
            apart = (inside > 0) & (outside < 0)
        apart &= y.any(0)  # a class may have no rows that weigh anything
        found = apart.nonzero().flatten().tolist()
        return found[0] if found else None

    def _start_over(self) -> None:
        """Compare no iteration with those before."""
        self._lowest = math.inf  # the objective so far
        # Where the gradient was least: its norm, the objective, the coefficients.
        self._flattest = math.inf, math.inf, self.coef.values
        self._idle = 0  # iterations in a row that lowered neither
        self.stalled = False

    def reset(self) -> None:
        """Forget what earlier iterations learned."""
        raise NotImplementedError

    def iterate(self) -> bool:
        """One iteration; False if no step lowers the objective.

        Leaves logits, gradient and ``loss`` at the new coefficients.
        """
        raise NotImplementedError

    def origin(self) -> Point:
        """The point from which an iteration starts; its slope is not known yet."""
        penalty = float(self.objective.penalty(self.coef))
        return Point(0.0, self.loss + penalty, float("nan"), self.loss)

    def arrive(self, origin: Point, point: Point, norm: float | None = None) -> bool:
        """Take note of where an iteration ended; False if it led nowhere.

        ``norm`` is the gradient's, if it is known.
        """
        self.loss = point.loss
        if norm is None:
            self._measure()
        else:
            self.gradient_norm = norm
        flatter = self.gradient_norm < self._flattest[0]
        if flatter:
            at = self.coef.values.clone()
            self._flattest = self.gradient_norm, point.value, at
        self._idle = 0 if flatter or point.value < self._lowest else self._idle + 1
        self._lowest = min(self._lowest, point.value)
        return point.step > 0 and self._idle < self.patience

    def possible_fall(self, *, enough: float) -> float:
        """How far the objective would fall if one weight moved, the best of them.

        With it the intercept moves, so that the mean logit stays where it is. At least:
        the curvature of a row's loss is a quarter of the square of a feature at most,
        with several logits, too [1]_. Where features are small, or far from zero, the
        gradient is small, whatever there is to gain. All rows are looked at only if
        some of them say that it is ``enough``.

        References
        ----------
        .. [1] D. Böhning, "Multinomial logistic regression algorithm", Annals of the
           Institute of Statistical Mathematics 44, 1992.
        """
        coef, few = self.coef, -(-len(self.block) // SAMPLE_ROWS)
        if coef.frozen[0]:
            return 0.0
        slope = _on_host(coef.arrays.weight_gradient).T
        center = np.zeros(coef.n_features)
        if coef.fit_intercept and not coef.frozen[1]:
            sample = as_tensor(self.block.X[::few, : coef.n_features]).cpu().numpy()
            center = sample.mean(axis=0, dtype=np.float64)
            slope = slope - _on_host(coef.arrays.intercept_gradient).T * center
        rounding = self.precision * abs(center)
        slope = (abs(slope) - self.objective.l1 - rounding).clip(min=0)
        fall, l2 = 0.0, self.objective.l2
        if (slope**2).max(initial=0.0) <= 2 * l2 * enough:
            return fall  # the curvature is no less than l2
        for step in (few, 1):
            curvature = self._mean_squares(step, center) / 4 + l2
            falls = slope**2 / (2 * np.maximum(curvature, SMALLEST))
            fall = float(falls.max(initial=0.0))
            if fall <= enough:
                break
        return fall

    def _mean_squares(self, step: int, center: np.ndarray) -> np.ndarray:
        """Weighted mean squares of features about a center, of each so many-th row."""
        n, block = self.coef.n_features, self.block
        total, n_rows = np.zeros(n), 0
        for start in range(0, len(block), step * SAMPLE_ROWS):
            rows = slice(start, start + step * SAMPLE_ROWS, step)
            X, weight = _on_host(block.X[rows, :n]) - center, np.ones(1)
            if block.weight is not None:
                weight = _on_host(block.weight[rows]).reshape(-1)
            total += np.einsum("i,ij,ij->j", np.broadcast_to(weight, len(X)), X, X)
            n_rows += len(X)
        return total / n_rows

    def stall(self) -> None:
        """End, as no step lowers the objective, at the least gradient of all steps."""
        self.stalled = True
        norm, value, coefficients = self._flattest
        here = self.origin().value
        if norm < self.gradient_norm and value <= here + self.precision * abs(here):
            self.coef.values.copy_(coefficients)
            self.loss = self.full.evaluate(self.coef)
            self._measure()

    def _measure(self) -> None:
        gradient = self.coef.arrays.gradient
        if self.objective.l1:
            gradient = as_array(self.objective.subgradient(self.coef))
        self.gradient_norm = float(abs(gradient).max())

    def refresh(self) -> None:
        """Notice coefficients that a callback changed since the last iteration."""
        known = self._seen is not None and torch.equal(self._seen, self.coef.values)
        if known and self._seen_frozen == self.coef.frozen:
            return
        self.reset()
        self.loss = self.full.evaluate(self.coef)
        self._measure()
        self._seen_frozen = list(self.coef.frozen)
        self._start_over()

    def visit(self) -> Iterator[Block]:
        """Visit the one batch."""
        yield self.block

    def update(self, block: Block, listener: Callable[[], None] | None = None) -> None:
        """One iteration; ``listener`` hears of the gradient it starts from."""
        self.refresh()
        if listener is not None:
            listener()
        if not self.done and not self.iterate():
            self.stall()
        self._seen = self.coef.values.clone()

    def epoch(self) -> None:
        """One iteration, with nobody listening."""
        self.update(self.block)
