"""Searches that train their candidates together.

``BatchedGridSearchCV`` and ``BatchedRandomizedSearchCV`` are scikit-learn's searches:
candidates, results, refit and metadata are theirs. What changes is where the scores of
a candidate come from. Before scikit-learn asks for the first ones, all candidates are
fitted, together where they can be, and scored. The search then runs over a stand-in
for its estimator that has been through all that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from sklearn.base import _fit_context, clone, is_classifier
from sklearn.metrics._scorer import _MultimetricScorer
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, check_cv
from sklearn.utils import get_tags
from sklearn.utils.validation import _num_samples, indexable
from tqdm import tqdm

from ._plan import Plan, Scored, Work, is_watched


class StandIn:
    """Stands in for the estimator while scikit-learn's search runs.

    The search clones its estimator, sets the parameters of a candidate, fits and
    scores. Here ``set_params`` moves to the candidate and split whose turn it is, and
    ``fit`` has nothing left to do but raise what the real one raised.

    Parameters
    ----------
    estimator : estimator
        The real one.
    X, y : data
    """

    def __init__(self, estimator: Any, X: Any, y: Any) -> None:
        self.estimator = estimator
        self.X, self.y = X, y
        self.turns: Iterator[Scored] | None = iter(())
        self.traces: dict[int, Any] = {}
        self.tags = get_tags(estimator)
        self.tags.input_tags.pairwise = False  # what scikit-learn gets is not rows

    def __sklearn_clone__(self) -> Any:
        # When all turns are taken the search refits.
        return self if self.turns is not None else Refit(self)

    def __sklearn_tags__(self) -> Any:
        return self.tags

    def set_params(self, **params: Any) -> Self:
        assert self.turns is not None
        self.turn = next(self.turns)
        return self

    def fit(self, *args: Any, **kwargs: Any) -> Self:
        error = self.turn.error
        if error is not None:
            # Candidates may share it, and each raise would lengthen its traceback.
            trace = self.traces.setdefault(id(error), error.__traceback__)
            raise error.with_traceback(trace)
        self.scores = iter((self.turn.test, self.turn.train))
        return self


class Refit:
    """Stands in for the best estimator, which it fits on the real rows."""

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in

    def set_params(self, **params: Any) -> Self:
        self.real = clone(self.stand_in.estimator).set_params(**params)
        return self

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        given = () if y is None else (self.stand_in.y,)
        self.real.fit(self.stand_in.X, *given, **params)
        return self


class Recorded:
    """A scorer that tells a stand-in's scores, in the order they are asked for."""

    def __init__(self, scorer: Any) -> None:
        self.scorer = scorer

    def __call__(self, estimator: Any, *args: Any, **kwargs: Any) -> Any:
        scores = next(estimator.scores)
        if isinstance(scores, Exception):
            raise scores
        return scores

    def __repr__(self) -> str:  # in messages about scores
        return repr(self.scorer)


class RecordedMetrics(Recorded, _MultimetricScorer):
    """The same for several metrics, as the class that scikit-learn looks for."""

    def __init__(self, scorer: Any) -> None:
        super().__init__(scorer)
        self._scorers = scorer._scorers


class Uncut(np.ndarray):
    """An array of which any rows are all rows.

    scikit-learn cuts the rows of a split from X and y for each candidate, in a third of
    a millisecond, and a stand-in does not look at them.
    """

    # _safe_indexing leaves to ``take`` the rows of what has these, as data frames have.
    iloc = loc = property(lambda self: self)

    def take(self, *args: Any, **kwargs: Any) -> Any:
        return self


class RealSplits:
    """Draws the splits of the real rows, whatever rows it is given."""

    def __init__(self, cv: Any, X: Any, y: Any) -> None:
        self.cv = cv
        self.rows = X, y

    def split(self, X: Any = None, y: Any = None, **kwargs: Any) -> Any:
        return self.cv.split(*self.rows, **kwargs)

    def get_n_splits(self, X: Any = None, y: Any = None, **kwargs: Any) -> int:
        n_splits: int = self.cv.get_n_splits(*self.rows, **kwargs)
        return n_splits


class Splits:
    """Splits that were drawn already."""

    def __init__(self, splits: list[Any]) -> None:
        self.splits = splits

    def split(self, X: Any, y: Any = None, groups: Any = None, **kw: Any) -> list[Any]:
        return self.splits


