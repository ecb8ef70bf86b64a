"""Fit classifiers on folds in full batches: one run for each fold and objective.

Classifiers that differ in ``epochs`` are moments of one run. Where the rows are few, an
iteration of "lbfgs" costs more calls than it computes, and the runs of a fold go on in
lockstep. Else they come one after the other, to the bit as single fits, and only one at
a time has logits and a Hessian in memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from ._arrays import SERIAL_ENTRIES
from ._callbacks import StopEarly
from ._classifier import TorchLogisticClassifier
from ._folds import Ending, Outcome, Prepared, objective_of, weighting_of
from ._fullbatch import FullBatch
from ._gradient import write_logits
from ._lbfgs import LBFGS
from ._lockstep import Lockstep, Model
from ._loss import make_loss
from ._objective import Objective, allocate_coefficients
from ._rows import view_block
from ._solvers import find_solver
from ._threads import Team
from ._training import warn_if_short
from ._validation import to_rows

# Of the logits or coefficients of all models in lockstep: a call on so many takes
# little longer than one on few, and torch does not share it with its threads.
LOCKSTEP_ENTRIES = SERIAL_ENTRIES
LEAST_MODELS = 3  # of which there is something to gain


class JointFullBatch:
    """The joint fit of classifiers on folds."""

    def __init__(
        self, classifiers: Sequence[TorchLogisticClassifier], folds: list[Prepared]
    ) -> None:
        self.classifiers, self.folds = classifiers, folds
        self.solver = find_solver(classifiers[0].optimizer).full_batch
        self.team = Team()
        # Classifiers that differ in epochs only are moments of one run.
        members: dict[str, list[int]] = {}
        for i, clf in enumerate(classifiers):
            members.setdefault(str(objective_of(clf)), []).append(i)
        self.members = list(members.values())

    def fit(self) -> list[list[Outcome]]:
        """Outcomes for each fold and each classifier."""
        found = []
        for fold in self.folds:
            outcomes: dict[int, Outcome] = {}
            for part in self._parts(fold):
                self._train(part, fold, outcomes)
            found.append([outcomes[i] for i in range(len(self.classifiers))])
        return found

    def _parts(self, fold: Prepared) -> Iterator[list[list[int]]]:
        """Members of the runs that go on together."""
        n_outputs = make_loss(len(fold.classes)).n_outputs
        entries = max(fold.rows.X.shape) * n_outputs  # of the longest vectors
        size = LOCKSTEP_ENTRIES // entries if self.solver is LBFGS else 1
        if size < LEAST_MODELS:
            size = 1
        for has_l1 in (False, True):  # with an L1 penalty the steps are others
            runs = [
                members
                for members in self.members
                if bool(objective_of(self.classifiers[members[0]])[1]) is has_l1
            ]
            for start in range(0, len(runs), size):
                yield runs[start : start + size]

    def _train(
        self, part: list[list[int]], fold: Prepared, found: dict[int, Outcome]
    ) -> None:
        """Train runs, and find the classifiers that are moments of them."""
        try:
            runs = [
                Run([(i, self.classifiers[i]) for i in members], fold)
                for members in part
            ]
            advance = self._start(runs)
            while True:
                for run in runs:
                    run.give(found)
                going = [m for m, run in enumerate(runs) if run.waiting]
                if not going:
                    return
                start = time.perf_counter()
                advance(going)
                for m in going:
                    runs[m].look((time.perf_counter() - start) / len(going))
        except Exception as error:  # one that all have who are not there yet
            missing = [i for members in part for i in members if i not in found]
            found.update(dict.fromkeys(missing, error))

    def _start(self, runs: list[Run]) -> Callable[[list[int]], None]:
        """Give runs their models; returns what trains some of them for an epoch."""
        first = self.classifiers[0]
        if len(runs) > 1:
            lockstep = Lockstep(
                [run.rows for run in runs],
                runs[0].objective.loss,
                l2=np.array([run.objective.l2 for run in runs]),
                l1=np.array([run.objective.l1 for run in runs]),
                fit_intercept=first.fit_intercept,
                tol=first.tol,
            )
            for run, model in zip(runs, lockstep.models, strict=True):
                run.model = model
            return lambda going: lockstep.epoch(np.array(going))
        (run,) = runs
        assert self.solver is not None
        coef = allocate_coefficients(
            run.rows, run.objective.loss.n_outputs, fit_intercept=first.fit_intercept
        )
        block = view_block(run.rows)
        solver = self.solver(run.objective, block, coef, tol=first.tol, team=self.team)
        run.model = solver
        return lambda going: solver.epoch()


class Run:
    """The epochs of one model.

    Parameters
    ----------
    members : list of (int, TorchLogisticClassifier)
        Classifiers with the objective, that differ in ``epochs``.
    fold : Prepared
    """

    model: FullBatch | Model

    def __init__(
        self, members: list[tuple[int, TorchLogisticClassifier]], fold: Prepared
    ) -> None:
        # Who is still to come, the next one last.
        self.waiting = sorted(members, key=lambda member: -member[1].epochs)
        clf, self.fold = members[0][1], fold
        self.weighting = weighting_of(clf, fold)
        loss = make_loss(len(fold.classes))
        self.objective = Objective(loss, clf.alpha, clf.l1_ratio)
        cpu = torch.device("cpu")
        self.rows = to_rows(fold.rows, self.weighting, loss, cpu)
        self.curves: dict[str, list[float]] = {"train": []}
        self.seconds: list[float] = []
        self.watch: StopEarly | None = None
        if fold.held is not None:
            self.held = view_block(to_rows(fold.held, self.weighting, loss, cpu))
            self.curves["valid"] = []
            self.watch = StopEarly(clf.n_iter_no_change, clf.tol)
            self.watch.on_train_begin(None, None)

    @property
    def stopped_early(self) -> bool:
        return self.watch is not None and self.watch.asks_to_stop

    @property
    def ended(self) -> bool:
        """Whether more epochs would change nothing, or are not to be."""
        if not self.seconds:
            return False
        broken = not all(math.isfinite(curve[-1]) for curve in self.curves.values())
        return broken or self.stopped_early or self.model.done

    def look(self, seconds: float) -> None:
        """Take note of an epoch."""
        self.curves["train"].append(self.model.loss)
        if self.watch is not None:
            start, coef = time.perf_counter(), self.model.coef
            write_logits(self.objective, self.held, coef)
            loss = self.objective.mean_loss(self.held).item()
            self.curves["valid"].append(loss)
            self.watch.compare(coef.values, loss)
            seconds += time.perf_counter() - start
        self.seconds.append(seconds)

    def give(self, found: dict[int, Outcome]) -> None:
        """Find the classifiers whose last epoch this was: all, if the run ended."""
        while self.waiting:
            i, clf = self.waiting[-1]
            if clf.epochs > len(self.seconds) and not self.ended:
                return
            try:
                found[i] = self._fitted(clf)
            except Exception as error:  # or a warning that is to be one
                found[i] = error
            self.waiting.pop()

    def _fitted(self, clf: TorchLogisticClassifier) -> TorchLogisticClassifier:
        values = self.model.coef.values
        if self.watch is not None and self.watch.best_values_ is not None:
            values = self.watch.best_values_
        ending = Ending(
            values.reshape(len(values), -1).clone().numpy(),
            {prefix: list(curve) for prefix, curve in self.curves.items()},
            self.seconds,
            batch_size=len(self.rows),
        )
        ending.check(clf, self.objective.loss, self.rows)
        if clf.epochs and not self.stopped_early:
            warn_if_short(self.model, clf, clf.epochs)
        return ending.fitted(clf, self.fold, self.weighting)
