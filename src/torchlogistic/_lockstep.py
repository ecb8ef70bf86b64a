"""L-BFGS for many models of the same rows in lockstep.

An iteration of :class:`._lbfgs.LBFGS` on a few hundred rows is a hundred calls that
compute next to nothing. Here they are made once for all models: their coefficients are
rows of one matrix, and so are their gradients, directions and logits. Each model has
its own step and its own end, the same as by itself but for rounding.

Shapes, with M models, n rows, K outputs of the loss and P = K * (n_features [+ 1]):

* coefficients, gradients, directions: (M, P), as (M, K, n_features [+ 1]) laid out
* logits, residuals: (M, n) or (M, n, K); weights: (M, n) or (M, n, 1)
* losses, steps, slopes: (M,) of float64
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ._fullbatch import PATIENCE, separates
from ._gradient import PIECE_ENTRIES
from ._lbfgs import MEMORY
from ._line_search import CURVATURE, MAX_TRIALS, SUFFICIENT_DECREASE
from ._loss import Loss
from ._objective import Coefficients
from ._rows import Rows


@dataclass
class Points:
    """Models at the ends of their steps.

    Parameters
    ----------
    step, loss, value : ndarray of shape (M,)
        The step, the mean loss, and with the penalty.
    values, gradient : ndarray of shape (M, P)
    """

    step: np.ndarray
    loss: np.ndarray
    value: np.ndarray
    values: np.ndarray
    gradient: np.ndarray

    def __getitem__(self, models: np.ndarray) -> Points:
        return Points(*(part[models] for part in vars(self).values()))

    def __setitem__(self, models: np.ndarray, others: Points) -> None:
        for own, other in zip(vars(self).values(), vars(others).values(), strict=True):
            own[models] = other


def inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products of rows, in float64: (M,)."""
    products: np.ndarray = (a * b).sum(axis=1, dtype=np.float64)
    return products


