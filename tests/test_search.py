"""The batched searches against those of scikit-learn, over the same estimator."""

import inspect
import itertools
import pickle
import re
import warnings
from typing import ClassVar

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.stats import loguniform
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone, is_classifier
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, fbeta_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneOut,
    RandomizedSearchCV,
    ShuffleSplit,
    cross_val_score,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from skorch.callbacks import EpochScoring

import torchlogistic._plan as plan
import torchlogistic._search as search_module
import torchlogistic._together as together
from torchlogistic import (
    BatchedGridSearchCV,
    BatchedRandomizedSearchCV,
    TorchLogisticClassifier,
)

try:
    from sklearn.callback.tests._utils import (
        RecordingAutoPropagatedCallback,
        RecordingCallback,
    )
except ImportError:  # scikit-learn < 1.9, or installed without its tests
    RecordingAutoPropagatedCallback = None
try:
    import sklearn.model_selection.tests.test_search as of_sklearn
except ImportError:  # installed without its tests
    of_sklearn = None


def rows(n_classes):
    """47 rows: three folds of training rows have 31, 31 and 32."""
    return make_classification(
        n_samples=47,
        n_features=5,
        n_informative=4,
        n_redundant=0,
        n_classes=n_classes,
        class_sep=0.7,
        random_state=0,
    )


X, y = rows(2)
X3, y3 = rows(3)
WEIGHT = np.random.default_rng(0).integers(0, 4, size=len(y)).astype(float)
CV = KFold(3, shuffle=True, random_state=1)
both_losses = pytest.mark.parametrize("data", [(X, y), (X3, y3)], ids=["2", "3"])
OPTIMIZERS = ["sgd", "adam", "adamw", "rmsprop", "adagrad"]


def make(**params):
    params = {"epochs": 3, "batch_size": 8, "random_state": 0, **params}
    return TorchLogisticClassifier(device="cpu", **params)


def make_pipe(**params):
    return Pipeline([("scale", StandardScaler()), ("clf", make(**params))])


def final(estimator):
    return estimator[-1] if isinstance(estimator, Pipeline) else estimator


def text(value):
    """What str says of a value, without the addresses of objects."""
    return re.sub("0[xX][0-9a-fA-F]+", "", str(value))


class Keep:
    """A scorer that keeps the attributes of all that it is given."""

    attributes = "coef_", "intercept_", "loss_curve_", "n_iter_", "classes_"

    def __init__(self):
        self.kept = {}

    def __call__(self, estimator, X, y):
        key = f"{np.asarray(X)[0]} {len(X)} {text(estimator.get_params())}"
        clf = final(estimator)
        self.kept[key] = [getattr(clf, name, None) for name in self.attributes]
        return -np.mean(np.log(estimator.predict_proba(X)[np.arange(len(X)), y]))


def assert_same_results(ours, theirs, rtol=1e-9):
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        found = ours[key]
        if key.endswith("_time"):
            assert (found >= 0).all()
        elif key == "params":
            assert text(found) == text(expected)
        elif key.startswith("param_"):
            assert found.dtype == expected.dtype
            assert str(found.tolist()) == str(expected.tolist())
        elif key.startswith("rank_"):
            np.testing.assert_array_equal(found, expected, key)
        else:
            np.testing.assert_allclose(found, expected, rtol, err_msg=key)


def assert_same_model(ours, theirs, tolerance=1e-10):
    ours, theirs = final(ours), final(theirs)
    assert type(ours) is type(theirs)
    for name in ("coef_", "intercept_"):
        np.testing.assert_allclose(
            getattr(ours, name), getattr(theirs, name), tolerance, tolerance
        )


def assert_same_search(ours, theirs, tolerance=1e-10):
    assert_same_results(ours.cv_results_, theirs.cv_results_, 10 * tolerance)
    public = {name for name in vars(theirs) if name.endswith("_")}
    assert {name for name in vars(ours) if name.endswith("_")} == public
    # Nothing private is left behind.
    assert vars(ours).keys() == vars(theirs).keys()
    for name in ("best_index_", "n_splits_", "multimetric_"):
        assert getattr(ours, name, None) == getattr(theirs, name, None)
    assert str(getattr(ours, "best_params_", 0)) == str(
        getattr(theirs, "best_params_", 0)
    )
    if hasattr(theirs, "best_score_"):
        assert ours.best_score_ == pytest.approx(theirs.best_score_, rel=tolerance)
    if hasattr(theirs, "best_estimator_"):
        assert text(ours.best_estimator_) == text(theirs.best_estimator_)
        assert_same_model(ours.best_estimator_, theirs.best_estimator_, tolerance)
        assert ours.refit_time_ > 0


def search_both(
    estimator, grid, X=X, y=y, *, fit_params=None, keep=(None, None), **kwargs
):
    """Our search and scikit-learn's, both fitted."""
    searches = []
    for cls, scorer in zip((BatchedGridSearchCV, GridSearchCV), keep, strict=True):
        kwargs = {"cv": CV, "scoring": scorer or "neg_log_loss", **kwargs}
        if scorer:
            kwargs["scoring"] = scorer
        before = str(estimator.get_params())
        search = cls(estimator, grid, **kwargs)
        searches.append(search.fit(X, y, **(fit_params or {})))
        assert search.estimator is estimator
        assert str(estimator.get_params()) == before
        assert not hasattr(final(estimator), "coef_")
    return searches


def compare(estimator, grid, X=X, y=y, tolerance=1e-10, **kwargs):
    """Compare results, winners and the models of all candidates."""
    keep = [Keep(), Keep()]
    searches = search_both(estimator, grid, X, y, keep=keep, **kwargs)
    assert keep[0].kept.keys() == keep[1].kept.keys()
    for key, expected in keep[1].kept.items():
        for found, value in zip(keep[0].kept[key], expected, strict=True):
            if value is not None:
                np.testing.assert_allclose(found, value, tolerance, tolerance, key)
    assert_same_search(*searches, tolerance)


@pytest.fixture
def runs(monkeypatch):
    """The numbers of classifiers and folds of each joint run."""
    seen = []

    def fit_together(classifiers, folds, *advance):
        seen.append((len(classifiers), len(folds)))
        return original(classifiers, folds)

    original = plan.fit_together
    monkeypatch.setattr(plan, "fit_together", fit_together)
    return seen


