"""Score several classifiers on the same rows, as scikit-learn's scorers do.

A scorer of scikit-learn spends a millisecond or two on checking labels and predictions
and a hundredth of that on the score. The candidates of a search share their rows, and
one check is enough for all. The scorers that searches use most are here as functions
of the logits. The first classifier is scored both ways, and scikit-learn has the last
word: unless both agree to the last bit, its scorer scores all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from scipy.integrate import trapezoid
from scipy.special import xlogy
from sklearn.metrics import get_scorer
from sklearn.metrics._scorer import _MultimetricScorer, _PassthroughScorer

from ._classifier import TorchLogisticClassifier
from ._prediction import class_index, linear_logits, probabilities
from ._tensors import to_host
from ._validation import check_features

# A score of logits (n,) or (n, n_classes) whose rows are of the classes with these
# numbers (n,).
Metric = Callable[[np.ndarray, np.ndarray], float]


def accuracy(z: np.ndarray, y: np.ndarray) -> float:
    return float((class_index(z) == y).mean())


def neg_log_loss(z: np.ndarray, y: np.ndarray) -> float:
    # All this as scikit-learn has it, for the last bit: of two classes it takes the
    # second one's probability, and SciPy's logarithm is not quite NumPy's.
    p = probabilities(z)
    if z.ndim == 1:
        p[:, 0] = 1 - p[:, 1]
    eps = np.finfo(p.dtype).eps
    p = p[np.arange(len(y)), y].clip(eps, 1 - eps)
    return float(xlogy(1.0, p).mean())


def roc_auc(z: np.ndarray, y: np.ndarray) -> float:
    """Area under the ROC curve, of two classes."""
    order = np.argsort(-z)
    # Rows of equal logits are one point of the curve.
    ends = np.append(np.flatnonzero(np.diff(z[order])), len(z) - 1)
    true = np.cumsum(y[order])[ends]
    false = 1 + ends - true
    # The area does not need points on straight lines, but without them it is rounded
    # as scikit-learn's is, and scores that tie there tie here.
    corner = np.ones(len(ends), dtype=bool)
    corner[1:-1] = (np.diff(true, 2) != 0) | (np.diff(false, 2) != 0)
    true_rate, false_rate = (
        np.append(0.0, counts[corner]) / counts[-1] for counts in (true, false)
    )
    return float(trapezoid(true_rate, false_rate))


# By the names of scikit-learn's scorers.
METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "neg_log_loss": neg_log_loss,
    "roc_auc": roc_auc,
}


def find_metric(scorer: Any) -> Metric | None:
    """The function of the logits that equals a scorer, if there is one."""
    if isinstance(scorer, _PassthroughScorer):
        return accuracy  # the classifier's own ``score``
    for name, metric in METRICS.items():
        known = get_scorer(name)
        if type(scorer) is type(known) and _settings(scorer) == _settings(known):
            return metric
    return None


def _settings(scorer: Any) -> tuple[Any, ...]:
    names = ("_score_func", "_sign", "_kwargs", "_response_method")
    return tuple(getattr(scorer, name) for name in names)


class NoShortCutError(Exception):
    """The scores of these rows are scikit-learn's business."""


class QuickScorer:
    """A scorer of classifiers for some rows that are checked once.

    Parameters
    ----------
    scorer : callable
        Of scikit-learn.
    classifier : TorchLogisticClassifier
        Any of those that will be scored.
    X, y : data

    Raises
    ------
    NoShortCutError
        If the scorer has no counterpart here, or y has labels that are no classes.
    """

    def __init__(
        self, scorer: Any, classifier: TorchLogisticClassifier, X: Any, y: Any
    ) -> None:
        self.several = isinstance(scorer, _MultimetricScorer)
        scorers = scorer._scorers if self.several else {"": scorer}
        found = {name: find_metric(scorer) for name, scorer in scorers.items()}
        self.metrics = {name: metric for name, metric in found.items() if metric}
        if len(self.metrics) < len(found):
            raise NoShortCutError
        self.X = check_features(classifier, X, [np.float64, np.float32], reset=False)
        labels, classes = np.asarray(to_host(y)), classifier.classes_
        if labels.ndim != 1:
            raise NoShortCutError
        self.y = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
        if not np.array_equal(classes[self.y], labels):
            raise NoShortCutError

    def __call__(self, classifier: TorchLogisticClassifier) -> Any:
        z = linear_logits(self.X, classifier.coef_, classifier.intercept_)
        if not np.isfinite(z).all():
            raise NoShortCutError
        z = z[:, 0] if z.shape[1] == 1 else z
        scores = {name: metric(z, self.y) for name, metric in self.metrics.items()}
        return scores if self.several else scores[""]


def score_all(
    scorer: Any, classifiers: Sequence[TorchLogisticClassifier], X: Any, y: Any
) -> list[Any]:
    """Scores of each classifier, or the exception that its scorer raised.

    Parameters
    ----------
    scorer : callable
        Of scikit-learn.
    classifiers : sequence of TorchLogisticClassifier
        Fitted on the same rows.
    X, y : data
    """

    def score(classifier: TorchLogisticClassifier) -> Any:
        try:
            return scorer(classifier, X, y)
        except Exception as error:
            return error

    scores = [score(classifier) for classifier in classifiers[:1]]
    rest = classifiers[1:]
    if rest and _finite(scores[0]):
        try:
            quick = QuickScorer(scorer, classifiers[0], X, y)
            if quick(classifiers[0]) == scores[0]:
                return scores + [quick(classifier) for classifier in rest]
        except (NoShortCutError, TypeError):  # NumPy cannot compare all labels
            pass
    return scores + [score(classifier) for classifier in rest]


def _finite(score: Any) -> bool:
    """Whether a scorer has nothing to complain of."""
    scores = score.values() if isinstance(score, dict) else [score]
    return all(isinstance(each, Real) and math.isfinite(each) for each in scores)
