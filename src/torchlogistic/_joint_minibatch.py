"""Fit classifiers on folds in mini-batches together, as one run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from ._candidates import CandidateRun, Settings
from ._classifier import TorchLogisticClassifier
from ._divergence import CHECKED_ROWS, SUSPECT
from ._folds import (
    Advance,
    Ending,
    Outcome,
    Prepared,
    objective_of,
    weighting_of,
)
from ._inplace import NUMBERS
from ._loss import Loss, make_loss
from ._rows import Rows
from ._solvers import find_solver, optimizer_arguments
from ._steps import find_rule, make_optimizer
from ._validation import (
    Encoded,
    check_batch_size,
    check_device,
    check_seed,
    to_rows,
)
from ._weighting import drop_weightless

# Candidates are trained in slices if what each has for itself needs more bytes.
SLICE_BYTES = 2**28


def rule_optimizer(clf: TorchLogisticClassifier) -> Optimizer:
    """The optimizer of a classifier, of nothing, for its parameter group."""
    solver = find_solver(clf.optimizer)
    arguments = optimizer_arguments(
        solver, momentum=clf.momentum, optimizer_params=clf.optimizer_params
    )
    nothing = torch.nn.Parameter(torch.zeros(1, device="cpu"))
    return make_optimizer(solver.torch_class, [nothing], lr=clf.lr, **arguments)


def rule_settings(clf: TorchLogisticClassifier) -> tuple[dict[str, Any], ...]:
    """Settings of a classifier's rule: those that are numbers, and the others.

    The numbers may be pairs of numbers, as the betas of Adam. A full-batch solver has
    no settings.
    """

    def is_number(name: str, value: Any) -> bool:
        if isinstance(value, tuple):
            return len(value) == 2 and all(isinstance(part, Real) for part in value)
        return name in NUMBERS and isinstance(value, Real)

    solver = find_solver(clf.optimizer)
    if solver.full_batch is not None:
        optimizer_arguments(solver, momentum=0, optimizer_params=clf.optimizer_params)
        return {}, {}
    group = dict(rule_optimizer(clf).param_groups[0])
    del group["params"]
    numbers = {name: value for name, value in group.items() if is_number(name, value)}
    return numbers, {k: v for k, v in group.items() if k not in numbers}


def differing(settings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers that are not the same in all, as arrays with one for each."""

    def column(values: Sequence[Any]) -> Any:
        if isinstance(values[0], tuple):
            return tuple(map(column, zip(*values, strict=True)))
        return np.array(values, dtype=np.float64)

    columns = {name: [one[name] for one in settings] for name in settings[0]}
    return {
        name: column(values) for name, values in columns.items() if len(set(values)) > 1
    }


