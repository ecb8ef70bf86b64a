"""The estimator in scikit-learn's tools, and in the forms that a fitted one takes."""

import copy
import io
import pickle
import re
import subprocess
import sys

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification, make_moons
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_selection import RFE
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import DecisionBoundaryDisplay, permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    PrecisionRecallDisplay,
    RocCurveDisplay,
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    roc_auc_score,
)
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    LearningCurveDisplay,
    StratifiedKFold,
    TunedThresholdClassifierCV,
    ValidationCurveDisplay,
    cross_val_predict,
    train_test_split,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from skorch.callbacks import LRScheduler
from torch.optim.lr_scheduler import StepLR

from torchlogistic import TorchLogisticClassifier

X, y = make_moons(n_samples=120, noise=0.3, random_state=0)
# Two informative features, then four of noise.
X6, y6 = make_classification(
    120,
    6,
    n_informative=2,
    n_redundant=0,
    n_clusters_per_class=1,
    class_sep=1.5,
    shuffle=False,
    random_state=0,
)
X3, y3 = make_classification(
    120,
    4,
    n_informative=3,
    n_redundant=0,
    n_classes=3,
    n_clusters_per_class=1,
    class_sep=1.5,
    random_state=0,
)
WEIGHT = np.random.default_rng(0).uniform(0.1, 3, len(y))
CV = StratifiedKFold(3)
METHODS = ["predict", "predict_proba", "predict_log_proba", "decision_function"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The data are small; threads that wait for each other only cost time."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def make(**params):
    defaults = {"epochs": 20, "batch_size": 16, "random_state": 42, "device": "cpu"}
    return TorchLogisticClassifier(**{**defaults, **params})


def make_pipe(**params):
    return Pipeline([("scale", StandardScaler()), ("clf", make(**params))])


def assert_same_model(one, other, **tolerance):
    """The same coefficients, to the bit unless a tolerance is given."""
    compare = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
    compare(one.coef_, other.coef_, **tolerance)
    compare(one.intercept_, other.intercept_, **tolerance)


def assert_same_predictions(one, other, X):
    for method in METHODS:
        np.testing.assert_array_equal(
            getattr(one, method)(X), getattr(other, method)(X)
        )


@pytest.fixture
def axes():
    _, ax = plt.subplots()
    yield ax
    plt.close("all")


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


class TestGridSearch:
    @pytest.mark.parametrize(
        "grid",
        [
            {"clf__lr": [0.001, 0.1], "clf__epochs": [2, 30]},
            {
                "clf__optimizer": ["sgd", "adam"],
                "clf__batch_size": [16, None],
                "clf__alpha": [0.0, 1.0],
            },
        ],
        ids=["lr and epochs", "optimizer, batch size and penalty"],
    )
    def test_same_result_with_any_number_of_jobs(self, grid, capfd):
        results = []
        for n_jobs in (1, 2):
            search = GridSearchCV(
                make_pipe(), grid, cv=CV, n_jobs=n_jobs, scoring="neg_log_loss"
            )
            search.fit(X, y)
            results.append(
                {k: v for k, v in search.cv_results_.items() if "_time" not in k}
            )
        for key in results[0]:
            np.testing.assert_array_equal(results[0][key], results[1][key], key)
        # Every parameter has an effect of its own.
        assert len(set(results[0]["mean_test_score"])) == len(results[0]["params"])
        assert capfd.readouterr() == ("", "")

    def test_best_estimator_is_the_best_candidate_fitted_on_all_rows(self):
        grid = {"clf__lr": [0.001, 0.1]}
        search = GridSearchCV(make_pipe(), grid, cv=CV).fit(X, y)
        assert search.best_params_ == {"clf__lr": 0.1}
        expected = make_pipe(lr=0.1).fit(X, y)
        assert_same_model(search.best_estimator_[-1], expected[-1])


class TestMetaEstimators:
    def test_cross_val_predict(self):
        p = cross_val_predict(make_pipe(), X, y, cv=CV, method="predict_proba")
        for train, test in CV.split(X, y):
            fold = make_pipe().fit(X[train], y[train])
            np.testing.assert_array_equal(p[test], fold.predict_proba(X[test]))

    @pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
    def test_calibration(self, method):
        model = CalibratedClassifierCV(make_pipe(), method=method, cv=CV).fit(X, y)
        p = model.predict_proba(X)
        np.testing.assert_allclose(p.sum(axis=1), 1)
        assert roc_auc_score(y, p[:, 1]) > 0.9

    def test_calibration_of_a_frozen_estimator(self):
        fitted = make_pipe().fit(X[:80], y[:80])
        coef = fitted[-1].coef_.copy()
        frozen = FrozenEstimator(fitted)
        model = CalibratedClassifierCV(frozen, cv=CV).fit(X[80:], y[80:])
        np.testing.assert_array_equal(fitted[-1].coef_, coef)
        assert model.score(X, y) > 0.8

    def test_tuned_threshold(self):
        model = TunedThresholdClassifierCV(make_pipe(), cv=CV, scoring="recall")
        model.fit(X, y)
        assert model.best_threshold_ < 0.5
        expected = model.estimator_.predict_proba(X)[:, 1] >= model.best_threshold_
        np.testing.assert_array_equal(model.predict(X), expected)

    @pytest.mark.parametrize("response", ["predict_proba", "decision_function"])
    def test_fixed_threshold(self, response):
        fitted = make_pipe().fit(X, y)
        values = getattr(fitted, response)(X)
        values = values[:, 1] if values.ndim == 2 else values
        model = FixedThresholdClassifier(
            make_pipe(), threshold=0.3, response_method=response
        ).fit(X, y)
        np.testing.assert_array_equal(model.predict(X), values >= 0.3)

    def test_one_vs_rest(self):
        model = OneVsRestClassifier(make()).fit(X3, y3)
        for label, binary in zip(model.classes_, model.estimators_, strict=True):
            assert_same_model(binary, make().fit(X3, y3 == label))
        assert model.score(X3, y3) > 0.8

    def test_multi_output(self):
        Y = np.column_stack([y3, y3 == 0])
        model = MultiOutputClassifier(make()).fit(X3, Y)
        for column, clf in zip(Y.T, model.estimators_, strict=True):
            assert_same_model(clf, make().fit(X3, column))
        assert model.predict(X3).shape == Y.shape

    def test_bagging(self):
        model = BaggingClassifier(
            make(), n_estimators=4, max_features=0.5, random_state=0
        ).fit(X6, y6)
        assert {clf.n_features_in_ for clf in model.estimators_} == {3}
        assert len({clf.random_state for clf in model.estimators_}) == 4
        assert model.score(X6, y6) > 0.8

    def test_stacking(self):
        model = StackingClassifier(
            [("linear", make()), ("tree", DecisionTreeClassifier(random_state=0))],
            final_estimator=make(),
            cv=CV,
        ).fit(X3, y3)
        assert model.final_estimator_.coef_.shape == (3, 6)
        assert model.score(X3, y3) > 0.8

    def test_voting(self):
        members = [("short", make(epochs=1)), ("long", make(epochs=50))]
        model = VotingClassifier(members, voting="soft").fit(X, y)
        mean = np.mean([clf.fit(X, y).predict_proba(X) for _, clf in members], axis=0)
        np.testing.assert_allclose(model.predict_proba(X), mean)

    def test_recursive_feature_elimination(self):
        selector = RFE(make_pipe(), n_features_to_select=2, step=1)
        selector.importance_getter = "named_steps.clf.coef_"
        assert selector.fit(X6, y6).support_.tolist() == [True] * 2 + [False] * 4

    def test_permutation_importance(self):
        model = make_pipe(epochs=50).fit(X6, y6)
        importance = permutation_importance(model, X6, y6, n_repeats=3, random_state=0)
        assert importance.importances_mean[:2].max() > 0.1
        assert importance.importances_mean[2:].max() < 0.05

    def test_clone(self):
        fitted = make(lr=0.5, optimizer_params={"nesterov": True}, momentum=0.9)
        fitted.fit(X, y)
        copied = clone(fitted)
        assert copied.get_params() == fitted.get_params()
        assert not hasattr(copied, "coef_")
        assert_same_model(copied.fit(X, y), fitted)

    def test_set_output(self):
        frame = pd.DataFrame(X, columns=["a", "b"])
        model = make_pipe().set_output(transform="pandas").fit(frame, y)
        assert model[-1].feature_names_in_.tolist() == ["a", "b"]
        np.testing.assert_array_equal(
            model.predict(frame), make_pipe().fit(X, y).predict(X)
        )


class TestDisplays:
    def test_decision_boundary(self, axes):
        model = make_pipe().fit(X, y)
        display = DecisionBoundaryDisplay.from_estimator(
            model, X, response_method="decision_function", grid_resolution=9, ax=axes
        )
        grid = np.column_stack([display.xx0.ravel(), display.xx1.ravel()])
        expected = model.decision_function(grid).reshape(9, 9)
        np.testing.assert_array_equal(display.response, expected)

    def test_decision_boundary_of_three_classes(self, axes):
        model = make().fit(X3[:, :2], y3)
        display = DecisionBoundaryDisplay.from_estimator(
            model, X3[:, :2], response_method="predict", grid_resolution=9, ax=axes
        )
        assert set(np.unique(display.response)) <= {0, 1, 2}

    def test_roc_curve(self, axes):
        model = make_pipe().fit(X, y)
        display = RocCurveDisplay.from_estimator(model, X, y, ax=axes)
        expected = roc_auc_score(y, model.predict_proba(X)[:, 1])
        assert display.roc_auc == expected

    def test_precision_recall_curve(self, axes):
        model = make_pipe().fit(X, y)
        display = PrecisionRecallDisplay.from_estimator(model, X, y, ax=axes)
        expected = average_precision_score(y, model.predict_proba(X)[:, 1])
        assert display.average_precision == expected

    def test_confusion_matrix(self, axes):
        names = np.array(["no", "yes"])[y]
        model = make_pipe().fit(X, names)
        display = ConfusionMatrixDisplay.from_estimator(model, X, names, ax=axes)
        expected = confusion_matrix(names, model.predict(X))
        np.testing.assert_array_equal(display.confusion_matrix, expected)
        assert display.display_labels.tolist() == ["no", "yes"]

    def test_learning_curve(self, axes):
        display = LearningCurveDisplay.from_estimator(
            make_pipe(), X, y, train_sizes=[0.5, 1.0], cv=CV, ax=axes
        )
        assert display.train_sizes.tolist() == [40, 80]
        assert display.test_scores.min() > 0.7

    def test_validation_curve(self, axes):
        display = ValidationCurveDisplay.from_estimator(
            make_pipe(epochs=2),
            X,
            y,
            param_name="clf__lr",
            param_range=[1e-4, 1e-1],
            scoring="neg_log_loss",
            cv=CV,
            ax=axes,
        )
        low, high = display.test_scores.mean(axis=1)
        assert low < high


class TestDataFrames:
    def test_pandas(self):
        frame = pd.DataFrame(X, columns=["a", "b"])
        clf = make().fit(frame, pd.Series(y, name="label"))
        assert clf.feature_names_in_.tolist() == ["a", "b"]
        plain = make().fit(X, y)
        assert not hasattr(plain, "feature_names_in_")
        assert_same_model(clf, plain)
        np.testing.assert_array_equal(clf.predict_proba(frame), plain.predict_proba(X))

    def test_columns_of_different_types(self):
        frame = pd.DataFrame(
            {
                "int": np.arange(len(y)) % 5,
                "float32": X[:, 0].astype(np.float32),
                "bool": X[:, 1] > 0,
            }
        )
        plain = frame.to_numpy(dtype=np.float64)
        assert_same_model(make().fit(frame, y), make().fit(plain, y))

    def test_polars(self):
        polars = pytest.importorskip("polars")
        if not hasattr(polars.DataFrame, "__dataframe__"):  # polars >= 2
            pytest.importorskip("sklearn", "1.7")
        frame = polars.DataFrame({"a": X[:, 0], "b": X[:, 1]})
        clf = make().fit(frame, polars.Series("label", y))
        assert clf.feature_names_in_.tolist() == ["a", "b"]
        plain = make().fit(X, y)
        assert_same_model(clf, plain)
        np.testing.assert_array_equal(clf.predict_proba(frame), plain.predict_proba(X))


@pytest.mark.usefixtures("routing")
class TestMetadataRouting:
    def test_sample_weight_in_a_grid_search(self):
        pytest.importorskip("sklearn", "1.7")  # where a pipeline routes it to score

        def make_model(lr):
            scaler = StandardScaler().set_fit_request(sample_weight=False)
            clf = make(lr=lr).set_fit_request(sample_weight=True)
            clf.set_score_request(sample_weight=True)
            return Pipeline([("scale", scaler), ("clf", clf)])

        rates = [0.001, 0.1]
        search = GridSearchCV(make_model(0.1), {"clf__lr": rates}, cv=CV)
        search.fit(X, y, sample_weight=WEIGHT)

        for i, (train, test) in enumerate(CV.split(X, y)):
            scaler = StandardScaler().fit(X[train])
            for j, lr in enumerate(rates):
                clf = make(lr=lr)
                clf.fit(scaler.transform(X[train]), y[train], WEIGHT[train])
                predicted = clf.predict(scaler.transform(X[test]))
                score = accuracy_score(y[test], predicted, sample_weight=WEIGHT[test])
                assert search.cv_results_[f"split{i}_test_score"][j] == score
        clf = make(**{"lr": search.best_params_["clf__lr"]})
        clf.fit(StandardScaler().fit_transform(X), y, WEIGHT)
        assert_same_model(search.best_estimator_[-1], clf)
        unweighted = make_pipe(lr=clf.lr).fit(X, y)
        assert not np.array_equal(unweighted[-1].coef_, clf.coef_)

    def make_model(self):
        return Pipeline(
            [
                ("scale", StandardScaler()),
                ("clf", make().set_fit_request(X_val=True, y_val=True)),
            ],
            transform_input=["X_val"],
        )

    def by_hand(self, X, y, X_val, y_val):
        scaler = StandardScaler().fit(X)
        X, X_val = scaler.transform(X), scaler.transform(X_val)
        return make().fit(X, y, X_val=X_val, y_val=y_val)

    @pytest.mark.parametrize("n_val", [20, 60], ids=["fewer rows", "as many rows"])
    def test_validation_rows_in_a_pipeline(self, n_val):
        data = X[:60], y[:60], X[-n_val:], y[-n_val:]
        model = self.make_model().fit(*data[:2], X_val=data[2], y_val=data[3])
        expected = self.by_hand(*data)
        assert_same_model(model[-1], expected)
        assert model[-1].validation_loss_curve_ == expected.validation_loss_curve_
        assert len(expected.validation_loss_curve_) == 20

    @pytest.mark.parametrize("n_val", [20, 60], ids=["fewer rows", "as many rows"])
    def test_validation_rows_in_a_grid_search(self, n_val):
        X_train, y_train, X_val, y_val = X[:60], y[:60], X[-n_val:], y[-n_val:]
        curves = []

        def score(model, X, y):
            curves.append(model[-1].validation_loss_curve_)
            return model.score(X, y)

        search = GridSearchCV(
            self.make_model(), {"clf__lr": [0.1]}, cv=CV, scoring=score
        )
        search.fit(X_train, y_train, X_val=(X_val,), y_val=(y_val,))

        expected = self.by_hand(X_train, y_train, X_val, y_val)
        best = search.best_estimator_[-1]
        assert_same_model(best, expected)
        assert best.validation_loss_curve_ == expected.validation_loss_curve_
        folds = [
            self.by_hand(X_train[train], y_train[train], X_val, y_val)
            for train, _ in CV.split(X_train, y_train)
        ]
        test_curves = curves[::2] if len(curves) == 6 else curves
        assert test_curves == [fold.validation_loss_curve_ for fold in folds]


class TestPredictions:
    def test_no_epoch_leaves_the_initial_coefficients(self):
        clf = make(epochs=0).fit(X, y, X_val=X, y_val=y)
        assert clf.validation_loss_curve_ == []
        np.testing.assert_allclose(clf.coef_, [[0.5406, 0.5869]], atol=5e-5)
        np.testing.assert_allclose(clf.intercept_, [-0.1657], atol=5e-5)
        assert (clf.n_iter_, clf.loss_curve_, clf.history_) == (0, [], [])
        assert clf.predict(X).shape == y.shape

    def test_logarithms_are_finite_where_probabilities_saturate(self):
        clf = make().fit(X, y)
        clf.coef_, clf.intercept_ = np.array([[1.0, 0.0]]), np.zeros(1)
        extreme = [[1000.0, 0.0], [-1000.0, 0.0]]
        assert clf.decision_function(extreme).tolist() == [1000, -1000]
        assert clf.predict_log_proba(extreme).tolist() == [[-1000, 0], [0, -1000]]
        assert clf.predict_proba(extreme).tolist() == [[0, 1], [1, 0]]

    def test_logarithms_of_three_classes_are_finite(self):
        clf = make().fit(X3, y3)
        log_p = clf.predict_log_proba(X3 * 1e5)
        assert np.isfinite(log_p).all()
        assert log_p.min() < -1000

    def test_coefficients_may_be_written(self):
        clf = make().fit(X, y)
        clf.coef_[:], clf.intercept_[:] = 0, 0
        assert not clf.decision_function(X).any()
        assert (clf.predict_proba(X) == 0.5).all()
        assert (clf.predict(X) == 0).all()  # zero is not above zero

    @pytest.mark.parametrize("labels", [[0, 1], ["no", "yes"]])
    def test_binary_definitions(self, labels):
        clf = make().fit(X, np.array(labels)[y])
        z, p = clf.decision_function(X), clf.predict_proba(X)
        assert z.shape == (120,)
        np.testing.assert_array_equal(clf.predict(X), clf.classes_[(z > 0).astype(int)])
        np.testing.assert_allclose(z, X @ clf.coef_[0] + clf.intercept_)
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-15)
        np.testing.assert_allclose(p[:, 1], 1 / (1 + np.exp(-z)))
        np.testing.assert_allclose(clf.predict_log_proba(X), np.log(p))

    def test_multinomial_definitions(self):
        clf = make().fit(X3, y3)
        z, p = clf.decision_function(X3), clf.predict_proba(X3)
        assert z.shape == p.shape == (120, 3)
        np.testing.assert_array_equal(clf.predict(X3), clf.classes_[z.argmax(axis=1)])
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-15)
        np.testing.assert_allclose(p[:, :1] / p, np.exp(z[:, :1] - z))
        np.testing.assert_allclose(clf.predict_log_proba(X3), np.log(p))


