"""Full-batch quasi-Newton of many models in lockstep."""

from __future__ import annotations

from functools import partial

import numpy as np

from ._arrays import Array
from ._lbfgs import LBFGS, falls_as_expected
from ._line_search import MAX_TRIALS, Point
from ._lockstep import Lockstep, Step, as_rows, inner
from ._pairs import MEMORY, Pairs


class LBFGSLockstep(Lockstep[LBFGS]):
    """Iterations of several :class:`._lbfgs.LBFGS`, of the same bits."""

    def __init__(self, solvers: list[LBFGS]) -> None:
        super().__init__(solvers)
        self.pairs = Pairs(as_rows(self.values))

    @staticmethod
    def entries(n_coefficients: int) -> int:
        return 2 * MEMORY * n_coefficients

    def select(self, models: list[int]) -> None:
        super().select(models)
        self.pairs.keep(models)

    def advance(self, before: Array, gradient: Array) -> list[Step]:
        subgradient = self.subgradient(before, gradient)
        direction = self.pairs.multiply(as_rows(subgradient)).reshape(before.shape)
        direction *= -1
        if self.l1 is not None:
            uphill = direction * subgradient >= 0
            uphill[:, self.coef.n_features :] = False
            direction[uphill] = 0
        origins = self.origins(inner(as_rows(subgradient), as_rows(direction)))
        ready = [
            m
            for m, known in enumerate(self.pairs.known)
            if known and origins[m].slope < 0
        ]
        if self.l1 is None:
            found = self.first_steps(ready, origins, direction)
        else:
            found = self._orthant_steps(ready, origins, before, direction, subgradient)
        steps = [
            (origin, found[m])
            if m in found
            else self._search(m, direction[m], subgradient[m])
            for m, origin in enumerate(origins)
        ]
        self.pairs.add(as_rows(self.values - before), as_rows(self.gradient - gradient))
        return steps

    def conclude(self, m: int, origin: Point, point: Point, norm: float) -> bool:
        if point.step == 0.0:
            return False
        solver = self.solvers[m]
        if solver.arrive(origin, point, norm):
            return True
        return solver.renew(point, partial(self.pairs.forget, m))

    def _search(self, m: int, direction: Array, subgradient: Array) -> Step:
        """The step of one model, by its own solver."""
        solver, fresh = self.solvers[m], not self.pairs.known[m]
        step = solver.search(direction, subgradient, fresh=fresh)
        if step[1].step == 0.0 and not fresh:
            self.pairs.forget(m)
            step = solver.search(-subgradient, subgradient, fresh=True)
        self.take_over(m)
        return step

    def _orthant_steps(
        self,
        models: list[int],
        origins: list[Point],
        before: Array,
        direction: Array,
        subgradient: Array,
    ) -> dict[int, Point]:
        """Halve the steps of models until they lower the objective.

        As :meth:`._lbfgs.LBFGS` does: weights do not change sign.
        """
        n = self.coef.n_features
        weight = before[:, :n]
        sign = np.where(weight != 0, np.sign(weight), -np.sign(subgradient[:, :n]))
        found: dict[int, Point] = {}
        step = 1.0
        for _ in range(MAX_TRIALS):
            if not models:
                break
            values = direction[models] * step + before[models]
            w = values[:, :n]
            w[np.sign(w) != sign[models]] = 0.0
            self.values[models] = values
            losses = self.evaluate(models)
            falls = inner(
                as_rows(values - before[models]), as_rows(subgradient[models])
            )
            points = self.points(step, losses, falls, models)
            for m, point in zip(models, points, strict=True):
                if falls_as_expected(origins[m], point, self.precision):
                    found[m] = point
            models = [m for m in models if m not in found]
            step /= 2
        return found