class JointMiniBatch:
    """The joint fit of classifiers on folds that can be stacked."""

    def __init__(
        self, classifiers: Sequence[TorchLogisticClassifier], folds: list[Prepared]
    ) -> None:
        self.classifiers = classifiers
        self.folds = folds
        self.first = first = classifiers[0]
        self.device = check_device(first.device)
        self.loss: Loss = make_loss(len(folds[0].classes))
        self.batch_size = check_batch_size(first.batch_size, len(folds[0].rows.y))
        self.weightings = [[weighting_of(clf, f) for clf in classifiers] for f in folds]
        # Classifiers that differ in epochs only are moments of one column.
        keys = [str(self._numbers(clf)) for clf in classifiers]
        self.columns = list(dict.fromkeys(keys))
        self.column_of = [self.columns.index(key) for key in keys]
        self.leaders = [keys.index(key) for key in self.columns]

    def _numbers(self, clf: TorchLogisticClassifier) -> list[Any]:
        """What a column depends on."""
        return [rule_settings(clf)[0], *objective_of(clf)]

    def fit(self, advance: Advance) -> list[list[Outcome]]:
        """Outcomes for each fold and each classifier."""
        found: list[dict[int, Outcome]] = [{} for _ in self.folds]
        size = max(1, SLICE_BYTES // self._bytes_of_one())
        for start in range(0, len(self.leaders), size):
            columns = range(len(self.leaders))[start : start + size]
            self._fit_columns(columns, found, advance)
        return [
            [outcomes[i] for i in range(len(self.classifiers))] for outcomes in found
        ]

    def _bytes_of_one(self) -> int:
        """What a candidate needs: coefficients, their states, and columns of rows."""
        k = self.loss.n_outputs
        n_rows = sum(len(fold.rows.y) for fold in self.folds)
        entries = len(self.folds) * self.folds[0].rows.X.shape[1] * k * 6
        # Targets and weights twice each: as they are made, and in one stack.
        weights = {str(objective_of(clf)[2:]) for clf in self.classifiers}
        entries += 2 * n_rows * k * ((k > 1) + (len(weights) > 1))
        return entries * 8

    def _fit_columns(
        self, columns: range, found: list[dict[int, Outcome]], advance: Advance
    ) -> None:
        members = [
            i for i, column in enumerate(self.column_of) if column in set(columns)
        ]
        run = self._make_run(columns)
        record = Record(self, run, columns)
        last = max(self.classifiers[i].epochs for i in members)
        for epoch in range(last + 1):
            if epoch and not record.all_stopped:
                start = time.perf_counter()
                record.add(run.epoch(), start)
                advance(len(members) * len(self.folds) / last)
            due = [i for i in members if self.classifiers[i].epochs == epoch]
            if due:
                record.take(due, found)

    def _make_run(self, columns: range) -> CandidateRun:
        leaders = [self.classifiers[self.leaders[c]] for c in columns]
        optimizer = rule_optimizer(leaders[0])
        rule = find_rule(type(optimizer))
        assert rule is not None
        objectives = [objective_of(clf) for clf in leaders]
        return CandidateRun(
            [self.rows_of(fold, columns) for fold in range(len(self.folds))],
            self.loss,
            l2=np.array([objective.l2 for objective in objectives]),
            l1=np.array([objective.l1 for objective in objectives]),
            settings=Settings(
                seed=check_seed(self.first.random_state),
                batch_size=self.batch_size,
                shuffle=self.first.shuffle,
                fit_intercept=self.first.fit_intercept,
                validation=self.first.early_stopping,
                rule=rule,
                optimizer=optimizer,
                numbers=differing([rule_settings(clf)[0] for clf in leaders]),
                device=self.device,
            ),
        )

    def weights_of(self, fold: int, column: int, rows: Encoded) -> np.ndarray | None:
        return self.weightings[fold][self.leaders[column]](rows.y, rows.sample_weight)

    def rows_of(
        self,
        fold: int,
        columns: range,
        *,
        most: int | None = None,
        held: Encoded | None = None,
    ) -> Rows:
        """Rows with targets and weights that broadcast over candidates.

        Those of the fold, at most so many of them if ``most`` is given, spread over
        all; or others that were held out.
        """
        labelled = held or self.folds[fold].rows
        k, n = self.loss.n_outputs, len(labelled.y)
        every = slice(None, None, -(-n // (most or n)))
        X = torch.from_numpy(labelled.X[every])
        y = self.loss.targets(torch.from_numpy(labelled.y[every].copy()), X.dtype)
        y = y[:, None] if k == 1 else y.repeat(1, len(columns))
        # All folds have weights or none has.
        used = any(
            self.weights_of(f, c, prepared.rows) is not None
            for f, prepared in enumerate(self.folds)
            for c in columns
        )
        if not used:
            return Rows(X, y)
        parts = [self.weights_of(fold, c, labelled) for c in columns]
        weight = np.column_stack(
            [np.ones(n) if part is None else part for part in parts]
        )[every]
        equal = (weight == weight[:, :1]).all()
        weight = weight[:, :1] if equal else np.repeat(weight, k, axis=1)
        return Rows(X, y, torch.from_numpy(weight.copy()).to(X.dtype))


class Watch:
    """Early stopping of every model on its own record, as ``_callbacks.StopEarly``."""

    def __init__(
        self, joint: JointMiniBatch, run: CandidateRun, columns: range
    ) -> None:
        self.run = run
        self.rows = [
            joint.rows_of(f, columns, held=drop_weightless(prepared.held))
            for f, prepared in enumerate(joint.folds)
            if prepared.held is not None
        ]
        self.patience, self.tol = joint.first.n_iter_no_change, joint.first.tol
        shape = (len(joint.folds), len(columns))
        self.best, self.target = np.full(shape, np.inf), np.full(shape, np.inf)
        self.misses = np.zeros(shape, dtype=int)
        self.stopped = np.zeros(shape, dtype=int)  # at which epoch; 0 for not yet
        self.values = run.values()
        self.losses: list[np.ndarray] = []

    def look(self) -> None:
        """Evaluate all models after an epoch."""
        values, k = self.run.values(), self.run.loss.n_outputs
        pairs = enumerate(self.rows)
        losses = np.array([self.run.mean_losses(rows, f, values) for f, rows in pairs])
        self.losses.append(losses)
        going = self.stopped == 0
        better = going & (losses < self.best)
        self.best[better] = losses[better]
        columns = np.repeat(better, k, axis=1)[:, None, :]
        np.copyto(self.values, values, where=columns)
        improved = losses < self.target
        self.target = np.where(going & improved, losses - self.tol, self.target)
        self.misses = np.where(improved, 0, self.misses + 1)
        # One that is not a number ends the fit with an error.
        over = (self.misses >= self.patience) | ~np.isfinite(losses)
        self.stopped[going & over] = len(self.losses)


class Record:
    """What is kept of a joint run, and the fitted classifiers that it gives."""

    def __init__(
        self, joint: JointMiniBatch, run: CandidateRun, columns: range
    ) -> None:
        self.joint, self.run, self.columns = joint, run, columns
        self.losses: list[np.ndarray] = []
        self.seconds: list[float] = []
        stops = joint.first.early_stopping
        self.watch = Watch(joint, run, columns) if stops else None

    @property
    def all_stopped(self) -> bool:
        return self.watch is not None and bool(self.watch.stopped.all())

    def add(self, losses: np.ndarray, start: float) -> None:
        """Take note of an epoch that began at a time."""
        self.losses.append(losses)
        if self.watch is not None:
            self.watch.look()
        self.seconds.append((time.perf_counter() - start) / losses.size)

    def take(self, due: list[int], found: list[dict[int, Outcome]]) -> None:
        """Make the fitted classifiers whose last epoch this was."""
        joint, watch = self.joint, self.watch
        values = self.run.values() if watch is None else watch.values.copy()
        for f in range(len(joint.folds)):
            suspects = self._suspects(f, values)
            for i in due:
                c = self.columns.index(joint.column_of[i])
                try:
                    found[f][i] = self._outcome(i, f, c, values, suspects[c])
                except Exception as error:  # or a warning that is to be one
                    found[f][i] = error

    def _outcome(
        self, i: int, fold: int, c: int, values: np.ndarray, suspect: bool
    ) -> TorchLogisticClassifier:
        joint, k = self.joint, self.joint.loss.n_outputs
        clf, prepared = joint.classifiers[i], joint.folds[fold]
        weighting = joint.weightings[fold][i]
        ending = Ending(
            values[fold][:, c * k : (c + 1) * k],
            self._curves(fold, c),
            self.seconds,
            batch_size=min(joint.batch_size, len(prepared.rows.y)),
            device=str(joint.device),
            n_batches=self.run.stack.n_batches,
        )
        if suspect:
            cpu = torch.device("cpu")
            rows = to_rows(prepared.rows, weighting, joint.loss, cpu)
            ending.check(clf, joint.loss, rows)
        return ending.fitted(clf, prepared, weighting)

    def _curves(self, fold: int, c: int) -> dict[str, list[float]]:
        """Losses of a model, epoch by epoch."""
        curves = {"train": [float(losses[fold, c]) for losses in self.losses]}
        if self.watch is not None:
            curves["valid"] = [float(losses[fold, c]) for losses in self.watch.losses]
            if stop := self.watch.stopped[fold, c]:
                curves = {prefix: curve[:stop] for prefix, curve in curves.items()}
        return curves

    def _suspects(self, fold: int, values: np.ndarray) -> np.ndarray:
        """Which models may have diverged: (C,). All at once, as nearly none has."""
        rows = self.joint.rows_of(fold, self.columns, most=CHECKED_ROWS)
        losses = self.run.mean_losses(rows, fold, values)
        null: Any = self.joint.loss.null_value
        if rows.weight is not None:
            null = null * rows.weight.numpy()[:, :: self.joint.loss.n_outputs].mean(0)
        # A little less than what a single fit warns of.
        calm = losses < 0.9 * SUSPECT * null
        for curve in (self.losses, self.watch.losses if self.watch else []):
            if curve:
                calm &= np.isfinite(np.array(curve)[:, fold]).all(axis=0)
        return ~calm