# Grids of the classifier, with the number of candidates that are trained together and
# the number of groups of them. The others are fitted alone.
GRIDS = {
    "lr, epochs": ({"lr": [0.01, 0.1, 0.5], "epochs": [0, 1, 4]}, 9, 1),
    "lr, penalty": (
        {"lr": [0.05, 0.3], "alpha": [0.0, 1e-3, 0.1], "l1_ratio": [0, 0.3, 1.0]},
        18,
        1,
    ),
    "optimizer, lr, momentum": (
        {"optimizer": OPTIMIZERS, "lr": [0.01, 0.1], "momentum": [0.0, 0.9]},
        20,
        5,
    ),
    "optimizer, penalty": (
        {"optimizer": OPTIMIZERS, "alpha": [1e-3, 0.1], "l1_ratio": [0, 0.5]},
        20,
        5,
    ),
    "torch's optimizers": (
        {"optimizer": [torch.optim.SGD, torch.optim.NAdam], "lr": [0.01, 0.1]},
        2,
        1,
    ),
    "class_weight, lr": (
        {"class_weight": [None, "balanced", {0: 1, 1: 3.0}], "lr": [0.02, 0.2]},
        6,
        1,
    ),
    "a class of no weight": ({"class_weight": [None, {0: 1, 1: 0, 2: 2}]}, 1, 1),
    "nesterov": (
        {
            "optimizer_params": [None, {"nesterov": True}, {"weight_decay": 0.1}],
            "momentum": [0.5, 0.9],
        },
        6,
        2,
    ),
    "numbers of the optimizer": (
        {
            "optimizer": ["adam"],
            "optimizer_params": [
                None,
                {"betas": (0.5, 0.9), "weight_decay": 0.1},
                {"eps": 1e-2},
                {"betas": [0.5, 0.8]},
            ],
            "lr": [0.01, 0.1],
        },
        8,
        1,
    ),
    "dampening": (
        {"optimizer_params": [{"dampening": 0.4}], "momentum": [0.0, 0.5, 0.9]},
        2,
        1,
    ),
    "betas": (
        {
            "optimizer": ["adam"],
            "optimizer_params": [{"betas": (0.8, 0.9)}, {"eps": 1e-3, "amsgrad": True}],
            "lr": [0.01, 0.1],
        },
        4,
        2,
    ),
    "adagrad": (
        {
            "optimizer": ["adagrad"],
            "optimizer_params": [{"lr_decay": 0.1, "initial_accumulator_value": 0.1}],
            "lr": [0.01, 0.1],
        },
        2,
        1,
    ),
    "batches": ({"batch_size": [7, 31, None, "auto"], "shuffle": [True, False]}, 8, 8),
    "runs": ({"random_state": [0, 1, None], "fit_intercept": [True, False]}, 4, 4),
    "early stopping": (
        {
            "early_stopping": [True],
            "lr": [0.05, 1.0],
            "epochs": [2, 12],
            "n_iter_no_change": [1, 2],
        },
        8,
        2,
    ),
    "full batches": (
        {
            "optimizer": ["lbfgs", "newton"],
            "alpha": [0.01, 0.1],
            "l1_ratio": [0, 0.5],
            "class_weight": [None, "balanced"],
            "epochs": [100, 200],
        },
        32,
        2,
    ),
    "full batches, early stopping": (
        {
            "optimizer": ["lbfgs", "newton"],
            "early_stopping": [True],
            "alpha": [0.0, 0.1],
            "n_iter_no_change": [1, 2],
            "epochs": [40],
        },
        8,
        4,
    ),
    "several grids": (
        [{"lr": [0.01, 0.1]}, {"alpha": [0.0, 0.1], "epochs": [2, 5]}, {}],
        7,
        1,
    ),
}


class Counting(StandardScaler):
    """Counts the rows of its fits."""

    n_rows: ClassVar[list[int]] = []

    def fit(self, X, y=None, sample_weight=None):
        self.n_rows.append(len(X))
        return super().fit(X, y)


