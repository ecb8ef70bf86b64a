"""Fit and score the candidates of a search: which of them together, and how.

Top-level functions do the work, so that workers in other processes can.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import joblib
import numpy as np
from sklearn import get_config
from sklearn.base import clone
from sklearn.metrics._scorer import _BaseScorer, _PassthroughScorer
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import process_routing
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_method_params

from ._folds import Advance, Fold, nobody
from ._scoring import score_all
from ._together import can_join, fit_together, in_common


@dataclass
class Scored:
    """What is known of one candidate on one split.

    Parameters
    ----------
    error : Exception or None
        Of the fit.
    test, train : scores, or the exception of the scorer
    fit_time, score_time : float
        In seconds; that of a joint fit in equal shares.
    """

    error: Exception | None
    test: Any = None
    train: Any = None
    fit_time: float = 0.0
    score_time: float = 0.0


@dataclass
class Work:
    """What there is to fit and to score.

    Parameters
    ----------
    X, y : data
    splits : list of (train, test)
    fit_params, score_params : dict
    scorer : callable
    train_score : bool
        Whether the training rows are scored too.
    """

    X: Any
    y: Any
    splits: list[tuple[np.ndarray, np.ndarray]]
    fit_params: dict[str, Any]
    score_params: dict[str, Any]
    scorer: Any
    train_score: bool

    def train(self, estimator: Any, split: int) -> tuple[Any, Any, dict[str, Any]]:
        """Training rows of a split, and their share of the parameters of ``fit``."""
        train = self.splits[split][0]
        X, y = _safe_split(estimator, self.X, self.y, train)
        return X, y, _check_method_params(self.X, params=self.fit_params, indices=train)

    def test(self, estimator: Any, split: int) -> tuple[Any, Any]:
        train, test = self.splits[split]
        X, y = _safe_split(estimator, self.X, self.y, test, train)
        return X, y

    def score(self, estimator: Any, split: int, scored: Scored) -> None:
        """Score a fitted estimator."""
        train, test = self.splits[split]
        start = time.perf_counter()
        scored.test = self._scores(estimator, *self.test(estimator, split), test)
        scored.score_time = time.perf_counter() - start
        if self.train_score:
            X, y, _ = self.train(estimator, split)
            scored.train = self._scores(estimator, X, y, train)

    def _scores(self, estimator: Any, X: Any, y: Any, index: Any) -> Any:
        params = _check_method_params(self.X, params=self.score_params, indices=index)
        try:
            return self.scorer(estimator, X, *(() if y is None else (y,)), **params)
        except Exception as error:
            return error


class SplitScorer:
    """Scores the candidates of one split, whose rows are transformed only once.

    scikit-learn's own scorers ask an estimator for its predictions alone. Those of a
    pipeline are those of its classifier for transformed rows. A user's scorer may look
    at more, and gets the pipeline.
    """

    def __init__(
        self, work: Work, estimator: Any, head: Pipeline | None, split: int
    ) -> None:
        self.work, self.split = work, split
        scorers = getattr(work.scorer, "_scorers", {"": work.scorer}).values()
        known = all(isinstance(s, _BaseScorer | _PassthroughScorer) for s in scorers)
        self.by_classifier = known and not work.score_params
        if self.by_classifier:
            rows = [work.test(estimator, split)]
            if work.train_score:
                rows.append(work.train(estimator, split)[:2])
            try:
                self.rows = [
                    (X if head is None else head.transform(X), y) for X, y in rows
                ]
            except Exception:  # each pipeline will say what is wrong
                self.by_classifier = False

    def score(self, pairs: Sequence[tuple[Scored, Any]]) -> None:
        """Score fitted estimators, each into its place."""
        if not self.by_classifier:
            for scored, estimator in pairs:
                self.work.score(estimator, self.split, scored)
            return
        classifiers = [head_and_classifier(estimator)[1] for _, estimator in pairs]
        start = time.perf_counter()
        scores = [score_all(self.work.scorer, classifiers, *xy) for xy in self.rows]
        seconds = (time.perf_counter() - start) / max(1, len(scores) * len(pairs))
        for i, (scored, _) in enumerate(pairs):
            scored.test, scored.train = scores[0][i], scores[-1][i]
            scored.score_time = seconds


def head_and_classifier(estimator: Any) -> tuple[Pipeline | None, Any]:
    """Take a pipeline apart into its transformers and what they feed."""
    if type(estimator) is not Pipeline:
        return None, estimator
    head = estimator[:-1] if len(estimator.steps) > 1 else None
    return head, estimator.steps[-1][1]


def is_watched(estimator: Any) -> bool:
    """Whether callbacks of scikit-learn watch a fit, or that of a pipeline's step."""
    steps = estimator.steps if type(estimator) is Pipeline else []
    parts = [estimator, *(step for _, step in steps)]
    return any(getattr(part, "_skl_callbacks", None) for part in parts)