class _BatchedSearch:
    """What the batched searches add to those of scikit-learn."""

    estimator: Any
    cv: Any
    refit: Any
    best_estimator_: Any
    _scorer: Any
    _routed: Any

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Run the search.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        **params : dict
            As in :meth:`sklearn.model_selection.GridSearchCV.fit`.

        Returns
        -------
        self : object
            With the attributes of scikit-learn's search.
        """
        own_search = type(self)._run_search is _BatchedSearch._run_search
        watched = is_watched(self) or is_watched(self.estimator)
        if watched or not own_search:
            return super().fit(X, y, **params)  # type: ignore[misc]
        X, y = indexable(X, y)
        with self._standing_in(X, y):
            # scikit-learn would copy rows for each candidate and split: it gets others.
            rows = np.broadcast_to(np.uint8(0), (_num_samples(X), 1)).view(Uncut)
            labels = y.view(Uncut) if type(y) is np.ndarray else y
            super().fit(rows, labels, **params)  # type: ignore[misc]
            scorer = self._scorer
        self.scorer_ = getattr(scorer, "_scorers", scorer)
        if self.refit and hasattr(self.best_estimator_, "feature_names_in_"):
            self.feature_names_in_ = self.best_estimator_.feature_names_in_
        return self

    @contextmanager
    def _standing_in(self, X: Any, y: Any) -> Iterator[None]:
        """Put a stand-in where scikit-learn's search finds its estimator."""
        before = set(vars(self))
        real = {name: getattr(self, name) for name in ("estimator", "cv", "n_jobs")}
        cv = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        cv = RealSplits(cv, X, y)
        self._real = real
        self._stand_in = StandIn(self.estimator, X, y)
        self._scored: list[Scored] = []
        # What is left to do needs one worker.
        vars(self).update(estimator=self._stand_in, cv=cv, n_jobs=1)
        try:
            yield
        finally:
            vars(self).update(real)
            kept = getattr(self, "_checked_cv_orig", None)  # scikit-learn >= 1.9
            if isinstance(kept, RealSplits):
                self._checked_cv_orig = kept.cv  # which refers to no rows
            best = getattr(self, "best_estimator_", None)
            if isinstance(best, Refit):
                self.best_estimator_ = best.real
            own = {"_real", "_stand_in", "_scored", "_scorer", "_routed"}
            for name in own & (vars(self).keys() - before):
                delattr(self, name)

    @contextmanager
    def _unmasked(self) -> Iterator[bool]:
        """Put the parameters back for a while; yields whether they were replaced."""
        masked = isinstance(self.estimator, StandIn)
        real = self._real if masked else {}
        mask = {name: getattr(self, name) for name in real}
        vars(self).update(real)
        try:
            yield masked
        finally:
            vars(self).update(mask)

    def get_metadata_routing(self) -> Any:
        """Get the metadata routing of the search: that of scikit-learn's search.

        Returns
        -------
        routing : MetadataRouter
        """
        with self._unmasked():
            return super().get_metadata_routing()  # type: ignore[misc]

    def _check_scorers_accept_sample_weight(self) -> Any:
        with self._unmasked():
            return super()._check_scorers_accept_sample_weight()  # type: ignore[misc]

    def _get_routed_params_for_fit(self, params: Any) -> Any:
        routed = super()._get_routed_params_for_fit(params)  # type: ignore[misc]
        if isinstance(self.estimator, StandIn):
            self._routed = routed
        return routed

    def _get_scorers(self) -> Any:
        with self._unmasked() as masked:  # a scorer may keep the estimator
            scorer, refit_metric = super()._get_scorers()  # type: ignore[misc]
        if not masked:
            return scorer, refit_metric
        self._scorer = scorer
        several = isinstance(scorer, _MultimetricScorer)
        return RecordedMetrics(scorer) if several else Recorded(scorer), refit_metric

    def _run_search(
        self, evaluate_candidates: Any, *, callback_ctx: Any = None
    ) -> None:
        # scikit-learn < 1.9 knows no context.
        kw = {} if callback_ctx is None else {"callback_ctx": callback_ctx}
        stand_in = getattr(self, "_stand_in", None)
        if stand_in is None:
            super()._run_search(evaluate_candidates, **kw)  # type: ignore[misc]
            return

        def evaluate(candidates: Any, cv: Any = None, *args: Any, **kw: Any) -> Any:
            candidates = list(candidates)
            scored, splits = self._evaluate(candidates, cv or self.cv)
            stand_in.turns = iter(scored)
            self._scored += scored
            return evaluate_candidates(candidates, Splits(splits), *args, **kw)

        super()._run_search(evaluate, **kw)  # type: ignore[misc]
        stand_in.turns = None

    def _evaluate(self, candidates: list[Any], cv: Any) -> tuple[list[Scored], Any]:
        """Fit and score all candidates on all splits."""
        X, y, routed = self._stand_in.X, self._stand_in.y, self._routed
        splits = list(cv.split(X, y, **routed.splitter.split))
        n_splits = self.cv.get_n_splits(X, y, **routed.splitter.split)
        if not splits or not candidates:
            return [], splits  # scikit-learn's search says what is missing
        if len(splits) != n_splits:
            raise ValueError(
                "cv.split and cv.get_n_splits return inconsistent results. Expected "
                f"{n_splits} splits, got {len(splits)}"
            )
        estimators = [
            clone(self._stand_in.estimator).set_params(**clone(candidate, safe=False))
            for candidate in candidates
        ]
        work = Work(
            X=X,
            y=y,
            splits=splits,
            fit_params=dict(routed.estimator.fit),
            score_params=dict(routed.scorer.score),
            scorer=self._scorer,
            train_score=self.return_train_score,  # type: ignore[attr-defined]
        )
        total = len(candidates) * len(splits)
        quiet = self.verbose != 1  # type: ignore[attr-defined]
        with tqdm(total=total, unit="fit", disable=quiet) as bar:
            plan = Plan(estimators, work)
            jobs = self._real["n_jobs"], self.pre_dispatch  # type: ignore[attr-defined]
            return plan.run(*jobs, bar), splits

    def _format_results(
        self, candidates: Any, n_splits: int, out: Any, *args: Any
    ) -> Any:
        for one, scored in zip(out, getattr(self, "_scored", []), strict=False):
            one["fit_time"], one["score_time"] = scored.fit_time, scored.score_time
        return super()._format_results(  # type: ignore[misc]
            candidates, n_splits, out, *args
        )


