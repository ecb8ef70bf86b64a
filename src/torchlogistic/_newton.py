"""Full-batch Newton-Cholesky, one iteration at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._arrays import Array, accumulator, as_array
from ._cholesky import solve_definite
from ._fullbatch import FullBatch
from ._hessian import Hessian
from ._line_search import Line, Point, armijo_step, wolfe_step
from ._objective import Coefficients, Objective
from ._orthant import minimise_quadratic
from ._rows import Block
from ._threads import Team

MAX_DAMPING = 1e8
# Where a Hessian takes a part of the rows: the least number of them for each
# coefficient, and the least part, whose products take less time than a gradient.
SAMPLED_ROWS = 100
MAX_STRIDE = 32
SLOW = 0.5  # the ratio of gradient norms above which it takes all of them
MAX_COEFFICIENTS = 10_000  # a Hessian of 800 MB in float64


class Newton(FullBatch):
    """Newton's method with a Cholesky factor of the Hessian, damped [1]_.

    The Hessian is summed over blocks of rows by matrix products. Where it is singular,
    as for collinear features or separable rows without a penalty, its diagonal is
    raised until the factor exists; a line search that reuses the logits keeps the
    objective falling. With an L1 penalty the quadratic model is minimised together
    with the norm: a proximal Newton method [2]_.

    Of many rows, the Hessian takes every ``stride``-th, as long as that makes the
    gradient fall fast [3]_: with m rows for p coefficients its norm falls by a factor
    of the order of ``sqrt(p / m)`` an iteration [4]_, and an iteration costs little
    more than the gradient, which always takes all rows.

    References
    ----------
    .. [1] J. Nocedal and S. Wright, "Numerical Optimization", 2nd edition, 2006,
       algorithms 3.2 and 3.3.
    .. [2] J. Lee, Y. Sun and M. Saunders, "Proximal Newton-Type Methods for Minimizing
       Composite Functions", SIAM Journal on Optimization 24(3), 2014.
    .. [3] R. Byrd, G. Chin, W. Neveitt and J. Nocedal, "On the Use of Stochastic
       Hessian Information in Optimization Methods for Machine Learning", SIAM Journal
       on Optimization 21(3), 2011.
    .. [4] F. Roosta-Khorasani and M. Mahoney, "Sub-sampled Newton methods",
       Mathematical Programming 174, 2019.
    """

    patience = 10  # its steps know the curvature: of more to no end, rounding decides

    def __init__(
        self,
        objective: Objective,
        block: Block,
        coef: Coefficients,
        *,
        tol: float,
        team: Team,
    ) -> None:
        super().__init__(objective, block, coef, tol=tol, team=team)
        if coef.values.numel() > MAX_COEFFICIENTS:
            raise ValueError(
                f"optimizer='newton' would need a Hessian of {coef.values.numel()} x "
                f"{coef.values.numel()} numbers: use optimizer='lbfgs'"
            )
        self.wide = accumulator(coef.values)
        self.hessian = Hessian(self.full, coef)

    def reset(self) -> None:
        self.damping = 0.0
        stride = len(self.block) // (SAMPLED_ROWS * self.coef.values.numel())
        self.stride = min(max(stride, 1), MAX_STRIDE)

    def iterate(self) -> bool:
        direction = self.aim(self.hessian.evaluate(self.stride))
        return self.conclude(*self.search(direction))

    def aim(self, H: Tensor) -> Array:
        """The direction of a step, given the Hessian, whose memory it takes."""
        refuse_overflow(H, self.block.X)
        gradient = self.widened(self.coef.gradient)
        if self.objective.l1:
            return self.as_direction(self._proximal_step(H, gradient))
        return self.as_direction(self._damped_step(H, gradient))

    def widened(self, gradient: Tensor) -> Tensor:
        """A gradient, of the dtype of the Hessian."""
        return self._centred(gradient.to(self.wide, copy=True))

    def as_direction(self, step: Tensor) -> Array:
        """A step of the coefficients, as an array of their dtype."""
        return as_array(self._centred(step).to(self.coef.values.dtype))

    def _centred(self, change: Tensor) -> Tensor:
        """Take out, in place, what is added to the coefficients of all classes.

        The softmax does not see it. Where no penalty decides it is rounding, which a
        Hessian that is singular there would magnify.
        """
        if not self.objective.l1 and change.dim() == 2:
            free = change[self.coef.n_features if self.objective.l2 else 0 :]
            free -= free.mean(dim=1, keepdim=True)
        return change

    def search(self, direction: Array) -> tuple[Point, Point]:
        """Take a step along a direction; returns where it starts and ends."""
        coef, l1 = self.coef, self.objective.l1
        line = Line(self.full, coef, direction)
        origin = self.origin()
        origin.slope = line.slope(coef.arrays.gradient)
        if l1:
            weight, change = coef.arrays.weight, direction[: coef.n_features]
            moved = abs(weight + change) - abs(weight)
            origin.slope += l1 * float(coef.xp.sum(moved.reshape(-1), self.wide))
        if not origin.slope < 0:
            return origin, origin
        if l1:
            return origin, armijo_step(line, origin, precision=self.precision)
        step = wolfe_step(line, origin, first=1.0, precision=self.precision)
        return origin, step

    def conclude(self, origin: Point, point: Point, norm: float | None = None) -> bool:
        """Take note of where an iteration ended; False if it led nowhere."""
        if not origin.slope < 0:
            return self._take_all_rows() or self._damp()
        before = self.gradient_norm
        went_on = self.arrive(origin, point, norm)
        if point.step == 1.0 and self.gradient_norm <= SLOW * before:
            return went_on
        return self._take_all_rows() or went_on

    def _take_all_rows(self) -> bool:
        """Let the next Hessian take all rows; False if the last one did."""
        sampled = self.stride > 1
        self.stride = 1
        return sampled

    def _damp(self) -> bool:
        """Let rounding decide less of the next direction; False if it did not."""
        self.damping *= 1e3
        return 0 < self.damping <= MAX_DAMPING

    def _damped_step(self, H: Tensor, gradient: Tensor) -> Tensor:
        """Newton's step, with H damped until its Cholesky factor exists.

        Of the shape of the gradient.
        """
        right = -gradient.flatten()
        diagonal = H.diagonal()
        scale = diagonal.mean().clamp_min(torch.finfo(H.dtype).tiny)
        undamped = diagonal.clone()
        damping = self.damping
        while damping <= MAX_DAMPING:
            torch.add(undamped, scale, alpha=damping, out=diagonal)
            step = solve_definite(H, right)
            if step is not None and torch.isfinite(step).all():
                # Less next time: damping slows the last steps.
                self.damping = damping / 10 if damping > 1e-14 else 0.0
                return step.view(gradient.shape)
            damping = max(10 * damping, 1e-12)
        return torch.zeros_like(gradient)  # no step: the solver stalls

    def _proximal_step(self, H: Tensor, gradient: Tensor) -> Tensor:
        """Step to the minimum of the quadratic model plus the L1 norm.

        Raises the diagonal of H by as much as rounding may have lowered it, and further
        where the model has no minimum.
        """
        coef = self.coef
        values = coef.values.to(self.wide)
        l1 = torch.zeros_like(values)
        if not coef.frozen[0]:
            l1[: coef.n_features] = self.objective.l1
        diagonal = H.diagonal()
        undamped, scale = diagonal.clone(), diagonal.mean()
        least = max(torch.finfo(coef.values.dtype).eps, 1e-12)
        damping = max(self.damping, least)
        while damping <= MAX_DAMPING:
            torch.add(undamped, scale, alpha=damping, out=diagonal)
            model = H, gradient.flatten(), values.flatten(), l1.flatten()
            best = minimise_quadratic(*model, tol=0.1 * self.tol)
            if best is not None:
                self.damping = damping / 10 if damping > least else 0.0
                return best.view(values.shape) - values
            damping *= 10
        return torch.zeros_like(values)


def refuse_overflow(H: Tensor, X: Array) -> None:
    """Raise ValueError for second derivatives that are not numbers."""
    # By NumPy: torch would wake its threads, while those of BLAS still spin.
    if _is_finite(as_array(H)):
        return
    if _is_finite(X):
        found = (
            "second derivatives overflow. Scale the features, e.g. "
            "make_pipeline(StandardScaler(), TorchLogisticClassifier())."
        )
    else:  # scikit-learn was told not to look
        found = "X has values that are not finite: impute or remove them."
    raise ValueError(f"optimizer='newton': {found}")


def _is_finite(array: Array) -> bool:
    return bool(array.max() < math.inf and array.min() > -math.inf)  # NaN is neither