class TestSameResults:
    @both_losses
    @pytest.mark.parametrize("name", GRIDS)
    def test_grids(self, name, data, runs):
        X, y = data
        grid, n_joint, n_groups = GRIDS[name]
        if name == "a class of no weight" and y.max() == 1:
            pytest.skip("leaves one of two classes")
        if name == "class_weight, lr" and y.max() == 2:
            grid = {**grid, "class_weight": [None, "balanced", {1: 3.0, 2: 0.1}]}
        grid = [
            {f"clf__{key}": value for key, value in part.items()}
            for part in (grid if isinstance(grid, list) else [grid])
        ]
        if name == "runs":  # None draws a seed
            BatchedGridSearchCV(make_pipe(), grid, cv=CV).fit(X, y)
            assert sum(n for n, _ in runs) == n_joint + 2
            runs.clear()
            grid[0]["clf__random_state"] = [0, 1]
        compare(make_pipe(), grid, X, y)
        assert len(runs) == n_groups
        assert sum(n for n, _ in runs) == n_joint
        assert {folds for _, folds in runs} == {3}

    @pytest.mark.parametrize(
        "extra", [{"alpha": [0, 0.1]}, {"epochs": [1, 3]}, {"batch_size": [8, None]}]
    )
    def test_pos_weight(self, extra):
        compare(
            make(), {"pos_weight": [None, 0.3, "balanced", 5], "lr": [0.1, 0.3]} | extra
        )

    @both_losses
    def test_lr_and_epochs_are_one_run(self, data, runs):
        grid = {"lr": [0.01, 0.1, 1.0], "epochs": [1, 2, 5, 7]}
        search = BatchedGridSearchCV(make(), grid, cv=CV).fit(*data)
        assert runs == [(12, 3)]
        assert search.best_estimator_.n_iter_ in (1, 2, 5, 7)

    def test_epochs_cost_no_more_than_the_longest(self, monkeypatch):
        from torchlogistic._candidates import CandidateRun

        n_epochs = []
        epoch = CandidateRun.epoch
        monkeypatch.setattr(
            CandidateRun, "epoch", lambda self: n_epochs.append(1) or epoch(self)
        )
        grid = {"lr": [0.01, 0.1], "epochs": [1, 2, 5]}
        BatchedGridSearchCV(make(), grid, cv=CV, refit=False).fit(X, y)
        assert len(n_epochs) == 5

    @both_losses
    def test_searched_heads(self, data, runs):
        grid = {
            "scale": [
                "passthrough",
                StandardScaler(with_mean=False),
                StandardScaler(),
                MinMaxScaler(),
                None,
            ],
            "clf__lr": [0.01, 0.1],
        }
        compare(make_pipe(), grid, *data)
        # "passthrough" and None are two groups, as they are two parameters.
        assert runs == [(2, 3)] * 5

    def test_parameters_of_heads(self, runs):
        pipe = Pipeline(
            [("scale", StandardScaler()), ("pca", PCA(random_state=0)), ("clf", make())]
        )
        grid = {"pca__n_components": [2, 4], "clf__lr": [0.1, 0.3], "clf": [make()]}
        compare(pipe, grid)
        assert runs == [(2, 3)] * 2

    def test_heads_are_fitted_once_for_each_fold(self):
        Counting.n_rows.clear()
        pipe = Pipeline([("scale", Counting()), ("clf", make())])
        grid = {"clf__lr": [0.1, 0.3], "clf__epochs": [1, 2, 3]}
        BatchedGridSearchCV(pipe, grid, cv=CV, refit=False).fit(X, y)
        assert Counting.n_rows == [31, 31, 32]

    @pytest.mark.parametrize("memory", [False, True])
    def test_pipeline_of_a_classifier_alone(self, memory, tmp_path):
        pipe = Pipeline([("clf", make())], memory=str(tmp_path) if memory else None)
        compare(pipe, {"clf__lr": [0.1, 0.3]})

    def test_float32(self):
        data = X.astype(np.float32), y
        grid = {"lr": [0.01, 0.1], "epochs": [1, 3], "dtype": ["auto", "float64"]}
        compare(make(), grid, *data, tolerance=3e-5)

    def test_dtypes(self):
        compare(make(), {"lr": [0.01, 0.1], "dtype": ["float64"]}, X.astype(int), y)

    def test_folds_of_unequal_size(self, runs):
        """449 and 448 rows of 16 a batch: one has a batch more than the other."""
        X, y = load_breast_cancer(return_X_y=True)
        X, y = X[:561], y[:561]
        cv = KFold(5)
        sizes = {len(train) for train, _ in cv.split(X)}
        assert sizes == {448, 449}
        pipe = make_pipe(batch_size=16, epochs=2)
        compare(pipe, {"clf__lr": [0.01, 0.1]}, X, y, cv=cv)
        assert runs == [(2, 5)]

    def test_one_batch_of_some_folds_only(self):
        compare(make(batch_size=31), {"lr": [0.01, 0.1]})

    def test_leave_one_out(self):
        compare(make(), {"lr": [0.01, 0.1]}, X[:12], y[:12], cv=LeaveOneOut())

    def test_labels_that_are_strings(self):
        names = np.array(["b", "a", "c"])[y3]
        grid = {"class_weight": [None, {"a": 2.0}], "lr": [0.1, 0.3]}
        assert_same_search(*search_both(make_pipe(), {"clf": [make()]}, X3, names))
        assert_same_search(*search_both(make(), grid, X3, names))

    def test_folds_with_other_classes(self):
        """Folds that see different labels are different problems."""
        labels = np.repeat([0, 1, 2], 16)[: len(X)]
        order = np.argsort(np.arange(len(X)) % 16)
        grid = {"lr": [0.1, 0.3]}
        cv = [(order[:30], order[30:]), (order[order < 32], order[order >= 32])]
        searches = search_both(make(), grid, X, labels, cv=cv, scoring="accuracy")
        assert_same_search(*searches)

    def test_weights(self):
        kwargs = {"fit_params": {"sample_weight": WEIGHT}}
        grid = {"lr": [0.01, 0.3], "class_weight": [None, "balanced"]}
        for data in ((X, y), (X3, y3)):
            assert_same_search(*search_both(make(), grid, *data, **kwargs))

    def test_weights_are_not_for_every_scorer(self):
        def scorer(estimator, X, y):
            return estimator.score(X, y)

        search = BatchedGridSearchCV(make(), {"lr": [0.1]}, scoring=scorer, cv=CV)
        if not hasattr(GridSearchCV, "_check_scorers_accept_sample_weight"):
            pytest.skip("scikit-learn < 1.8 passes no weights to scorers")
        with pytest.warns(UserWarning, match="does not support sample_weight") as seen:
            search.fit(X, y, sample_weight=WEIGHT)
        assert len(seen) == 1
        assert "TorchLogisticClassifier" in str(seen[0].message)

    def test_weights_of_a_step(self, runs):
        kwargs = {"fit_params": {"clf__sample_weight": WEIGHT}}
        searches = search_both(make_pipe(), {"clf__lr": [0.01, 0.3]}, **kwargs)
        assert_same_search(*searches)
        plain = BatchedGridSearchCV(
            make_pipe(), {"clf__lr": [0.01, 0.3]}, cv=CV, scoring="neg_log_loss"
        ).fit(X, y)
        assert plain.best_score_ != searches[0].best_score_
        assert runs == [(2, 3)] * 2

    def test_weights_of_another_step(self, runs):
        kwargs = {"fit_params": {"scale__sample_weight": WEIGHT}}
        assert_same_search(
            *search_both(make_pipe(), {"clf__lr": [0.01, 0.3]}, **kwargs)
        )
        assert runs == []

    @pytest.mark.parametrize("fit", [True, False])
    @pytest.mark.parametrize("score", [True, False])
    @pytest.mark.parametrize("scale", [True, False])
    @pytest.mark.parametrize("bare", [True, False])
    def test_routed_weights(self, fit, score, scale, bare, runs):
        with config_context(enable_metadata_routing=True):
            clf = make().set_fit_request(sample_weight=fit)
            scaler = StandardScaler().set_fit_request(sample_weight=scale)
            pipe = Pipeline([("scale", scaler), ("clf", clf)])
            if not (fit or (scale and not bare)):
                pytest.skip("passed to nobody")
            scorer = make_scorer(accuracy_score).set_score_request(sample_weight=score)
            kwargs = {"fit_params": {"sample_weight": WEIGHT}, "scoring": scorer}
            grid = {"lr": [0.01, 0.3]}
            if not bare:
                grid = {"clf__lr": [0.01, 0.3]}
            assert_same_search(*search_both(clf if bare else pipe, grid, **kwargs))
            assert len(runs) == int(bare or not scale)

    def test_routed_to_scorers(self):
        with config_context(enable_metadata_routing=True):
            clf = make().set_fit_request(sample_weight=False)
            scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
            plain = make_scorer(accuracy_score).set_score_request(sample_weight=False)
            for scoring in (scorer, {"weighted": scorer, "plain": plain}):
                searches = search_both(
                    clf,
                    {"lr": [0.01, 0.3]},
                    fit_params={"sample_weight": WEIGHT},
                    scoring=scoring,
                    refit="weighted" if isinstance(scoring, dict) else True,
                )
                assert_same_search(*searches)

    def test_candidates_that_ask_for_weights_and_others(self):
        with config_context(enable_metadata_routing=True):
            asks = make().set_fit_request(sample_weight=True)
            asks = asks.set_score_request(sample_weight=False)
            other = clone(asks).set_fit_request(sample_weight=False)
            pipe = Pipeline([("clf", asks)])
            scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
            kwargs = {"fit_params": {"sample_weight": WEIGHT}, "scoring": scorer}
            # A pipeline of one that does not ask refuses them.
            failing_both(pipe, {"clf": [asks, other]}, "3 fits failed", **kwargs)
            head = StandardScaler().set_fit_request(sample_weight=True)
            pipe = Pipeline([("scale", head), ("clf", asks)])
            grid = {"clf": [asks, other], "scale": [head, clone(head)]}
            assert_same_search(*search_both(pipe, grid, **kwargs))

    def test_groups(self):
        kwargs = {"cv": GroupKFold(3), "fit_params": {"groups": np.arange(len(X)) % 6}}
        assert_same_search(*search_both(make(), {"lr": [0.01, 0.3]}, **kwargs))
        with config_context(enable_metadata_routing=True):
            assert_same_search(*search_both(make(), {"lr": [0.01, 0.3]}, **kwargs))

    @pytest.mark.parametrize("train", [True, False])
    @pytest.mark.parametrize(
        ("scoring", "refit"),
        [
            (["accuracy", "roc_auc"], "roc_auc"),
            (("accuracy", "neg_log_loss"), False),
            ({"a": "accuracy", "f2": make_scorer(fbeta_score, beta=2)}, "f2"),
            (None, True),
            ("f1", True),
            (["accuracy", "neg_brier_score"], lambda results: 1),
            (make_scorer(accuracy_score), lambda results: 2),
        ],
    )
    def test_metrics(self, scoring, refit, train):
        searches = search_both(
            make_pipe(),
            {"clf__lr": [0.01, 0.1], "clf__epochs": [1, 5]},
            scoring=scoring,
            refit=refit,
            return_train_score=train,
        )
        assert_same_search(*searches)
        ours, theirs = searches
        assert type(ours.scorer_) is type(theirs.scorer_)
        if refit is not False and not (callable(refit) and ours.multimetric_):
            assert ours.score(X, y) == pytest.approx(theirs.score(X, y))

    def test_scorer_gets_the_fitted_pipeline(self):
        seen = []

        def scorer(estimator, X, y):
            seen.append(estimator)
            return {"a": estimator.score(X, y), "n": len(X)}

        grid = {"scale": [StandardScaler(), RobustScaler()], "clf__lr": [0.1, 0.2]}
        searches = search_both(make_pipe(), grid, scoring=scorer, refit="a")
        assert_same_search(*searches)
        assert searches[0].scorer_ is scorer
        for estimator in seen:
            assert type(estimator) is Pipeline
            assert (
                estimator["scale"].center_ is not None
                if ("center_" in vars(estimator["scale"]))
                else estimator["scale"].mean_ is not None
            )
            assert estimator["clf"].history_[-1].keys() == {
                *("epoch", "train_loss", "train_loss_best"),
                *("train_batch_count", "dur"),
            }
            assert estimator["clf"].to_sklearn().score(X, y) > 0
        # The classifiers are each candidate's own.
        assert len({id(estimator["clf"]) for estimator in seen}) == 24

    @both_losses
    def test_fitted_candidates_are_like_others(self, data):
        """All fitted attributes; of the private state, what others need."""
        seen = [], []
        grid = {"alpha": [0.1], "class_weight": ["balanced", None], "epochs": [0, 3]}
        for cls, estimators in zip(
            (BatchedGridSearchCV, GridSearchCV), seen, strict=True
        ):

            def scorer(estimator, X, y, estimators=estimators):
                estimators.append(estimator)
                return 0.0

            cls(make(), grid, cv=CV, scoring=scorer, refit=False).fit(*data)
        for ours, theirs in zip(
            # Ours come fold by fold, scikit-learn's candidate by candidate.
            *(
                sorted(part, key=lambda e: (e.epochs, str(e.class_weight)))
                for part in seen
            ),
            strict=True,
        ):
            assert {k for k in vars(ours) if k.endswith("_")} == {
                k for k in vars(theirs) if k.endswith("_")
            }
            for name in ("n_iter_", "batch_size_", "device_", "n_features_in_"):
                assert getattr(ours, name) == getattr(theirs, name)
            for row, expected in zip(ours.history_, theirs.history_, strict=True):
                assert row.keys() == expected.keys()
                assert row["train_loss"] == pytest.approx(expected["train_loss"])
                for name in ("epoch", "train_loss_best", "train_batch_count"):
                    assert row[name] == expected[name]
            np.testing.assert_allclose(
                ours.to_sklearn().C, theirs.to_sklearn().C, 1e-12
            )
            assert ours.coef_.dtype == theirs.coef_.dtype
            assert ours.coef_.flags.c_contiguous
            pickle.dumps(ours)

    @pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
    @pytest.mark.parametrize("scale", [True, False])
    def test_data_frames(self, frame, scale):
        names = list("abcde")
        data = frame(dict(zip(names, X.T, strict=True)))
        labels = pd.Series(y) if frame is pd.DataFrame else pl.Series(y)
        grid = {"clf__lr": [0.01, 0.1]}
        pipe = make_pipe() if scale else Pipeline([("clf", make())])
        searches = search_both(pipe, grid, data, labels)
        assert_same_search(*searches)
        if frame is pd.DataFrame or hasattr(searches[1], "feature_names_in_"):
            assert searches[0].feature_names_in_.tolist() == names
        assert searches[0].predict(data).shape == (47,)

    def test_set_output(self):
        pipe = make_pipe().set_output(transform="pandas")
        data = pd.DataFrame(X, columns=list("abcde"))
        assert_same_search(*search_both(pipe, {"clf__lr": [0.01, 0.1]}, data))

    def test_lists(self):
        grid = {"clf__lr": [0.01, 0.1]}
        assert_same_search(*search_both(make_pipe(), grid, X.tolist(), y.tolist()))

    @pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss", "roc_auc", None])
    @pytest.mark.parametrize("frame", [False, True])
    @pytest.mark.filterwarnings("ignore:A column-vector y was passed")
    def test_labels_in_a_column(self, scoring, frame):
        """Of which the first candidate knows nothing but the larger class."""
        labels = np.where(np.arange(47) % 3 == 0, 1, 0)
        column = pd.DataFrame({"y": labels}) if frame else labels[:, None]
        clf = make(optimizer="lbfgs")
        grid = {"alpha": [1e5, 1e-3, 0.1], "epochs": [100]}
        rows = X + 3 * labels[:, None]
        assert_same_search(*search_both(clf, grid, rows, column, scoring=scoring))

    @pytest.mark.parametrize(
        ("optimizer", "switch"),
        [
            ("adam", "amsgrad"),
            ("rmsprop", "centered"),
            ("sgd", "nesterov"),
            ("sgd", "maximize"),
        ],
    )
    def test_switches_that_are_integers(self, optimizer, switch, runs):
        clf = make(optimizer=optimizer, momentum=0.9, lr=0.01)
        compare(clf, {"optimizer_params": [{switch: 0}, {switch: 1}]})
        assert len(runs) == 2

    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_numbers_of_float32(self, optimizer):
        grid = {
            "optimizer": [optimizer],
            "alpha": [np.float32(0.1), np.float32(0.2)],
            "l1_ratio": [np.float32(0.3)],
            "momentum": [np.float32(0.1), np.float32(0.9)],
            "optimizer_params": [{"weight_decay": np.float32(0.1)}],
        }
        compare(make(lr=np.float32(0.03)), grid)

    @pytest.mark.parametrize("others", [[], [{"momentum": 0.5}]])
    def test_momentum_without_end(self, others):
        """A candidate without an L1 penalty beside one that has it."""
        params = [{"momentum": 1}, *others]
        clf = make(optimizer="rmsprop", l1_ratio=1.0, lr=1e-3)
        compare(clf, {"alpha": [0.0, 0.01], "optimizer_params": params})

    def test_splitter_that_looks_at_the_rows(self):
        class Looking(KFold):
            def get_n_splits(self, X=None, y=None, groups=None):
                assert X.shape == (47, 5)
                assert y.shape == (47,)
                return super().get_n_splits(X, y, groups)

        assert_same_search(*search_both(make(), {"lr": [0.1, 0.2]}, cv=Looking(3)))

    def test_random_splits_are_drawn_once(self):
        """The same generator, drawn from as often as scikit-learn's search does."""
        results = []
        for cls in (BatchedGridSearchCV, GridSearchCV):
            cv = ShuffleSplit(3, random_state=np.random.RandomState(0))
            search = cls(make(), {"lr": [0.01, 0.1]}, cv=cv)
            results += [search.fit(X, y).cv_results_, search.fit(X, y).cv_results_]
        assert_same_results(results[0], results[2])
        assert_same_results(results[1], results[3])

    def test_randomized(self):
        drawn = {"clf__lr": loguniform(1e-3, 1), "clf__epochs": [1, 2, 3]}
        searches = [
            cls(make_pipe(), drawn, n_iter=6, cv=CV, random_state=3).fit(X, y)
            for cls in (BatchedRandomizedSearchCV, RandomizedSearchCV)
        ]
        assert_same_search(*searches)

    def test_in_slices(self, monkeypatch):
        """When memory is short the candidates are trained a few at a time."""
        monkeypatch.setattr("torchlogistic._joint_minibatch.SLICE_BYTES", 2**12)
        monkeypatch.setitem(together.STACKED_BYTES, "cpu", 0)
        for data in ((X, y), (X3, y3)):
            compare(make(), {"lr": [0.01, 0.1, 0.3, 0.5], "epochs": [1, 3]}, *data)


