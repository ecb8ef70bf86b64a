"""Fit classifiers that differ only in numbers together, on one or several folds."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from sklearn.base import clone

from ._candidates import CandidateRun, Settings
from ._classifier import TorchLogisticClassifier
from ._divergence import SUSPECT, Judge
from ._loss import Loss, make_loss
from ._objective import Coefficients, Objective
from ._rows import Rows
from ._solvers import check_penalty, find_solver, optimizer_arguments
from ._steps import STEPS, find_rule, make_optimizer
from ._training import facts_of, undisturbed
from ._validation import (
    Labelled,
    check_batch_size,
    check_device,
    check_dtype,
    check_seed,
    check_training_rows,
    find_classes,
    hold_out,
    to_rows,
)
from ._weighting import Weighting, drop_weightless

# Parameters that may differ: columns of one matrix, or moments of one run.
DIFFERING = (
    *("lr", "alpha", "l1_ratio", "momentum", "class_weight", "pos_weight"),
    "epochs",
)
# Folds are stacked up to so many bytes of X: where a step costs more than it computes.
STACKED_BYTES = 2**25
# Candidates are trained in slices if their coefficients and logits need more bytes.
SLICE_BYTES = 2**28
CHECKED_ROWS = 1000

Outcome = TorchLogisticClassifier | Exception


@dataclass
class Fold:
    """Rows of a fold, and what a fit would make of them.

    Parameters
    ----------
    X, y, sample_weight
        As passed to ``fit``.
    """

    X: Any
    y: Any
    sample_weight: Any = None


@dataclass
class Prepared:
    """A validated fold."""

    rows: Labelled
    held: Labelled | None  # rows to validate on
    classes: np.ndarray
    seen: dict[str, Any]  # attributes that validation gives an estimator

    def key(self, batch_size: int) -> tuple[Any, ...]:
        """What folds that are trained as one stack have in common."""
        n_batches = -(-len(self.rows.y) // batch_size)
        return n_batches, batch_size, self.rows.X.dtype.str, self.classes.tolist()


def can_join(clf: Any) -> bool:
    """Whether a classifier's fit can be shared with others."""
    if type(clf) is not TorchLogisticClassifier:
        return False
    plain = not (
        clf.callbacks
        or clf.warm_start
        or clf.verbose
        or getattr(clf, "_skl_callbacks", None)
    )
    # A generator would have to be drawn from in the order of the fits.
    seeded = clf.random_state is None or isinstance(clf.random_state, int | np.integer)
    weights = clf.class_weight.values() if isinstance(clf.class_weight, dict) else [1]
    try:
        clf._validate_params()
        solver = find_solver(clf.optimizer)
        check_penalty(solver, clf.alpha * clf.l1_ratio)
        on_cpu = check_device(clf.device).type == "cpu"
        weighted = all(w > 0 for w in weights)
        # Not its subclasses: they may change the numbers, or hook into the steps.
        if solver.full_batch is not None or solver.torch_class not in STEPS:
            return False
        numbers = rule_settings(clf)[0]
    except Exception:
        return False  # its own fit will say what is wrong
    # torch dampens what enters a momentum and nothing else.
    undamped = bool(numbers.get("momentum")) or not numbers.get("dampening")
    return plain and seeded and on_cpu and weighted and undamped


def rule_optimizer(clf: TorchLogisticClassifier) -> torch.optim.Optimizer:
    """The optimizer of a classifier, of nothing, for its parameter group."""
    solver = find_solver(clf.optimizer)
    arguments = optimizer_arguments(
        solver, momentum=clf.momentum, optimizer_params=clf.optimizer_params
    )
    nothing = torch.nn.Parameter(torch.zeros(1, device="cpu"))
    return make_optimizer(solver.torch_class, [nothing], lr=clf.lr, **arguments)


def rule_settings(clf: TorchLogisticClassifier) -> tuple[dict[str, Any], ...]:
    """Settings of a classifier's rule: those that are numbers, and the others.

    The numbers may be pairs of numbers, as the betas of Adam.
    """

    def is_number(value: Any) -> bool:
        if isinstance(value, tuple):
            return all(map(is_number, value))
        return isinstance(value, Real) and not isinstance(value, bool | np.bool_)

    group = dict(rule_optimizer(clf).param_groups[0])
    del group["params"]
    numbers = {name: value for name, value in group.items() if is_number(value)}
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