class TestLabels:
    @pytest.mark.parametrize(
        "labels",
        [
            np.array([False, True]),
            np.array([0, 1], dtype=np.int8),
            np.array([0, 1], dtype=np.uint64),
            np.array([0.0, 1.0]),
            np.array([-1, 1]),
            np.array([1, 2]),
            np.array(["no", "yes"]),
            np.array(["no", "yes"], dtype=object),
        ],
        ids=lambda labels: f"{labels.dtype} {labels.tolist()}",
    )
    def test_names_of_two_classes_do_not_matter(self, labels):
        clf, plain = make().fit(X, labels[y]), make().fit(X, y)
        assert_same_model(clf, plain)
        assert clf.classes_.tolist() == labels.tolist()
        np.testing.assert_array_equal(clf.predict(X), labels[plain.predict(X)])
        assert clf.score(X, labels[y]) == plain.score(X, y)

    def test_names_of_three_classes_do_not_matter(self):
        labels = np.array(["a", "bb", "ccc"])
        clf, plain = make().fit(X3, labels[y3]), make().fit(X3, y3)
        assert_same_model(clf, plain)
        np.testing.assert_array_equal(clf.predict(X3), labels[plain.predict(X3)])

    @pytest.mark.parametrize("weighting", [{}, {"class_weight": {0: 1, 1: 3}}])
    def test_swapped_classes_flip_the_sign(self, weighting):
        def from_zero(y, class_weight=None):
            clf = make(epochs=0, warm_start=True, batch_size=None, momentum=0.9)
            clf.set_params(class_weight=class_weight).fit(X, y)
            clf.coef_[:], clf.intercept_[:] = 0, 0
            return clf.set_params(epochs=50).fit(X, y)

        swapped = {k: {0: v[1], 1: v[0]} for k, v in weighting.items()}
        one, other = from_zero(y, **weighting), from_zero(1 - y, **swapped)
        np.testing.assert_allclose(one.coef_, -other.coef_, rtol=1e-9)
        np.testing.assert_allclose(one.intercept_, -other.intercept_, rtol=1e-9)
        np.testing.assert_allclose(one.loss_curve_, other.loss_curve_, rtol=1e-9)