def weight_of(estimator: Any, fit_params: dict[str, Any]) -> tuple[bool, Any]:
    """Whether the classifier needs no more of ``fit_params`` than weights; these."""
    given = {k: v for k, v in fit_params.items() if v is not None}
    # Of nothing, process_routing makes what cannot be iterated over.
    if given and type(estimator) is Pipeline:
        if getattr(estimator, "transform_input", None):
            return False, None
        name = estimator.steps[-1][0]
        if get_config()["enable_metadata_routing"]:
            routed = process_routing(estimator, "fit", **given)
            steps = [step for step in routed if any(routed[step].values())]
            if any(step != name for step in steps):
                return False, None
            given = dict(routed[name].fit) if steps else {}
        else:
            prefix = f"{name}__"
            if not all(key.startswith(prefix) for key in given):
                return False, None
            given = {key.removeprefix(prefix): value for key, value in given.items()}
    return given.keys() <= {"sample_weight"}, given.get("sample_weight")


def group_key(estimator: Any) -> str | None:
    """What estimators that are fitted together have in common; None for loners."""
    head, classifier = head_and_classifier(estimator)
    if is_watched(estimator) or not can_join(classifier):
        return None
    shared = head, getattr(estimator, "memory", None), in_common(classifier)
    try:
        key: str = joblib.hash(shared)
    except Exception:  # what cannot be pickled cannot be compared
        return None
    return key


def fit_group(
    estimators: Sequence[Any],
    splits: Sequence[int],
    work: Work,
    advance: Advance = nobody,
) -> list[list[Scored]]:
    """Fit and score a group on some splits: for each split and estimator."""
    start = time.perf_counter()
    heads: dict[int, Pipeline | None] = {}
    folds: dict[int, Fold] = {}
    errors: dict[int, Exception] = {}
    for split in splits:
        estimator = clone(estimators[0])
        X, y, params = work.train(estimator, split)
        head = heads[split] = head_and_classifier(estimator)[0]
        try:
            X = X if head is None else head.fit_transform(X, y)
        except Exception as error:
            errors[split] = error
        else:
            folds[split] = Fold(X, y, weight_of(estimator, params)[1])
    classifiers = [head_and_classifier(estimator)[1] for estimator in estimators]
    found = fit_together(classifiers, list(folds.values()), advance)
    outcomes = dict(zip(folds, found, strict=True))
    seconds = (time.perf_counter() - start) / (len(estimators) * len(splits))
    results = []
    for split in splits:
        row = [Scored(errors.get(split), fit_time=seconds) for _ in estimators]
        results.append(row)
        if split in errors:
            continue
        fitted = []
        for scored, one, outcome in zip(row, estimators, outcomes[split], strict=True):
            if isinstance(outcome, Exception):
                scored.error = outcome
            else:
                fitted.append((scored, assembled(one, heads[split], outcome)))
        SplitScorer(work, estimators[0], heads[split], split).score(fitted)
    return results


