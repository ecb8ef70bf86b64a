"""Warm starts and partial_fit: what continues, what the user changed, what cannot."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_moons
from skorch.callbacks import Freezer, LRScheduler
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    ReduceLROnPlateau,
    StepLR,
)

from torchlogistic import TorchLogisticClassifier

X, y = make_moons(60, noise=0.3, random_state=0)


def make(**params):
    settings = {"batch_size": 16, "random_state": 0, "device": "cpu"}
    return TorchLogisticClassifier(**{**settings, **params})


def rates(clf):
    return [row["event_lr"] for row in clf.history_]


SCHEDULES = {
    "StepLR on its step": (StepLR, {"step_size": 3}),
    "ExponentialLR": (ExponentialLR, {"gamma": 0.7}),
    "CosineAnnealingLR": (CosineAnnealingLR, {"T_max": 9}),
    "ReduceLROnPlateau": (
        ReduceLROnPlateau,
        {"monitor": "train_loss", "patience": 0, "threshold": 0.5},
    ),
    "StepLR by batch": (StepLR, {"step_size": 5, "step_every": "batch"}),
}


@pytest.mark.parametrize(("policy", "kwargs"), SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_continue(policy, kwargs):
    def schedule():
        return [LRScheduler(policy, **kwargs)]

    whole = make(epochs=9, callbacks=schedule()).fit(X, y)
    parts = make(epochs=3, warm_start=True, callbacks=schedule())
    for _ in range(3):
        parts.fit(X, y)
    np.testing.assert_array_equal(parts.coef_, whole.coef_)
    assert parts._run["group"]["lr"] == whole._run["group"]["lr"]


def test_frozen_coefficients_stay_frozen():
    def freeze():
        return [Freezer("linear.bias", at=2)]

    whole = make(epochs=6, callbacks=freeze()).fit(X, y)
    parts = make(epochs=3, warm_start=True, callbacks=freeze()).fit(X, y).fit(X, y)
    np.testing.assert_array_equal(parts.coef_, whole.coef_)
    np.testing.assert_array_equal(parts.intercept_, whole.intercept_)


@pytest.mark.parametrize("optimizer", ["lbfgs", "newton"])
def test_coefficients_frozen_late_stay_in_full_batch_solvers(optimizer):
    fits = [
        make(
            optimizer=optimizer,
            tol=0,
            epochs=epochs,
            callbacks=[Freezer("linear.bias", at=3)],
        )
        for epochs in (2, 3)
    ]
    with pytest.warns(match="max-norm"):
        before, after = (clf.fit(X, y).intercept_ for clf in fits)
    np.testing.assert_array_equal(before, after)


class TestChangedBetweenFits:
    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    def test_fit_intercept_is_refused(self, first, method):
        clf = make(epochs=2, fit_intercept=first, warm_start=True).fit(X, y)
        clf.set_params(fit_intercept=not first)
        with pytest.raises(ValueError, match=r"fit_intercept=.* differs"):
            getattr(clf, method)(X, y)

    def test_feature_names(self):
        frame = pd.DataFrame(X, columns=["a", "b"])
        clf = make(epochs=2, warm_start=True).fit(frame, y)
        with pytest.raises(ValueError, match="must be in the same order"):
            clf.fit(frame[["b", "a"]], y)

    def test_removed_argument_is_back_at_its_default(self):
        clf = make(optimizer_params={"weight_decay": 0.5}, epochs=2, warm_start=True)
        clf.fit(X, y).set_params(optimizer_params=None).fit(X, y)
        assert clf._run["group"]["weight_decay"] == 0

    def test_schedule_added(self):
        clf = make(epochs=2, warm_start=True).fit(X, y)
        clf.set_params(callbacks=[LRScheduler(StepLR, step_size=1, gamma=0.5)])
        assert clf.fit(X, y)._run["group"]["lr"] < 0.1

    def test_schedule_and_another_optimizer(self):
        clf = make(
            epochs=2, warm_start=True, callbacks=[LRScheduler(StepLR, step_size=1)]
        )
        clf.fit(X, y).set_params(optimizer="adam").fit(X, y)
        assert clf.n_iter_ == 4

    def test_lr_counts_beside_a_schedule(self):
        clf = make(
            epochs=2,
            warm_start=True,
            callbacks=[LRScheduler(LambdaLR, lr_lambda=lambda epoch: 1.0)],
        )
        clf.fit(X, y).set_params(lr=0.001).fit(X, y)
        assert clf._run["group"]["lr"] == 0.001

    @pytest.mark.parametrize(
        "second",
        [
            LRScheduler(StepLR, step_size=1, gamma=0.1),
            LRScheduler(ExponentialLR, gamma=0.1),
        ],
    )
    def test_another_schedule_of_the_same_name_counts(self, second):
        clf = make(epochs=1, warm_start=True)
        clf.set_params(callbacks=[LRScheduler(StepLR, step_size=1, gamma=0.5)]).fit(
            X, y
        )
        before = clf._run["group"]["lr"]
        clf.set_params(callbacks=[second], epochs=2).fit(X, y)
        assert clf._run["group"]["lr"] <= 0.1 * before + 1e-12


def test_no_epoch_more_warns_of_nothing():
    clf = make(optimizer="lbfgs", warm_start=True, alpha=0.1).fit(X, y)
    coef = clf.coef_
    np.testing.assert_array_equal(clf.set_params(epochs=0).fit(X, y).coef_, coef)


def test_class_weight_counts_in_parts_of_one_class():
    positive = X[y == 1], y[y == 1]
    plain = make(shuffle=False).partial_fit(*positive, classes=[0, 1])
    heavy = make(shuffle=False, class_weight={0: 1, 1: 2})
    heavy.partial_fit(*positive, classes=[0, 1])
    start = make(epochs=0).fit(X, y).intercept_
    assert heavy.intercept_ - start > 1.5 * (plain.intercept_ - start)


def test_l1_of_a_subclass_in_a_fresh_process():
    """torch wraps the step of a class when it is first constructed."""
    code = (
        "import numpy as np, torch\n"
        "from sklearn.datasets import make_moons\n"
        "from torchlogistic import TorchLogisticClassifier\n"
        "class Mine(torch.optim.SGD): pass\n"
        "X, y = make_moons(60, noise=0.3, random_state=0)\n"
        "X = np.hstack([X, X[::-1]])\n"
        "for optimizer in (Mine, 'sgd', Mine):\n"
        "    clf = TorchLogisticClassifier(optimizer=optimizer, alpha=0.1)\n"
        "    clf.set_params(l1_ratio=1, random_state=0).fit(X, y)\n"
        "    print(clf.coef_.tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(set(lines)) == 1
    assert "0.0" in lines[0]


def test_earlier_epochs_are_not_copied():
    """A run of many short ones would copy a long history each time."""
    clf = make().partial_fit(X, y, classes=[0, 1])
    earlier = clf.history_
    clf.partial_fit(X, y)
    assert clf.history_ is not earlier
    assert (len(earlier), len(clf.history_)) == (1, 2)
    assert clf.history_[0] is earlier[0]
    assert "batches" not in earlier[0]