class TestFittedAlone:
    """What cannot be trained together is fitted as scikit-learn's search does it."""

    @pytest.mark.parametrize(
        "params",
        [
            {"optimizer": torch.optim.NAdam},
            {"warm_start": True},
            {"callbacks": [EpochScoring("accuracy", on_train=True)]},
        ],
        ids=lambda params: str(params)[:30],
    )
    def test_same_results(self, params, runs):
        grid = {"clf__alpha": [0.1, 0.3], "clf__epochs": [20]}
        compare(make_pipe(**params), grid)
        assert runs == []

    def test_subclasses(self, runs):
        class Mine(TorchLogisticClassifier):
            def decision_function(self, X):
                return -super().decision_function(X)

        class Stronger(torch.optim.SGD):
            def __init__(self, params, lr):
                super().__init__(params, lr=3 * lr)

        mine = Mine(epochs=3, random_state=0, device="cpu")
        compare(mine, {"lr": [0.01, 0.1]})
        compare(make(), {"lr": [0.01, 0.1], "optimizer": [Stronger]})
        assert runs == []

    def test_no_fixed_seed(self, runs):
        seed = np.random.RandomState(0)
        grid = {"lr": [0.01, 0.1], "random_state": [seed, 0]}
        search = BatchedGridSearchCV(make(), grid, cv=CV).fit(X, y)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()
        assert runs == [(2, 3)]

    def test_a_generator_is_copied(self):
        grid = {"lr": [0.01, 0.1]}
        compare(make(random_state=np.random.RandomState(0)), grid)

    def test_other_final_estimators(self, runs):
        grid = [
            {"clf": [make(), LogisticRegression()], "scale": [MinMaxScaler()]},
            {"clf": ["passthrough", make()], "clf__lr": [0.1]},
        ]
        compare(make_pipe(), grid[0])
        assert runs == [(1, 3)]
        with pytest.raises(AttributeError, match="'set_params'"):
            BatchedGridSearchCV(make_pipe(), grid, cv=CV).fit(X, y)

    def test_other_estimators(self, runs):
        compare(LogisticRegression(), {"C": [0.1, 1.0]})
        assert runs == []

    def test_other_fit_parameters(self, runs):
        kwargs = {"fit_params": {"X_val": (X,), "y_val": (y,)}}
        assert_same_search(*search_both(make(), {"lr": [0.01, 0.3]}, **kwargs))
        assert runs == []

    @pytest.mark.skipif(
        RecordingAutoPropagatedCallback is None, reason="no callbacks of scikit-learn"
    )
    @pytest.mark.parametrize("at", ["search", "pipeline", "classifier"])
    def test_callbacks_of_scikit_learn(self, at, runs):
        records = []
        for cls in (BatchedGridSearchCV, GridSearchCV):
            kind = RecordingAutoPropagatedCallback
            callback = kind() if at == "search" else RecordingCallback()
            pipe = make_pipe()
            search = cls(pipe, {"clf__lr": [0.01, 0.1]}, cv=CV)
            owners = {"search": search, "pipeline": pipe, "classifier": pipe["clf"]}
            owners[at].set_callbacks(callback)
            search.fit(X, y)
            records.append([record["name"] for record in callback.record])
        assert records[0] == records[1]
        assert runs == []

    def test_notes_name_them(self):
        notes = BatchedGridSearchCV.__doc__.partition("A candidate is fitted by itself")
        for word in (
            *("verbose", "warm_start", "callbacks", "RandomState", "set_callbacks"),
            *("torch.optim", "subclass", "class_weight", "dampening", "refuses"),
            *("CUDA", "memory", "any other estimator", "Pipeline", "validation rows"),
            *("transform_input", "pickled"),
        ):
            assert word in notes[2]
        assert "notes" in BatchedRandomizedSearchCV.__doc__

    def test_overridden_search(self):
        class Twice(BatchedGridSearchCV):
            def _run_search(self, evaluate_candidates, **kwargs):
                evaluate_candidates([{"lr": 0.1}], **kwargs)
                evaluate_candidates([{"lr": 0.01}], **kwargs)

        class Theirs(GridSearchCV):
            _run_search = Twice._run_search

        ours, theirs = (
            cls(make(), {"lr": [1]}, cv=CV).fit(X, y) for cls in (Twice, Theirs)
        )
        assert_same_search(ours, theirs)