def as_memmap(X, folder):
    path = folder / "X.npy"
    np.save(path, X)
    return np.load(path, mmap_mode="r")


def as_read_only(X, folder):
    X = X.copy()
    X.flags.writeable = False
    return X


# How the same numbers may come: multiples of 1/8 are exact in every type.
EXACT = np.round(X * 8) / 8
FORMS = {
    "list": lambda X, folder: X.tolist(),
    "float16": lambda X, folder: X.astype(np.float16),
    "longdouble": lambda X, folder: X.astype(np.longdouble),
    "object": lambda X, folder: X.astype(object),
    "Fortran order": lambda X, folder: np.asfortranarray(X),
    "negative strides": lambda X, folder: X[::-1, ::-1].copy()[::-1, ::-1],
    "every second row": lambda X, folder: np.repeat(X, 2, axis=0)[::2],
    "big-endian": lambda X, folder: X.astype(">f8"),
    "big-endian float32": lambda X, folder: X.astype(">f4"),
    "read-only": as_read_only,
    "memory-mapped": as_memmap,
    "float64 tensor": lambda X, folder: torch.tensor(X),
    "float16 tensor": lambda X, folder: torch.tensor(X).half(),
    "tensor of a graph": lambda X, folder: torch.tensor(X).requires_grad_() * 1,
    "transposed tensor": lambda X, folder: torch.tensor(X.T.copy()).T,
}
FLOAT32_FORMS = {
    "DataFrame": lambda X, folder: pd.DataFrame(X),
    "float32 tensor": lambda X, folder: torch.tensor(X),
    "bfloat16 tensor": lambda X, folder: torch.tensor(X).bfloat16(),
    "tensor with gradient": lambda X, folder: torch.tensor(X).requires_grad_(),
    "read-only": as_read_only,
    "memory-mapped": as_memmap,
}


