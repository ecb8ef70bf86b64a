"""Joint fits against single ones: models, histories, errors of folds and of members."""

import copy
import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning

from torchlogistic import (
    TorchLogisticClassifier,
    _arrays,
    _joint_fullbatch,
    _joint_minibatch,
    _lockstep,
    _together,
)
from torchlogistic._folds import Fold
from torchlogistic._together import can_join, fit_together

X, y = make_classification(n_samples=60, n_features=5, random_state=0)
X3, y3 = make_classification(
    n_samples=60,
    n_features=5,
    n_informative=4,
    n_redundant=0,
    n_classes=3,
    random_state=0,
)
WEIGHT = np.random.default_rng(0).integers(0, 3, size=60).astype(float)
both_losses = pytest.mark.parametrize("data", [(X, y), (X3, y3)], ids=["2", "3"])
NAMED = ("coef_", "intercept_", "loss_curve_", "validation_loss_curve_")


def make(**params):
    defaults = {"epochs": 4, "batch_size": 8, "random_state": 0, "device": "cpu"}
    return TorchLogisticClassifier(**{**defaults, **params})


def folds_of(X, y, weight=None, parts=((0, 40), (20, 60), (7, 44))):
    return [
        Fold(X[a:b], y[a:b], None if weight is None else weight[a:b]) for a, b in parts
    ]


def fit_alone(clf, fold):
    return clone(clf).fit(fold.X, fold.y, sample_weight=fold.sample_weight)


def assert_same_fit(found, clf, fold):
    assert_same(found, fit_alone(clf, fold))


def assert_same(found, expected):
    public = {name for name in vars(expected) if name.endswith("_")}
    assert {name for name in vars(found) if name.endswith("_")} == public
    assert found.get_params() == expected.get_params()
    for name in NAMED:
        if hasattr(expected, name):
            own, value = np.asarray(getattr(found, name)), getattr(expected, name)
            np.testing.assert_allclose(own, value, 1e-10, 1e-12, err_msg=name)
            assert own.dtype == np.asarray(value).dtype
    for name in ("n_iter_", "batch_size_", "device_", "n_features_in_"):
        assert getattr(found, name) == getattr(expected, name)
    np.testing.assert_array_equal(found.classes_, expected.classes_)
    for own, row in zip(found.history_, expected.history_, strict=True):
        assert own.keys() == row.keys()
        for key, value in row.items():
            if key != "dur":
                assert own[key] == pytest.approx(value, rel=1e-9), key
    for name in ("fit_intercept", "alpha", "l1_ratio", "pos_weight", "weight_sum"):
        assert found._run[name] == expected._run[name]
    np.testing.assert_array_equal(
        found._run["class_weight"], expected._run["class_weight"]
    )


def check(classifiers, folds):
    """Each outcome is the fit of its classifier on its fold."""
    assert all(map(can_join, classifiers))
    before = [copy.deepcopy(vars(clf)) for clf in classifiers]
    outcomes = fit_together(classifiers, folds)
    assert [len(row) for row in outcomes] == [len(classifiers)] * len(folds)
    for fold, row in zip(folds, outcomes, strict=True):
        for clf, found in zip(classifiers, row, strict=True):
            assert_same_fit(found, clf, fold)
    assert [vars(clf) for clf in classifiers] == before
    found = [id(clf.coef_) for row in outcomes for clf in row]
    assert len(set(found)) == len(found)
    return outcomes


MEMBERS = {
    "lr": [{"lr": lr} for lr in (0.01, 0.1, 1.0)],
    "epochs": [{"epochs": n} for n in (3, 0, 7, 3, 1)],
    "lr, epochs": [{"lr": lr, "epochs": n} for lr in (0.01, 0.1) for n in (2, 5)],
    "penalty": [{"alpha": a, "l1_ratio": r} for a in (0.0, 0.1) for r in (0, 0.5, 1)],
    "momentum": [{"momentum": m} for m in (0.0, 0.5, 0.9)],
    "class_weight": [{"class_weight": w} for w in (None, "balanced", {0: 1.0, 1: 3.0})],
    "alone": [{}],
    "twice": [{}, {}],
}