class Fussy(TransformerMixin, BaseEstimator):
    """Fails on rows to transform, or to learn from, that have a large number."""

    def __init__(self, where="fit"):
        self.where = where

    def fit(self, X, y=None):
        self.check(X, "fit")
        return self

    def transform(self, X):
        self.check(X, "transform")
        return X

    def check(self, X, where):
        if where == self.where and np.max(X) == np.max(globals()["X"]):
            raise ArithmeticError("a large number")


def failing_both(estimator, grid, match, X=X, y=y, *, fit_params=None, **kwargs):
    """The warnings that both give about failures, and the searches."""
    found = []
    for cls in (BatchedGridSearchCV, GridSearchCV):
        search = cls(estimator, grid, **{"cv": CV, "refit": False, **kwargs})
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            search.fit(X, y, **(fit_params or {}))
        assert search.estimator is estimator
        texts = [str(w.message) for w in seen if issubclass(w.category, UserWarning)]
        texts += [str(w.message) for w in seen if w.category is FitFailedWarning]
        assert any(match in text for text in texts)
        # The heads of the messages; the rest are tracebacks.
        found.append((search, sorted({text.split("\n")[0] for text in texts})))
    (ours, mine), (theirs, expected) = found
    assert mine == expected
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    return ours


class TestFailures:
    @both_losses
    @pytest.mark.parametrize("error_score", [np.nan, -3.0])
    def test_one_candidate_diverges(self, data, error_score, runs):
        grid = {"clf__lr": [0.1, 1e6, 0.3], "clf__epochs": [1, 30]}
        ours = failing_both(
            make_pipe(),
            grid,
            "Training diverged",
            *data,
            error_score=error_score,
            return_train_score=True,
        )
        failed = ours.cv_results_["mean_test_score"] == error_score
        if np.isnan(error_score):
            failed = np.isnan(ours.cv_results_["mean_test_score"])
        assert failed.any()
        assert not failed[ours.cv_results_["param_clf__lr"] < 1].any()
        assert runs == [(6, 3)]
        # The others are what they would be without it.
        without = dict(grid, clf__lr=[0.1, 0.3])
        rest = BatchedGridSearchCV(make_pipe(), without, cv=CV, refit=False).fit(*data)
        np.testing.assert_array_equal(
            rest.cv_results_["mean_test_score"],
            ours.cv_results_["mean_test_score"][
                ours.cv_results_["param_clf__lr"].data.astype(float) < 1
            ],
        )

    @pytest.mark.parametrize("optimizer", ["lbfgs", "newton"])
    def test_warnings_of_full_batches(self, optimizer, runs):
        """Runs that are too short and classes that are separated, each one."""
        grid = {"clf__alpha": [0.0, 0.1], "clf__epochs": [1, 2, 100]}
        texts = []
        for cls in (BatchedGridSearchCV, GridSearchCV):
            pipe = make_pipe(optimizer=optimizer)
            search = cls(pipe, grid, cv=CV, refit=False)
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                search.fit(X, (X[:, 0] > 0).astype(int))
            texts.append(sorted(str(w.message) for w in seen))
        assert texts[0] == texts[1]
        for part in ("Increase epochs", "separate the classes"):
            assert any(part in text for text in texts[0])
        assert runs == [(6, 3)]

    @pytest.mark.parametrize("optimizer", ["lbfgs", "newton"])
    def test_full_batches_that_overflow(self, optimizer, runs):
        grid = {"pos_weight": [1.0, 1e308, 2.0], "alpha": [0.1, 0.2]}
        clf = make(optimizer=optimizer, epochs=50)
        match = "second derivatives overflow" if optimizer == "newton" else "diverged"
        ours = failing_both(clf, grid, match)
        failed = np.isnan(ours.cv_results_["mean_test_score"])
        assert failed.tolist() == [False, True, False] * 2
        assert runs == [(6, 3)]

    def test_overflow_harms_nobody(self):
        """A candidate that ends in infinities is a column beside the others."""
        grid = {"lr": [1e-3, 1e200, 1e-2], "alpha": [0.0, 1e-2]}
        failing_both(make(epochs=20), grid, "Training diverged", X, y)

    def test_raise(self):
        grid = {"lr": [0.1, 1e6], "epochs": [30]}
        search = BatchedGridSearchCV(make(), grid, cv=CV, error_score="raise")
        clf, before = search.estimator, vars(search).copy()
        with pytest.raises(ValueError, match="Training diverged"):
            search.fit(X, y)
        assert search.estimator is clf
        left = {"_checked_cv_orig", "n_splits_", "_callback_fit_ctx"}
        assert vars(search).keys() - before.keys() <= left
        assert {k: vars(search)[k] for k in before} == before
        # It can be fitted again.
        search.set_params(param_grid={"lr": [0.1]}).fit(X, y)
        assert search.best_params_ == {"lr": 0.1}

    def test_no_rows_are_kept(self):
        search = BatchedGridSearchCV(make(), {"lr": [0.1, 0.2]}, cv=CV).fit(X, y)
        rows = np.tile(X, (20, 1)), np.tile(y, 20)
        larger = BatchedGridSearchCV(make(), {"lr": [0.1, 0.2]}, cv=CV).fit(*rows)
        assert len(pickle.dumps(larger)) < len(pickle.dumps(search)) + 1000

    def test_all_fail(self):
        search = BatchedGridSearchCV(make(epochs=30), {"lr": [1e6, 1e7]}, cv=CV)
        with pytest.raises(ValueError, match=r"All the 6 fits failed.*"):
            search.fit(X, y)

    def test_refit_fails(self):
        class Once(BaseEstimator, TransformerMixin):
            def fit(self, X, y=None):
                if len(X) == 47:
                    raise ArithmeticError("all rows")
                return self

            def transform(self, X):
                return X

        pipe = Pipeline([("scale", Once()), ("clf", make())])
        for cls in (BatchedGridSearchCV, GridSearchCV):
            search = cls(pipe, {"clf__lr": [0.1]}, cv=CV)
            with pytest.raises(ArithmeticError, match="all rows"):
                search.fit(X, y)
            assert search.estimator is pipe
            assert type(search.best_estimator_) is Pipeline

    @pytest.mark.parametrize("pos_weight", [None, 0.02, 30])
    def test_warnings_of_bad_endings(self, pos_weight):
        """A run that ends worse than no model is warned of, each one."""
        scale = np.array([300.0, 1, 1, 1, 1])
        grid = {"lr": np.geomspace(1e-5, 0.5, 20)}
        counts = []
        for cls in (BatchedGridSearchCV, GridSearchCV):
            clf = make(epochs=12, pos_weight=pos_weight)
            search = cls(clf, grid, cv=CV, refit=False)
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                search.fit(X * scale, y)
            counts.append([w.category for w in seen])
        assert counts[0] == counts[1]
        assert ConvergenceWarning in counts[0]

    def test_warnings_of_runs_that_were_stopped(self):
        scale = np.array([300.0, 1, 1, 1, 1])
        grid = {"lr": np.geomspace(1e-5, 0.5, 20)}
        counts = []
        for cls in (BatchedGridSearchCV, GridSearchCV):
            clf = make(epochs=9, early_stopping=True, n_iter_no_change=3)
            search = cls(clf, grid, cv=CV, refit=False)
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                search.fit(X * scale, y)
            counts.append([w.category for w in seen])
        assert counts[0] == counts[1]
        assert ConvergenceWarning in counts[0]

    def test_warnings_that_are_errors(self):
        """As pytest and careful users have them: the fits fail in both."""
        scale = np.array([300.0, 1, 1, 1, 1])
        scores = []
        for cls in (BatchedGridSearchCV, GridSearchCV):
            search = cls(make(epochs=12), {"lr": [1e-6, 0.5]}, cv=CV, refit=False)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", ConvergenceWarning)
                scores.append(search.fit(X * scale, y).cv_results_["mean_test_score"])
        np.testing.assert_allclose(*scores)
        assert np.isnan(scores[0]).any()

    @pytest.mark.parametrize(
        ("grid", "match"),
        [
            ({"lr": [0.1, -1.0]}, "'lr' parameter"),
            ({"lr": [0.1, "a"]}, "'lr' parameter"),
            ({"optimizer": ["sgd", "sdg"]}, "Did you mean 'sgd'"),
            ({"optimizer_params": [None, {"lr": 1}]}, "must not have 'lr'"),
            ({"optimizer_params": [None, {"speed": 1}]}, "speed"),
            (
                {"optimizer_params": [{"nesterov": True}], "momentum": [0, 0.9]},
                "Nesterov",
            ),
            ({"class_weight": [None, {0: 1, 7: 2}]}, "7"),
            ({"class_weight": [None, {0: "a", 1: 1}]}, "fits failed"),
            ({"class_weight": [None, "balanced"], "pos_weight": [None, 2]}, "both"),
            ({"alpha": [0.0, np.nan]}, "fits failed"),
            ({"momentum": [0.5, 1.0]}, "'momentum' parameter"),
        ],
    )
    def test_bad_parameters_fail_alone(self, grid, match):
        ours = failing_both(make(), {**grid, "epochs": [1, 2]}, match)
        failed = np.isnan(ours.cv_results_["mean_test_score"])
        assert 0 < failed.sum() < len(failed)

    def test_pos_weight_of_three_classes(self):
        grid = {"pos_weight": [None, 2.0], "lr": [0.1, 0.2]}
        failing_both(make(), grid, "pos_weight needs two classes", X3, y3)

    def test_a_fold_of_one_class(self):
        cv = [(np.arange(30), np.arange(30, 47)), (np.where(y == 0)[0], np.arange(9))]
        grid = {"lr": [0.1, 0.2]}
        failing_both(make(), grid, "2 fits failed out of a total of 4", cv=cv)

    @pytest.mark.parametrize("scoring", [None, ["accuracy", "roc_auc"]])
    @pytest.mark.parametrize("train", [True, False])
    @pytest.mark.parametrize("where", ["fit", "transform"])
    def test_heads_that_fail(self, where, train, scoring):
        pipe = Pipeline([("fussy", Fussy(where)), ("clf", make())])
        match = "fits failed" if where == "fit" else "Scoring failed"
        failing_both(
            pipe,
            {"clf__lr": [0.1, 0.2]},
            match,
            return_train_score=train,
            scoring=scoring,
        )

    def test_shared_failures_are_told_once(self):
        pipe = Pipeline([("fussy", Fussy()), ("clf", make())])
        grid = {"clf__lr": [0.1, 0.2, 0.3]}
        search = BatchedGridSearchCV(pipe, grid, cv=CV, refit=False)
        with pytest.warns() as seen:
            search.fit(X, y)
        (text,) = [str(w.message) for w in seen if w.category is FitFailedWarning]
        # Two of three folds train on the row; both fail in the same way.
        assert text.count("ArithmeticError: a large number") <= 2
        assert "in check" in text

    @pytest.mark.parametrize("scoring", ["single", "several"])
    def test_metrics_that_fail(self, scoring):
        """Every time they are asked, though their parameters are validated once."""
        bad = make_scorer(fbeta_score, beta=-1.0)
        scoring = bad if scoring == "single" else {"a": "accuracy", "bad": bad}
        failing_both(make(), {"lr": [0.1, 0.2]}, "Scoring failed", scoring=scoring)

    def test_parameters_that_do_not_go_together(self):
        """Of two joint candidates only one has a valid number of betas."""
        betas = [(0.9, 0.99), (0.9, 0.99, 0.999)]
        grid = {"optimizer_params": [{"betas": pair} for pair in betas]}
        failing_both(make(optimizer="adam"), grid, "fits failed out of a total")

    def test_a_joint_run_that_fails(self, monkeypatch):
        """All are fitted one by one then."""
        expected = GridSearchCV(make(), {"lr": [0.1, 0.2]}, cv=CV).fit(X, y)

        def fit_stack(classifiers, folds, advance):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(together, "fit_stack", fit_stack)
        found = BatchedGridSearchCV(make(), {"lr": [0.1, 0.2]}, cv=CV).fit(X, y)
        assert_same_search(found, expected)

    def test_one_class_in_a_test_fold(self):
        """The same warnings, as often."""
        order = np.argsort(y, kind="stable")
        found = []
        for cls in (BatchedGridSearchCV, GridSearchCV):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                search = cls(make(), {"lr": [0.1, 0.2]}, cv=KFold(5), scoring="roc_auc")
                search.fit(X[order], y[order])
            found.append([(w.category, str(w.message)) for w in caught])
        assert sorted(map(str, found[0])) == sorted(map(str, found[1]))
        assert found[0]

    def test_candidates_cannot_be_continued(self):
        def score(clf, X, y):
            with pytest.raises(ValueError, match=r"a candidate of a search.*a clone"):
                clf.partial_fit(X, y)
            with pytest.raises(ValueError, match=r"a candidate of a search.*a clone"):
                clf.set_params(warm_start=True).fit(X, y)
            return 0.0

        search = BatchedGridSearchCV(make(), {"lr": [0.1, 0.2]}, scoring=score)
        search.fit(X, y)
        assert (search.cv_results_["mean_test_score"] == 0).all()

    def test_scores_that_are_no_numbers(self):
        search = BatchedGridSearchCV(make(), {"lr": [0.1]}, scoring=lambda *_: "good")
        with pytest.raises(ValueError, match=r"scoring must return a number.*<lambda>"):
            search.fit(X, y)

    def test_inconsistent_splitter(self):
        class Broken(KFold):
            def get_n_splits(self, *args, **kwargs):
                return 1

        search = BatchedGridSearchCV(make(), {"lr": [0.1]}, cv=Broken(3))
        with pytest.raises(ValueError, match=r"Expected 1 splits, got 3"):
            search.fit(X, y)

    @pytest.mark.parametrize("cls", [BatchedGridSearchCV, BatchedRandomizedSearchCV])
    def test_bad_parameters_of_the_search(self, cls):
        for kwargs in ({"n_jobs": "2"}, {"cv": "three"}, {"refit": 3}):
            with pytest.raises(
                ValueError, match=f"The '{next(iter(kwargs))}' parameter of"
            ):
                cls(make(), {"lr": [0.1]}, **kwargs).fit(X, y)
        with pytest.raises(ValueError, match="The 'estimator' parameter of"):
            cls(3, {"lr": [0.1]}).fit(X, y)
        with pytest.raises(ValueError, match="Invalid parameter 'speed'"):
            cls(make(), {"speed": [0.1] * 10}, cv=CV).fit(X, y)
        with pytest.raises(ValueError, match="For multi-metric scoring"):
            cls(make(), {"lr": [0.1] * 10}, scoring=["accuracy"]).fit(X, y)