BACKWARD = {  # of one column or one row: contiguous for NumPy, and not for torch
    "column": lambda X: X[:, :1].copy()[:, ::-1],
    "row": lambda X: X[:1].copy()[::-1],
}


class TestFormsOfRows:
    def check(self, form, plain, folder):
        rows = form(plain, folder)
        expected = make().fit(plain, y, X_val=plain, y_val=y)
        clf = make().fit(rows, y, X_val=rows, y_val=y)
        assert clf.coef_.dtype == plain.dtype
        assert_same_model(clf, expected)
        assert clf.validation_loss_curve_ == expected.validation_loss_curve_
        for method in METHODS:
            np.testing.assert_array_equal(
                getattr(clf, method)(rows), getattr(expected, method)(plain)
            )

    @pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
    def test_float64(self, form, tmp_path):
        self.check(form, EXACT, tmp_path)

    @pytest.mark.parametrize("form", FLOAT32_FORMS.values(), ids=FLOAT32_FORMS)
    def test_float32(self, form, tmp_path):
        self.check(form, EXACT.astype(np.float32), tmp_path)

    @pytest.mark.parametrize("backward", BACKWARD.values(), ids=BACKWARD)
    def test_strides_that_go_back(self, backward):
        rows = backward(X)
        labels = y[: len(rows)]
        assert rows.flags.c_contiguous
        assert min(rows.strides) < 0
        models = [
            make().partial_fit(form, labels, classes=np.unique(y))
            for form in (rows, rows.copy())
        ]
        assert_same_model(*models)

    @pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, bool])
    def test_integers(self, dtype):
        numbers = (np.abs(X) * 2).astype(dtype)
        plain = make().fit(numbers.astype(np.float64), y)
        clf = make().fit(numbers, y)
        assert clf.coef_.dtype == np.float64
        assert_same_model(clf, plain)
        assert_same_predictions(clf, plain, numbers)

    def test_rows_are_not_written(self):
        before = X.copy(), y.copy(), WEIGHT.copy()
        make(alpha=0.1).fit(X, y, WEIGHT)
        for now, then in zip((X, y, WEIGHT), before, strict=True):
            np.testing.assert_array_equal(now, then)

    @pytest.mark.parametrize(
        "form",
        [
            pd.Series,
            np.ndarray.tolist,
            lambda y: y.astype(">i8"),
            torch.tensor,
            lambda y: torch.tensor(y).bool(),
            lambda y: torch.tensor(y).double().requires_grad_(),
            lambda y: torch.tensor(y).bfloat16(),
        ],
        ids=[
            "Series",
            "list",
            "big-endian",
            "tensor",
            "bool tensor",
            "tensor with gradient",
            "bfloat16 tensor",
        ],
    )
    def test_labels_and_weights(self, form):
        weight = np.arange(len(y)) % 4 + 1  # exact in bfloat16, all true as bool
        form_of_weight = (
            form if "bool" not in str(getattr(form(y), "dtype", "")) else list
        )
        expected = make().fit(X, y, weight, X_val=X, y_val=y, sample_weight_val=weight)
        given = form_of_weight(weight)
        clf = make().fit(
            X, form(y), given, X_val=X, y_val=form(y), sample_weight_val=given
        )
        assert_same_model(clf, expected)
        assert clf.validation_loss_curve_ == expected.validation_loss_curve_

    @pytest.mark.parametrize("form", [torch.Tensor.bfloat16, torch.Tensor.double])
    def test_labels_and_weights_of_a_score(self, form):
        clf = make().fit(X, y)
        given = form(torch.tensor(y)), form(torch.tensor(WEIGHT))
        if given[0].dtype == torch.float64:
            given = [tensor.requires_grad_() for tensor in given]
        weight = given[1].detach().double().numpy()
        assert clf.score(X, *given) == clf.score(X, y, weight)

    def test_a_view_with_the_negative_bit(self):
        negative = torch.conj(torch.complex(torch.tensor(X), torch.tensor(X))).imag
        assert negative.is_neg()
        assert_same_model(make().fit(negative, y), make().fit(-X, y))

    def test_a_dtype_that_numpy_does_not_have(self):
        message = r"a tensor of torch.float8_e4m3fn was passed.*use \.float\(\)"
        with pytest.raises(TypeError, match=message):
            make().fit(torch.tensor(X).to(torch.float8_e4m3fn), y)


