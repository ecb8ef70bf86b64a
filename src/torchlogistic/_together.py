"""Fit classifiers that differ only in numbers together, on one or several folds."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
from ._training import undisturbed
from ._validation import (
    Labelled,
    check_batch_size,
    check_device,
    check_dtype,
    check_seed,
    check_training_rows,
    find_classes,
)
from ._weighting import Weighting, drop_weightless

# Parameters that may differ: columns of one matrix, or moments of one run.
VECTORS = ("lr", "alpha", "l1_ratio", "momentum", "class_weight", "pos_weight")
DIFFERING = (*VECTORS, "epochs")
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
        or clf.early_stopping
        or clf.verbose
        or getattr(clf, "_skl_callbacks", None)
    )
    seeded = isinstance(clf.random_state, int | np.integer)
    weights = clf.class_weight.values() if isinstance(clf.class_weight, dict) else [1]
    try:
        clf._validate_params()
        solver = find_solver(clf.optimizer)
        arguments = optimizer_arguments(
            solver, momentum=clf.momentum, optimizer_params=clf.optimizer_params
        )
        check_penalty(solver, clf.alpha * clf.l1_ratio)
        on_cpu = check_device(clf.device).type == "cpu"
        weighted = all(w > 0 for w in weights)
        # Not its subclasses: they may change the numbers, or hook into the steps.
        ruled = solver.full_batch is None and solver.torch_class in STEPS
        if ruled:
            new_optimizer(solver.torch_class, lr=clf.lr, **arguments)
    except Exception:
        return False  # its own fit will say what is wrong
    # torch dampens what enters a momentum and nothing else.
    undamped = bool(clf.momentum) or not arguments.get("dampening")
    return plain and seeded and on_cpu and ruled and weighted and undamped


def new_optimizer(torch_class: Any, **arguments: Any) -> torch.optim.Optimizer:
    """An optimizer of nothing, for the numbers in its parameter group."""
    nothing = torch.nn.Parameter(torch.zeros(1, device="cpu"))
    return make_optimizer(torch_class, [nothing], **arguments)


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
    return Prepared(rows.encoded(classes), classes, seen)


class Joint:
    """The joint fit of classifiers on folds that can be stacked."""

    def __init__(
        self, classifiers: Sequence[TorchLogisticClassifier], folds: list[Prepared]
    ) -> None:
        self.classifiers = classifiers
        self.folds = folds
        self.first = first = classifiers[0]
        self.loss: Loss = make_loss(len(folds[0].classes))
        solver = find_solver(first.optimizer)
        self.torch_class = solver.torch_class
        self.arguments = [
            optimizer_arguments(
                solver, momentum=clf.momentum, optimizer_params=clf.optimizer_params
            )
            for clf in classifiers
        ]
        self.batch_size = check_batch_size(first.batch_size, len(folds[0].rows.y))
        self.weightings = [[weighting_of(clf, f) for clf in classifiers] for f in folds]
        # Classifiers that differ in epochs only are moments of one column.
        keys = [str([getattr(clf, name) for name in VECTORS]) for clf in classifiers]
        self.columns = list(dict.fromkeys(keys))
        self.column_of = [self.columns.index(key) for key in keys]
        self.leaders = [keys.index(key) for key in self.columns]

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
        for epoch in range(max(self.classifiers[i].epochs for i in members) + 1):
            if epoch:
                start = time.perf_counter()
                losses = run.epoch()
                record.add(losses, time.perf_counter() - start)
            due = [i for i in members if self.classifiers[i].epochs == epoch]
            if due:
                record.take(due, found)

    def _make_run(self, columns: range) -> CandidateRun:
        leaders = [self.classifiers[self.leaders[c]] for c in columns]
        numbers = {"lr": np.array([float(clf.lr) for clf in leaders])}
        if "momentum" in self.arguments[0]:
            numbers["momentum"] = np.array([float(clf.momentum) for clf in leaders])
        optimizer = new_optimizer(
            self.torch_class, **{"lr": self.first.lr, **self.arguments[0]}
        )
        rule = find_rule(self.torch_class)
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
                rule=rule,
                optimizer=optimizer,
                numbers=numbers,
            ),
        )

    def weights_of(self, fold: int, column: int) -> np.ndarray | None:
        rows = self.folds[fold].rows
        weighting = self.weightings[fold][self.leaders[column]]
        return weighting(rows.y, rows.sample_weight)

    def rows_of(self, fold: int, columns: range, most: int | None = None) -> Rows:
        """Rows with targets and weights that broadcast over candidates.

        At most so many rows, spread over all, if ``most`` is given.
        """
        labelled, k = self.folds[fold].rows, self.loss.n_outputs
        every = slice(None, None, -(-len(labelled.y) // (most or len(labelled.y))))
        X = torch.from_numpy(labelled.X[every])
        y = self.loss.targets(torch.from_numpy(labelled.y[every].copy()), X.dtype)
        y = y[:, None] if k == 1 else y.repeat(1, len(columns))
        # All folds have weights or none has.
        used = any(
            self.weights_of(f, c) is not None
            for f in range(len(self.folds))
            for c in columns
        )
        if not used:
            return Rows(X, y)
        ones = np.ones(len(labelled.y))[every]
        parts = [self.weights_of(fold, c) for c in columns]
        weight = np.column_stack(
            [ones if part is None else part[every] for part in parts]
        )
        if (weight == weight[:, :1]).all():
            weight = weight[:, :1]
        else:
            weight = np.repeat(weight, k, axis=1)
        return Rows(X, y, torch.from_numpy(weight).to(X.dtype))


class Record:
    """What is kept of a joint run, and the fitted classifiers that it gives."""

    def __init__(self, joint: Joint, run: CandidateRun, columns: range) -> None:
        self.joint, self.run, self.columns = joint, run, columns
        self.losses: list[np.ndarray] = []
        self.seconds: list[float] = []

    def add(self, losses: np.ndarray, seconds: float) -> None:
        self.losses.append(losses)
        self.seconds.append(seconds / losses.size)

    def take(self, due: list[int], found: list[dict[int, Outcome]]) -> None:
        """Make the fitted classifiers whose last epoch this was."""
        joint = self.joint
        values = self.run.coef.values.numpy().copy()
        shape = (len(self.losses), len(values), len(self.columns))
        curves = np.array(self.losses).reshape(shape)
        for f in range(len(joint.folds)):
            suspects = self._suspects(f)
            for i in due:
                c = self.columns.index(joint.column_of[i])
                curve = curves[:, f, c].tolist()
                try:
                    if suspects[c]:
                        self._check(joint.classifiers[i], f, c, curve)
                    found[f][i] = self._fitted(i, f, c, values, curve)
                except Exception as error:  # or a warning that is to be one
                    found[f][i] = error

    def _suspects(self, fold: int) -> np.ndarray:
        """Which models may have diverged: (C,). All at once, as nearly none has."""
        loss, coef = self.run.objective.loss, self.run.coef
        rows = self.joint.rows_of(fold, self.columns, CHECKED_ROWS)
        z = rows.X.numpy() @ coef.arrays.weight[fold]
        if coef.fit_intercept:
            z += coef.arrays.intercept[fold]
        losses = loss.value(torch.from_numpy(z)[None], rows.y[None])[0]
        null: Any = self.joint.loss.null_value
        if rows.weight is not None:
            weight, k = rows.weight, self.joint.loss.n_outputs
            weight = weight if weight.shape[1] == 1 else weight[:, ::k]
            losses *= weight
            null = null * weight.mean(0)
        # A little less than what a single fit warns of.
        calm = losses.mean(0) < 0.9 * SUSPECT * null
        if self.losses:
            finite: Any = np.isfinite(np.array(self.losses)[:, fold]).all(axis=0)
            calm &= torch.from_numpy(finite)
        return ~calm.numpy()

    def _check(
        self, clf: TorchLogisticClassifier, fold: int, c: int, curve: list[float]
    ) -> None:
        """Raise ValueError if the run diverged, as a single fit would."""
        objective = Objective(self.joint.loss, clf.alpha, clf.l1_ratio)
        rows = self._plain_rows(fold, c)
        judge = Judge(objective, rows)
        for epoch, loss in enumerate(curve):
            if not math.isfinite(loss):
                what = f"the mean loss of epoch {epoch + 1} is {loss:.3g}"
                raise judge.divergence(what, float(clf.lr))
        k = self.joint.loss.n_outputs
        values = self.run.coef.values[fold][:, c * k : (c + 1) * k]
        values = values[:, 0] if k == 1 else values
        coef = Coefficients(values.clone(), fit_intercept=clf.fit_intercept)
        judge.check_end(coef, [{"train_loss": loss} for loss in curve], float(clf.lr))

    def _plain_rows(self, fold: int, c: int) -> Rows:
        """Rows as a single fit has them."""
        labelled, loss = self.joint.folds[fold].rows, self.joint.loss
        X = torch.from_numpy(np.ascontiguousarray(labelled.X))
        y = loss.targets(torch.from_numpy(labelled.y), X.dtype)
        weight = self.joint.weights_of(fold, self.columns[c])
        return Rows(
            X, y, None if weight is None else torch.from_numpy(weight).to(X.dtype)
        )

    def _fitted(
        self, i: int, fold: int, c: int, values: np.ndarray, curve: list[float]
    ) -> TorchLogisticClassifier:
        joint, k = self.joint, self.joint.loss.n_outputs
        prepared = joint.folds[fold]
        clf = clone(joint.classifiers[i])
        own = values[fold][:, c * k : (c + 1) * k].T  # (K, n_features [+ 1])
        n = own.shape[1] - clf.fit_intercept
        weighting = joint.weightings[fold][i]
        rows = prepared.rows
        n_batches = -(-len(rows.y) // joint.batch_size)
        least = np.minimum.accumulate([math.inf, *curve])
        history = [
            {
                "epoch": epoch + 1,
                "train_loss": loss,
                "train_loss_best": bool(loss < least[epoch]),
                "train_batch_count": n_batches,
                "dur": self.seconds[epoch],
            }
            for epoch, loss in enumerate(curve)
        ]
        vars(clf).update(
            prepared.seen,
            coef_=np.ascontiguousarray(own[:, :n]),
            intercept_=own[:, n].copy()
            if clf.fit_intercept
            else np.zeros_like(own[:, 0]),
            classes_=prepared.classes,
            n_iter_=len(curve),
            loss_curve_=curve,
            history_=history,
            device_="cpu",
            batch_size_=min(joint.batch_size, len(rows.y)),
            _run={
                "fit_intercept": clf.fit_intercept,
                "alpha": clf.alpha,
                "l1_ratio": clf.l1_ratio,
                "class_weight": weighting.class_weight,
                "pos_weight": weighting.pos_weight,
                "weight_sum": weighting.total(rows.y, rows.sample_weight),
            },
        )
        return clf