class TestIsASearch:
    def fitted(self, **kwargs):
        grid = {"clf__lr": [0.01, 0.1], "clf__epochs": [1, 3]}
        return BatchedGridSearchCV(make_pipe(), grid, cv=CV, **kwargs).fit(X, y)

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            (BatchedGridSearchCV, GridSearchCV),
            (BatchedRandomizedSearchCV, RandomizedSearchCV),
        ],
    )
    def test_signature(self, ours, theirs):
        assert issubclass(ours, theirs)
        assert str(inspect.signature(ours)) == str(inspect.signature(theirs))
        assert inspect.signature(ours.fit).parameters.keys() == {
            *("self", "X", "y", "params")
        }

    def test_methods(self):
        search = self.fitted()
        theirs = GridSearchCV(make_pipe(), search.param_grid, cv=CV).fit(X, y)
        for name in ("predict", "predict_proba", "decision_function"):
            np.testing.assert_allclose(
                getattr(search, name)(X), getattr(theirs, name)(X)
            )
        assert search.classes_.tolist() == [0, 1]
        assert search.n_features_in_ == 5
        assert not hasattr(search, "transform")

    def test_tags_and_repr(self):
        search, theirs = (
            cls(make_pipe(), {"clf__lr": [0.1]})
            for cls in (BatchedGridSearchCV, GridSearchCV)
        )
        assert get_tags(search) == get_tags(theirs)
        assert is_classifier(search)
        assert repr(search) == "Batched" + repr(theirs).replace("\n", "\n       ")
        for one in (search, search.fit(X, y)):
            html = one._repr_html_()
            assert "BatchedGridSearchCV" in html
            assert "TorchLogisticClassifier" in html
        assert "StandIn" not in html

    def test_clone_and_pickle(self):
        search = self.fitted()
        copied = clone(search)
        assert not hasattr(copied, "cv_results_")
        assert str(copied.get_params()) == str(search.get_params())
        loaded = pickle.loads(pickle.dumps(search))
        np.testing.assert_array_equal(loaded.predict(X), search.predict(X))
        assert loaded.scorer_ is not None
        assert loaded.score(X, y) == search.score(X, y)
        assert_same_results(loaded.cv_results_, search.cv_results_)

    def test_fitting_again(self):
        search = self.fitted()
        first = search.cv_results_
        assert_same_results(search.fit(X, y).cv_results_, first, 0)

    @pytest.mark.parametrize("grid", [{"clf__lr": [0.1, 0.3]}, {"clf__epochs": [1]}])
    def test_jobs(self, grid):
        """In threads, for speed; tests of scikit-learn below use processes."""
        import joblib

        grid = {**grid, "clf__optimizer": ["sgd", "adam", "newton"]}
        grid["clf__alpha"] = [0.1]
        grid["clf__epochs"] = [30]
        one = BatchedGridSearchCV(make_pipe(), grid, cv=CV).fit(X, y)
        with joblib.parallel_config("threading"):
            two = BatchedGridSearchCV(make_pipe(), grid, cv=CV, n_jobs=2).fit(X, y)
        assert two.n_jobs == 2
        assert_same_search(two, one)

    def test_processes(self):
        one = self.fitted()
        two = self.fitted(n_jobs=2)
        assert_same_search(two, one)

    def test_progress_bar(self, capsys):
        self.fitted()
        assert capsys.readouterr() == ("", "")
        self.fitted(verbose=1)
        out, err = capsys.readouterr()
        assert "Fitting 3 folds for each of 4 candidates, totalling 12 fits" in out
        assert "12/12" in err
        assert "fit/s" in err
        self.fitted(verbose=3)
        out, err = capsys.readouterr()
        assert out.count("[CV ") == 12
        assert err == ""

    @pytest.mark.parametrize("optimizer", ["sgd", "lbfgs"])
    def test_progress_bar_moves_within_a_group(self, optimizer, monkeypatch):
        bars = []

        class Bar:
            def __init__(self, total, **kwargs):
                bars.append(self)
                self.total, self.n, self.seen = total, 0, []

            def __enter__(self):
                return self

            def __exit__(self, *error):
                pass

            def update(self, n):
                assert n == int(n) >= 0
                self.n += n
                self.seen.append(self.n)

        monkeypatch.setattr(search_module, "tqdm", Bar)
        grid = {"alpha": [0.01, 0.1], "epochs": [5, 10]}
        clf = make(optimizer=optimizer, tol=0.1)
        BatchedGridSearchCV(clf, grid, cv=3, verbose=1).fit(X, y)
        (bar,) = bars
        assert bar.seen[-1] == bar.total == 12
        assert len({n for n in bar.seen if 0 < n < 12}) >= 2

    def test_times_are_shared(self):
        results = self.fitted().cv_results_
        assert len(set(results["mean_fit_time"].round(12))) == 1
        assert results["std_fit_time"] == pytest.approx(0)
        assert (results["mean_fit_time"] > 0).all()
        assert (results["mean_score_time"] > 0).all()

    def test_nested(self):
        grid = {"clf__lr": [0.01, 0.1], "clf__epochs": [1, 3]}
        scores = [
            cross_val_score(cls(make_pipe(), grid, cv=CV), X, y, cv=CV)
            for cls in (BatchedGridSearchCV, GridSearchCV)
        ]
        np.testing.assert_allclose(*scores)

    def test_as_a_step(self):
        search = BatchedGridSearchCV(make(), {"lr": [0.01, 0.1]}, cv=CV)
        pipe = Pipeline([("scale", StandardScaler()), ("search", search)]).fit(X, y)
        assert 0 < pipe.score(X, y) <= 1

    def test_torch_state_stays(self):
        generator, dtype = torch.get_rng_state(), torch.get_default_dtype()
        self.fitted()
        assert torch.equal(torch.get_rng_state(), generator)
        assert torch.get_default_dtype() == dtype
        assert torch.is_grad_enabled()