class Lockstep:
    """Train models by L-BFGS, an iteration at a time; see :class:`._lbfgs.LBFGS`.

    Parameters
    ----------
    rows : list of Rows
        Of each model: with the same X and targets, and weights of its own.
    loss : Loss
    l2, l1 : ndarray of shape (M,)
        ``l1`` is zero for all or for none.
    fit_intercept : bool
    tol : float

    Attributes
    ----------
    models : list of Model
    """

    def __init__(
        self,
        rows: list[Rows],
        loss: Loss,
        *,
        l2: np.ndarray,
        l1: np.ndarray,
        fit_intercept: bool,
        tol: float,
    ) -> None:
        X = rows[0].X.numpy()
        if fit_intercept:
            X = np.hstack([X, np.ones((len(X), 1), dtype=X.dtype)])
        self.X, self.y, self.loss, self.tol = X, rows[0].y, loss, tol
        self.weight = None
        if any(part.weight is not None for part in rows):
            ones = torch.ones(len(X), dtype=self.y.dtype)
            parts = [ones if part.weight is None else part.weight for part in rows]
            self.weight = torch.stack(parts)
        # Strengths of the penalty for each coefficient: none for the intercept.
        penalised = np.ones((loss.n_outputs, X.shape[1]), dtype=X.dtype)
        penalised[:, X.shape[1] - fit_intercept :] = 0
        self.l2, self.l1 = (
            penalised.reshape(1, -1) * np.asarray(part, dtype=X.dtype)[:, None]
            for part in (l2, l1)
        )
        self.orthants = bool(l1.any())
        self.precision = 4 * np.finfo(X.dtype).eps
        everyone = np.arange(len(rows))
        start = np.zeros(self.l2.shape, dtype=X.dtype)
        self.at = self._evaluate(everyone, start, np.zeros(len(rows)))
        shape = (MEMORY, *start.shape)
        self.s, self.t = np.zeros(shape, X.dtype), np.zeros(shape, X.dtype)
        self.rho = np.zeros(shape[:2], X.dtype)  # zero where there is no pair
        self.newest = np.zeros(len(rows), dtype=int)
        self.norms = self._norms(everyone, self.at)
        self.idle = np.zeros(len(rows), dtype=int)
        self.stalled = np.zeros(len(rows), dtype=bool)
        self.models = [Model(self, m, fit_intercept) for m in range(len(rows))]

    def epoch(self, models: np.ndarray) -> None:
        """One iteration of some models: an index."""
        models = models[(self.norms[models] > self.tol) & ~self.stalled[models]]
        while len(models):
            lost = self._iterate(models)
            # That may be the fault of the pairs. Without any, nothing is left to try.
            fresh = self._without_pairs(lost)
            self.stalled[lost[fresh]] = True
            models = lost[~fresh]
            self.rho[:, models] = 0

    def _without_pairs(self, models: np.ndarray) -> np.ndarray:
        fresh: np.ndarray = self.rho[self.newest[models], models] == 0
        return fresh

    def _iterate(self, models: np.ndarray) -> np.ndarray:
        """One iteration of models; an index of those that it leads nowhere."""
        # 1. The direction, downhill.
        origin = self.at[models]
        subgradient = self._subgradient(models, origin)
        direction = -self._two_loops(models, subgradient)
        if self.orthants:
            uphill = (direction * subgradient >= 0) & (self.l1[models] > 0)
            direction[uphill] = 0
        slope = inner(subgradient, direction)
        first = np.ones(len(models))
        fresh = self._without_pairs(models)
        if fresh.any():
            first[fresh] = self._model_steps(
                models[fresh], origin[fresh], direction[fresh], slope[fresh]
            )

        # 2. The step along it.
        search = self._orthant_steps if self.orthants else self._wolfe_steps
        downhill = ~(slope >= 0)
        lost, models = models[~downhill], models[downhill]
        origin, slope = origin[downhill], slope[downhill]
        line = models, origin, direction[downhill], first[downhill]
        if not len(models):
            return lost
        point = search(*line, subgradient[downhill] if self.orthants else slope)
        moved = point.step > 0
        lost = np.concatenate([lost, models[~moved]])
        models, origin, point = models[moved], origin[moved], point[moved]

        # 3. What it tells of the curvature, and where it ended.
        s, t = point.values - origin.values, point.gradient - origin.gradient
        st = np.einsum("mp,mp->m", s, t)
        kept = st > 0
        which = models[kept]
        self.newest[which] = (self.newest[which] + 1) % MEMORY
        self.s[self.newest[which], which] = s[kept]
        self.t[self.newest[which], which] = t[kept]
        self.rho[self.newest[which], which] = 1 / st[kept]
        self.at[models] = point
        self.norms[models] = self._norms(models, point)
        fell = point.value < origin.value
        self.idle[models] = np.where(fell, 0, self.idle[models] + 1)
        self.stalled[models] = self.idle[models] >= PATIENCE
        return lost

    def _evaluate(
        self, models: np.ndarray, values: np.ndarray, step: np.ndarray
    ) -> Points:
        """Models at some coefficients."""
        loss, y, k, n = self.loss, self.y, self.loss.n_outputs, len(self.X)
        z = self.logits(values)
        residual = loss.mean(z).sub_(y)
        losses = loss.value(z, y)
        if self.weight is not None:
            weight = self.weight[models]
            losses.mul_(weight)
            residual.mul_(weight if k == 1 else weight[:, :, None])
        gradient = self._gradients(residual) / n
        gradient += self.l2[models] * values
        penalty = inner(self.l2[models] / 2, values**2)
        penalty += inner(self.l1[models], np.abs(values))
        mean = losses.numpy().mean(axis=1, dtype=np.float64)
        return Points(step, mean, mean + penalty, values, gradient)

    def logits(self, values: np.ndarray) -> Tensor:
        """Logits of coefficients, or their change along directions."""
        k, X = self.loss.n_outputs, self.X
        columns = values.reshape(-1, X.shape[1])  # (M * K, n_features [+ 1])
        z = np.empty((len(columns), len(X)), dtype=X.dtype)
        for rows in self._pieces(values):
            np.matmul(columns, X[rows].T, out=z[:, rows])
        logits = torch.from_numpy(z)
        return logits if k == 1 else logits.view(-1, k, len(X)).mT.contiguous()

    def _gradients(self, residual: Tensor) -> np.ndarray:
        """Sums over rows of residual times x: (M, P)."""
        k, X = self.loss.n_outputs, self.X
        r = (residual if k == 1 else residual.mT).reshape(-1, len(X)).numpy()
        sums = np.zeros((len(r), X.shape[1]), dtype=X.dtype)
        for rows in self._pieces(sums):
            sums += r[:, rows] @ X[rows]
        return sums.reshape(len(residual), -1)

    def _pieces(self, values: np.ndarray) -> Iterator[slice]:
        """Rows whose product with coefficients a BLAS shares with no threads.

        Those would spin beside torch's own, and keep each other from the cores.
        """
        step = max(1, PIECE_ENTRIES // values.size)
        return (slice(a, a + step) for a in range(0, len(self.X), step))

    def _subgradient(self, models: np.ndarray, point: Points) -> np.ndarray:
        """The subgradients of least norm; see :class:`._objective.Objective`."""
        g, w, l1 = point.gradient, point.values, self.l1[models]
        if not self.orthants:
            return g
        at_zero = np.sign(g) * np.maximum(np.abs(g) - l1, 0)
        return np.where(w != 0, g + l1 * np.sign(w), at_zero)

    def _norms(self, models: np.ndarray, point: Points) -> np.ndarray:
        norms: np.ndarray = np.abs(self._subgradient(models, point)).max(axis=1)
        return norms

    def _two_loops(self, models: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Approximate inverse Hessians times gradients: (M, P)."""
        q = gradient.copy()
        order = (self.newest[models] - np.arange(MEMORY)[:, None]) % MEMORY
        rho = self.rho[order, models]
        n_pairs = int((rho > 0).sum(axis=0).max())  # the newest first
        order, rho = order[:n_pairs], rho[:n_pairs]
        s, t = self.s[order, models], self.t[order, models]
        shares = []
        for j in range(n_pairs):
            shares.append(rho[j] * np.einsum("mp,mp->m", s[j], q))
            q -= shares[j][:, None] * t[j]
        if n_pairs:
            scale = rho[0] * np.einsum("mp,mp->m", t[0], t[0])
            q /= np.where(rho[0] > 0, scale, 1)[:, None]
        for j in reversed(range(n_pairs)):
            share = shares[j] - rho[j] * np.einsum("mp,mp->m", t[j], q)
            q += share[:, None] * s[j]
        return q

    def _model_steps(
        self,
        models: np.ndarray,
        origin: Points,
        direction: np.ndarray,
        slope: np.ndarray,
    ) -> np.ndarray:
        """Steps to the minima of the quadratic models."""
        z, change = self.logits(origin.values), self.logits(direction)
        curvature = self.loss.curvature_along(z, change)
        if self.weight is not None:
            curvature.mul_(self.weight[models])
        bend = curvature.numpy().mean(axis=1, dtype=np.float64)
        bend += inner(self.l2[models], direction**2)
        usable = (bend > 0) & np.isfinite(bend)
        return np.where(usable, -slope / np.where(usable, bend, 1), 1.0)

    def _jump(
        self,
        models: np.ndarray,
        origin: Points,
        direction: np.ndarray,
        step: np.ndarray,
    ) -> Points:
        dtype = direction.dtype
        values = origin.values + step.astype(dtype)[:, None] * direction
        return self._evaluate(models, values, step)

    def _wolfe_steps(
        self,
        models: np.ndarray,
        origin: Points,
        direction: np.ndarray,
        step: np.ndarray,
        slope: np.ndarray,
    ) -> Points:
        """Steps that satisfy the strong Wolfe conditions; see ``wolfe_step``."""
        zero = np.zeros(len(models))
        low, low_slope, low_value = zero.copy(), slope.copy(), origin.value.copy()
        high, high_slope = np.full(len(models), np.inf), zero.copy()
        slack = self.precision * np.abs(origin.value)
        found = origin[np.arange(len(models))]
        left = np.arange(len(models))
        for _ in range(MAX_TRIALS):
            point = self._jump(models[left], origin[left], direction[left], step[left])
            rise = inner(point.gradient, direction[left])
            decrease = SUFFICIENT_DECREASE * step[left] * slope[left]
            fell = point.value <= origin.value[left] + decrease + slack[left]
            good = fell & (np.abs(rise) <= -CURVATURE * slope[left])
            found[left[good]] = point[good]
            short = fell & (rise < 0) & ~good
            which = left[short]
            low[which], low_slope[which] = step[which], rise[short]
            low_value[which] = point.value[short]
            long = ~short & ~good
            which = left[long]
            high[which], high_slope[which] = step[which], rise[long]
            left = left[~good]
            if not len(left):
                return found
            step[left] = _next_steps(
                *(a[left] for a in (low, low_slope, high, high_slope))
            )
        back = np.where(low_value < origin.value, low, 0.0)[left]
        found[left] = self._jump(models[left], origin[left], direction[left], back)
        return found

    def _orthant_steps(
        self,
        models: np.ndarray,
        origin: Points,
        direction: np.ndarray,
        step: np.ndarray,
        subgradient: np.ndarray,
    ) -> Points:
        """Halve steps until they lower the objective; weights do not change sign."""
        before = origin.values
        sign = np.where(before != 0, np.sign(before), -np.sign(subgradient))
        bound = self.l1[models] > 0
        slack = self.precision * np.abs(origin.value)
        found = origin[np.arange(len(models))]
        found.step[:] = 0
        left = np.arange(len(models))
        for _ in range(MAX_TRIALS):
            values = (
                before[left] + step[left, None].astype(before.dtype) * direction[left]
            )
            values[bound[left] & (np.sign(values) != sign[left])] = 0
            point = self._evaluate(models[left], values, step[left])
            fall = inner(values - before[left], subgradient[left])
            enough = origin.value[left] + SUFFICIENT_DECREASE * fall + slack[left]
            good = point.value <= enough
            found[left[good]] = point[good]
            left = left[~good]
            if not len(left):
                break
            step[left] /= 2
        return found


def _next_steps(
    low: np.ndarray, low_slope: np.ndarray, high: np.ndarray, high_slope: np.ndarray
) -> np.ndarray:
    """Twice the step, or one inside the bracket, if there is one; see ``_between``."""
    bracketed = np.isfinite(high)
    width, rise = np.where(bracketed, high - low, 0), high_slope - low_slope
    secant = np.where(rise > 0, -low_slope / np.where(rise > 0, rise, 1), 0.5)
    inside = low + width * np.clip(secant, 0.1, 0.9)
    return np.where(bracketed, inside, 2 * low)


class Model:
    """One of the models, with what a solver of its own would know."""

    def __init__(self, of: Lockstep, m: int, fit_intercept: bool) -> None:
        self.of, self.m = of, m
        values = torch.from_numpy(of.at.values[m])
        k = of.loss.n_outputs
        columns = values if k == 1 else values.view(k, -1).t()
        self.coef = Coefficients(columns, fit_intercept=fit_intercept)

    @property
    def loss(self) -> float:
        return float(self.of.at.loss[self.m])

    @property
    def gradient_norm(self) -> float:
        return float(self.of.norms[self.m])

    @property
    def converged(self) -> bool:
        return self.gradient_norm <= self.of.tol

    @property
    def stalled(self) -> bool:
        return bool(self.of.stalled[self.m])

    @property
    def done(self) -> bool:
        return self.converged or self.stalled

    @property
    def separated(self) -> bool:
        z = self.of.logits(self.of.at.values[[self.m]])[0]
        return separates(self.of.loss, self.of.y, z)