class BatchedGridSearchCV(_BatchedSearch, GridSearchCV):
    """Grid search that trains its candidates together.

    For a :class:`TorchLogisticClassifier`, or a ``Pipeline`` that ends in one, the same
    results as :class:`sklearn.model_selection.GridSearchCV`, sooner. Parameters,
    attributes and methods are the same, too.

    Candidates that differ in ``lr``, ``alpha``, ``l1_ratio``, ``momentum``,
    ``class_weight``, ``pos_weight``, numbers of ``optimizer_params`` and ``epochs``
    only are trained in one run: they see the same batches, so that their coefficients
    can be columns of one matrix, and a run of 100 epochs passes through 10, 20 and 50
    on its way. Small folds are trained side by side. With "lbfgs" and "newton" each
    candidate takes its own steps and stops on its own; those that differ in ``epochs``
    are one run. Transformers are fitted once for each fold. Other parameters cut the
    grid into groups. What cannot be trained together is fitted one by one, silently;
    the notes below say what that is.

    Parameters
    ----------
    estimator : estimator object
        A :class:`TorchLogisticClassifier` or a ``Pipeline`` that ends in one. Any other
        estimator works as in scikit-learn's search.

    param_grid : dict or list of dicts
        Parameters and the values to try.

    scoring : str, callable, list, tuple or dict, default=None
        As in scikit-learn's search. A scorer of the user's own gets the fitted
        pipeline; those of scikit-learn are called with its classifier and rows that
        were transformed once.

    n_jobs : int, default=None
        Number of workers, among which groups and folds are spread.

    refit : bool, str or callable, default=True
        Whether, and by which metric, the best candidate is fitted on all rows.

    cv : int, cross-validation generator or iterable, default=None
        Splits; 5 stratified folds by default.

    verbose : int, default=0
        1 shows a progress bar over candidates and folds, more prints what
        scikit-learn's search prints.

    pre_dispatch : int or str, default='2*n_jobs'
        Tasks that are sent to the workers ahead of time.

    error_score : 'raise' or numeric, default=np.nan
        Score of a candidate whose fit fails, for instance because it diverges. The
        others are unharmed.

    return_train_score : bool, default=False
        Whether ``cv_results_`` has scores of the training rows.

    Attributes
    ----------
    cv_results_ : dict of arrays
        The fit time of a candidate is that of its run in equal shares.

    best_estimator_, best_score_, best_params_, best_index_
        The best candidate, fitted on all rows by itself.

    scorer_, n_splits_, refit_time_, multimetric_
        As in scikit-learn's search.

    See Also
    --------
    BatchedRandomizedSearchCV : The same for candidates drawn at random.
    sklearn.model_selection.GridSearchCV : One fit after the other.

    Notes
    -----
    With an int as ``random_state`` the coefficients of each candidate are those of a
    fit of its own up to rounding, as sums are taken in another order. Steps that are
    too long for unscaled features magnify it, as they do a last bit of X.

    A candidate is fitted by itself, as by scikit-learn's search, if it has

    * ``verbose``, ``warm_start`` or ``callbacks`` other than their defaults (the
      ``verbose`` of the search does not matter);
    * a ``RandomState`` instance as ``random_state``, in place of an int or None;
    * callbacks of scikit-learn (``set_callbacks``) that watch the search, the pipeline
      or one of its steps;
    * an optimizer other than those with a name and their classes in torch: another
      class of ``torch.optim``, or a subclass;
    * a ``class_weight`` of zero, or ``dampening`` in ``optimizer_params`` without
      ``momentum``;
    * parameters that its fit refuses, whose error is then its own;
    * "lbfgs" or "newton" on a CUDA device, or any optimizer on one that is neither CUDA
      nor a CPU, or rows that do not fit in the memory of the device;
    * as its estimator or final step a subclass of :class:`TorchLogisticClassifier` or
      any other estimator, or a subclass of ``Pipeline`` around it;
    * arguments of ``fit`` other than weights for the classifier: validation rows,
      arguments of other steps, any of them with ``transform_input``;
    * transformers that cannot be pickled, and so not compared.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from torchlogistic import BatchedGridSearchCV, TorchLogisticClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> clf = TorchLogisticClassifier(random_state=0, device="cpu")
    >>> grid = {
    ...     "torchlogisticclassifier__lr": [0.01, 0.1],
    ...     "torchlogisticclassifier__epochs": [5, 20],
    ... }
    >>> model = make_pipeline(StandardScaler(), clf)
    >>> search = BatchedGridSearchCV(model, grid, scoring="roc_auc", cv=3).fit(X, y)
    >>> search.best_params_["torchlogisticclassifier__lr"]
    0.1
    >>> search.cv_results_["mean_test_score"].round(3)
    array([0.986, 0.995, 0.993, 0.995])
    """