checks = parametrize_with_checks(
    [
        BatchedGridSearchCV(
            make(epochs=20, alpha=0.01, batch_size=None), {"lr": [0.1, 0.2]}, cv=2
        ),
    ],
).mark


# scikit-learn < 1.9 passes a generator, of which pytest warns.
@pytest.mark.parametrize(checks.args[0], list(checks.args[1]), **checks.kwargs)
@pytest.mark.filterwarnings("ignore")
def test_estimator_checks(estimator, check):
    check(estimator)


# scikit-learn's own tests of its searches, with ours in their place. Those not here:
# * of ParameterGrid, ParameterSampler and BaseSearchCV itself:
#   test_validate_parameter_input, test_parameter_grid, test_param_sampler,
#   test_parameters_sampler_replacement, test_yield_masked_array_*,
#   test__custom_fit_no_run_search, test_search_callbacks_receive_search_instance;
# * of array API support, which needs other libraries and estimators:
#   test_array_api_search_cv_classifier;
# * slow, and of parts that are inherited: test_search_with_2d_array;
# * of a message that changed between versions: test_random_search_bad_cv.
# Parameters with HalvingGridSearchCV and HalvingRandomSearchCV test those.
OF_SKLEARN = """
    SearchCV_with_fit_params X_as_list callable_multimetric_clf_all_fits_fail
    callable_multimetric_confusion_matrix callable_multimetric_error_failing_clf
    callable_multimetric_error_on_invalid_key
    callable_multimetric_same_as_list_of_strings
    callable_single_metric_same_as_single_string classes__property custom_run_search
    cv_results_dtype_issue_29074 cv_results_multi_size_array empty_cv_iterator_error
    grid_search grid_search_allows_nans grid_search_bad_param_grid
    grid_search_classifier_all_fits_fail grid_search_correct_score_results
    grid_search_cv_results grid_search_cv_results_multimetric
    grid_search_cv_splits_consistency grid_search_error grid_search_failing_classifier
    grid_search_failing_classifier_raise grid_search_groups grid_search_no_score
    grid_search_one_grid_point grid_search_pipeline_steps
    grid_search_precomputed_kernel grid_search_precomputed_kernel_error_nonsquare
    grid_search_score_method grid_search_sparse grid_search_sparse_scoring
    grid_search_when_param_grid_includes_range grid_search_with_multioutput_data
    gridsearch_nd gridsearch_no_predict multi_metric_search_forwards_metadata
    n_features_in no_refit pandas_input pickle predict_proba_disabled
    random_search_cv_results random_search_cv_results_multimetric
    refit refit_callable refit_callable_invalid_type refit_callable_multi_metric
    refit_callable_out_bound scalar_fit_param scalar_fit_param_compat
    score_rejects_params_with_no_routing_enabled search_callbacks_no_propagation
    search_callbacks_propagation search_callbacks_receive_sample_weight
    search_callbacks_with_partial_fit_failures
    search_cv__pairwise_property_delegated_to_base_estimator
    search_cv_pairwise_property_delegated_to_base_estimator
    search_cv_pairwise_property_equivalence_of_precomputed
    search_cv_results_none_param search_cv_results_rank_tie_breaking
    search_cv_sample_weight_equivalence search_cv_score_samples_error
    search_cv_score_samples_method search_cv_timing
    search_cv_using_minimal_compatible_estimator search_cv_verbose_3
    search_default_iid search_estimator_param search_html_repr
    search_train_scores_set_to_false search_with_estimators_issue_29157
    searchcv_raise_warning_with_non_finite_score stochastic_gradient_loss_param
    transform_inverse_transform_round_trip trivial_cv_results_attr
    unsupervised_grid_search unsupported_sample_weight_scorer y_as_list
""".split()
OURS = {
    GridSearchCV: BatchedGridSearchCV,
    RandomizedSearchCV: BatchedRandomizedSearchCV,
}


