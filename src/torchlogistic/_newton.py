"""Full-batch Newton-Cholesky, one iteration at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from ._fullbatch import FullBatch
from ._line_search import Line, direction_like, wolfe_step
from ._objective import Coefficients, Objective, accumulator
from ._rows import Block

HESSIAN_ROWS = 4096  # rows of the weighted copy of X at a time
MAX_COEFFICIENTS = 10_000  # a Hessian of 800 MB in float64


class Newton(FullBatch):
    """Newton's method with a Cholesky factor of the Hessian, damped [1]_.

    The Hessian is summed over blocks of rows by matrix products. Where it is singular,
    as for collinear features or separable rows without a penalty, its diagonal is
    raised until the factor exists; a line search that reuses the logits keeps the
    objective falling.

    References
    ----------
    .. [1] J. Nocedal and S. Wright, "Numerical Optimization", 2nd edition, 2006,
       algorithms 3.2 and 3.3.
    """

    def __init__(
        self, objective: Objective, block: Block, coef: Coefficients, *, tol: float
    ) -> None:
        super().__init__(objective, block, coef, tol=tol)
        if coef.values.numel() > MAX_COEFFICIENTS:
            raise ValueError(
                f"optimizer='newton' would need a Hessian of {coef.values.numel()} x "
                f"{coef.values.numel()} numbers: use optimizer='lbfgs'"
            )

    def reset(self) -> None:
        self.damping = 0.0

    def iterate(self) -> bool:
        coef = self.coef
        gradient = coef.gradient.to(accumulator(coef.values))
        direction = -self._solve(self._hessian(), gradient)
        if direction.dim() == 2:
            # The softmax does not see a constant added to all classes: add none, where
            # no penalty decides.
            free = direction[coef.n_features if self.objective.l2 else 0 :]
            free -= free.mean(dim=1, keepdim=True)
        line = Line(
            self.objective,
            self.block,
            coef,
            direction_like(coef, direction.to(coef.values.dtype)),
        )
        origin = line.at(0.0)
        if origin.slope >= 0:
            return False
        point = wolfe_step(line, origin, first=1.0, precision=self.precision)
        if point.step == 0.0:
            return False
        line.accept(point.step)
        self.loss = point.loss
        self.evaluate()
        return True

    def _hessian(self) -> Tensor:
        """Second derivatives of the smooth objective at the logits in the block.

        Shape (p, p) with p coefficients, in the order of ``values.flatten()``.
        """
        block, coef, loss = self.block, self.coef, self.objective.loss
        k = loss.n_outputs
        H = torch.zeros(
            (coef.length, k, coef.length, k),
            dtype=accumulator(coef.values),
            device=block.X.device,
        )
        for start in range(0, len(block), HESSIAN_ROWS):
            piece = block[start : start + HESSIAN_ROWS]
            X = piece.X
            if piece.n_columns != coef.length:
                X = torch.cat([X, X.new_ones((len(X), 1))], dim=1)
            curvature = loss.curvature(piece.logits).view(-1, k, k)
            if piece.weight is not None:
                curvature = curvature * piece.weight.view(-1, 1, 1)
            for i in range(k):
                for j in range(i + 1):
                    part = X.t() @ (X * curvature[:, i, j, None])
                    H[:, i, :, j] += part
                    if i != j:
                        H[:, j, :, i] += part
        H = H.view(coef.length * k, coef.length * k).mul_(block.scale)
        penalised = H.diagonal()[: coef.n_features * k]
        penalised += self.objective.l2
        # Frozen coefficients leave the system; their gradient is zero.
        ends = (0, coef.n_features * k, coef.length * k)
        for start, stop, frozen in zip(ends, ends[1:], coef.frozen, strict=False):
            if frozen:
                H[start:stop] = 0
                H[:, start:stop] = 0
                H.diagonal()[start:stop] = 1
        return H

    def _solve(self, H: Tensor, gradient: Tensor) -> Tensor:
        """Solve with a Cholesky factor of ``H + damping``: the gradient's shape."""
        scale = H.diagonal().mean().clamp_min(torch.finfo(H.dtype).tiny)
        damping = self.damping
        while True:
            damped = H + damping * scale * torch.eye(
                len(H), dtype=H.dtype, device=H.device
            )
            factor, failed = torch.linalg.cholesky_ex(damped)
            solution = torch.cholesky_solve(gradient.reshape(-1, 1), factor)
            if not failed.item() and torch.isfinite(solution).all():
                # Less next time: damping slows the last steps.
                self.damping = damping / 10 if damping > 1e-14 else 0.0
                return solution.view(gradient.shape)
            damping = max(10 * damping, 1e-12)