class TestDevice:
    def test_auto(self):
        present = [
            name
            for name in ("cuda", "xpu", "mps")
            if hasattr(torch, name) and getattr(torch, name).is_available()
        ]
        clf = make(device="auto").fit(X, y)
        assert torch.device(clf.device_).type == (present or ["cpu"])[0]

    def test_torch_device(self):
        clf = make(device=torch.device("cpu")).fit(X, y)
        assert clf.device_ == "cpu"
        assert_same_model(clf, make().fit(X, y))

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    @pytest.mark.parametrize("optimizer", ["sgd", "adam"])
    @pytest.mark.parametrize("data", [(X, y), (X3, y3)], ids=["binary", "multinomial"])
    def test_cuda_equals_cpu(self, optimizer, data):
        X, y = data
        fitted = [
            make(device=device, optimizer=optimizer, batch_size=16, epochs=50).fit(
                X, y, WEIGHT, X_val=X, y_val=y
            )
            for device in ("cpu", "cuda")
        ]
        assert torch.device(fitted[1].device_).type == "cuda"
        assert_same_model(*fitted, atol=1e-5, rtol=0)
        for curve in ("loss_curve_", "validation_loss_curve_"):
            one, other = (getattr(clf, curve) for clf in fitted)
            np.testing.assert_allclose(one, other, atol=1e-5)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_cuda_predicts_on_a_machine_without_it(self, tmp_path):
        clf = make(device="cuda", momentum=0.9).fit(X, y)
        joblib.dump((clf, X), tmp_path / "clf.joblib")
        code = (
            "import joblib, numpy, sys, torch\n"
            "assert not torch.cuda.is_available()\n"
            "clf, X = joblib.load(sys.argv[1])\n"
            "numpy.save(sys.argv[2], clf.predict_proba(X))\n"
            "clf.module_(torch.tensor(X))\n"
        )
        paths = [str(tmp_path / name) for name in ("clf.joblib", "p.npy")]
        subprocess.run(
            [sys.executable, "-c", code, *paths],
            env={"CUDA_VISIBLE_DEVICES": ""},
            check=True,
        )
        np.testing.assert_array_equal(np.load(paths[1]), clf.predict_proba(X))