def assembled(estimator: Any, head: Pipeline | None, classifier: Any) -> Any:
    """A fitted estimator from the fitted transformers and the fitted classifier."""
    if type(estimator) is not Pipeline:
        return classifier
    fitted = copy.copy(estimator)
    steps = [] if head is None else head.steps
    fitted.steps = [*steps, (estimator.steps[-1][0], classifier)]
    return fitted


def fit_alone(
    estimators: Sequence[Any],
    splits: Sequence[int],
    work: Work,
    advance: Advance = nobody,
) -> list[list[Scored]]:
    """The same for one estimator on one split, as scikit-learn's search does it."""
    (estimator,), (split,) = estimators, splits
    start = time.perf_counter()
    estimator, scored = clone(estimator), Scored(None)
    X, y, params = work.train(estimator, split)
    try:
        estimator.fit(X, *(() if y is None else (y,)), **params)
    except Exception as error:
        scored.error = error
    scored.fit_time = time.perf_counter() - start
    if scored.error is None:
        work.score(estimator, split, scored)
    return [[scored]]


class Progress:
    """A bar over fits, which moves by whole ones."""

    def __init__(self, bar: Any) -> None:
        self.bar, self.fits = bar, 0.0

    def advance(self, fits: float) -> None:
        self.reach(self.fits + fits)

    def reach(self, fits: float) -> None:
        self.fits = fits
        self.bar.update(int(fits) - self.bar.n)


class Plan:
    """Which estimators are fitted together.

    Parameters
    ----------
    estimators : list
        One for each candidate, with its parameters.
    work : Work
    """

    def __init__(self, estimators: list[Any], work: Work) -> None:
        self.estimators, self.work = estimators, work
        self.groups: dict[str, list[int]] = {}
        self.alone: list[int] = []
        for i, estimator in enumerate(estimators):
            key = group_key(estimator)
            try:
                simple, weight = weight_of(estimator, work.fit_params)
            except Exception:  # its own fit will say what is wrong
                simple = False
            if key is None or not simple:
                self.alone.append(i)
            else:
                # Of two classifiers, one may have asked for the weights only.
                key += f" {weight is None}"
                self.groups.setdefault(key, []).append(i)

    def run(self, n_jobs: int | None, pre_dispatch: Any, bar: Any) -> list[Scored]:
        """Fit and score all, for each candidate and each split."""
        n_splits = len(self.work.splits)
        # A part for each worker; the folds of a part stay together.
        n_parts = -(-joblib.effective_n_jobs(n_jobs) // max(1, len(self.groups)))
        parts = np.array_split(np.arange(n_splits), min(n_parts, n_splits))
        tasks: list[tuple[Any, list[int], list[int]]] = [
            (fit_group, members, part.tolist())
            for members, part in product(self.groups.values(), parts)
        ]
        tasks += [
            (fit_alone, [i], [split])
            for i, split in product(self.alone, range(n_splits))
        ]
        progress = Progress(bar)
        # From other processes and threads nothing is heard before a task is done.
        alone = joblib.effective_n_jobs(n_jobs) == 1
        heard = [progress.advance] if alone else []
        parallel = Parallel(n_jobs, pre_dispatch=pre_dispatch, return_as="generator")
        results = parallel(
            delayed(function)(
                [self.estimators[i] for i in members], part, self.work, *heard
            )
            for function, members, part in tasks
        )
        found: dict[tuple[int, int], Scored] = {}
        done = 0
        for (_, members, part), rows in zip(tasks, results, strict=True):
            for split, row in zip(part, rows, strict=True):
                found.update(zip(product(members, [split]), row, strict=True))
            done += len(members) * len(part)
            progress.reach(done)
        pairs = product(range(len(self.estimators)), range(n_splits))
        return [found[pair] for pair in pairs]