class BatchedRandomizedSearchCV(_BatchedSearch, RandomizedSearchCV):
    """Randomized search that trains its candidates together.

    As :class:`BatchedGridSearchCV`, for candidates that are drawn from distributions.
    Its notes say which of them are fitted one by one.

    Parameters
    ----------
    estimator : estimator object
        A :class:`TorchLogisticClassifier` or a ``Pipeline`` that ends in one.

    param_distributions : dict or list of dicts
        Parameters, and distributions or lists to draw from.

    n_iter : int, default=10
        Number of candidates.

    scoring, n_jobs, refit, cv, verbose, pre_dispatch, error_score, return_train_score
        As in :class:`BatchedGridSearchCV`.

    random_state : int, RandomState instance or None, default=None
        Of the drawing.

    See Also
    --------
    BatchedGridSearchCV : The same for all combinations of a grid.
    sklearn.model_selection.RandomizedSearchCV : One fit after the other.

    Examples
    --------
    >>> from scipy.stats import loguniform
    >>> from sklearn.datasets import load_iris
    >>> from torchlogistic import BatchedRandomizedSearchCV, TorchLogisticClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = TorchLogisticClassifier(random_state=0, device="cpu", epochs=30)
    >>> drawn = {"lr": loguniform(1e-3, 1e-1), "alpha": [0.0, 1e-3]}
    >>> search = BatchedRandomizedSearchCV(clf, drawn, n_iter=8, random_state=0)
    >>> len(search.fit(X, y).cv_results_["params"])
    8
    """
