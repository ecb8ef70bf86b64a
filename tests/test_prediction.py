"""Logits of rows, and what they predict: in float64, in pieces and by threads."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn import config_context

from torchlogistic import (
    TorchLogisticClassifier,
    _arrays,
    _classifier,
    _prediction,
    _validation,
)
from torchlogistic._prediction import (
    class_index,
    linear_logits,
    log_probabilities,
    probabilities,
)
from torchlogistic._threads import Team

DTYPES = [np.float32, np.float64]


@pytest.fixture(params=[1, 2])
def n_threads(request, monkeypatch):
    """Pieces of three rows of X, by so many threads."""
    monkeypatch.setattr(_prediction, "PIECE_BYTES", 8 * 5 * 3)
    monkeypatch.setattr(_arrays, "MANY_ROWS", 1)
    least = 0 if request.param > 1 else 2**30
    monkeypatch.setattr(_prediction, "SHARED_BYTES", {"X": least, "logits": least})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    return request.param


@pytest.fixture
def spans(monkeypatch):
    """How many spans of rows are done at the same time, each time."""
    noted, map_all = [], Team.map

    def note(self, function, items):
        noted.append(min(self.size, len(items)))
        return map_all(self, function, items)

    monkeypatch.setattr(Team, "map", note)
    return noted


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_outputs", [1, 3, 500])  # the last by threads of BLAS
@pytest.mark.parametrize("n_features", [5, 40])
@pytest.mark.parametrize("n_rows", [1, 7, 100])
def test_logits_equal_the_formula_in_float64(
    n_rows, n_features, n_outputs, dtype, n_threads, spans
):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, n_features)).astype(dtype)
    coef = rng.normal(size=(n_outputs, n_features)).astype(np.float32)
    intercept = rng.normal(size=n_outputs).astype(np.float32)
    z = linear_logits(X, coef, intercept)
    assert z.dtype == np.float64
    expected = X.astype(np.float64) @ coef.astype(np.float64).T + intercept
    np.testing.assert_allclose(z, expected, rtol=1e-13, atol=1e-13)
    alone = n_outputs == 500 and n_features == 40  # more columns than rows pay for
    assert spans == [1 if n_rows == 1 or alone else n_threads]


@pytest.mark.parametrize("spread", [1, 100, 1e6])
@pytest.mark.parametrize("offset", [0, -1e4])
@pytest.mark.parametrize("n_rows", [1, 7, 1000])
@pytest.mark.parametrize("n_outputs", [1, 3, 40])
def test_predictions_of_logits(n_rows, n_outputs, offset, spread, n_threads, spans):
    """Of any size; the smallest probabilities keep their digits."""
    z = spread * np.random.default_rng(0).normal(size=(n_rows, n_outputs)) + offset
    p = softmax(z, axis=1)
    if n_outputs == 1:
        p, z = np.hstack([expit(-z), expit(z)]), z[:, 0]
    np.testing.assert_allclose(probabilities(z), p, rtol=1e-13)
    log_p = log_probabilities(z)
    assert np.isfinite(log_p).all()
    np.testing.assert_allclose(np.exp(log_p), p, rtol=1e-10)
    assert class_index(z).tolist() == p.argmax(axis=1).tolist()
    assert class_index(z).dtype == np.intp
    assert set(spans) == {1 if n_rows == 1 else n_threads}
    np.testing.assert_array_equal(
        probabilities(z.copy(), overwrite=True), probabilities(z)
    )


def test_logits_of_more_features_than_a_piece_holds():
    X = np.ones((3, _prediction.PIECE_BYTES // 8 + 1), dtype=np.float32)
    z = linear_logits(X, X[:2], np.ones(2))
    np.testing.assert_array_equal(z, X.shape[1] + 1)


def fitted(n_classes):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 20))
    y = np.arange(60) % n_classes
    return X, TorchLogisticClassifier(random_state=0, device="cpu").fit(X, y)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(
    ("value", "found"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")]
)
def test_numbers_that_are_not_finite_are_named(value, found, zero, dtype, n_classes):
    """Whether their coefficient is zero or not."""
    X, clf = fitted(n_classes)
    X[50, 7] = value
    if zero:
        clf.coef_[:, 7] = 0
    for method in (clf.decision_function, clf.predict, clf.predict_proba):
        with pytest.raises(ValueError, match=f"Input X contains {found}"):
            method(X.astype(dtype))
    with config_context(assume_finite=True):
        assert not np.isfinite(clf.decision_function(X.astype(dtype))[50]).any()


def test_infinite_logits_are_warned_of():
    X, clf = fitted(2)
    clf.coef_[...] = 100
    X[:2] = np.finfo(X.dtype).max
    message = (
        r"^the logits of 2 of 60 rows are not finite: .* Scale X, and fit again\.$"
    )
    with pytest.warns(RuntimeWarning, match=message):
        assert clf.decision_function(X)[0] == np.inf
    with pytest.warns(RuntimeWarning, match=message):
        np.testing.assert_array_equal(clf.predict_proba(X)[0], [0, 1])
    X[2] = np.nan  # what is worse is said first
    with pytest.raises(ValueError, match="Input X contains NaN"):
        clf.predict(X)


@pytest.mark.parametrize("zero", [False, True])
def test_finite_rows_are_looked_at_once(zero, monkeypatch):
    """By their logits, unless a coefficient is zero."""
    X, clf = fitted(2)
    clf.coef_[0, 0] *= not zero
    looks, reads, check = [], [], _classifier.check_features

    def note(*args, ensure_all_finite=True, **kwargs):
        looks.append(ensure_all_finite)
        return check(*args, ensure_all_finite=ensure_all_finite, **kwargs)

    monkeypatch.setattr(_classifier, "check_features", note)
    monkeypatch.setattr(_validation, "SHARED_BYTES", 0)
    monkeypatch.setattr(_validation, "Team", lambda: reads.append(None) or Team())
    clf.predict(X)
    assert looks == [zero]
    assert len(reads) == zero