@both_losses
@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weights"])
def test_members(name, data, weight):
    check([make(**params) for params in MEMBERS[name]], folds_of(*data, weight))


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weights"])
def test_pos_weight(weight):
    members = [make(pos_weight=w) for w in (None, 0.2, "balanced", 7)]
    check(members, folds_of(X, y, weight))


@both_losses
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "adagrad"])
def test_optimizers(data, optimizer):
    members = [make(optimizer=optimizer, lr=lr, momentum=lr) for lr in (0.01, 0.1)]
    check(members, folds_of(*data))


OWN = {
    "sgd": [
        {"weight_decay": 0.0, "dampening": 0.5},
        {"weight_decay": 0.1, "dampening": 0.25},
        {"weight_decay": 0.01, "dampening": 0},
    ],
    "adam": [
        {"betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0},
        {"betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.1},
    ],
    "adamw": [{"weight_decay": decay} for decay in (0.0, 0.1, 1.0)],
    "rmsprop": [
        {"alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0},
        {"alpha": 0.5, "eps": 1e-3, "weight_decay": 0.1},
    ],
    "adagrad": [
        {"lr_decay": 0.0, "eps": 1e-10, "initial_accumulator_value": 0.0},
        {"lr_decay": 0.1, "eps": 1e-3, "initial_accumulator_value": 1.0},
    ],
}


@both_losses
@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
@pytest.mark.parametrize("optimizer", OWN)
def test_numbers_of_the_optimizers_own(data, optimizer, l1_ratio):
    shared = {"optimizer": optimizer, "momentum": 0.9, "lr": 0.05, "alpha": 0.01}
    members = [
        make(**shared, l1_ratio=l1_ratio, optimizer_params=own)
        for own in OWN[optimizer]
    ]
    check(members, folds_of(*data))


@both_losses
@pytest.mark.filterwarnings("ignore:The mean loss at the end")  # of lr=2
def test_early_stopping(data):
    members = [
        make(
            early_stopping=True,
            lr=lr,
            epochs=n,
            n_iter_no_change=2,
            tol=1e-3,
            validation_fraction=0.2,
        )
        for lr in (0.1, 2.0)
        for n in (1, 30)
    ]
    outcomes = check(members, folds_of(*data, WEIGHT))
    stopped = {clf.n_iter_ for row in outcomes for clf in row}
    assert len(stopped) > 2


@both_losses
def test_folds_that_cannot_be_stacked(data):
    """One batch more or fewer, another dtype, other classes: runs of their own."""
    X, y = data
    folds = folds_of(X, y, parts=((0, 40), (0, 41), (0, 48), (0, 49)))
    folds.append(Fold(X[:40].astype(np.float32).astype(np.float64), y[:40]))
    names = np.array(["a", "b", "c"])[y]
    check([make(lr=lr) for lr in (0.01, 0.1)], [*folds, Fold(X, names)])


def test_float32():
    """In their precision; the sums of a fold of float64 do not change for them."""
    folds = [Fold(X[:40].astype(np.float32), y[:40]), Fold(X[:40], y[:40])]
    for found, fold in zip(fit_together([make()], folds), folds, strict=True):
        assert found[0].coef_.dtype == fold.X.dtype
        expected = make().fit(fold.X, fold.y)
        np.testing.assert_allclose(found[0].coef_, expected.coef_, 1e-5)


def test_large_folds_are_not_stacked(monkeypatch):
    monkeypatch.setitem(_together.STACKED_BYTES, "cpu", 0)
    made = []
    fit_stack = _together.fit_stack
    monkeypatch.setattr(
        _together,
        "fit_stack",
        lambda c, f, a: made.append(len(f)) or fit_stack(c, f, a),
    )
    check([make(lr=lr) for lr in (0.01, 0.1)], folds_of(X, y))
    assert made == [1, 1, 1]


@both_losses
def test_slices(data, monkeypatch):
    """Candidates that do not fit into memory together are trained in parts."""
    k = 1 if len(set(data[1])) == 2 else 3
    # Coefficients of three folds and five features, and for three classes the targets.
    entries = 3 * 5 * k * 6 + (2 * 117 * k if k > 1 else 0)
    monkeypatch.setattr(_joint_minibatch, "SLICE_BYTES", 6 * 8 * entries)
    made = []
    make_run = _joint_minibatch.JointMiniBatch._make_run
    monkeypatch.setattr(
        _joint_minibatch.JointMiniBatch,
        "_make_run",
        lambda self, columns: made.append(len(columns)) or make_run(self, columns),
    )
    lrs = np.geomspace(0.01, 1, 7)
    check([make(lr=lr, epochs=n) for lr in lrs for n in (1, 3)], folds_of(*data))
    assert made == [6, 1]


def test_candidates_that_are_the_same_share_a_column(monkeypatch):
    """Their scores must tie, and no rounding may tell them apart."""
    members = [make(alpha=0.0, l1_ratio=r, epochs=n) for r in (0, 0.5) for n in (2, 3)]
    members += [make(alpha=0.0, momentum=0.0, epochs=2)]
    (row,) = fit_together(members, [Fold(X, y)])
    for clf in (row[2], row[4]):
        np.testing.assert_array_equal(row[0].coef_, clf.coef_)
    adams = [make(optimizer="adam", momentum=m) for m in (0.0, 0.5)]
    (row,) = fit_together(adams, [Fold(X, y)])
    np.testing.assert_array_equal(row[0].coef_, row[1].coef_)


def outcomes_alone(classifiers, folds):
    """The fitted classifiers, or the exceptions of their fits."""

    def outcome(clf, fold):
        try:
            return fit_alone(clf, fold)
        except Exception as error:
            return error

    return [[outcome(clf, fold) for clf in classifiers] for fold in folds]


def recorded(function, *args):
    """What a function returns, and the sorted texts of its warnings."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = function(*args)
    assert all(w.category is ConvergenceWarning for w in seen)
    return result, sorted(str(w.message) for w in seen)


FULL_BATCH = {
    "penalty, epochs": [
        {"alpha": a, "l1_ratio": r, "epochs": n}
        for a in (0.01, 0.1)
        for r in (0, 0.5, 1)
        for n in (200, 2)
    ],
    "epochs": [{"alpha": 0.03, "epochs": n} for n in (3, 0, 200, 3, 1, 100)],
    "class_weight": [
        {"alpha": a, "epochs": n, "class_weight": w}
        for w in (None, "balanced", {0: 1.0, 1: 3.0})
        for a in (0.01, 0.1)
        for n in (2, 100)
    ],
    "no intercept": [
        {"fit_intercept": False, "alpha": a, "epochs": n}
        for a in (0.01, 0.1)
        for n in (1, 100)
    ],
    "no penalty": [{"epochs": n} for n in (1, 50)],
    "precision": [
        {"alpha": a, "tol": 1e-17, "epochs": n}
        for a, n in ((0.01, 300), (0.1, 300), (0.1, 2))
    ],
    "any tolerance": [{"alpha": a, "tol": 1e300} for a in (0.01, 0.1)],
}


@pytest.mark.parametrize("optimizer", ["lbfgs", "newton"])
class TestFullBatch:
    def compare(self, classifiers, folds):
        """Same outcomes and warnings as of single fits; returns both."""
        assert all(map(can_join, classifiers))
        found, texts = recorded(fit_together, classifiers, folds)
        expected, expected_texts = recorded(outcomes_alone, classifiers, folds)
        assert texts == expected_texts
        for row, expected_row in zip(found, expected, strict=True):
            for own, one in zip(row, expected_row, strict=True):
                if isinstance(one, Exception):
                    assert type(own) is type(one)
                    assert str(own) == str(one)
                else:
                    assert_same(own, one)
                    for name in NAMED:  # to the bit
                        if hasattr(one, name):
                            ours, theirs = getattr(own, name), getattr(one, name)
                            np.testing.assert_array_equal(ours, theirs)
        return found, texts

    @both_losses
    @pytest.mark.parametrize("name", FULL_BATCH)
    @pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weights"])
    def test_members(self, optimizer, name, data, weight):
        members = [make(optimizer=optimizer, **params) for params in FULL_BATCH[name]]
        found, texts = self.compare(members, folds_of(*data, weight))
        at_tol = name == "any tolerance"
        assert (len({clf.n_iter_ for clf in found[0]}) > 1) != at_tol
        match = "no step lowers" if name == "precision" else "Increase epochs"
        assert any(match in text for text in texts) != at_tol

    def test_pieces_that_blas_would_share(self, optimizer, monkeypatch):
        """They are whole here, as in the fits of one."""
        monkeypatch.setattr(_arrays, "SERIAL_COLUMNS", 200)
        monkeypatch.setattr(_arrays, "MIN_ROWS", 1)
        members = [make(optimizer=optimizer, alpha=a, epochs=5) for a in (0.1, 1.0)]
        self.compare(members, folds_of(X3, y3))

    def test_pos_weight(self, optimizer):
        weights = None, 0.2, "balanced", 7
        members = [make(optimizer=optimizer, alpha=0.1, pos_weight=w) for w in weights]
        self.compare(members, folds_of(X, y, WEIGHT))

    def test_separable_classes(self, optimizer):
        """Each warns of the step at which it is, if it has no penalty."""
        members = [
            make(optimizer=optimizer, alpha=a, epochs=n)
            for a in (0.0, 0.1)
            for n in (2, 6, 100)
        ]
        labels = (X[:, 0] > 0).astype(int)
        _, texts = self.compare(members, folds_of(X, labels))
        assert sum("separate the classes" in text for text in texts) >= 6

    @both_losses
    def test_early_stopping(self, optimizer, data):
        members = [
            make(
                optimizer=optimizer,
                early_stopping=True,
                alpha=a,
                epochs=n,
                n_iter_no_change=2,
                tol=1e-3,
                validation_fraction=0.2,
            )
            for a in (0.0, 0.01, 1.0)
            for n in (2, 30)
        ]
        found, _ = self.compare(members, folds_of(*data, WEIGHT))
        assert len({clf.n_iter_ for row in found for clf in row}) > 2
        kept = [clf for row in found for clf in row if clf.epochs == 30]
        best = [np.argmin(clf.validation_loss_curve_) + 1 for clf in kept]
        assert any(n < clf.n_iter_ for n, clf in zip(best, kept, strict=True))

    @both_losses
    def test_rows_that_are_badly_scaled(self, optimizer, data):
        """Ended on the way, where any rounding would have led elsewhere."""
        X, y = data[0] * [1, 1e1, 1e2, 1e3, 1e4], data[1]
        alphas = [0.0, *np.logspace(-6, 0, 5)]
        members = [make(optimizer=optimizer, alpha=a, epochs=30) for a in alphas]
        self.compare(members, folds_of(X, y))

    def test_more_candidates_than_go_together(self, optimizer, monkeypatch):
        monkeypatch.setattr(_lockstep, "LOCKSTEP_ENTRIES", 130)  # of 40 each
        members = [
            make(optimizer=optimizer, alpha=a, l1_ratio=r, epochs=50)
            for a in np.logspace(-3, 0, 5)
            for r in (0, 0.5)
        ]
        self.compare(members, folds_of(X, y))

    @both_losses
    def test_float32(self, optimizer, data):
        folds = [Fold(fold.X.astype(np.float32), fold.y) for fold in folds_of(*data)]
        members = [make(optimizer=optimizer, alpha=a, epochs=50) for a in (0.01, 0.1)]
        ((clf, _), *_), _ = self.compare(members, folds)
        assert clf.coef_.dtype == np.float32

    def test_what_it_does_not_use_makes_no_difference(self, optimizer):
        members = [
            make(optimizer=optimizer, alpha=0.1, lr=lr, momentum=m, epochs=n)
            for lr in (0.01, 0.1)
            for m in (0.0, 0.9)
            for n in (50, 100)
        ]
        members += [make(optimizer=optimizer, l1_ratio=r, epochs=50) for r in (0, 1)]
        (row,) = fit_together(members, [Fold(X, y)])
        for same in (row[:8], row[8:]):
            assert len({clf.coef_.tobytes() for clf in same}) == 1

    def test_epochs_are_moments_of_one_run(self, optimizer, monkeypatch):
        n_runs = []
        original = _joint_fullbatch.Run.__init__
        monkeypatch.setattr(
            _joint_fullbatch.Run,
            "__init__",
            lambda self, *args: n_runs.append(1) or original(self, *args),
        )
        members = [
            make(optimizer=optimizer, alpha=a, epochs=n)
            for a in (0.05, 0.1)
            for n in (60, 80, 100)
        ]
        fit_together(members, folds_of(X, y))
        assert len(n_runs) == 2 * 3

    def test_members_that_fail(self, optimizer):
        """Weights so large that nothing can be computed, between two that are not."""
        members = [
            make(optimizer=optimizer, alpha=0.1, lr=lr, pos_weight=w, epochs=n)
            for w, lr in ((1.0, 0.1), (1e308, 0.2), (1e308, 0.3), (2.0, 0.1))
            for n in (0, 50)
        ]
        found, _ = self.compare(members, folds_of(X, y))
        failed = [isinstance(outcome, Exception) for outcome in found[0]]
        assert failed == [False, False, False, True, False, True, False, False]
        if optimizer == "newton":
            assert "second derivatives overflow" in str(found[0][3])

    def test_weights_that_do_not_suit(self, optimizer):
        weights = [None, {0: 1.0, 5: 1.0}, "balanced"]
        members = [
            make(optimizer=optimizer, alpha=0.1, class_weight=w, epochs=50)
            for w in weights
        ]
        found, _ = self.compare(members, folds_of(X, y))
        assert [isinstance(one, Exception) for one in found[0]] == [False, True, False]

    def test_bad_folds(self, optimizer):
        bad = X[:40].copy()
        bad[3, 2] = np.nan
        folds = [Fold(bad, y[:40]), Fold(X[:40], np.zeros(40)), Fold(X, y)]
        members = [make(optimizer=optimizer, alpha=a, epochs=50) for a in (0.1, 0.2)]
        found, _ = self.compare(members, folds)
        assert [isinstance(row[0], Exception) for row in found] == [True, True, False]

    def test_warnings_that_are_errors(self, optimizer):
        members = [make(optimizer=optimizer, alpha=0.1, epochs=n) for n in (1, 50)]
        for row in fit_together(members, folds_of(X, y)):
            assert isinstance(row[0], ConvergenceWarning)
            assert row[1].n_iter_ > 1


def test_one_of_a_lockstep_that_raises(monkeypatch):
    """Its second derivatives overflow; the others go on, and nobody begins anew."""
    monkeypatch.setattr(_together, "fit_single", None)
    clfs = [make(optimizer="newton", pos_weight=w, alpha=0.1) for w in (1, 1e308, 2)]
    (outcomes,) = fit_together(clfs, [Fold(X, y)])
    assert isinstance(outcomes[1], ValueError)
    assert re.search("overflow|diverged", str(outcomes[1]))
    for clf, outcome in zip(clfs[::2], outcomes[::2], strict=True):
        np.testing.assert_array_equal(outcome.coef_, clf.fit(X, y).coef_)


def test_newton_refuses_hessians_that_do_not_fit(monkeypatch):
    monkeypatch.setattr("torchlogistic._newton.MAX_COEFFICIENTS", 5)
    members = [make(optimizer="newton", epochs=n) for n in (0, 50)]
    (row,) = fit_together(members, [Fold(X, y)])
    assert all("Hessian of 6 x 6" in str(error) for error in row)


class TestErrors:
    def assert_same_errors(self, classifiers, folds):
        outcomes = fit_together(classifiers, folds)
        n_errors = 0
        for fold, row in zip(folds, outcomes, strict=True):
            for clf, found in zip(classifiers, row, strict=True):
                try:
                    clone(clf).fit(fold.X, fold.y, sample_weight=fold.sample_weight)
                except Exception as error:
                    n_errors += 1
                    assert type(found) is type(error)
                    assert str(found) == str(error)
                else:
                    assert_same_fit(found, clf, fold)
        return n_errors

    def test_bad_folds(self):
        """Each fold that cannot be learned from fails for all, and for itself."""
        bad = X[:40].copy()
        bad[3, 2] = np.nan
        folds = [
            *folds_of(X, y),
            Fold(bad, y[:40]),
            Fold(X[:40], np.zeros(40)),
            Fold(X[:40], y[:39]),
            Fold(X[:40], y[:40] + 0.5),
            Fold(X[:40], y[:40], -np.ones(40)),
            Fold(X[:40], y[:40], np.zeros(40)),
            Fold(X[:0], y[:0]),
            Fold("rows", y),
        ]
        members = [make(lr=lr) for lr in (0.01, 0.1)]
        assert self.assert_same_errors(members, folds) == 16

    def test_members_that_diverge(self):
        members = [make(lr=lr, epochs=n) for lr in (0.1, 1e6, 1e300) for n in (1, 20)]
        for data in ((X, y), (X3, y3)):
            assert self.assert_same_errors(members, folds_of(*data)) >= 9

    def test_the_epoch_of_a_divergence(self):
        members = [make(lr=0.1), make(lr=1e200, alpha=1.0)]
        assert self.assert_same_errors(members, folds_of(X, y)) == 3

    @pytest.mark.parametrize(
        ("data", "params"),
        [
            ((X, y), {"class_weight": {0: 1.0, 5: 1.0}}),
            ((X, y), {"class_weight": "balanced", "pos_weight": 2.0}),
            ((X3, y3), {"pos_weight": 2.0}),
        ],
    )
    def test_weights_that_do_not_suit(self, data, params):
        members = [make(), make(**params), make(lr=0.2), make(epochs=1, **params)]
        assert self.assert_same_errors(members, folds_of(*data)) == 6
        assert self.assert_same_errors(members[1::2], folds_of(*data)) == 6

    def test_no_folds(self):
        assert fit_together([make()], []) == []


class TestCanJoin:
    @pytest.mark.parametrize(
        "params",
        [
            {},
            {"random_state": np.int64(3)},
            {"optimizer": "adam", "optimizer_params": {"betas": (0.5, 0.9)}},
            {"optimizer": torch.optim.SGD, "momentum": 0.5},
            {"class_weight": {0: 1}},
            {"pos_weight": "balanced"},
            {"early_stopping": True},
            {"optimizer": "lbfgs"},
            {"optimizer": "newton", "alpha": 0.1, "l1_ratio": 1.0},
            {"dtype": "float32", "batch_size": None, "shuffle": False},
            {"optimizer_params": {"dampening": 0.5}, "momentum": 0.5},
        ],
    )
    def test_joins(self, params):
        assert can_join(make(**params))

    @pytest.mark.parametrize(
        "params",
        [
            {"random_state": np.random.RandomState(0)},
            {"callbacks": [("name", object())]},
            {"warm_start": True},
            {"verbose": 1},
            {"optimizer": "lbfgs", "optimizer_params": {"history_size": 5}},
            {"optimizer": "newton", "warm_start": True},
            {"optimizer": "sdg"},
            {"optimizer": torch.optim.NAdam},
            {"optimizer": type("Mine", (torch.optim.SGD,), {})},
            {"optimizer_params": {"nesterov": True}},
            {"optimizer_params": {"dampening": 0.5}},
            {"optimizer_params": {"speed": 0.5}},
            {"optimizer_params": {"lr": 0.5}},
            {"lr": -1},
            {"lr": "fast"},
            {"class_weight": {0: 0, 1: 1}},
            {"class_weight": {0: "a"}},
            {"device": "cuda:99"},
            {"device": "meta"},
        ],
    )
    def test_fits_alone(self, params):
        assert not can_join(make(**params))

    def test_without_a_seed_a_run_is_shared(self):
        """None asks for any draw: candidates may have the same."""
        assert can_join(make(random_state=None))

    def test_other_classes(self):
        class Mine(TorchLogisticClassifier):
            pass

        assert not can_join(Mine(random_state=0))
        assert not can_join("passthrough")


def test_rows_that_a_device_cannot_hold_are_fitted_one_by_one(monkeypatch):
    """Single fits let them pass through it."""
    monkeypatch.setattr(_together, "fits", lambda device, n_bytes: False)
    members = [make(lr=0.1), make(lr=0.3)]
    for fold, row in zip(
        folds_of(X, y), fit_together(members, folds_of(X, y)), strict=True
    ):
        for clf, found in zip(members, row, strict=True):
            expected = clone(clf).fit(fold.X, fold.y)
            np.testing.assert_array_equal(found.coef_, expected.coef_)
    broken = Fold(np.full((4, 2), np.nan), np.array([0, 1, 0, 1]))
    (outcomes,) = fit_together(members, [broken])
    assert all("NaN" in str(error) for error in outcomes)