def fit_together(
    classifiers: Sequence[TorchLogisticClassifier], folds: Sequence[Fold]
) -> list[list[Outcome]]:
    """Fit each classifier on each fold, in as few runs as possible.

    Parameters
    ----------
    classifiers : list of TorchLogisticClassifier
        All :func:`can_join`, and alike but for the parameters ``DIFFERING``.
    folds : list of Fold

    Returns
    -------
    outcomes : list of list
        For each fold and each classifier a fitted clone, or the exception that its
        own fit would have raised.
    """
    first = classifiers[0]
    outcomes: list[list[Outcome]] = [[] for _ in folds]
    stacks: dict[Any, list[int]] = {}
    prepared: dict[int, Prepared] = {}
    with undisturbed():
        for i, fold in enumerate(folds):
            try:
                prepared[i] = prepare(first, fold)
            except Exception as error:
                outcomes[i] = [error] * len(classifiers)
                continue
            size = check_batch_size(first.batch_size, len(prepared[i].rows.y))
            X = prepared[i].rows.X
            alone = X.nbytes * len(folds) > STACKED_BYTES
            key = (i if alone else -1, *map(str, prepared[i].key(size)))
            stacks.setdefault(key, []).append(i)
        for members in stacks.values():
            stack = fit_stack(classifiers, [prepared[i] for i in members])
            for i, found in zip(members, stack, strict=True):
                outcomes[i] = found
    return outcomes


def fit_stack(
    classifiers: Sequence[TorchLogisticClassifier], folds: list[Prepared]
) -> list[list[Outcome]]:
    """Fit on folds that can be stacked those whose weights suit the labels."""
    errors: dict[int, Exception] = {}
    for i, clf in enumerate(classifiers):
        try:
            for fold in folds:
                weighting_of(clf, fold)
        except Exception as error:
            errors[i] = error
    able = [clf for i, clf in enumerate(classifiers) if i not in errors]
    outcomes = Joint(able, folds).fit() if able else [[] for _ in folds]
    for found in outcomes:
        for i, failure in errors.items():
            found.insert(i, failure)
    return outcomes


def weighting_of(clf: TorchLogisticClassifier, fold: Prepared) -> Weighting:
    return Weighting.from_parameters(
        clf.class_weight, clf.pos_weight, fold.rows, fold.classes, whole=True
    )


def prepare(clf: TorchLogisticClassifier, fold: Fold) -> Prepared:
    """Validate a fold as the classifier's fit would."""
    clf = clone(clf)
    dtype = check_dtype(clf.dtype, check_device(clf.device))
    rows = check_training_rows(clf, fold.X, fold.y, fold.sample_weight, dtype)
    rows = drop_weightless(rows)
    classes = find_classes(rows.y)
    seen = {k: v for k, v in vars(clf).items() if k.endswith("_")}
    rows, held = rows.encoded(classes), None
    if clf.early_stopping:
        seed = check_seed(clf.random_state)
        rows, held = hold_out(rows, classes, clf.validation_fraction, seed)
    return Prepared(rows, held, classes, seen)


