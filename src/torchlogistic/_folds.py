"""What goes into a joint fit, the rows of folds, and the classifiers that come out."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import clone

from ._classifier import TorchLogisticClassifier
from ._continuation import epoch_record
from ._divergence import Judge
from ._loss import Loss
from ._objective import Coefficients, Objective
from ._rows import Rows
from ._solvers import find_solver
from ._training import facts_of
from ._validation import (
    Encoded,
    check_all_rows,
    check_device,
    check_dtype,
    check_seed,
    hold_out,
)
from ._weighting import Weighting

Outcome = TorchLogisticClassifier | Exception
Advance = Callable[[float], None]  # hears how many more fits are done


def nobody(fits: float) -> None:
    """Does not listen."""


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

    rows: Encoded
    held: Encoded | None  # rows to validate on
    classes: np.ndarray
    seen: dict[str, Any]  # attributes that validation gives an estimator

    def key(self, batch_size: int) -> tuple[Any, ...]:
        """What folds that are trained as one stack have in common."""
        n_batches = -(-len(self.rows.y) // batch_size)
        return n_batches, batch_size, self.rows.dtype.str, self.classes.tolist()


def prepare(clf: TorchLogisticClassifier, fold: Fold) -> Prepared:
    """Validate a fold as the classifier's fit would, on the host."""
    clf = clone(clf)
    dtype = check_dtype(clf.dtype, check_device(clf.device))
    rows, classes = check_all_rows(clf, fold.X, fold.y, fold.sample_weight, dtype)
    seen = {k: v for k, v in vars(clf).items() if k.endswith("_")}
    encoded, held = rows.encoded(classes), None
    if clf.early_stopping:
        seed = check_seed(clf.random_state)
        encoded, held = hold_out(encoded, classes, clf.validation_fraction, seed)
    return Prepared(encoded, held, classes, seen)


def weighting_of(clf: TorchLogisticClassifier, fold: Prepared) -> Weighting:
    return Weighting.from_parameters(
        clf.class_weight, clf.pos_weight, fold.rows, fold.classes, whole=True
    )


class ObjectiveKey(NamedTuple):
    """What the objective depends on, beside the rows.

    Ties of candidates whose objective is the same stay ties.
    """

    l2: float
    l1: float
    class_weight: Any
    pos_weight: Any


def objective_of(clf: TorchLogisticClassifier) -> ObjectiveKey:
    alpha, ratio = float(clf.alpha), float(clf.l1_ratio)
    return ObjectiveKey(
        alpha * (1 - ratio), alpha * ratio, clf.class_weight, clf.pos_weight
    )


@dataclass
class Ending:
    """Where the run of a model ended.

    Parameters
    ----------
    values : ndarray of shape (n_features [+ 1], n_outputs)
        Coefficients.
    curves : dict of str to list of float
        Mean losses of each epoch: "train" and, with rows to validate on, "valid".
    seconds : list of float
        That the epochs took; there may be more of them.
    batch_size, n_batches : int
    device : str
    """

    values: np.ndarray
    curves: dict[str, list[float]]
    seconds: list[float]
    batch_size: int
    n_batches: int = 1
    device: str = "cpu"

    def check(self, clf: TorchLogisticClassifier, loss: Loss, rows: Rows) -> None:
        """Raise ValueError if the run diverged, as a single fit would."""
        judge = Judge(Objective(loss, clf.alpha, clf.l1_ratio), rows)
        lr = None if find_solver(clf.optimizer).full_batch else float(clf.lr)
        for epoch, losses in enumerate(zip(*self.curves.values(), strict=True)):
            for prefix, value in zip(self.curves, losses, strict=True):
                if not math.isfinite(value):
                    at = prefix, epoch + 1, value
                    raise judge.epoch_divergence(*at, lr)
        values = torch.from_numpy(self.values.copy())
        coef = Coefficients(
            values[:, 0].clone() if loss.n_outputs == 1 else values,
            fit_intercept=clf.fit_intercept,
        )
        history = [{"train_loss": value} for value in self.curves["train"]]
        stopped = len(history) < clf.epochs
        judge.check_end(coef, history, lr, stopped=stopped)

    def fitted(
        self, clf: TorchLogisticClassifier, fold: Prepared, weighting: Weighting
    ) -> TorchLogisticClassifier:
        """The classifier that a single fit on the fold would give."""
        clf = copy.copy(clf)  # unfitted; a clone takes much longer
        own = self.values.T  # (n_outputs, n_features [+ 1])
        n = own.shape[1] - clf.fit_intercept
        zeros = np.zeros_like(own[:, 0])
        clf.__dict__.update(
            fold.seen,
            coef_=np.ascontiguousarray(own[:, :n]),
            intercept_=own[:, n].copy() if clf.fit_intercept else zeros,
            classes_=fold.classes,
            n_iter_=len(self.curves["train"]),
            loss_curve_=self.curves["train"],
            history_=self.history(),
            device_=self.device,
            batch_size_=self.batch_size,
            _run=facts_of(clf, weighting, fold.rows),
        )
        if self.curves.get("valid"):
            clf.validation_loss_curve_ = self.curves["valid"]
        return clf

    def history(self) -> list[dict[str, Any]]:
        """What a single fit records of its epochs."""
        n_batches = {"train": self.n_batches, "valid": 1}
        history = []
        least = dict.fromkeys(self.curves, math.inf)
        for epoch, losses in enumerate(zip(*self.curves.values(), strict=True)):
            row: dict[str, Any] = {"epoch": epoch + 1}
            for prefix, loss in zip(self.curves, losses, strict=True):
                record = epoch_record(prefix, loss, least[prefix], n_batches[prefix])
                row.update(record)
                least[prefix] = min(least[prefix], loss)
            row["dur"] = self.seconds[epoch]
            history.append(row)
        return history
