"""Fit classifiers on folds in full batches: one run for each fold and objective.

What is shared is what surrounds the iterations, and the iterations of classifiers that
differ in ``epochs``. The runs come one after the other: each has its own steps and its
own end, to the bit those of a single fit. Products for all at once would add up in
another order, and on badly scaled rows "lbfgs" magnifies that until other candidates
win. Only one run at a time has logits and a Hessian in memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch

from ._callbacks import StopEarly
from ._classifier import TorchLogisticClassifier
from ._folds import Ending, Outcome, Prepared, objective_of, weighting_of
from ._gradient import write_logits
from ._loss import make_loss
from ._objective import Objective, allocate_coefficients
from ._rows import view_block
from ._solvers import find_solver
from ._threads import Team
from ._training import warn_if_short
from ._validation import to_rows
from ._weighting import Weighting


class JointFullBatch:
    """The joint fit of classifiers on folds."""

    def __init__(
        self, classifiers: Sequence[TorchLogisticClassifier], folds: list[Prepared]
    ) -> None:
        self.classifiers, self.folds = classifiers, folds
        self.team = Team()
        # Classifiers that differ in epochs only are moments of one run.
        self.runs: dict[str, list[int]] = {}
        for i, clf in enumerate(classifiers):
            self.runs.setdefault(str(objective_of(clf)), []).append(i)
        for members in self.runs.values():
            members.sort(key=lambda i: classifiers[i].epochs)

    def fit(self) -> list[list[Outcome]]:
        """Outcomes for each fold and each classifier."""
        found = []
        for fold in self.folds:
            outcomes: dict[int, Outcome] = {}
            for members in self.runs.values():
                outcomes.update(self._run(members, fold))
            found.append([outcomes[i] for i in range(len(self.classifiers))])
        return found

    def _run(self, members: list[int], fold: Prepared) -> dict[int, Outcome]:
        """Outcomes of the classifiers whose objective is the same."""
        found: dict[int, Outcome] = {}
        try:
            run = Run(self.classifiers[members[0]], fold, self.team)
            for i in members:
                run.advance(self.classifiers[i].epochs)
                found[i] = run.outcome(self.classifiers[i])
        except Exception as error:  # one that all have who are not there yet
            found.update({i: error for i in members if i not in found})
        return found


class Run:
    """The iterations of one model.

    Parameters
    ----------
    clf : TorchLogisticClassifier
        With the objective.
    fold : Prepared
    team : Team
    """

    def __init__(
        self, clf: TorchLogisticClassifier, fold: Prepared, team: Team
    ) -> None:
        self.fold = fold
        self.weighting: Weighting = weighting_of(clf, fold)
        self.loss = make_loss(len(fold.classes))
        objective = Objective(self.loss, clf.alpha, clf.l1_ratio)
        cpu = torch.device("cpu")
        self.rows = to_rows(fold.rows, self.weighting, self.loss, cpu)
        coef = allocate_coefficients(
            self.rows, self.loss.n_outputs, fit_intercept=clf.fit_intercept
        )
        full_batch = find_solver(clf.optimizer).full_batch
        assert full_batch is not None
        self.solver = full_batch(
            objective, view_block(self.rows), coef, tol=clf.tol, team=team
        )
        self.curves: dict[str, list[float]] = {"train": []}
        self.seconds: list[float] = []
        self.watch: StopEarly | None = None
        if fold.held is not None:
            held = to_rows(fold.held, self.weighting, self.loss, cpu)
            self.held = view_block(held)
            self.curves["valid"] = []
            self.watch = StopEarly(clf.n_iter_no_change, clf.tol)
            self.watch.on_train_begin(None, None)

    @property
    def ended(self) -> bool:
        """Whether more epochs would change nothing, or were not asked for."""
        if not self.seconds:
            return False
        broken = not all(math.isfinite(curve[-1]) for curve in self.curves.values())
        return broken or self.stopped_early or self.solver.done

    @property
    def stopped_early(self) -> bool:
        return self.watch is not None and self.watch.asks_to_stop

    def advance(self, epochs: int) -> None:
        """Go on until there were so many epochs, unless the run ends before."""
        coef, objective = self.solver.coef, self.solver.objective
        while len(self.seconds) < epochs and not self.ended:
            start = time.perf_counter()
            self.solver.epoch()
            self.curves["train"].append(self.solver.loss)
            if self.watch is not None:
                write_logits(objective, self.held, coef)
                loss = objective.mean_loss(self.held).item()
                self.curves["valid"].append(loss)
                self.watch.compare(coef.values, loss)
            self.seconds.append(time.perf_counter() - start)

    def outcome(self, clf: TorchLogisticClassifier) -> Outcome:
        """What a classifier is whose last epoch this was."""
        values = self.solver.coef.values
        if self.watch is not None and self.watch.best_values_ is not None:
            values = self.watch.best_values_
        columns = values.view(len(values), -1).clone()
        curves = {prefix: list(curve) for prefix, curve in self.curves.items()}
        ending = Ending(
            columns.numpy(), curves, self.seconds, batch_size=len(self.rows)
        )
        try:
            ending.check(clf, self.loss, self.rows)
            if clf.epochs and not self.stopped_early:
                warn_if_short(self.solver, clf, clf.epochs)
            return ending.fitted(clf, self.fold, self.weighting)
        except Exception as error:  # or a warning that is to be one
            return error