class TestToSklearn:
    @pytest.mark.parametrize(
        ("data", "params"),
        [
            ((X, y), {}),
            ((X.astype(np.float32), y), {}),
            ((X, np.array(["no", "yes"])[y]), {"alpha": 0.1}),
            ((X, y), {"fit_intercept": False}),
            ((X3, y3), {}),
            ((X3, np.array(["a", "b", "c"])[y3]), {"fit_intercept": False}),
            ((pd.DataFrame(X, columns=["a", "b"]), y), {"class_weight": "balanced"}),
        ],
        ids=[
            "binary",
            "float32",
            "str labels",
            "no intercept",
            "multinomial",
            "multinomial, no intercept",
            "DataFrame",
        ],
    )
    def test_predicts_the_same(self, data, params):
        X, y = data
        clf = make(**params).fit(X, y)
        model = clf.to_sklearn()
        assert type(model) is LogisticRegression
        for method in ("predict_proba", "decision_function"):
            ours, theirs = getattr(clf, method)(X), getattr(model, method)(X)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(clf.predict(X), model.predict(X))
        assert model.score(X, y) == clf.score(X, y)
        assert hasattr(model, "feature_names_in_") == hasattr(clf, "feature_names_in_")
        assert model.get_params()["fit_intercept"] is clf.fit_intercept

    def test_parameters_are_those_of_the_fit(self):
        clf = make(alpha=0.1).fit(X, y)
        expected = clf.to_sklearn().get_params()
        clf.set_params(alpha=0, l1_ratio=1, fit_intercept=False, pos_weight=3)
        assert clf.to_sklearn().get_params() == expected

    def test_is_independent(self):
        clf = make().fit(X, y)
        expected = clf.predict_proba(X)
        model = clf.to_sklearn()
        model.coef_[:] = 0
        model.classes_[:] = 7
        np.testing.assert_array_equal(clf.predict_proba(X), expected)

    @pytest.mark.parametrize(
        ("data", "weight", "params"),
        [
            ((X, y), None, {}),
            ((X, y), WEIGHT, {}),
            ((X, y), WEIGHT * 10, {"class_weight": "balanced"}),
            ((X, y), None, {"class_weight": {0: 1.0, 1: 3.0}}),
            (
                (X, y),
                WEIGHT,
                {"class_weight": {0: 1.0, 1: 3.0}, "fit_intercept": False},
            ),
            ((X3, y3), WEIGHT, {"class_weight": "balanced"}),
            ((X, y), np.where(np.arange(120) % 3, WEIGHT, 0), {}),
            ((X, y), WEIGHT, {"pos_weight": 3.0}),
        ],
        ids=[
            "plain",
            "weights",
            "weights and balanced",
            "class weights",
            "weights, class weights, no intercept",
            "multinomial",
            "weights of zero",
            "pos_weight",
        ],
    )
    def test_refitted_finds_the_same_optimum(self, data, weight, params):
        X, y = data
        clf = make(
            alpha=0.01, batch_size=None, epochs=3000, lr=0.5, momentum=0.9, **params
        ).fit(X, y, weight)
        model = clf.to_sklearn().set_params(tol=1e-10, max_iter=10000)
        model.fit(X, y, weight)
        if len(clf.classes_) > 2:  # a constant in all intercepts has no effect
            clf.intercept_ -= clf.intercept_.mean()
            model.intercept_ -= model.intercept_.mean()
        assert_same_model(clf, model, rtol=0, atol=1e-6)

    def test_refitted_has_the_same_zeros(self):
        clf = make(alpha=0.2, l1_ratio=0.5, batch_size=None, epochs=3000, lr=0.5)
        clf.fit(X6, y6)
        assert 0 < np.count_nonzero(clf.coef_) < 6
        model = clf.to_sklearn().set_params(tol=1e-10, max_iter=10000, random_state=0)
        model.fit(X6, y6)
        assert_same_model(clf, model, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"momentum": 0.5},
        {"momentum": 0.5, "optimizer_params": {"nesterov": True}},
        {"optimizer": "adam", "lr": 0.01},
    ],
    ids=["sgd", "momentum", "nesterov", "adam"],
)
def test_l1_leads_to_the_minimum(params):
    """The gradient of the smooth part balances the L1 norm, whatever the optimizer."""
    alpha, l1_ratio = 0.2, 0.5
    clf = make(batch_size=None, epochs=3000, alpha=alpha, l1_ratio=l1_ratio)
    clf.set_params(**params).fit(X6, y6)
    w = clf.coef_[0]
    residual = clf.predict_proba(X6)[:, 1] - y6
    gradient = X6.T @ residual / len(y6) + alpha * (1 - l1_ratio) * w
    kept = w != 0
    assert kept.tolist() == [False, True] + [False] * 4
    expected = -alpha * l1_ratio * np.sign(w[kept])
    np.testing.assert_allclose(gradient[kept], expected, atol=1e-6)
    assert (np.abs(gradient[~kept]) <= alpha * l1_ratio).all()


PLAIN = (np.ndarray, str, int, float, bool, type(None))


