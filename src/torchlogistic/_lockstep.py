"""Full-batch solvers of many models of the same few rows, in lockstep.

An iteration on a few hundred rows is some eighty calls that compute next to nothing.
Here those that do not add up are made once for all models: coefficients, gradients,
directions and logits of the models are rows of one array each.

Each model ends at the bits at which it ends by itself. Where numbers add up, in
products and in sums, every model has its own call or its own row, in which the order
does not depend on the others. Functions of the logits are vectorized, and at the end of
a vector they may round otherwise than within it: the logits of a model are therefore a
vector of its own, with a gap to the next one, and cut into the same pieces. What is
seldom needed, as the search after a first step that is not good enough, or has no form
for several models, as the quadratic with an L1 norm, a model's own solver does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from ._arrays import SERIAL_ENTRIES, Array, as_array, as_tensor
from ._fullbatch import FullBatch
from ._line_search import Point, has_fallen, has_levelled
from ._loss import Loss

# Of the logits of all models: torch shares no call on them among threads.
LOCKSTEP_ENTRIES = SERIAL_ENTRIES
LOCKSTEP_BYTES = 2**26  # of what all models need, about

S = TypeVar("S", bound=FullBatch)
Step = tuple[Point, Point]  # where it starts and where it ends


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


class Lockstep(Generic[S]):
    """Iterations of several solvers; abstract.

    A subclass defines ``advance``, ``conclude`` and what a model needs. Between two
    epochs each solver is where it would be by itself.

    Parameters
    ----------
    solvers : list of FullBatch
        Of one class and of the same rows on the CPU, in one group of pieces; weights
        and the strength of the penalty may differ. Either all have an L1 penalty or
        none has.
    """

    def __init__(self, solvers: list[S]) -> None:
        self.solvers = solvers
        for solver in solvers:
            solver.refresh()
        first, n_models = solvers[0], len(solvers)
        self.block, self.coef = first.block, first.coef
        (group,) = first.full.groups
        ends = list(accumulate(map(len, group.pieces)))
        self.spans = [slice(*pair) for pair in pairwise([0, *ends])]
        self.pieces = list(zip(group.pieces, self.spans, strict=True))
        self.loss: Loss = first.objective.loss
        self.precision = first.precision
        dtype = first.coef.arrays.values.dtype
        self.values = np.stack([s.coef.arrays.values for s in solvers])
        self.gradient = np.stack([s.coef.arrays.gradient for s in solvers])
        axes = (1,) * first.coef.values.dim()
        self.l2 = np.array([s.objective.l2 for s in solvers]).reshape(-1, *axes)
        self.l1: Array | None = None
        if first.objective.l1:
            self.l1 = np.array([s.objective.l1 for s in solvers]).reshape(-1, *axes)
        n_rows, *columns = first.block.z.shape
        self._share_out(np.empty((5, n_models, n_rows + 1, *columns), dtype)[:, :, :-1])
        self.weight: Array | None = None
        if any(s.block.weight is not None for s in solvers):
            self.weight = np.ones((n_models, n_rows, *(1 for _ in columns)), dtype)
            for weight, solver in zip(self.weight, solvers, strict=True):
                if solver.block.weight is not None:
                    weight[...] = solver.block.weight
        for z, solver in zip(self.now, solvers, strict=True):
            z[...] = solver.block.z

    @classmethod
    def most(cls, n_logits: int, n_coefficients: int) -> int:
        """How many models go on together: one where nothing is gained by more."""
        entries = 5 * n_logits + cls.entries(n_coefficients)
        fitting = LOCKSTEP_BYTES // (8 * entries)
        return max(min(LOCKSTEP_ENTRIES // n_logits, fitting), 1)

    @staticmethod
    def entries(n_coefficients: int) -> int:
        """How many numbers a model needs beside its logits, about."""
        raise NotImplementedError

    def keep(self, solvers: list[S]) -> None:
        """Go on with some of the solvers."""
        models = [m for m, solver in enumerate(self.solvers) if solver in solvers]
        if len(models) < len(self.solvers):
            self.select(models)

    def select(self, models: list[int]) -> None:
        """Go on with some of the models."""
        self.solvers = [self.solvers[m] for m in models]
        self.values, self.gradient = self.values[models], self.gradient[models]
        self.l2 = self.l2[models]
        if self.l1 is not None:
            self.l1 = self.l1[models]
        if self.weight is not None:
            self.weight = self.weight[models]
        z = self.now[models]
        self._share_out(self.room[:, : len(models)])
        self.now[...] = z

    def _share_out(self, room: Array) -> None:
        """Name the parts of the room that the models need."""
        self.room = room
        # Logits before and after an iteration, and of some models only.
        self.now, self.then, self.spare, *others = room
        self.residuals, self.work = others

    def epoch(self) -> None:
        """One iteration of each solver that is not done."""
        self.keep([solver for solver in self.solvers if not solver.done])
        if not self.solvers:
            return
        before, gradient = self.values, self.gradient
        self.values, self.gradient = before.copy(), gradient.copy()
        steps = self.advance(before, gradient)
        self.now, self.then = self.then, self.now
        slopes = as_rows(self.subgradient(self.values, self.gradient))
        norms = abs(slopes).max(axis=1).tolist()
        for m, solver in enumerate(self.solvers):
            coef = solver.coef.arrays
            coef.values[...], coef.gradient[...] = self.values[m], self.gradient[m]
            solver.block.z[...] = self.now[m]
            if not self.conclude(m, *steps[m], norms[m]):
                solver.stall()

    def advance(self, before: Array, gradient: Array) -> list[Step]:
        """Where a step of each model starts and ends.

        Leaves the coefficients, gradients and logits where it ends in ``values``,
        ``gradient`` and ``then``.
        """
        raise NotImplementedError

    def conclude(self, m: int, origin: Point, point: Point, norm: float) -> bool:
        """Take note of where a model's iteration ended; False if it led nowhere."""
        raise NotImplementedError

    def take_over(self, m: int) -> None:
        """Take over where a model's own solver has gone."""
        solver = self.solvers[m]
        coef = solver.coef.arrays
        self.values[m], self.gradient[m] = coef.values, coef.gradient
        self.then[m] = solver.block.z

    def first_steps(
        self, models: list[int], origins: list[Point], direction: Array
    ) -> dict[int, Point]:
        """Let models take a step of one, and find those whose line search ends there.

        Parameters
        ----------
        models : list of int
        origins : list of Point
            Where the steps of all models start.
        direction : ndarray of the shape of the coefficients of all models
        """
        if not models:
            return {}
        chosen = self.choose(models)
        direction = direction[chosen]
        self.values[chosen] += direction
        losses = self.evaluate(models)
        slopes = inner(as_rows(self.gradient[chosen]), as_rows(direction))
        found = {}
        points = self.points(1.0, losses, slopes, models)
        for m, point in zip(models, points, strict=True):
            has_ended = self.l1 is not None or has_levelled(origins[m], point)
            if has_fallen(origins[m], point, self.precision) and has_ended:
                found[m] = point
        return found

    def points(
        self, step: float, losses: Array, slopes: Array, models: list[int]
    ) -> list[Point]:
        """Models where they are, given their mean losses."""
        chosen = self.choose(models)
        weight = self.values[chosen][:, : self.coef.n_features]
        rows = as_rows(weight)
        penalties = self.l2[chosen].reshape(-1) / 2 * inner(rows, rows)
        if self.l1 is not None:
            norms = as_rows(abs(weight)).astype(np.float64).sum(axis=1)
            penalties = penalties + self.l1[chosen].reshape(-1) * norms
        columns = (losses + penalties).tolist(), slopes.tolist(), losses.tolist()
        return [Point(step, *numbers) for numbers in zip(*columns, strict=True)]

    def choose(self, models: list[int]) -> Any:
        """An index for models, which copies nothing if it is of all."""
        return slice(None) if len(models) == len(self.solvers) else models

    def origins(self, slopes: Array) -> list[Point]:
        """All models where their steps start."""
        losses = np.array([solver.loss for solver in self.solvers])
        return self.points(0.0, losses, slopes, [*range(len(losses))])

    def subgradient(self, values: Array, gradient: Array) -> Array:
        """As :meth:`._objective.Objective.subgradient` of each model."""
        if self.l1 is None:
            return gradient
        total, l1 = gradient.copy(), self.l1.astype(gradient.dtype)
        w, g = (array[:, : self.coef.n_features] for array in (values, total))
        at_zero = np.sign(g) * np.maximum(abs(g) - l1, 0)
        g[...] = np.where(w != 0, g + l1 * np.sign(w), at_zero)
        return total

    # What follows goes the steps of ``FullGradient.evaluate``, each for all models. The
    # products do so for one piece of X after the other, which stays in the cache.

    def evaluate(self, models: list[int]) -> Array:
        """Mean losses of models at ``values``, with new logits and gradients."""
        k, chosen = len(models), self.choose(models)
        everyone = isinstance(chosen, slice)
        z = self.then if everyone else self.spare[:k]
        logits = Logits(z, self.residuals[:k], self.spans)
        work = torch.from_numpy(self.work[:k])
        values = self.values[chosen]
        weight = None if self.weight is None else self.weight[chosen]
        self._write_residuals(values, weight, logits)
        self.gradient[chosen] = self._gradient(values, self.l2[chosen], logits.r)
        losses = self.loss.value(logits.logits, self.block.targets, work)
        if weight is not None:
            losses *= as_tensor(as_rows(weight))
        if not everyone:
            self.then[models] = z
        sums = losses.sum(dim=1, dtype=torch.float64)
        return as_array(sums) / len(self.block)

    def _write_residuals(
        self, values: Array, weight: Array | None, logits: Logits
    ) -> None:
        """Logits and weighted residuals."""
        n, product = self.coef.n_features, self.coef.product
        z, r = logits.z, logits.r
        for piece, rows in self.pieces:
            for w, out in zip(values[:, :n], z, strict=True):
                product(piece.X, w, out[rows])
        if self.coef.fit_intercept:
            z += values[:, n:]
        for part in logits.pieces:
            self.loss.write_mean(part)
        r -= self.block.y
        if weight is not None:
            r *= weight

    def _gradient(self, values: Array, l2: Array, r: Array) -> Array:
        """The gradient, given the residuals."""
        n, weight = self.coef.n_features, values[:, : self.coef.n_features]
        sums: Array = None
        products = np.empty_like(weight)
        for piece, rows in self.pieces:
            for residual, out in zip(r, products, strict=True):
                self.coef.product(piece.Xt, residual[rows], out)
            if sums is None:
                sums = products.astype(np.float64)
            else:
                sums += products
        gradient = np.empty_like(values)
        gradient[:, :n] = sums * self.block.scale
        gradient[:, :n] += l2.astype(weight.dtype) * weight
        if self.coef.fit_intercept:
            totals = [self.coef.xp.sum(residual, torch.float64) for residual in r]
            gradient[:, n] = np.stack(totals) * self.block.scale
        return gradient


def as_rows(array: Array) -> Array:
    """A row for each model."""
    return array.reshape(len(array), -1)


def inner(a: Array, b: Array) -> Array:
    """Inner products of rows, in float64: (n_rows,)."""
    if a.dtype != np.float64:
        a, b = a.astype(np.float64), b.astype(np.float64)
    return (a[:, None, :] @ b[:, :, None])[:, 0, 0]
