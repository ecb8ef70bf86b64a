"""Weights of rows: what of weight zero is left out of."""

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.preprocessing import StandardScaler

from torchlogistic import TorchLogisticClassifier
from torchlogistic._weighting import Weighting

X, Y = make_blobs(90, centers=3, cluster_std=3.0, random_state=0)
WEIGHT = np.random.default_rng(0).uniform(0.5, 2.0, len(Y))
KEPT = Y != 2
NONE_OF_TWO = {0: 1.0, 1: 2.0, 2: 0.0}


def make(**params):
    settings = {"epochs": 5, "batch_size": 16, "random_state": 0, "device": "cpu"}
    return TorchLogisticClassifier(**{**settings, **params})


def assert_same_run(one, other):
    np.testing.assert_array_equal(one.coef_, other.coef_)
    np.testing.assert_array_equal(one.intercept_, other.intercept_)
    assert one.loss_curve_ == other.loss_curve_


def without(rows, y, weight=None, classes=(0, 1, 2), **params):
    """A run over given rows with all the classes, which ``fit`` would not know of."""
    clf = make(**params)
    for _ in range(5):
        clf.partial_fit(rows, y, classes=classes, sample_weight=weight)
    return clf


class TestClassOfWeightZero:
    """Its rows take no place in a batch and do not count in a mean."""

    @pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weights"])
    def test_rows_are_dropped(self, weight):
        clf = make(class_weight={0: 1.0, 1: 1.0, 2: 0.0}).fit(X, Y, weight)
        kept = None if weight is None else weight[KEPT]
        assert clf.classes_.tolist() == [0, 1, 2]
        assert clf.history_[0]["train_batch_count"] == 4  # 60 rows
        assert_same_run(clf, without(X[KEPT], Y[KEPT], kept))

    def test_rows_of_a_part_are_dropped(self):
        clf = without(X, Y, WEIGHT, class_weight=NONE_OF_TWO)
        kept = X[KEPT], Y[KEPT], WEIGHT[KEPT]
        assert_same_run(clf, without(*kept, class_weight=NONE_OF_TWO))

    def test_part_without_other_rows_is_refused(self):
        clf = without(X, Y, class_weight=NONE_OF_TWO)
        with pytest.raises(ValueError, match="class whose class_weight is zero"):
            clf.partial_fit(X[~KEPT], Y[~KEPT])

    def test_rows_of_validation_are_dropped(self):
        held = {"X_val": X, "y_val": Y}
        clf = make(class_weight=NONE_OF_TWO).fit(X, Y, **held)
        held = {"X_val": X[KEPT], "y_val": Y[KEPT]}
        other = make(class_weight=NONE_OF_TWO).fit(X, Y, **held)
        assert clf.validation_loss_curve_ == other.validation_loss_curve_

    def test_early_stopping_holds_out_a_share_of_every_class(self):
        clf = make(class_weight=NONE_OF_TWO, early_stopping=True).fit(X, Y)
        assert clf.history_[0]["train_batch_count"] == 4  # 54 rows

    def test_one_class_left_is_an_error(self):
        with pytest.raises(ValueError, match="leaves rows of only one class"):
            make(class_weight={0: 1.0, 1: 0.0, 2: 0.0}).fit(X, Y)


class TestClassWeight:
    @pytest.mark.parametrize(
        "labels", ["012", ["1", "01", "no"]], ids=["digits", "one"]
    )
    def test_labels_that_look_like_numbers(self, labels):
        names = np.array(list(labels))
        weight = dict(zip(names.tolist(), [1.0, 5.0, 2.0], strict=True))
        clf = make(class_weight=weight).fit(X, names[Y])
        ordered = {i: weight[label] for i, label in enumerate(clf.classes_.tolist())}
        codes = np.searchsorted(clf.classes_, names[Y])
        assert_same_run(clf, make(class_weight=ordered).fit(X, codes))
        clf.to_sklearn().fit(X, names[Y])

    def test_numbers_as_keys_of_labels_that_look_like_them(self):
        """As scikit-learn 1.9 has it."""
        weight = {0: 1.0, 1: 5.0, 2: 2.0}
        found = make(class_weight=weight).fit(X, Y.astype(str))
        assert_same_run(found, make(class_weight=weight).fit(X, Y))

    def test_a_label_that_does_not_occur(self):
        clf = make(class_weight={0: 1.0, 1: 2.0, 2: 3.0, 7: 9.0}).fit(X, Y)
        assert_same_run(clf, make(class_weight={0: 1.0, 1: 2.0, 2: 3.0}).fit(X, Y))

    @pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weights"])
    def test_objective_of_parts(self, weight):
        """In them class weights are not scaled; to_sklearn states the objective."""
        rows = StandardScaler().fit_transform(X)
        by_class = {0: 1.0, 1: 2.0, 2: 4.0}
        params = {"class_weight": by_class, "alpha": 0.1, "batch_size": None}
        clf = make(**params, lr=1.0)
        for _ in range(300):
            clf.partial_fit(rows, Y, classes=[0, 1, 2], sample_weight=weight)
        refit = clf.to_sklearn().set_params(tol=1e-10, max_iter=10_000)
        refit.fit(rows, Y, weight)
        np.testing.assert_allclose(clf.coef_, refit.coef_, rtol=1e-5)

    def test_sum_of_a_part(self):
        weighting = Weighting(np.array([1.0, 2.0, 0.0]), whole=False)
        assert weighting.total(Y, None) == KEPT.sum()
        assert weighting.total(Y, WEIGHT) == pytest.approx(WEIGHT[KEPT].sum())


class TestClassWithoutSampleWeight:
    """Zero weights equal rows that were not given, classes included: said in words."""

    def test_of_three(self):
        weight = KEPT.astype(float)
        with pytest.warns(
            UserWarning,
            match=r"sample_weight is zero for all rows of \[2\]: as if they had not "
            "been given, classes_ and predict_proba are without them$",
        ):
            clf = make().fit(X, Y, weight)
        assert_same_run(clf, make().fit(X[KEPT], Y[KEPT]))
        assert clf.classes_.tolist() == [0, 1]

    def test_of_two(self):
        y = np.where(KEPT, "kept", "lost")
        with pytest.raises(
            ValueError,
            match="only one class: 'kept', as sample_weight is zero for all rows of "
            r"\['lost'\]",
        ):
            make().fit(X, y, KEPT.astype(float))