def assert_plain(value, path="clf"):
    """Arrays, numbers, strings and None, in dicts, lists and tuples."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert isinstance(key, str), path
            assert_plain(item, f"{path}[{key!r}]")
    elif isinstance(value, list | tuple):
        for item in value:
            assert_plain(item, f"{path}[...]")
    else:
        assert isinstance(value, PLAIN), f"{path} is {type(value)}"


def by_pickle(clf):
    return pickle.loads(pickle.dumps(clf))


def by_joblib(clf):
    buffer = io.BytesIO()
    joblib.dump(clf, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


class TestCopies:
    @pytest.mark.parametrize(
        "copied",
        [by_pickle, by_joblib, copy.deepcopy, copy.copy],
        ids=["pickle", "joblib", "deepcopy", "copy"],
    )
    @pytest.mark.parametrize("data", [(X, y), (X3, y3)], ids=["binary", "multinomial"])
    def test_round_trip(self, copied, data):
        X, y = data
        clf = make(optimizer="adam").fit(X, y, X_val=X, y_val=y)
        other = copied(clf)
        assert_same_predictions(clf, other, X)
        np.testing.assert_equal(vars(other), vars(clf))

    @pytest.mark.parametrize(
        "params", [{}, {"optimizer": "adam"}, {"momentum": 0.9, "alpha": 0.1}]
    )
    def test_size(self, params):
        rng = np.random.default_rng(0)
        sizes = []
        for n_rows in (100, 10_000):
            X = rng.standard_normal((n_rows, 2))
            y = np.arange(n_rows) % 2
            clf = make(epochs=100, batch_size=n_rows // 2, **params).fit(X, y)
            sizes.append(len(pickle.dumps(clf)))
        assert max(sizes) < 20_000
        assert abs(sizes[0] - sizes[1]) < 200

    def test_size_with_validation_rows_and_weights(self):
        clf = make(epochs=100, class_weight="balanced").fit(
            X, y, WEIGHT, X_val=X, y_val=y, sample_weight_val=WEIGHT
        )
        assert len(pickle.dumps(clf)) < 20_000

    @pytest.mark.parametrize(
        "optimizer", ["sgd", "adam", "adamw", "rmsprop", "adagrad"]
    )
    def test_plain_state(self, optimizer):
        clf = make(optimizer=optimizer, momentum=0.9).fit(X3, y3, X_val=X3, y_val=y3)
        assert_plain(vars(clf))
        assert_plain(vars(clf.partial_fit(X3, y3)))

    def test_no_view_of_the_training_memory(self):
        """Training on leaves arrays alone that were taken from the estimator."""
        clf = make(optimizer="adam", momentum=0.9).fit(X3, y3)
        taken = [clf.coef_, clf.intercept_, clf._run["state"], clf.history_]
        before = copy.deepcopy(taken)
        clf.partial_fit(X3, y3)
        np.testing.assert_equal(taken, before)


CONFIGURATIONS = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "optimizer_params": {"nesterov": True}},
    "dampening": {"momentum": 0.9, "optimizer_params": {"dampening": 0.5}},
    "adam": {"optimizer": "adam"},
    "amsgrad": {"optimizer": "adam", "optimizer_params": {"amsgrad": True}},
    "adamw": {"optimizer": "adamw"},
    "rmsprop": {"optimizer": "rmsprop"},
    "adagrad": {"optimizer": "adagrad"},
    "class": {"optimizer": torch.optim.Adamax},
    "all rows": {"batch_size": None, "momentum": 0.9},
    "no shuffle": {"shuffle": False, "momentum": 0.9},
    "no intercept": {"fit_intercept": False, "optimizer": "adam"},
    "float32": {"dtype": "float32", "optimizer": "adam"},
    "l1": {"alpha": 0.1, "l1_ratio": 0.5, "momentum": 0.9},
    "weights": {"class_weight": "balanced"},
    "schedule": {"callbacks": [LRScheduler(StepLR, step_size=7, gamma=0.5)]},
    "schedule, on a step": {"callbacks": [LRScheduler(StepLR, step_size=10)]},
    "schedule, momentum": {
        "callbacks": [LRScheduler(StepLR, step_size=7, gamma=0.5)],
        "momentum": 0.9,
    },
    "random state": {"random_state": np.random.RandomState(0)},
}


def assert_same_run(one, other):
    """The same run to the bit, but for the clock."""
    assert_same_model(one, other)
    assert one.n_iter_ == other.n_iter_
    assert one.loss_curve_ == other.loss_curve_
    histories = [
        [{k: v for k, v in row.items() if k != "dur"} for row in clf.history_]
        for clf in (one, other)
    ]
    assert histories[0] == histories[1]


class TestWarmStart:
    @pytest.mark.parametrize("pickled", [False, True], ids=["", "pickled between"])
    @pytest.mark.parametrize("params", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
    @pytest.mark.parametrize("data", [(X, y), (X3, y3)], ids=["binary", "multinomial"])
    def test_thirty_and_seventy_epochs_are_a_hundred(self, data, params, pickled):
        params = copy.deepcopy(params)
        whole = make(**{"epochs": 100, **copy.deepcopy(params)}).fit(*data)
        parts = make(epochs=30, warm_start=True, **params).fit(*data)
        assert parts.n_iter_ == 30
        if pickled:
            parts = by_pickle(parts)
        parts.set_params(epochs=70).fit(*data)
        assert whole.n_iter_ == 100
        assert_same_run(parts, whole)

    @pytest.mark.parametrize("params", [{}, {"optimizer": "adam"}], ids=["sgd", "adam"])
    def test_with_validation_rows(self, params):
        held = {"X_val": X[:30], "y_val": y[:30]}
        whole = make(epochs=100, **params).fit(X[30:], y[30:], **held)
        parts = make(epochs=30, warm_start=True, **params).fit(X[30:], y[30:], **held)
        parts.set_params(epochs=70).fit(X[30:], y[30:], **held)
        assert_same_run(parts, whole)
        assert parts.validation_loss_curve_ == whole.validation_loss_curve_
        assert len(whole.validation_loss_curve_) == 100

    def test_with_weights(self):
        whole = make(epochs=100).fit(X, y, WEIGHT)
        parts = make(epochs=30, warm_start=True).fit(X, y, WEIGHT)
        assert_same_run(parts.set_params(epochs=70).fit(X, y, WEIGHT), whole)

    def test_early_stopping_holds_out_the_same_rows(self):
        params = {"early_stopping": True, "tol": 0.0, "n_iter_no_change": 1000}
        whole = make(epochs=40, warm_start=True, **params)
        whole.fit(X, y)
        parts = make(epochs=10, warm_start=True, **params).fit(X, y)
        # The best epoch is the last: nothing was taken back.
        assert parts.validation_loss_curve_[-1] == min(parts.validation_loss_curve_)
        parts.set_params(epochs=30).fit(X, y)
        assert parts.validation_loss_curve_ == whole.validation_loss_curve_

    def test_without_it_fit_starts_anew(self):
        clf = make().fit(X3, y3)
        clf.fit(X, y)
        assert_same_run(clf, make().fit(X, y))

    def test_changed_lr_counts(self):
        params = {"momentum": 0.9, "batch_size": None, "warm_start": True}
        clf = make(epochs=5, lr=0.1, **params).fit(X, y)
        start, velocity = clf.coef_.copy(), clf._run["state"][0]["momentum_buffer"]
        clf.set_params(lr=0.01, epochs=1).fit(X, y)
        step = clf.coef_ - start
        other = make(epochs=5, lr=0.1, **params).fit(X, y)
        other.set_params(epochs=1).fit(X, y)
        assert velocity.any()
        np.testing.assert_allclose(step, 0.1 * (other.coef_ - start), rtol=1e-9)

    def test_changed_optimizer_starts_its_state_anew(self):
        clf = make(optimizer="adam", warm_start=True).fit(X, y)
        clf.set_params(optimizer="sgd", momentum=0.9).fit(X, y)
        assert clf.n_iter_ == 40
        assert set(clf._run["state"][0]) == {"momentum_buffer"}

    def test_written_coefficients_count(self):
        clf = make(epochs=0, warm_start=True).fit(X, y)
        clf.coef_ = np.array([[3.0, 4.0]])
        assert clf.fit(X, y).coef_.tolist() == [[3.0, 4.0]]

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ((X, y + 1), r"same classes: y has \[1, 2\], the fitted .* \[0, 1\]"),
            ((X, np.array(["a", "b"])[y]), r"same classes: y has \['a', 'b'\]"),
            ((X3[:, :2], y3), r"same classes: y has \[0, 1, 2\]"),
            ((X6, y6), "X has 6 features, but .* is expecting 2"),
        ],
        ids=["other classes", "str classes", "more classes", "more features"],
    )
    def test_another_problem_is_refused(self, data, message):
        clf = make(warm_start=True).fit(X, y)
        before = copy.deepcopy(vars(clf))
        with pytest.raises(ValueError, match=message):
            clf.fit(*data)
        np.testing.assert_equal(vars(clf), before)


class TestPartialFit:
    @pytest.mark.parametrize("params", [{"alpha": -1.0}, {"dtype": "float16"}], ids=str)
    def test_parameters_are_checked_on_each_call(self, params):
        clf = make().partial_fit(X, y, classes=[0, 1]).set_params(**params)
        with pytest.raises(ValueError, match=f"The {next(iter(params))!r} parameter"):
            clf.partial_fit(X, y)
        clf = make().partial_fit(X, y, classes=[0, 1]).set_params(tol=-1.0)
        with sklearn.config_context(skip_parameter_validation=True):
            clf.partial_fit(X, y)

    def test_classes_in_an_array_of_objects(self):
        classes = np.array([0, 1], dtype=object)
        assert_same_run(
            make().partial_fit(X, y, classes), make().partial_fit(X, y, [0, 1])
        )

    @pytest.mark.parametrize("data", [(X, y), (X3, y3)], ids=["binary", "multinomial"])
    @pytest.mark.parametrize(
        "params", [{}, {"momentum": 0.9}, {"optimizer": "adam", "alpha": 0.1}]
    )
    def test_equals_warm_starts_of_one_epoch(self, data, params):
        warm = make(epochs=1, warm_start=True, **params)
        partial = make(**params)
        for _ in range(5):
            warm.fit(*data)
            partial.partial_fit(*data, classes=np.unique(data[1]))
        assert_same_run(partial, warm)
        assert_same_run(partial, make(epochs=5, **params).fit(*data))

    def test_continues_a_fit(self):
        clf = make(epochs=9, momentum=0.9).fit(X, y).partial_fit(X, y)
        assert_same_run(clf, make(epochs=10, momentum=0.9).fit(X, y))

    def test_weights(self):
        clf = make().partial_fit(X, y, [0, 1], WEIGHT)
        assert_same_run(clf, make(epochs=1).fit(X, y, WEIGHT))

    def test_rows_in_parts_with_unseen_classes(self):
        clf = make()
        for label in (2, 0, 1):
            part = y3 == label
            clf.partial_fit(X3[part], y3[part], classes=[2, 1, 0])
        assert clf.classes_.tolist() == [0, 1, 2]
        assert clf.coef_.shape == (3, 4)
        assert clf.n_iter_ == 3

    def test_early_stopping_has_no_part_in_it(self):
        clf = make(early_stopping=True).partial_fit(X, y, [0, 1])
        assert_same_run(clf, make(epochs=1).fit(X, y))

    def test_classes_are_needed_first(self):
        with pytest.raises(
            ValueError, match="classes must be passed on the first call"
        ):
            make().partial_fit(X, y)

    @pytest.mark.parametrize("classes", [2, [], [[0, 1]], "ab"], ids=repr)
    def test_classes_are_several_labels(self, classes):
        message = f"^classes must be a list .* but is {re.escape(repr(classes))}$"
        with pytest.raises(ValueError, match=message):
            make().partial_fit(X, y, classes=classes)

    @pytest.mark.parametrize("weighting", ["class_weight", "pos_weight"])
    def test_balanced_is_refused(self, weighting):
        clf = make(**{weighting: "balanced"})
        with pytest.raises(ValueError, match="'balanced' weights need all rows"):
            clf.partial_fit(X, y, [0, 1])

    @pytest.mark.parametrize(
        ("labels", "classes", "message"),
        [
            (y + 1, [0, 1], r"labels \[2\] that are not among the classes \[0, 1\]"),
            (
                y,
                [0],
                r"^classes must be a list .* of two or more labels, but is \[0\]$",
            ),
            (y, [0, 1, np.nan], "^Input classes contains NaN"),
            (y, [0, 1, 2.5], r"classes must be labels, not numbers .* 1\.0, 2\.5\]$"),
            (y, [0, "1"], "^classes mixes labels of types int and str"),
        ],
    )
    def test_first_call(self, labels, classes, message):
        clf = make()
        before = copy.deepcopy(vars(clf))
        with pytest.raises(ValueError, match=message):
            clf.partial_fit(X, labels, classes)
        np.testing.assert_equal(vars(clf), before)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ((X, y + 1), r"labels \[2\] that are not among the classes \[0, 1\]"),
            ((X, y, [0, 2]), r"classes=\[0, 2\] is not the same as on the last call"),
            ((X6, y6), "X has 6 features, but .* is expecting 2"),
        ],
        ids=["new label", "other classes", "more features"],
    )
    def test_later_call(self, data, message):
        clf = make().partial_fit(X, y, [0, 1])
        before = copy.deepcopy(vars(clf))
        with pytest.raises(ValueError, match=message):
            clf.partial_fit(*data)
        np.testing.assert_equal(vars(clf), before)


def test_early_stopping_with_rows_of_the_user():
    """X_val wins over validation_fraction."""
    X_train, X_val, y_train, y_val = train_test_split(X, y, random_state=0)
    clf = make(early_stopping=True, epochs=500, lr=0.5, validation_fraction=0.9)
    clf.fit(X_train, y_train, X_val=X_val, y_val=y_val)
    best = int(np.argmin(clf.validation_loss_curve_)) + 1
    assert clf.n_iter_ < 500
    rerun = make(epochs=best, lr=0.5)
    rerun.fit(X_train, y_train, X_val=X_val, y_val=y_val)
    assert_same_model(clf, rerun)


def test_pipeline_without_routing_passes_parameters_by_name():
    model = make_pipeline(StandardScaler(), make())
    name = "torchlogisticclassifier__sample_weight"
    model.fit(X, y, **{name: WEIGHT})
    expected = make().fit(StandardScaler().fit_transform(X), y, WEIGHT)
    assert_same_model(model[-1], expected)