def ours(value):
    """A parameter of a test with our search in place of scikit-learn's."""
    if isinstance(value, type):
        return OURS.get(value, value)
    if type(value) in OURS:
        return OURS[type(value)](**value.get_params(deep=False))
    return value


def cases():
    """Name and parameters of each of these tests that this scikit-learn has."""
    for name in OF_SKLEARN:
        test = getattr(of_sklearn, f"test_{name}", None)
        marks = [m for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
        if test is None:
            continue
        tables = []
        for mark in marks:
            names, rows = mark.args
            names = names.split(",") if isinstance(names, str) else names
            names = [name.strip() for name in names]
            rows = [row if len(names) > 1 else (row,) for row in rows]
            tables.append([dict(zip(names, row, strict=True)) for row in rows])
        for number, parts in enumerate(itertools.product(*tables)):
            params = {key: value for part in parts for key, value in part.items()}
            if "Halving" not in str(params):
                yield pytest.param(test, params, id=f"{name}-{number}")


@pytest.mark.skipif(of_sklearn is None, reason="scikit-learn has no tests")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("test", "params"), list(cases()))
def test_of_scikit_learn(test, params, monkeypatch, request):
    for theirs, own in OURS.items():
        monkeypatch.setattr(of_sklearn, theirs.__name__, own)
    fixtures = inspect.signature(test).parameters.keys() - params.keys()
    values = {name: request.getfixturevalue(name) for name in fixtures}
    test(**{key: ours(value) for key, value in params.items()}, **values)
