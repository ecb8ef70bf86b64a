"""Fit classifiers on folds in full batches: one run for each fold and objective.

Classifiers that differ in ``epochs`` are moments of one run. Each run has its own steps
and its own end, to the bit those of a single fit: on badly scaled rows "lbfgs"
magnifies any rounding until other candidates win. Where the rows are few, and for
"newton" the coefficients, runs go on in lockstep, as an iteration costs more calls than
it computes. Else they come one after the other, and only one at a time has logits and a
Hessian in memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from ._callbacks import StopEarly
from ._classifier import TorchLogisticClassifier
from ._convergence import warn_if_short
from ._folds import (
    Advance,
    Ending,
    Outcome,
    Prepared,
    objective_of,
    weighting_of,
)
from ._gradient import write_logits
from ._lockstep import Lockstep
from ._loss import make_loss
from ._objective import Objective, allocate_coefficients
from ._rows import view_block
from ._solvers import find_solver
from ._threads import Team
from ._validation import to_rows
from ._weighting import Weighting


class JointFullBatch:
    """The joint fit of classifiers on folds."""

    def __init__(
        self, classifiers: Sequence[TorchLogisticClassifier], folds: list[Prepared]
    ) -> None:
        self.classifiers, self.folds = classifiers, folds
        self.team = Team()
        in_lockstep = find_solver(classifiers[0].optimizer).lockstep
        assert in_lockstep is not None
        self.in_lockstep = in_lockstep
        # Classifiers that differ in epochs only are moments of one run.
        self.runs: dict[str, list[int]] = {}
        for i, clf in enumerate(classifiers):
            self.runs.setdefault(str(objective_of(clf)), []).append(i)
        for members in self.runs.values():
            members.sort(key=lambda i: classifiers[i].epochs)

    def fit(self, advance: Advance) -> list[list[Outcome]]:
        """Outcomes for each fold and each classifier."""
        found = []
        for fold in self.folds:
            outcomes: dict[int, Outcome] = {}
            for part in self._parts(fold):
                self._train(part, fold, outcomes)
                advance(sum(map(len, part)))
            found.append([outcomes[i] for i in range(len(self.classifiers))])
        return found

    def _parts(self, fold: Prepared) -> list[list[list[int]]]:
        """The members of the runs, by which of them go on in lockstep.

        Those with an L1 penalty and those without do not do so together.
        """
        n_outputs = make_loss(len(fold.classes)).n_outputs
        length = fold.rows.X.shape[1] + self.classifiers[0].fit_intercept
        n_logits = len(fold.rows.y) * n_outputs
        size = self.in_lockstep.most(n_logits, length * n_outputs)
        by_kind: dict[bool, list[list[int]]] = {}
        for members in self.runs.values():
            has_l1 = bool(objective_of(self.classifiers[members[0]]).l1)
            by_kind.setdefault(has_l1, []).append(members)
        return [
            runs[start : start + size]
            for runs in by_kind.values()
            for start in range(0, len(runs), size)
        ]

    def _train(
        self, part: list[list[int]], fold: Prepared, found: dict[int, Outcome]
    ) -> None:
        """Find the outcomes of runs."""
        runs = []
        for members in part:
            waiting = [(i, self.classifiers[i]) for i in members]
            try:
                runs.append(Run(waiting, fold, self.team))
            except Exception as error:
                found.update(dict.fromkeys(members, error))
        if len(runs) > 1:
            advance_together(runs, self.in_lockstep, found)
        else:
            for run in runs:
                run.advance(found)


def advance_together(
    runs: list[Run], in_lockstep: type[Lockstep[Any]], found: dict[int, Outcome]
) -> None:
    """Train runs in lockstep to their ends."""
    for run in runs:
        run.give(found)
    runs = [run for run in runs if run.waiting]
    if not runs:
        return
    start = time.perf_counter()
    lockstep = in_lockstep([run.solver for run in runs])
    while runs:
        try:
            lockstep.epoch()
        except Exception:  # of one, who will raise it again
            for run in runs:
                run.advance(found)
            return
        seconds = (time.perf_counter() - start) / len(runs)
        start = time.perf_counter()
        for run in runs:
            run.look(seconds)
            run.give(found)
        going = [run for run in runs if run.waiting]
        if len(going) < len(runs):
            runs = going
            lockstep.keep([run.solver for run in runs])


class Run:
    """The iterations of one model.

    Parameters
    ----------
    members : list of (int, TorchLogisticClassifier)
        Classifiers with its objective, that differ in ``epochs``, by the least first.
    fold : Prepared
    team : Team
    """

    def __init__(
        self,
        members: list[tuple[int, TorchLogisticClassifier]],
        fold: Prepared,
        team: Team,
    ) -> None:
        self.waiting = members  # for their outcomes
        clf = members[0][1]
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

    def advance(self, found: dict[int, Outcome]) -> None:
        """Train until all members have their outcomes."""
        try:
            self.give(found)
            while self.waiting:
                start = time.perf_counter()
                self.solver.epoch()
                self.look(time.perf_counter() - start)
                self.give(found)
        except Exception as error:  # one that all have who are not there yet
            found.update({i: error for i, _ in self.waiting})

    def look(self, seconds: float) -> None:
        """Take note of an epoch."""
        self.curves["train"].append(self.solver.loss)
        if self.watch is not None:
            start, coef = time.perf_counter(), self.solver.coef
            write_logits(self.solver.objective, self.held, coef)
            loss = self.solver.objective.mean_loss(self.held).item()
            self.curves["valid"].append(loss)
            self.watch.compare(coef.values, loss)
            seconds += time.perf_counter() - start
        self.seconds.append(seconds)

    def give(self, found: dict[int, Outcome]) -> None:
        """Find the outcomes of members whose last epoch this was: all at the end."""
        while self.waiting:
            i, clf = self.waiting[0]
            if clf.epochs > len(self.seconds) and not self.ended:
                return
            found[i] = self.outcome(clf)
            del self.waiting[0]

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
                warn_if_short(self.solver, clf, clf.epochs, self.fold.classes)
            return ending.fitted(clf, self.fold, self.weighting)
        except Exception as error:  # or a warning that is to be one
            return error
