"""L-BFGS for many models of the same few rows in lockstep.

An iteration of :class:`._lbfgs.LBFGS` on a few hundred rows is some eighty calls that
compute next to nothing. Here most of them are made once for all models: coefficients,
gradients, directions and logits of the models are rows of one array each.

Each model ends at the bits at which it ends by itself. Where numbers add up, in
products and in sums, every model has its own call or its own row, in which the order
does not depend on the others. Functions of the logits are vectorized, and at the end of
a vector they may round otherwise than within it: the logits of a model are therefore a
vector of its own, with a gap to the next one, and cut into the same pieces. What
happens rarely, as a first step that is not good enough, a model's own solver does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
import torch

from ._arrays import Array, as_array, as_tensor
from ._lbfgs import LBFGS
from ._line_search import Point, has_fallen, has_levelled
from ._loss import Loss
from ._pairs import Pairs


class Logits:
    """Logits and residuals of each model, as arrays and as tensors.

    Parameters
    ----------
    z, r : ndarray of shape (n_models, n_rows) or (n_models, n_rows, n_classes)
    spans : list of slice
        The rows of each piece.

    Attributes
    ----------
    pieces : list of Logits
        Their logits and residuals. Each is a vector of its own, too.
    """

    def __init__(self, z: Array, r: Array, spans: Sequence[slice] = ()) -> None:
        self.z, self.r = z, r
        self.logits, self.residual = torch.from_numpy(z), torch.from_numpy(r)
        self.pieces = [Logits(z[:, rows], r[:, rows]) for rows in spans]


class Lockstep:
    """Iterations of several solvers.

    Parameters
    ----------
    solvers : list of LBFGS
        Of the same rows on the CPU, in one group of pieces; weights and the strength of
        the L2 penalty may differ. There is no L1 penalty.
    """

    def __init__(self, solvers: list[LBFGS]) -> None:
        self.solvers = solvers
        for solver in solvers:
            solver.refresh()
        first, n_models = solvers[0], len(solvers)
        self.block, self.coef = first.block, first.coef
        (group,) = first.full.groups
        ends = list(accumulate(map(len, group.pieces)))
        spans = [slice(*pair) for pair in pairwise([0, *ends])]
        self.pieces = list(zip(group.pieces, spans, strict=True))
        self.loss: Loss = first.objective.loss
        self.precision = first.precision
        shape = first.coef.values.shape
        dtype = first.coef.arrays.values.dtype
        self.values = np.stack([s.coef.arrays.values for s in solvers])
        self.gradient = np.stack([s.coef.arrays.gradient for s in solvers])
        self.l2 = np.array([s.objective.l2 for s in solvers])
        self.l2 = self.l2.reshape(-1, *(1 for _ in shape))
        self.pairs = Pairs(as_rows(self.values))
        n_rows, *columns = first.block.z.shape
        self.room = np.empty((4, n_models, n_rows + 1, *columns), dtype)[:, :, :-1]
        self.weight = None
        if any(s.block.weight is not None for s in solvers):
            self.weight = np.ones((n_models, n_rows, *(1 for _ in columns)), dtype)
            for weight, solver in zip(self.weight, solvers, strict=True):
                if solver.block.weight is not None:
                    weight[...] = solver.block.weight
        self._cut()
        for z, solver in zip(self.now.z, solvers, strict=True):
            z[...] = solver.block.z

    def _cut(self) -> None:
        """Views of the room that the models need."""
        now, then, r, work = self.room[:, : len(self.solvers)]
        spans = [rows for _, rows in self.pieces]
        self.now, self.then = (Logits(z, r, spans) for z in (now, then))
        self.work = torch.from_numpy(work)

    def keep(self, solvers: list[LBFGS]) -> None:
        """Go on with some of the solvers."""
        models = [m for m, solver in enumerate(self.solvers) if solver in solvers]
        if len(models) == len(self.solvers):
            return
        self.solvers = [self.solvers[m] for m in models]
        self.pairs.keep(models)
        self.values, self.gradient = self.values[models], self.gradient[models]
        self.l2 = self.l2[models]
        if self.weight is not None:
            self.weight = self.weight[models]
        z = self.now.z[models]
        self._cut()
        self.now.z[...] = z

    def epoch(self) -> None:
        """One iteration of each solver that is not done."""
        self.keep([solver for solver in self.solvers if not solver.done])
        if not self.solvers:
            return
        before, gradient = self.values, self.gradient
        direction = self.pairs.multiply(as_rows(gradient)).reshape(before.shape)
        direction *= -1
        losses = np.array([solver.loss for solver in self.solvers])
        origins = self._points(0.0, losses, direction)
        self.values = before + direction
        trials: list[Point | None] = [None] * len(origins)
        if any(self.pairs.known):
            losses = self._evaluate()
            trials = [*self._points(1.0, losses, direction)]
        else:
            self.gradient = gradient.copy()
        points = []
        for m, (origin, point) in enumerate(zip(origins, trials, strict=True)):
            if point is None or not self._suffices(m, origin, point):
                point = self._search(m, before[m], gradient[m], direction[m])
            points.append(point)
        self.now, self.then = self.then, self.now
        self.pairs.add(as_rows(self.values - before), as_rows(self.gradient - gradient))
        norms = as_rows(abs(self.gradient)).max(axis=1).tolist()
        for m, solver in enumerate(self.solvers):
            if points[m].step == 0.0:
                solver.stalled = True
                continue
            went_on = solver.arrive(origins[m], points[m], norms[m])
            forget = partial(self.pairs.forget, m)
            solver.stalled = not (went_on or solver.renew(points[m], forget))
            solver.coef.arrays.values[...] = self.values[m]
            solver.block.z[...] = self.now.z[m]

    def _suffices(self, m: int, origin: Point, point: Point) -> bool:
        """Whether a model's line search ends at its first step, of length one."""
        return (
            self.pairs.known[m]
            and origin.slope < 0
            and has_fallen(origin, point, self.precision)
            and has_levelled(origin, point)
        )

    def _search(
        self, m: int, before: Array, gradient: Array, direction: Array
    ) -> Point:
        """The line search of one model, by its own solver, from where it started."""
        solver, fresh = self.solvers[m], not self.pairs.known[m]
        coef = solver.coef.arrays
        coef.values[...], coef.gradient[...] = before, gradient
        solver.block.z[...] = self.now.z[m]
        _, point = solver.search(direction, gradient, fresh=fresh)
        if point.step == 0.0 and not fresh:
            self.pairs.forget(m)
            _, point = solver.search(-gradient, gradient, fresh=True)
        self.values[m], self.gradient[m] = coef.values, coef.gradient
        self.then.z[m] = solver.block.z
        return point

    def _points(self, step: float, losses: Array, direction: Array) -> list[Point]:
        """The models where they are, given their mean losses."""
        weight = as_rows(self.values[:, : self.coef.n_features])
        values = losses + self.l2.reshape(-1) / 2 * inner(weight, weight)
        slopes = inner(as_rows(self.gradient), as_rows(direction))
        columns = values.tolist(), slopes.tolist(), losses.tolist()
        return [Point(step, *numbers) for numbers in zip(*columns, strict=True)]

    # What follows goes the steps of ``FullGradient.evaluate``, each for all models. The
    # products do so for one piece of X after the other, which stays in the cache.

    def _evaluate(self) -> Array:
        """Mean losses at ``values``, with logits in ``then`` and a new ``gradient``."""
        self._write_residuals()
        self._write_gradient()
        logits, targets = self.then.logits, self.block.targets
        losses = self.loss.value(logits, targets, self.work)
        if self.weight is not None:
            losses *= as_tensor(as_rows(self.weight))
        sums = losses.sum(dim=1, dtype=torch.float64)
        return as_array(sums) / len(self.block)

    def _write_residuals(self) -> None:
        """Logits and weighted residuals."""
        n, product = self.coef.n_features, self.coef.product
        z, r = self.then.z, self.then.r
        for piece, rows in self.pieces:
            for weight, out in zip(self.values[:, :n], z, strict=True):
                product(piece.X, weight, out[rows])
        if self.coef.fit_intercept:
            z += self.values[:, n:]
        for part in self.then.pieces:
            self.loss.write_mean(part)
        r -= self.block.y
        if self.weight is not None:
            r *= self.weight

    def _write_gradient(self) -> None:
        """The gradient, given the residuals."""
        n, weight = self.coef.n_features, self.values[:, : self.coef.n_features]
        r, scale = self.then.r, self.block.scale
        sums: Array = None
        products = np.empty_like(weight)
        for piece, rows in self.pieces:
            for residual, out in zip(r, products, strict=True):
                self.coef.product(piece.Xt, residual[rows], out)
            if sums is None:
                sums = products.astype(np.float64)
            else:
                sums += products
        self.gradient = np.empty_like(self.values)
        self.gradient[:, :n] = sums * scale
        self.gradient[:, :n] += self.l2.astype(weight.dtype) * weight
        if self.coef.fit_intercept:
            totals = [residual.sum(0, dtype=np.float64) for residual in r]
            self.gradient[:, n] = np.stack(totals) * scale


def as_rows(array: Array) -> Array:
    """A row for each model."""
    return array.reshape(len(array), -1)


def inner(a: Array, b: Array) -> Array:
    """Inner products of rows, in float64: (n_rows,)."""
    if a.dtype != np.float64:
        a, b = a.astype(np.float64), b.astype(np.float64)
    return (a[:, None, :] @ b[:, :, None])[:, 0, 0]