class Joint:
    """The joint fit of classifiers on folds that can be stacked."""

    def __init__(
        self, classifiers: Sequence[TorchLogisticClassifier], folds: list[Prepared]
    ) -> None:
        self.classifiers = classifiers
        self.folds = folds
        self.first = first = classifiers[0]
        self.loss: Loss = make_loss(len(folds[0].classes))
        self.batch_size = check_batch_size(first.batch_size, len(folds[0].rows.y))
        self.weightings = [[weighting_of(clf, f) for clf in classifiers] for f in folds]
        # Classifiers that differ in epochs only are moments of one column.
        keys = [str(self._numbers(clf)) for clf in classifiers]
        self.columns = list(dict.fromkeys(keys))
        self.column_of = [self.columns.index(key) for key in keys]
        self.leaders = [keys.index(key) for key in self.columns]

    def _numbers(self, clf: TorchLogisticClassifier) -> list[Any]:
        """What a column depends on. Ties of candidates that are the same stay ties."""
        return [
            clf.alpha * (1 - clf.l1_ratio),
            clf.alpha * clf.l1_ratio,
            clf.class_weight,
            clf.pos_weight,
            rule_settings(clf)[0],
        ]

    def fit(self) -> list[list[Outcome]]:
        """Outcomes for each fold and each classifier."""
        found: list[dict[int, Outcome]] = [{} for _ in self.folds]
        row_bytes = len(self.folds) * self.folds[0].rows.X.shape[1] * 8
        room = SLICE_BYTES // max(1, row_bytes * self.loss.n_outputs * 6)
        size = max(1, room)
        for start in range(0, len(self.leaders), size):
            self._fit_columns(range(len(self.leaders))[start : start + size], found)
        return [
            [outcomes[i] for i in range(len(self.classifiers))] for outcomes in found
        ]

    def _fit_columns(self, columns: range, found: list[dict[int, Outcome]]) -> None:
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
            due = [i for i in members if self.classifiers[i].epochs == epoch]
            if due:
                record.take(due, found)

    def _make_run(self, columns: range) -> CandidateRun:
        leaders = [self.classifiers[self.leaders[c]] for c in columns]
        optimizer = rule_optimizer(leaders[0])
        rule = find_rule(type(optimizer))
        assert rule is not None
        alpha = np.array([float(clf.alpha) for clf in leaders])
        ratio = np.array([float(clf.l1_ratio) for clf in leaders])
        return CandidateRun(
            [self.rows_of(fold, columns) for fold in range(len(self.folds))],
            self.loss,
            l2=alpha * (1 - ratio),
            l1=alpha * ratio,
            settings=Settings(
                seed=check_seed(self.first.random_state),
                batch_size=self.batch_size,
                shuffle=self.first.shuffle,
                fit_intercept=self.first.fit_intercept,
                validation=self.first.early_stopping,
                rule=rule,
                optimizer=optimizer,
                numbers=differing([rule_settings(clf)[0] for clf in leaders]),
            ),
        )

    def weights_of(self, fold: int, column: int, rows: Labelled) -> np.ndarray | None:
        return self.weightings[fold][self.leaders[column]](rows.y, rows.sample_weight)

    def rows_of(
        self,
        fold: int,
        columns: range,
        *,
        most: int | None = None,
        held: Labelled | None = None,
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

    def __init__(self, joint: Joint, run: CandidateRun, columns: range) -> None:
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
        self.values = run.coef.values.numpy().copy()
        self.losses: list[np.ndarray] = []

    def look(self) -> None:
        """Evaluate all models after an epoch."""
        values, k = self.run.coef.arrays.values, self.run.loss.n_outputs
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

    def __init__(self, joint: Joint, run: CandidateRun, columns: range) -> None:
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
        values = self.run.coef.arrays.values if watch is None else watch.values
        values = values.copy()
        for f in range(len(joint.folds)):
            suspects = self._suspects(f, values)
            for i in due:
                c = self.columns.index(joint.column_of[i])
                curves = self._curves(f, c)
                try:
                    if suspects[c]:
                        self._check(joint.classifiers[i], f, c, values, curves)
                    found[f][i] = self._fitted(i, f, c, values, curves)
                except Exception as error:  # or a warning that is to be one
                    found[f][i] = error

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

    def _check(
        self,
        clf: TorchLogisticClassifier,
        fold: int,
        c: int,
        values: np.ndarray,
        curves: dict[str, list[float]],
    ) -> None:
        """Raise ValueError if the run diverged, as a single fit would."""
        objective = Objective(self.joint.loss, clf.alpha, clf.l1_ratio)
        joint = self.joint
        weighting = joint.weightings[fold][joint.leaders[self.columns[c]]]
        labelled = joint.folds[fold].rows
        rows = to_rows(labelled, weighting, joint.loss, torch.device("cpu"))
        judge = Judge(objective, rows)
        for epoch, losses in enumerate(zip(*curves.values(), strict=True)):
            for prefix, loss in zip(curves, losses, strict=True):
                if not math.isfinite(loss):
                    at = prefix, epoch + 1, loss
                    raise judge.epoch_divergence(*at, float(clf.lr))
        k = self.joint.loss.n_outputs
        own = torch.from_numpy(values[fold][:, c * k : (c + 1) * k].copy())
        coef = Coefficients(
            own[:, 0].clone() if k == 1 else own, fit_intercept=clf.fit_intercept
        )
        history = [{"train_loss": loss} for loss in curves["train"]]
        judge.check_end(coef, history, float(clf.lr))

    def _fitted(
        self,
        i: int,
        fold: int,
        c: int,
        values: np.ndarray,
        curves: dict[str, list[float]],
    ) -> TorchLogisticClassifier:
        joint, k = self.joint, self.joint.loss.n_outputs
        prepared = joint.folds[fold]
        clf = copy.copy(joint.classifiers[i])  # unfitted; a clone takes much longer
        own = values[fold][:, c * k : (c + 1) * k].T  # (K, n_features [+ 1])
        n = own.shape[1] - clf.fit_intercept
        zeros = np.zeros_like(own[:, 0])
        rows = prepared.rows
        clf.__dict__.update(
            prepared.seen,
            coef_=np.ascontiguousarray(own[:, :n]),
            intercept_=own[:, n].copy() if clf.fit_intercept else zeros,
            classes_=prepared.classes,
            n_iter_=len(curves["train"]),
            loss_curve_=curves["train"],
            history_=self._history(curves),
            device_="cpu",
            batch_size_=min(joint.batch_size, len(rows.y)),
            _run=facts_of(clf, joint.weightings[fold][i], rows),
        )
        if "valid" in curves:
            clf.validation_loss_curve_ = curves["valid"]
        return clf

    def _history(self, curves: dict[str, list[float]]) -> list[dict[str, Any]]:
        """What a single fit records of its epochs."""
        n_batches = {"train": self.run.stack.n_batches, "valid": 1}
        history = []
        least = dict.fromkeys(curves, math.inf)
        for epoch, losses in enumerate(zip(*curves.values(), strict=True)):
            row: dict[str, Any] = {"epoch": epoch + 1}
            for prefix, loss in zip(curves, losses, strict=True):
                row[f"{prefix}_loss"] = loss
                row[f"{prefix}_loss_best"] = loss < least[prefix]
                row[f"{prefix}_batch_count"] = n_batches[prefix]
                least[prefix] = min(least[prefix], loss)
            row["dur"] = self.seconds[epoch]
            history.append(row)
        return history
