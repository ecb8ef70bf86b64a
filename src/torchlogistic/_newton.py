"""Full-batch Newton-Cholesky, one iteration at a time."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from ._arrays import (
    accumulator,
    as_array,
    as_tensor,
    solve_definite,
)
from ._fullbatch import FullBatch
from ._gradient import on_device
from ._line_search import Line, armijo_step, wolfe_step
from ._objective import Coefficients, Objective
from ._orthant import minimise_quadratic
from ._rows import Block
from ._threads import Team

HESSIAN_ROWS = 8192  # rows of the weighted copy of X at a time
# Up to so many features the rows are shared among threads of ours. BLAS is faster with
# threads of its own, but these spin for a tenth of a second, which costs the gradients
# that follow more than that.
WIDTH, SAMPLED_WIDTH = 64, 128
PART_ROWS = 1024
PARTS = 4
MAX_SHARED = 1000  # coefficients, as each part has a Hessian of its own
# Its bytes on a device, where each piece costs the launch of a dozen kernels: some 60
# microseconds, in which it reads and writes about as much.
DEVICE_HESSIAN_BYTES = 2**27
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

    def reset(self) -> None:
        self.damping = 0.0
        stride = len(self.block) // (SAMPLED_ROWS * self.coef.values.numel())
        self.stride = min(max(stride, 1), MAX_STRIDE)

    def iterate(self) -> bool:
        coef, l1 = self.coef, self.objective.l1
        gradient = coef.gradient.to(self.wide)
        H = self._hessian()
        if not torch.isfinite(H).all():
            raise ValueError(
                "optimizer='newton': second derivatives overflow. Scale the features, "
                "e.g. make_pipeline(StandardScaler(), TorchLogisticClassifier())."
            )
        if l1:
            step = self._proximal_step(H, gradient)
        else:
            step = self._damped_step(H, gradient)
        if not l1 and step.dim() == 2:
            # The softmax does not see a constant added to all classes: add none, where
            # no penalty decides.
            free = step[coef.n_features if self.objective.l2 else 0 :]
            free -= free.mean(dim=1, keepdim=True)
        direction = step.to(coef.values.dtype)
        line = Line(self.full, coef, as_array(direction))
        origin = self.origin()
        origin.slope = line.slope(coef.arrays.gradient)
        if l1:
            n = coef.n_features
            norms = (coef.weight + direction[:n]).abs() - coef.weight.abs()
            origin.slope += l1 * norms.sum().item()
        if origin.slope >= 0:
            return self._take_all_rows()
        before = self.gradient_norm
        if l1:
            point = armijo_step(line, origin, precision=self.precision)
        else:
            point = wolfe_step(line, origin, first=1.0, precision=self.precision)
        went_on = self.arrive(origin, point)
        if point.step == 1.0 and self.gradient_norm <= SLOW * before:
            return went_on
        return self._take_all_rows() or went_on

    def _take_all_rows(self) -> bool:
        """Let the next Hessian take all rows; False if the last one did."""
        sampled = self.stride > 1
        self.stride = 1
        return sampled

    def _hessian(self) -> Tensor:
        """Second derivatives of the smooth objective at the logits in the block.

        Shape (p, p) with p coefficients, in the order of ``values.flatten()``. The loss
        is the mean over every ``stride``-th row.
        """
        coef = self.coef
        block = self.block if self.stride == 1 else self.block.every(self.stride)
        k, d = self.objective.loss.n_outputs, coef.n_features
        # Parts do not depend on the number of threads, and so does the sum not.
        on_cpu = isinstance(block.z, np.ndarray)
        serial = on_cpu and d <= (SAMPLED_WIDTH if self.stride > 1 else WIDTH)
        n_parts = PARTS if serial and coef.values.numel() <= MAX_SHARED else 1
        parts = in_pieces(block, max(-(-len(block) // n_parts), PART_ROWS))
        sum_products = partial(self._sum_products, serial=serial)
        H, *others = self.full.each(parts, sum_products)
        for other in others:
            H += other
        for i in range(k):
            for j in range(i):
                H[:, j, :, i] = H[:, i, :, j].t()
        H = H.view(coef.length * k, coef.length * k).div_(len(block))
        penalised = H.diagonal()[: d * k]
        penalised += self.objective.l2
        # Frozen coefficients leave the system; their gradient is zero.
        ends = (0, d * k, coef.length * k)
        for start, stop, frozen in zip(ends, ends[1:], coef.frozen, strict=False):
            if frozen:
                H[start:stop] = 0
                H[:, start:stop] = 0
                H.diagonal()[start:stop] = 1
        return H

    def _sum_products(self, block: Block, *, serial: bool) -> Tensor:
        """Sum X'CX, with the curvature C, over rows, without what symmetry gives.

        In this thread only, if ``serial``. Returns a tensor of shape (length, k,
        length, k).
        """
        coef, loss = self.coef, self.objective.loss
        k, d, xp = loss.n_outputs, coef.n_features, coef.xp
        shape = (coef.length, k, coef.length, k)
        H = torch.zeros(shape, dtype=self.wide, device=coef.values.device)
        gram = xp.serial_gram if serial else xp.gram
        n_rows = PART_ROWS if serial else HESSIAN_ROWS
        if not isinstance(block.z, np.ndarray):
            n_rows = DEVICE_HESSIAN_BYTES // (max(d, k * k) * block.logits.itemsize)
        n_rows = min(max(n_rows, 1), len(block))
        weighted = as_array(coef.values.new_empty((n_rows, d)))
        sums, product = as_array(H), as_array(coef.values.new_empty((d, d)))
        for piece in on_device(in_pieces(block, n_rows)):
            A = weighted[: len(piece)]
            curvature = loss.curvature(piece.logits).view(-1, k, k)
            if piece.weight is not None:
                curvature = curvature * as_tensor(piece.weight).view(-1, 1, 1)
            roots = xp.sqrt(as_array(curvature.abs_()))
            for i in range(k):
                for j in range(i + 1):
                    # X'CX is A'A, whose product takes half the time of others; C is
                    # not negative if i is j, and not positive else.
                    sign = 1 if i == j else -1
                    root = roots[:, i, j]
                    xp.multiply(piece.X, root[:, None], out=A)  # type: ignore[arg-type]
                    gram(A, product)
                    sums[:d, i, :d, j] += sign * product
                    if coef.fit_intercept:
                        border = sign * (A.T @ root)
                        sums[d, i, :d, j] += border
                        sums[:d, i, d, j] += border
                        sums[d, i, d, j] += sign * (root @ root)
        return H

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

        Raises the diagonal of H by as much as rounding may have lowered it.
        """
        diagonal = H.diagonal()
        rounding = torch.finfo(self.coef.values.dtype).eps
        diagonal += max(rounding, 1e-12) * diagonal.mean()
        coef = self.coef
        values = coef.values.to(self.wide)
        l1 = torch.zeros_like(values)
        if not coef.frozen[0]:
            l1[: coef.n_features] = self.objective.l1
        best = minimise_quadratic(
            H, gradient.flatten(), values.flatten(), l1.flatten(), tol=0.1 * self.tol
        )
        return best.view(values.shape) - values


def in_pieces(block: Block, size: int) -> list[Block]:
    """Blocks of so many rows; a block of no more stays as it is."""
    return [block] if len(block) <= size else block.split(size)
