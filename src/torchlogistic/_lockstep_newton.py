"""Newton's method for many models in lockstep."""

from __future__ import annotations

import numpy as np
import torch

from ._arrays import Array, as_array, as_tensor
from ._cholesky import SERIAL_SYSTEM, solve_small
from ._hessian import in_pieces
from ._line_search import Point
from ._lockstep import Lockstep, Step, as_rows, inner
from ._newton import Newton, refuse_overflow
from ._rows import Block


class NewtonLockstep(Lockstep[Newton]):
    """Iterations of several :class:`._newton.Newton`, of the same bits."""

    def __init__(self, solvers: list[Newton]) -> None:
        super().__init__(solvers)
        self.hessian = solvers[0].hessian
        n_rows = self.hessian.piece_rows(serial=True)
        self.products = self.hessian.products(len(solvers), serial=True)
        start = 0
        self.parts: list[list[tuple[Block, slice]]] = []
        for part in self.hessian.parts(self.block, serial=True):
            self.parts.append([])
            for piece in in_pieces(part, n_rows):
                rows = slice(start, start + len(piece))
                self.parts[-1].append((piece, rows))
                start = rows.stop

    @classmethod
    def most(cls, n_logits: int, n_coefficients: int) -> int:
        if n_coefficients > SERIAL_SYSTEM:  # its Hessian computes more than it calls
            return 1
        return super().most(n_logits, n_coefficients)

    @staticmethod
    def entries(n_coefficients: int) -> int:
        return 3 * n_coefficients**2  # the Hessian, its factor and a copy

    def advance(self, before: Array, gradient: Array) -> list[Step]:
        direction = self._directions(before, gradient)
        slopes = inner(as_rows(gradient), as_rows(direction))
        if self.l1 is not None:
            weight = before[:, : self.coef.n_features]
            moved = abs(weight + direction[:, : self.coef.n_features]) - abs(weight)
            norms = as_rows(moved).astype(np.float64).sum(axis=1)
            slopes = slopes + self.l1.reshape(-1) * norms
        origins = self.origins(slopes)
        ready = [m for m, origin in enumerate(origins) if origin.slope < 0]
        found = self.first_steps(ready, origins, direction)
        return [
            (origin, found[m]) if m in found else self._search(m, direction[m])
            for m, origin in enumerate(origins)
        ]

    def conclude(self, m: int, origin: Point, point: Point, norm: float) -> bool:
        return self.solvers[m].conclude(origin, point, norm)

    def _search(self, m: int, direction: Array) -> Step:
        """The step of one model, by its own solver."""
        step = self.solvers[m].search(direction)
        self.take_over(m)
        return step

    def _directions(self, before: Array, gradient: Array) -> Array:
        """Newton's directions, of the shape of the coefficients of all models."""
        H = self._hessians()
        # Before any solver has changed.
        refuse_overflow(torch.from_numpy(H), self.block.X)
        steps = self._undamped_steps(H, gradient)
        if steps is None:
            found = [
                solver.aim(as_tensor(matrix))
                for solver, matrix in zip(self.solvers, H, strict=True)
            ]
        else:
            found = [
                solver.as_direction(as_tensor(step))
                for solver, step in zip(self.solvers, steps, strict=True)
            ]
        return np.stack(found)

    def _undamped_steps(self, H: Array, gradient: Array) -> Array | None:
        """The steps of all models, where none has or needs a damped Hessian."""
        if self.l1 is not None or any(solver.damping for solver in self.solvers):
            return None
        if H.shape[-1] > SERIAL_SYSTEM:
            return None
        right = [
            -as_array(solver.widened(as_tensor(own)))
            for solver, own in zip(self.solvers, gradient, strict=True)
        ]
        steps = solve_small(H, as_rows(np.stack(right))[:, :, None])
        return None if steps is None else steps.reshape(gradient.shape)

    def _hessians(self) -> Array:
        """The Hessian of each model: (n_models, p, p)."""
        strides = [solver.stride for solver in self.solvers]
        if max(strides) > 1 or not self.hessian.is_serial():
            found = [solver.hessian.evaluate(solver.stride) for solver in self.solvers]
            return torch.stack(found).numpy()
        total, *others = map(self._sum_products, self.parts)
        for other in others:
            total += other
        l2 = self.l2.reshape(-1, 1)
        return self.hessian.complete(total, len(self.block), l2)

    def _sum_products(self, pieces: list[tuple[Block, slice]]) -> Array:
        """Sums over pieces of the rows, for each model and pair."""
        sums = self.hessian.zeros(len(self.solvers))
        for piece, rows in pieces:
            weight = None if self.weight is None else self.weight[:, rows]
            z = torch.from_numpy(self.now[:, rows])
            self.products.add(piece.X, self.hessian.roots(z, weight), sums)
        return sums
