"""Scores of many classifiers at once: those of scikit-learn, to the last bit."""

import copy
import re

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.metrics import check_scoring, get_scorer, make_scorer, roc_auc_score

from torchlogistic import TorchLogisticClassifier, _scoring
from torchlogistic._scoring import METRICS, find_metric, score_all


def fitted(X, y, n=6, **params):
    """Classifiers of the same rows, worse and worse."""
    params = {"batch_size": 8, "epochs": 3, "device": "cpu", "random_state": 0} | params
    clf = TorchLogisticClassifier(**params).fit(X, y)
    rng = np.random.default_rng(0)
    classifiers = [clf]
    for i in range(1, n):
        other = copy.copy(clf)
        other.coef_ = clf.coef_ + i * rng.normal(size=clf.coef_.shape)
        classifiers.append(other)
    return classifiers


def rows(seed, n_classes, n_rows=60, labels=None):
    X, y = make_classification(
        n_samples=n_rows,
        n_features=4,
        n_informative=3,
        n_redundant=0,
        n_classes=n_classes,
        class_sep=0.5,
        random_state=seed,
    )
    X = X.round(seed % 2)  # some of which are equal then, and so are their logits
    X[n_rows // 2 :: 3] = X[0]
    return X, y if labels is None else np.array(labels)[y]


CASES = [(name, 2) for name in METRICS] + [("accuracy", 3), ("neg_log_loss", 3)]


@pytest.mark.parametrize("labels", [None, ["no", "yes", "maybe"], [7, 3, 5]])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("name", "n_classes"), CASES)
def test_equals_scikit_learn_to_the_last_bit(
    name, n_classes, seed, labels, monkeypatch
):
    X, y = rows(seed, n_classes, labels=labels)
    classifiers = fitted(X, y)
    scorer = get_scorer(name)
    expected = [scorer(clf, X, y) for clf in classifiers]
    asked = []
    monkeypatch.setattr(
        type(scorer), "_score", watched(type(scorer)._score, asked), raising=True
    )
    assert score_all(scorer, classifiers, X, y) == expected
    assert len(asked) == 1  # for all but the first there is the short cut
    assert len(set(expected)) > 1


def watched(method, calls):
    def watching(self, *args, **kwargs):
        calls.append(args)
        return method(self, *args, **kwargs)

    return watching


def test_several_metrics():
    X, y = rows(0, 2)
    classifiers = fitted(X, y)
    scorer = check_scoring(classifiers[0], list(METRICS))
    expected = [scorer(clf, X, y) for clf in classifiers]
    assert score_all(scorer, classifiers, X, y) == expected
    assert list(expected[0]) == list(METRICS)


def test_labels_as_a_tensor_with_gradient():
    X, y = rows(0, 2)
    classifiers = fitted(X, y)
    scorer = check_scoring(classifiers[0])
    labels = torch.tensor(y).double().requires_grad_()
    expected = [scorer(clf, X, y) for clf in classifiers]
    assert score_all(scorer, classifiers, X, labels) == expected


def test_own_score():
    X, y = rows(0, 3)
    classifiers = fitted(X, y)
    scorer = check_scoring(classifiers[0], None)
    assert find_metric(scorer) is _scoring.accuracy
    expected = [clf.score(X, y) for clf in classifiers]
    assert score_all(scorer, classifiers, X, y) == expected


@pytest.mark.parametrize(
    "scorer",
    [
        make_scorer(roc_auc_score, response_method="decision_function", max_fpr=0.5),
        make_scorer(roc_auc_score, response_method="predict_proba"),
        make_scorer(roc_auc_score, response_method="predict", greater_is_better=False),
        get_scorer("f1"),
        lambda clf, X, y: clf.score(X, y),
    ],
    ids=["settings", "response", "sign", "other", "function"],
)
def test_no_short_cut_for_other_scorers(scorer):
    assert find_metric(scorer) is None
    X, y = rows(0, 2)
    classifiers = fitted(X, y)
    expected = [scorer(clf, X, y) for clf in classifiers]
    assert score_all(scorer, classifiers, X, y) == expected


def test_scikit_learn_has_the_last_word(monkeypatch):
    """A short cut that does not give what scikit-learn gives is not taken."""
    monkeypatch.setitem(METRICS, "accuracy", lambda z, y: 0.123)
    X, y = rows(0, 2)
    classifiers = fitted(X, y)
    scores = score_all(get_scorer("accuracy"), classifiers, X, y)
    assert scores == [clf.score(X, y) for clf in classifiers]


def test_errors_are_those_of_the_scorer():
    """Labels that no classifier knows."""
    X, y = rows(0, 2)
    scores = score_all(get_scorer("roc_auc"), fitted(X, y, 2), X, y + np.arange(60))
    for error in scores:
        assert isinstance(error, ValueError)
        assert "multi_class must be in" in str(error)


@pytest.mark.parametrize("first", [False, True])
def test_logits_that_overflow(first):
    X, y = rows(0, 2)
    classifiers = fitted(X, y, 3)
    classifiers[0 if first else 1].coef_ = np.full((1, 4), 1e308)
    with (
        pytest.warns(RuntimeWarning, match="^the logits of 45 of 60 rows are not"),
        np.errstate(over="ignore", invalid="ignore"),
    ):
        scores = score_all(get_scorer("roc_auc"), classifiers, X, y)
    bad = scores.pop(0 if first else 1)
    assert isinstance(bad, ValueError)
    assert re.search("infinity|NaN", str(bad))
    assert all(0 <= score <= 1 for score in scores)
