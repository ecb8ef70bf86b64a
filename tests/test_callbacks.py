"""Callbacks of skorch and scikit-learn: what a fit tells them, what they change."""

import os
import pickle
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError
from skorch.callbacks import (
    BatchScoring,
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    Freezer,
    GradientNormClipping,
    Initializer,
    LoadInitState,
    LRScheduler,
    ParamMapper,
    PassthroughScoring,
    PrintLog,
    ProgressBar,
    TensorBoard,
    TrainEndCheckpoint,
    Unfreezer,
)

from torchlogistic import TorchLogisticClassifier, _batches, _checkpoints

X, Y = make_moons(60, noise=0.3, random_state=0)  # batches of 16, 16, 16 and 12
X_VAL, Y_VAL = make_moons(40, noise=0.3, random_state=1)
X3, Y3 = make_blobs(60, centers=3, cluster_std=4.0, random_state=0)
VALIDATION = {"X_val": X_VAL, "y_val": Y_VAL}
N_BATCHES = 4
STEP = {"lr": 0.1, "epochs": 1, "batch_size": None}  # one full-batch step


def classifier(**params) -> TorchLogisticClassifier:
    defaults = {"epochs": 5, "batch_size": 16, "random_state": 0, "device": "cpu"}
    return TorchLogisticClassifier(**{**defaults, **params})


def fit(validation=False, **params) -> TorchLogisticClassifier:
    return classifier(**params).fit(X, Y, **(VALIDATION if validation else {}))


def assert_same_fit(one, other):
    """Equal to the bit in all that a fit leaves, but for times and batches."""
    np.testing.assert_array_equal(one.coef_, other.coef_)
    np.testing.assert_array_equal(one.intercept_, other.intercept_)
    assert one.loss_curve_ == other.loss_curve_
    assert one.n_iter_ == other.n_iter_
    curves = [vars(clf).get("validation_loss_curve_") for clf in (one, other)]
    assert curves[0] == curves[1]


def assert_same_coefficients(one, other, rtol=0.0):
    np.testing.assert_allclose(one.coef_, other.coef_, rtol=rtol, atol=0)
    np.testing.assert_allclose(one.intercept_, other.intercept_, rtol=rtol, atol=0)


class Record(Callback):
    """Remembers the events it heard; ends them with an exception where it is told to.

    Parameters
    ----------
    error : exception, optional
    event : str, optional
        Event and ...
    epoch : int, default=1
        ... epoch in which to raise it.
    """

    EVENTS = (
        "on_train_begin",
        "on_epoch_begin",
        "on_batch_begin",
        "on_grad_computed",
        "on_batch_end",
        "on_epoch_end",
        "on_train_end",
    )

    def __init__(self, error=None, event=None, epoch=1):
        self.error = error
        self.event = event
        self.epoch = epoch

    def initialize(self):
        self.heard_ = Counter()
        return self

    def hear(self, event):
        self.heard_[event] += 1
        in_epoch = self.heard_["on_epoch_begin"] == self.epoch
        if event == self.event and (in_epoch or "train" in event):
            raise self.error

    def on_train_begin(self, net, **kwargs):
        self.hear("on_train_begin")

    def on_epoch_begin(self, net, **kwargs):
        self.hear("on_epoch_begin")

    def on_epoch_end(self, net, **kwargs):
        self.hear("on_epoch_end")

    def on_train_end(self, net, **kwargs):
        self.hear("on_train_end")


class RecordBatches(Record):
    """The same, of the batches too."""

    def on_batch_begin(self, net, **kwargs):
        self.hear("on_batch_begin")

    def on_grad_computed(self, net, named_parameters, **kwargs):
        self.hear("on_grad_computed")

    def on_batch_end(self, net, **kwargs):
        self.hear("on_batch_end")


class NoOp(Callback):
    """Listens to batches, so that their events are sent."""

    def on_batch_end(self, net, **kwargs):
        pass


class SetLR(Callback):
    """Uses a list of learning rates, one an epoch or one a batch."""

    def __init__(self, lrs):
        self.lrs = lrs

    def initialize(self):
        self.rest_ = list(self.lrs)
        return self

    def use_next(self, net):
        net.optimizer_.param_groups[0]["lr"] = self.rest_.pop(0)


class SetLREachEpoch(SetLR):
    def on_epoch_begin(self, net, **kwargs):
        self.use_next(net)


class SetLREachBatch(SetLR):
    def on_batch_begin(self, net, **kwargs):
        self.use_next(net)


class ClipValues(Callback):
    def __init__(self, limit):
        self.limit = limit

    def on_grad_computed(self, net, named_parameters, **kwargs):
        parameters = [parameter for _, parameter in named_parameters]
        torch.nn.utils.clip_grad_value_(parameters, self.limit)


class OwnStep(torch.optim.SGD):
    """torch's SGD, in a class whose own ``step`` is called."""

    def step(self, closure=None):
        return super().step(closure)


# skorch's callbacks, each in a fit


@dataclass
class Case:
    """A callback in a fit.

    Parameters
    ----------
    make : callable
        The list of callbacks, given an empty folder, which is the current one too.
    check : callable
        What the fitted classifier must show, given it and the folder.
    params : dict
        Of the classifier.
    validation : bool, default=False
        Whether there are validation rows.
    stream : {"out", "err"}, optional
        Where it prints; None: nowhere.
    picklable : bool, default=True
        Whether the callback can be copied and pickled.
    """

    make: Callable[[Path], list[Any]]
    check: Callable[[TorchLogisticClassifier, Path], None]
    params: dict[str, Any] = field(default_factory=dict)
    validation: bool = False
    stream: str | None = None
    picklable: bool = True

    def estimator(self, folder):
        return classifier(callbacks=self.make(folder), **self.params)

    def fit(self, estimator):
        return estimator.fit(X, Y, **(VALIDATION if self.validation else {}))


RESTLESS = {"lr": 3.0, "epochs": 30}  # the validation loss goes up and down
CHECKPOINT_FILES = {"params.pt", "optimizer.pt", "criterion.pt", "history.json"}


def stopped_at_best_epoch(clf, folder):
    best = int(np.argmin(clf.validation_loss_curve_)) + 1
    assert 1 < best < clf.n_iter_ < RESTLESS["epochs"]
    expected = fit(validation=True, **{**RESTLESS, "epochs": best})
    assert_same_coefficients(clf, expected)


def stopped_at_last_epoch(clf, folder):
    assert clf.n_iter_ < RESTLESS["epochs"]
    expected = fit(validation=True, **{**RESTLESS, "epochs": clf.n_iter_})
    assert_same_fit(clf, expected)


def stopped_after_three(clf, folder):
    assert clf.n_iter_ == 3
    assert_same_coefficients(clf, fit(epochs=1))


def went_back_to_best_epoch(clf, folder):
    best = int(np.argmin(fit(validation=True, **RESTLESS).validation_loss_curve_)) + 1
    assert 1 < best < RESTLESS["epochs"]
    assert clf.n_iter_ == best
    assert_same_fit(clf, fit(validation=True, **{**RESTLESS, "epochs": best}))


def went_back_and_left_files(clf, folder):
    went_back_to_best_epoch(clf, folder)
    assert {path.name for path in (folder / "cp").iterdir()} == CHECKPOINT_FILES


def left_files_of_each_epoch(clf, folder):
    names = {f"my_{epoch}.pt" for epoch in range(1, clf.n_iter_ + 1)}
    assert {path.name for path in folder.iterdir()} == names
    first = torch.load(folder / "my_1.pt", weights_only=True)
    np.testing.assert_array_equal(first["linear.weight"], fit(epochs=1).coef_)


def left_picklable_net(clf, folder):
    with open(folder / "net.pkl", "rb") as file:
        net = pickle.load(file)
    np.testing.assert_allclose(net.predict_proba(X), clf.predict_proba(X))


def left_last_parameters(clf, folder):
    state = torch.load(folder / "end" / "train_end_params.pt", weights_only=True)
    np.testing.assert_array_equal(state["linear.weight"], clf.coef_)
    np.testing.assert_array_equal(state["linear.bias"], clf.intercept_)
    assert_same_fit(clf, fit())


def recorded(name, score, validation=True, rtol=1e-12):
    """Check that a score of the model after each epoch stands in the history."""

    def check(clf, folder):
        rows = (X_VAL, Y_VAL) if validation else (X, Y)
        for epoch, row in enumerate(clf.history_, start=1):
            earlier = fit(validation=bool(row.get("valid_loss")), epochs=epoch)
            np.testing.assert_allclose(row[name], score(earlier, *rows), rtol=rtol)

    return check


def auc(clf, X, y):
    return roc_auc_score(y, clf.decision_function(X))


def neg_log_loss(clf, X, y):
    return -log_loss(y, clf.predict_proba(X))


def accuracy(clf, X, y):
    return clf.score(X, y)


def share_of_ones(net, X, y=None):
    return float(net.predict(X).mean())


def recorded_before_each_step(clf, folder):
    """Cached predictions of training rows are those that the step made."""
    scores = [row["roc_auc"] for row in clf.history_]
    earlier = [fit(batch_size=None, epochs=i) for i in range(clf.n_iter_)]
    np.testing.assert_allclose(scores, [auc(clf, X, Y) for clf in earlier])


def recorded_each_batch(clf, folder):
    row = clf.history_[-1]
    batches = [batch for batch in row["batches"] if "accuracy" in batch]
    assert [batch["train_batch_size"] for batch in batches] == [16, 16, 16, 12]
    scores = [batch["accuracy"] for batch in batches]
    mean = np.average(scores, weights=[16, 16, 16, 12])
    assert row["accuracy"] == pytest.approx(mean)
    assert 0.5 < row["accuracy"] < 1


def passed_losses_through(clf, folder):
    expected = fit(validation=True)
    for name in ("loss_curve_", "validation_loss_curve_"):
        np.testing.assert_allclose(getattr(clf, name), getattr(expected, name))
    for row in clf.history_:
        assert row["train_loss_best"] is row["valid_loss_best"] is True


def distance_of_one_step(clf):
    start = fit(**{**STEP, "epochs": 0})
    weight, bias = clf.coef_ - start.coef_, clf.intercept_ - start.intercept_
    return np.append(weight.ravel(), bias)


def stepped_by_clipped_norm(clf, folder):
    assert np.linalg.norm(distance_of_one_step(fit(**STEP))) > 0.02
    norm = np.linalg.norm(distance_of_one_step(clf))
    np.testing.assert_allclose(norm, 0.1 * 0.01, rtol=1e-3)


def stepped_by_clipped_values(clf, folder):
    step, free = distance_of_one_step(clf), distance_of_one_step(fit(**STEP))
    np.testing.assert_allclose(step, np.clip(free, -0.1 * 0.2, 0.1 * 0.2))
    assert np.abs(free).max() > 0.1 * 0.2 > np.abs(free).min()


def kept_bias(clf, folder):
    start = clone(clf).set_params(callbacks=None, epochs=0).fit(X, Y)
    assert clf.intercept_ == start.intercept_
    assert not np.any(clf.coef_ == start.coef_)


def kept_weight(clf, folder):
    start = clone(clf).set_params(callbacks=None, epochs=0).fit(X, Y)
    np.testing.assert_array_equal(clf.coef_, start.coef_)
    assert clf.intercept_ != start.intercept_


def kept_bias_at_first(clf, folder):
    """Frozen in the third epoch, it stays where two epochs brought it."""
    two = clone(clf).set_params(callbacks=None, epochs=2).fit(X, Y)
    assert clf.intercept_ == two.intercept_
    assert not np.any(clf.coef_ == two.coef_)


def started_at_half(clf, folder):
    np.testing.assert_allclose(clf.coef_, 0.5, rtol=1e-9)
    np.testing.assert_allclose(clf.intercept_, 0.5, rtol=1e-9)


def zeroed_weight_only(clf, folder):
    start = fit(epochs=0)
    np.testing.assert_allclose(clf.coef_, 0, atol=1e-9)
    np.testing.assert_allclose(clf.intercept_, start.intercept_, rtol=1e-9)


def changed_nothing(clf, folder):
    plain = clone(clf).set_params(callbacks=None, verbose=0)
    assert_same_fit(clf, plain.fit(X, Y))


def wrote_events(clf, folder):
    (events,) = (folder / "runs").glob("events.out.tfevents.*")
    assert b"Loss/train_loss" in events.read_bytes()


def heard_epochs(clf, folder):
    heard = {"on_epoch_begin": 5, "on_epoch_end": 5}
    once = {"on_train_begin": 1, "on_train_end": 1}
    assert clf.callbacks[0].heard_ == {**heard, **once}
    assert_same_fit(clf, fit())


def heard_batches(clf, folder):
    heard = clf.callbacks[0].heard_
    assert heard["on_epoch_end"] == 5
    assert heard["on_grad_computed"] == 5 * N_BATCHES
    # All validation rows are one batch more.
    assert heard["on_batch_begin"] == heard["on_batch_end"] == 5 * (N_BATCHES + 1)
    assert_same_fit(clf, fit(validation=True))


def logged_lines(clf, folder):
    header, rule, *rows = clf.callbacks[0].sink
    assert header.split() == ["epoch", "train_loss", "valid_loss", "dur"]
    assert set(rule) == {"-", " "}
    assert [int(row.split()[0]) for row in rows] == [1, 2, 3, 4, 5]


class Lines(list):
    """A sink that can be copied and pickled."""

    __call__ = list.append


def tensorboard(folder):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    return [TensorBoard(SummaryWriter(str(folder / "runs")))]


FROZEN = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "optimizer_params": {"nesterov": True}},
    "weight_decay": {"optimizer_params": {"weight_decay": 0.1}},
    "momentum and weight_decay": {
        "momentum": 0.9,
        "optimizer_params": {"weight_decay": 0.1},
    },
    "adam": {"optimizer": "adam"},
    "adam and weight_decay": {
        "optimizer": "adam",
        "optimizer_params": {"weight_decay": 0.1},
    },
    "adamw": {"optimizer": "adamw"},
    "rmsprop": {"optimizer": "rmsprop"},
    "l2": {"alpha": 0.1},
    "l1": {"alpha": 0.01, "l1_ratio": 1.0},
}

CASES = {
    "EarlyStopping valid_loss load_best": Case(
        lambda folder: [EarlyStopping(patience=5, load_best=True)],
        stopped_at_best_epoch,
        RESTLESS,
        validation=True,
    ),
    "EarlyStopping valid_loss": Case(
        lambda folder: [EarlyStopping(patience=5)],
        stopped_at_last_epoch,
        RESTLESS,
        validation=True,
    ),
    "EarlyStopping train_loss load_best": Case(
        lambda folder: [
            EarlyStopping(
                "train_loss",
                patience=2,
                threshold=0.9,
                threshold_mode="abs",
                load_best=True,
            )
        ],
        stopped_after_three,
    ),
    "Checkpoint load_best": Case(
        lambda folder: [Checkpoint(load_best=True)],
        went_back_to_best_epoch,
        RESTLESS,
        validation=True,
    ),
    "Checkpoint dirname": Case(
        lambda folder: [Checkpoint(dirname=str(folder / "cp"), load_best=True)],
        went_back_and_left_files,
        RESTLESS,
        validation=True,
    ),
    "Checkpoint of every epoch": Case(
        lambda folder: [
            Checkpoint(
                monitor=None,
                f_params="{last_epoch[epoch]}.pt",
                f_optimizer=None,
                f_criterion=None,
                f_history=None,
                fn_prefix="my_",
            )
        ],
        left_files_of_each_epoch,
    ),
    "Checkpoint f_pickle": Case(
        lambda folder: [Checkpoint(monitor=None, f_pickle="net.pkl")],
        left_picklable_net,
    ),
    "Checkpoint f_pickle and progress bar": Case(
        lambda folder: [Checkpoint(monitor=None, f_pickle="net.pkl")],
        left_picklable_net,
        {"verbose": 1},
        stream="err",
    ),
    "TrainEndCheckpoint": Case(
        lambda folder: [TrainEndCheckpoint(dirname=str(folder / "end"))],
        left_last_parameters,
    ),
    "ProgressBar": Case(lambda folder: [ProgressBar()], changed_nothing, stream="err"),
    "ProgressBar count": Case(
        lambda folder: [ProgressBar("count")], changed_nothing, stream="err"
    ),
    "EpochScoring roc_auc": Case(
        lambda folder: [EpochScoring("roc_auc", lower_is_better=False)],
        recorded("roc_auc", auc),
        validation=True,
    ),
    "EpochScoring roc_auc not cached": Case(
        lambda folder: [EpochScoring("roc_auc", use_caching=False)],
        recorded("roc_auc", auc),
        validation=True,
    ),
    "EpochScoring roc_auc train": Case(
        lambda folder: [EpochScoring("roc_auc", on_train=True)],
        recorded_before_each_step,
        {"batch_size": None},
    ),
    "EpochScoring roc_auc train not cached": Case(
        lambda folder: [EpochScoring("roc_auc", on_train=True, use_caching=False)],
        recorded("roc_auc", auc, validation=False),
    ),
    "EpochScoring neg_log_loss": Case(
        lambda folder: [EpochScoring("neg_log_loss")],
        recorded("neg_log_loss", neg_log_loss),
        validation=True,
    ),
    "EpochScoring neg_log_loss train not cached": Case(
        lambda folder: [EpochScoring("neg_log_loss", on_train=True, use_caching=False)],
        recorded("neg_log_loss", neg_log_loss, validation=False),
    ),
    "EpochScoring accuracy": Case(
        lambda folder: [EpochScoring("accuracy")],
        recorded("accuracy", accuracy),
        validation=True,
    ),
    "EpochScoring accuracy not cached": Case(
        lambda folder: [EpochScoring("accuracy", use_caching=False)],
        recorded("accuracy", accuracy),
        validation=True,
    ),
    "EpochScoring default": Case(
        lambda folder: [EpochScoring(None)],
        recorded("score", accuracy),
        validation=True,
    ),
    "EpochScoring metric": Case(
        lambda folder: [EpochScoring(accuracy_score)],
        recorded("accuracy_score", accuracy),
        validation=True,
    ),
    "EpochScoring callable": Case(
        lambda folder: [EpochScoring(share_of_ones, name="ones")],
        recorded("ones", share_of_ones),
        validation=True,
    ),
    "EpochScoring callable not cached": Case(
        lambda folder: [EpochScoring(share_of_ones, name="ones", use_caching=False)],
        recorded("ones", share_of_ones),
        validation=True,
    ),
    "EpochScoring without validation rows": Case(
        lambda folder: [EpochScoring("roc_auc")], changed_nothing
    ),
    "BatchScoring": Case(
        lambda folder: [BatchScoring("accuracy")],
        recorded("accuracy", accuracy),
        validation=True,
    ),
    "BatchScoring train": Case(
        lambda folder: [BatchScoring("accuracy", on_train=True)],
        recorded_each_batch,
        validation=True,
    ),
    "BatchScoring train not cached": Case(
        lambda folder: [BatchScoring("accuracy", on_train=True, use_caching=False)],
        recorded_each_batch,
        validation=True,
    ),
    "PassthroughScoring": Case(
        lambda folder: [
            ("train", PassthroughScoring("train_loss", on_train=True)),
            ("valid", PassthroughScoring("valid_loss")),
        ],
        passed_losses_through,
        validation=True,
    ),
    "PassthroughScoring with batches": Case(
        lambda folder: [
            ("train", PassthroughScoring("train_loss", on_train=True)),
            ("valid", PassthroughScoring("valid_loss")),
            NoOp(),
        ],
        passed_losses_through,
        validation=True,
    ),
    "GradientNormClipping": Case(
        lambda folder: [GradientNormClipping(0.01)], stepped_by_clipped_norm, STEP
    ),
    "GradientNormClipping off": Case(
        lambda folder: [GradientNormClipping()], changed_nothing, STEP
    ),
    "clipping of values": Case(
        lambda folder: [ClipValues(0.2)], stepped_by_clipped_values, STEP
    ),
    **{
        f"Freezer bias {name}": Case(
            lambda folder: [Freezer("linear.bias")], kept_bias, params
        )
        for name, params in FROZEN.items()
    },
    **{
        f"Freezer weight {name}": Case(
            lambda folder: [Freezer("linear.weight")], kept_weight, params
        )
        for name, params in FROZEN.items()
    },
    **{
        f"Freezer bias later {name}": Case(
            lambda folder: [Freezer("linear.bias", at=3)], kept_bias_at_first, params
        )
        for name, params in FROZEN.items()
    },
    "Freezer and batches": Case(
        lambda folder: [Freezer("linear.bias"), NoOp()],
        kept_bias,
        {"momentum": 0.9},
    ),
    "Initializer": Case(
        lambda folder: [
            Initializer("linear.*", fn=partial(torch.nn.init.constant_, val=0.5))
        ],
        started_at_half,
        {"lr": 1e-12},
    ),
    "ParamMapper": Case(
        lambda folder: [ParamMapper("linear.weight", fn=torch.nn.init.zeros_, at=3)],
        zeroed_weight_only,
        {"lr": 1e-12},
    ),
    "PrintLog silent": Case(lambda folder: [PrintLog()], changed_nothing),
    "PrintLog verbose": Case(
        lambda folder: [PrintLog()], changed_nothing, {"verbose": 2}, stream="out"
    ),
    "PrintLog sink": Case(
        lambda folder: [PrintLog(sink=Lines())], logged_lines, validation=True
    ),
    "TensorBoard": Case(tensorboard, wrote_events, picklable=False),
    "own callback of epochs": Case(lambda folder: [Record()], heard_epochs),
    "own callback of batches": Case(
        lambda folder: [RecordBatches()], heard_batches, validation=True
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_skorch_callback_works_in_fit(case, folder, capfd):
    clf = case.fit(case.estimator(folder))
    printed = capfd.readouterr()
    assert bool(printed.out) == (case.stream == "out")
    assert bool(printed.err) == (case.stream == "err")
    case.check(clf, folder)


COPIED = {name: case for name, case in CASES.items() if case.picklable}


@pytest.mark.parametrize("case", COPIED.values(), ids=COPIED)
def test_skorch_callback_survives_clone_and_pickle_of_fitted_classifier(case, folder):
    clf = case.fit(case.estimator(folder))
    again = case.fit(clone(clf))
    assert_same_fit(clf, again)
    loaded = pickle.loads(pickle.dumps(clf))
    assert_same_fit(clf, loaded)
    np.testing.assert_array_equal(clf.predict_proba(X), loaded.predict_proba(X))


SCORES = {
    "accuracy": lambda clf, X, y: clf.score(X, y),
    "neg_log_loss": neg_log_loss,
    "roc_auc_ovr": lambda clf, X, y: roc_auc_score(
        y, clf.predict_proba(X), multi_class="ovr"
    ),
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("use_caching", [True, False], ids=["cached", ""])
def test_epoch_scoring_of_three_classes_with_names(name, use_caching):
    labels = np.array(["red", "green", "blue"])[Y3]
    held = {"X_val": X3[:30], "y_val": labels[:30]}
    scoring = EpochScoring(name, use_caching=use_caching)
    clf = classifier(callbacks=[scoring]).fit(X3, labels, **held)
    expected = SCORES[name](clf, *held.values())
    assert clf.history_[-1][name] == pytest.approx(expected)


# Learning rates


def factor(epoch):
    return 1 / (1 + epoch)


POLICIES = {
    "StepLR": {"step_size": 2, "gamma": 0.5},
    "MultiStepLR": {"milestones": [1, 3], "gamma": 0.1},
    "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingLR": {"T_max": 5},
    "ReduceLROnPlateau": {"patience": 0, "threshold": 0.2},
    "LambdaLR": {"lr_lambda": factor},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.5, "step_size_up": 2},
    "WarmRestartLR": {"max_lr": 0.5, "base_period": 2},
    torch.optim.lr_scheduler.OneCycleLR: {"max_lr": 0.5, "total_steps": 20},
    # skorch knows no names for these.
    torch.optim.lr_scheduler.MultiplicativeLR: {"lr_lambda": factor},
    torch.optim.lr_scheduler.ConstantLR: {"factor": 0.5, "total_iters": 3},
    torch.optim.lr_scheduler.LinearLR: {"start_factor": 0.25, "total_iters": 3},
    torch.optim.lr_scheduler.PolynomialLR: {"power": 2.0, "total_iters": 4},
    torch.optim.lr_scheduler.CosineAnnealingWarmRestarts: {"T_0": 2},
}
CYCLES_MOMENTUM = ("CyclicLR", torch.optim.lr_scheduler.OneCycleLR)


@pytest.mark.parametrize("step_every", ["epoch", "batch"])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: getattr(p, "__name__", p))
def test_lr_scheduler_sets_the_rates_of_its_policy(policy, step_every, capfd):
    params = dict(POLICIES[policy])
    if policy in CYCLES_MOMENTUM:
        params["cycle_momentum"] = False
    scheduler = LRScheduler(policy, step_every=step_every, **params)
    clf = fit(callbacks=[scheduler])
    assert capfd.readouterr() == ("", "")

    rows = clf.history_
    if step_every == "batch":
        rows = [batch for row in rows for batch in row["batches"]]
    losses = [row["train_loss"] for row in rows]
    monitored = losses if policy == "ReduceLROnPlateau" else None
    simulated = LRScheduler(policy, **params)
    lrs = simulated.simulate(len(rows), initial_lr=clf.lr, step_args=monitored)
    assert len(set(lrs)) > 1
    np.testing.assert_allclose([row["event_lr"] for row in rows], lrs, rtol=1e-12)

    lrs = [row["event_lr"] for row in rows]
    by_hand = SetLREachEpoch if step_every == "epoch" else SetLREachBatch
    assert_same_fit(clf, fit(callbacks=[by_hand(lrs)]))


@pytest.mark.parametrize("step_every", ["epoch", "batch"])
@pytest.mark.parametrize("policy", CYCLES_MOMENTUM, ids=["CyclicLR", "OneCycleLR"])
def test_lr_scheduler_cycles_momentum_as_with_torchs_own_step(policy, step_every):
    def scheduler(**params):
        params = {**POLICIES[policy], **params}
        return LRScheduler(policy, step_every=step_every, **params)

    clf = fit(momentum=0.9, callbacks=[scheduler()])
    own = {"optimizer": OwnStep, "optimizer_params": {"momentum": 0.9}}
    expected = fit(**own, callbacks=[scheduler()])
    assert_same_coefficients(clf, expected, rtol=1e-10)
    constant = fit(momentum=0.9, callbacks=[scheduler(cycle_momentum=False)])
    assert not np.allclose(clf.coef_, constant.coef_)


def test_lr_scheduler_on_missing_monitor_says_what_is_missing():
    scheduler = LRScheduler("ReduceLROnPlateau", monitor="valid_f1")
    with pytest.raises(ValueError, match="'valid_f1' was not found in history"):
        fit(callbacks=[scheduler])


def test_lr_scheduler_continues_over_a_warm_start():
    """Three epochs and two more follow the schedule of five."""
    scheduler = {"policy": "ExponentialLR", "gamma": 0.5}
    clf = fit(epochs=3, warm_start=True, callbacks=[LRScheduler(**scheduler)])
    clf.set_params(epochs=2).fit(X, Y)
    assert_same_fit(clf, fit(epochs=5, callbacks=[LRScheduler(**scheduler)]))
    lrs = [row["event_lr"] for row in clf.history_]
    np.testing.assert_allclose(lrs, 0.1 * 0.5 ** np.arange(5))


class DecayThroughNet(Callback):
    def __init__(self, name):
        self.name = name

    def on_epoch_end(self, net, **kwargs):
        net.set_params(**{self.name: 0.1 / (1 + len(net.history))})


@pytest.mark.parametrize("name", ["lr", "optimizer__lr"])
def test_callback_sets_the_learning_rate_through_the_net(name, capfd):
    clf = fit(callbacks=[DecayThroughNet(name)])
    assert capfd.readouterr() == ("", "")
    scheduler = LRScheduler("LambdaLR", lr_lambda=factor)
    assert_same_coefficients(clf, fit(callbacks=[scheduler]), rtol=1e-12)
    assert clf.lr == 0.1


# Freezing and clipping give what torch's own optimizer gives


@pytest.mark.parametrize("heard", [False, True], ids=["epochs", "batches"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: [("f", Freezer("linear.bias"))],
        lambda: [("f", Freezer("linear.weight", at=2))],
        lambda: [("f", Freezer("linear.bias")), ("u", Unfreezer("*.bias", at=3))],
        lambda: [("f", Freezer("*.weight", at=2)), ("u", Unfreezer("*", at=4))],
        lambda: [("c", GradientNormClipping(0.1))],
        lambda: [("c", ClipValues(0.05))],
    ],
    ids=["frozen", "frozen later", "thawed", "thawed later", "norm", "values"],
)
@pytest.mark.parametrize(
    "params",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
    ids=["plain", "momentum", "nesterov"],
)
def test_callback_on_parameters_acts_as_with_torchs_own_step(params, make, heard):
    extra = [NoOp()] if heard else []
    rest = {k: v for k, v in params.items() if k != "momentum"}
    ours = {"momentum": params.get("momentum", 0.0), "optimizer_params": rest}
    clf = fit(**ours, callbacks=[*make(), *extra])
    own = {"optimizer": OwnStep, "optimizer_params": params}
    assert_same_coefficients(clf, fit(**own, callbacks=[*make(), *extra]), rtol=1e-10)


# Checkpoints


@pytest.mark.parametrize(
    "params",
    [{}, {"momentum": 0.9}, {"optimizer": "adam"}],
    ids=["sgd", "momentum", "adam"],
)
@pytest.mark.parametrize("copied", [False, True], ids=["same", "clone"])
def test_load_init_state_continues_where_train_end_checkpoint_ended(
    params, copied, tmp_path
):
    checkpoint = TrainEndCheckpoint(dirname=str(tmp_path))
    callbacks = [checkpoint, LoadInitState(checkpoint)]
    params = {"batch_size": None, **params}  # no order of rows to continue
    first = fit(callbacks=callbacks, epochs=3, **params)
    assert_same_fit(first, fit(epochs=3, **params))

    second = clone(first) if copied else first
    second.set_params(epochs=4).fit(X, Y)
    assert second.n_iter_ == 7
    assert [row["epoch"] for row in second.history_] == [1, 2, 3, 4, 5, 6, 7]
    assert_same_fit(second, fit(epochs=7, **params))


def test_clone_keeps_the_link_between_callbacks(tmp_path):
    checkpoint = TrainEndCheckpoint(dirname=str(tmp_path))
    clf = classifier(callbacks=[("cp", checkpoint), LoadInitState(checkpoint)])
    copied = clone(make_pipeline(StandardScaler(), clf))[-1]
    (name, copy), load = copied.callbacks
    assert name == "cp"
    assert copy is not checkpoint
    assert load.checkpoint is copy
    assert clf.callbacks[1].checkpoint is checkpoint


def test_load_init_state_continues_inside_grid_search(tmp_path):
    checkpoint = TrainEndCheckpoint(dirname=str(tmp_path))
    clf = classifier(epochs=2, callbacks=[checkpoint, LoadInitState(checkpoint)])
    grid = {"alpha": [0.0, 0.1]}
    search = GridSearchCV(clf, grid, cv=2, error_score="raise").fit(X, Y)
    assert search.best_estimator_.n_iter_ == 2 * (2 * 2 + 1)


def test_load_init_state_takes_the_best_epoch_of_a_checkpoint(tmp_path):
    checkpoint = Checkpoint(dirname=str(tmp_path))
    callbacks = [checkpoint, LoadInitState(checkpoint)]
    first = fit(validation=True, callbacks=callbacks, **RESTLESS)
    best = int(np.argmin(first.validation_loss_curve_)) + 1
    second = fit(validation=True, callbacks=callbacks, **{**RESTLESS, "epochs": 1})
    assert second.n_iter_ == best + 1
    expected = [*first.validation_loss_curve_[:best]]
    assert second.validation_loss_curve_[:best] == expected


def search_with_checkpoint(folder, **params):
    clf = classifier(
        epochs=8, callbacks=[Checkpoint(dirname=str(folder), load_best=True)]
    )
    grid = {"lr": [0.1, 1.0, 3.0, 10.0]}
    search = GridSearchCV(
        clf, grid, cv=3, scoring="neg_log_loss", error_score="raise", **params
    )
    return search.fit(X, Y, X_val=(X_VAL,), y_val=(Y_VAL,))


def assert_same_search(one, other):
    scores = [search.cv_results_["mean_test_score"] for search in (one, other)]
    np.testing.assert_array_equal(*scores)
    assert len(set(scores[0])) == len(scores[0])
    assert_same_fit(one.best_estimator_, other.best_estimator_)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_fits_at_the_same_time_keep_their_checkpoints_apart(backend, tmp_path):
    alone = search_with_checkpoint(tmp_path / "alone", n_jobs=1)
    with joblib.parallel_config(backend):
        together = search_with_checkpoint(tmp_path / "together", n_jobs=2)
    assert_same_search(alone, together)
    for folder in ("alone", "together"):
        left = {path.name for path in (tmp_path / folder).iterdir()}
        assert left == CHECKPOINT_FILES


BY_EPOCH = {"f_params": "{last_epoch[epoch]}.pt"}


class FilesAtEnd(Callback):
    """Remembers the files in a folder and below it when the training has ended."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, net, **kwargs):
        self.names_ = {path.name for path in self.folder.iterdir()}


def test_train_end_checkpoint_writes_where_no_other_fit_does(tmp_path):
    look = FilesAtEnd(tmp_path)
    fit(callbacks=[TrainEndCheckpoint(dirname=str(tmp_path)), look])
    (private,) = look.names_
    assert private.startswith(".fit-")
    names = {f"train_end_{name}" for name in CHECKPOINT_FILES}
    assert {path.name for path in tmp_path.iterdir()} == names


class TestLoadBestOfARunInParts:
    """``Checkpoint(load_best=True)`` and ``warm_start=True``."""

    def start(self, folder, **params):
        settings = {"lr": 1.0, "epochs": 20, "warm_start": True, **params}
        clf = classifier(**settings)
        if folder is not None:
            clf.set_params(callbacks=[Checkpoint(dirname=str(folder), load_best=True)])
        return clf.fit(X, Y, **VALIDATION)

    def test_no_better_epoch_in_the_second_part(self, tmp_path):
        clf = self.start(tmp_path)
        coef, best = clf.coef_, clf.n_iter_
        clf.set_params(lr=30.0, epochs=3).fit(X, Y, **VALIDATION)
        np.testing.assert_array_equal(clf.coef_, coef)
        assert clf.n_iter_ == best
        assert {path.name for path in tmp_path.iterdir()} == CHECKPOINT_FILES

    def test_a_better_epoch_in_the_second_part(self, tmp_path):
        clf = self.start(tmp_path, epochs=2, lr=0.1)
        clf.set_params(epochs=3).fit(X, Y, **VALIDATION)
        whole = self.start(None, epochs=5, lr=0.1)
        assert np.argmin(whole.validation_loss_curve_) == 4
        assert_same_fit(clf, whole)

    @pytest.mark.parametrize(
        "files",
        [{}, BY_EPOCH, BY_EPOCH | {"f_history": None}],
        ids=["", "named by epoch", "named by epoch, no history"],
    )
    def test_added_in_the_second_part(self, tmp_path, files):
        clf = self.start(None, epochs=2, lr=0.1)
        checkpoint = Checkpoint(dirname=str(tmp_path), load_best=True, **files)
        clf.set_params(callbacks=[checkpoint], epochs=3).fit(X, Y, **VALIDATION)
        assert_same_fit(clf, self.start(None, epochs=5, lr=0.1))
        assert [row["event_cp"] for row in clf.history_] == [False] * 2 + [True] * 3
        assert not any("batches" in row for row in clf.history_)

    @pytest.mark.parametrize("event_name", ["event_cp", None])
    def test_added_with_no_better_epoch_warns(self, tmp_path, event_name):
        clf = self.start(None)
        checkpoint = Checkpoint(
            dirname=str(tmp_path), load_best=True, event_name=event_name
        )
        clf.set_params(callbacks=[checkpoint], lr=30.0, epochs=3)
        with pytest.warns(UserWarning, match="has nothing to load: no epoch since"):
            clf.fit(X, Y, **VALIDATION)
        assert clf.n_iter_ == 23
        assert checkpoint.load_best is True
        assert checkpoint.dirname == str(tmp_path)

    def test_files_of_another_run_are_not_loaded(self, tmp_path):
        self.start(tmp_path)
        never = Checkpoint(never_best, dirname=str(tmp_path), load_best=True)
        with pytest.warns(UserWarning, match="has nothing to load"):
            clf = fit(validation=True, callbacks=[never])
        assert_same_fit(clf, fit(validation=True))

    def test_records_of_batches_stay(self, tmp_path):
        """Those of epochs in which a callback listened to them, and no others."""
        clf = self.start(None, epochs=1)
        for callbacks in ([NoOp()], [NoOp(), ProgressBar("count")]):
            clf.set_params(callbacks=callbacks).fit(X, Y, **VALIDATION)
        n_batches = [len(row.get("batches", ())) for row in clf.history_]
        assert n_batches == [0, N_BATCHES + 1, N_BATCHES + 1]


def never_best(net):
    return False


@pytest.mark.parametrize("callback", [Checkpoint, TrainEndCheckpoint])
def test_checkpoint_that_cannot_be_written_warns(callback, tmp_path):
    params = {"monitor": None} if callback is Checkpoint else {}
    lines = Lines()
    broken = callback(
        f_params="missing/params.pt", dirname=str(tmp_path), sink=lines, **params
    )
    with pytest.warns(UserWarning, match="Unable to save module state to .*missing"):
        clf = fit(callbacks=[broken])
    assert any(line.startswith("Unable to save module state") for line in lines)
    assert broken.sink is lines
    assert_same_fit(clf, fit())


def test_checkpoint_is_left_as_it_was_set(tmp_path):
    checkpoint = Checkpoint(dirname=str(tmp_path), monitor=None)
    before = checkpoint.get_params()
    fit(callbacks=[checkpoint])
    assert checkpoint.get_params() == before


def test_checkpoint_overwrites_the_files_of_an_earlier_fit(tmp_path):
    for lr in (0.1, 0.2):
        fit(lr=lr, callbacks=[Checkpoint(dirname=str(tmp_path), monitor=None)])
    state = torch.load(tmp_path / "params.pt", weights_only=True)
    np.testing.assert_array_equal(state["linear.weight"], fit(lr=0.2).coef_)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_interrupted_fit_leaves_its_checkpoints_and_no_private_folder(error, tmp_path):
    checkpoint = Checkpoint(dirname=str(tmp_path), monitor=None)
    with pytest.raises(error):
        fit(callbacks=[checkpoint, Record(error(), "on_epoch_begin", epoch=3)])
    assert {path.name for path in tmp_path.iterdir()} == CHECKPOINT_FILES
    state = torch.load(tmp_path / "params.pt", weights_only=True)
    np.testing.assert_array_equal(state["linear.weight"], fit(epochs=2).coef_)


@pytest.mark.parametrize("load_best", [False, True])
@pytest.mark.parametrize("event_name", ["event_cp", None])
def test_a_checkpoint_is_there_from_its_epoch_on(event_name, load_best, tmp_path):
    """As soon as it is saved: a process that is killed cannot move files."""
    found = []

    class Look(Callback):
        def on_epoch_begin(self, net, **kwargs):
            names = {p.name for p in tmp_path.iterdir() if p.is_file()}
            assert names in (set(), CHECKPOINT_FILES)
            if names:
                state = torch.load(tmp_path / "params.pt", weights_only=True)
                found.append(state["linear.weight"])

    params = {"monitor": None, "event_name": event_name, "load_best": load_best}
    checkpoint = Checkpoint(dirname=str(tmp_path), **params)
    # Of the same name for its event, as skorch gives it; it saves nothing.
    other = Checkpoint(never_best, dirname=str(tmp_path / "other"))
    fit(epochs=3, callbacks=[checkpoint, other, Look()])
    expected = [fit(epochs=n).coef_ for n in (1, 2)]
    np.testing.assert_array_equal(np.stack(found), expected)


@pytest.mark.parametrize("load_best", [False, True])
def test_a_checkpoint_is_published_once(load_best, tmp_path):
    """Those of earlier epochs, which the user may have moved, do not come again."""

    class Remove(Callback):
        def on_epoch_begin(self, net, **kwargs):
            for path in tmp_path.glob("params_*"):
                path.unlink()

    names = {"f_params": "params_{last_epoch[epoch]}.pt", "monitor": "valid_loss_best"}
    checkpoint = Checkpoint(dirname=str(tmp_path), load_best=load_best, **names)
    fit(epochs=4, validation=True, callbacks=[checkpoint, Remove()])
    assert [path.name for path in tmp_path.glob("params_*")] == ["params_4.pt"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".fit-")]


def test_a_checkpoint_without_room_for_a_copy(tmp_path, monkeypatch):
    def copyfile(source, target):
        Path(target).touch()
        raise OSError("No space left on device")

    monkeypatch.setattr(_checkpoints.shutil, "copyfile", copyfile)
    checkpoint = Checkpoint(
        monitor="valid_loss_best", load_best=True, dirname=str(tmp_path)
    )
    with pytest.warns(UserWarning, match="could not be published: No space left"):
        fit(epochs=2, validation=True, callbacks=[checkpoint])
    assert {path.name for path in tmp_path.iterdir()} == CHECKPOINT_FILES


# Events of batches


SAME_BITS = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "optimizer_params": {"nesterov": True}},
    "dampening": {"momentum": 0.9, "optimizer_params": {"dampening": 0.5}},
    "weight_decay": {"optimizer_params": {"weight_decay": 0.1}},
    "maximize": {"lr": 1e-3, "optimizer_params": {"maximize": True}},
    "l2": {"alpha": 0.1},
    "l1": {"alpha": 0.1, "l1_ratio": 1.0},
    "elastic net and momentum": {"alpha": 0.1, "l1_ratio": 0.5, "momentum": 0.9},
    "adam": {"optimizer": "adam"},
    "adam and l1": {"optimizer": "adam", "alpha": 0.1, "l1_ratio": 1.0},
    "adamw": {"optimizer": "adamw"},
    "rmsprop": {"optimizer": "rmsprop"},
    "adagrad": {"optimizer": "adagrad"},
    "class of torch": {"optimizer": torch.optim.Rprop, "batch_size": None},
    "closure": {"optimizer": torch.optim.LBFGS, "batch_size": None},
    "lbfgs": {"optimizer": "lbfgs", "alpha": 0.1, "epochs": 50},
    "newton": {"optimizer": "newton", "alpha": 0.1, "epochs": 50},
    "class_weight": {"class_weight": "balanced"},
    "no intercept": {"fit_intercept": False},
    "not shuffled": {"shuffle": False},
    "full batch": {"batch_size": None},
    "rows one by one": {"batch_size": 1, "epochs": 2},
    "float32": {"dtype": "float32"},
}


@pytest.mark.parametrize(
    "weighted, rows_in_cache", [(False, None), (True, 32)], ids=["", "weighted chunks"]
)
@pytest.mark.parametrize("data", [(X, Y), (X3, Y3)], ids=["binary", "multinomial"])
@pytest.mark.parametrize("params", SAME_BITS.values(), ids=SAME_BITS)
def test_events_of_batches_change_no_bit(
    params, data, weighted, rows_in_cache, monkeypatch
):
    if rows_in_cache is not None:
        row_bytes = 2 * (4 if params.get("dtype") == "float32" else 8)
        monkeypatch.setitem(_batches.CHUNK_BYTES, "cpu", rows_in_cache * row_bytes)
    rows, labels = data
    weight = np.random.default_rng(0).uniform(0.5, 2, len(rows)) if weighted else None
    held = {"X_val": rows[:20], "y_val": labels[:20]}
    silent = classifier(**params).fit(rows, labels, weight, **held)
    heard = classifier(**params, callbacks=[NoOp()]).fit(rows, labels, weight, **held)
    assert_same_fit(silent, heard)
    assert "batches" not in silent.history_[0]
    assert len(heard.history_[0]["batches"]) > 1


def test_events_of_batches_change_no_bit_with_pos_weight():
    assert_same_fit(fit(pos_weight=3.0), fit(pos_weight=3.0, callbacks=[NoOp()]))


def test_events_of_batches_change_no_bit_of_partial_fit():
    silent, heard = classifier(momentum=0.9), classifier(momentum=0.9)
    heard.set_params(callbacks=[NoOp()])
    for rows in (slice(0, 35), slice(35, 60), slice(0, 60)):
        silent.partial_fit(X[rows], Y[rows], classes=[0, 1])
        heard.partial_fit(X[rows], Y[rows], classes=[0, 1])
    assert_same_fit(silent, heard)


FULL_BATCH = pytest.mark.parametrize("optimizer", ["lbfgs", "newton"])


@FULL_BATCH
def test_callbacks_hear_of_the_iterations_of_a_full_batch_optimizer(
    optimizer, tmp_path
):
    params = {"optimizer": optimizer, "alpha": 0.1, "epochs": 50}
    record = RecordBatches()
    callbacks = [
        record,
        EpochScoring("accuracy"),
        Checkpoint(monitor=None, dirname=str(tmp_path), load_best=True),
        GradientNormClipping(1e9),
    ]
    clf = fit(validation=True, callbacks=callbacks, **params)
    assert_same_fit(clf, fit(validation=True, **params))
    assert 1 < clf.n_iter_ < 50
    assert record.heard_["on_epoch_end"] == clf.n_iter_
    assert record.heard_["on_batch_end"] == 2 * clf.n_iter_  # training, validation
    assert clf.history_[-1]["accuracy"] == clf.score(X_VAL, Y_VAL)


@FULL_BATCH
def test_callback_stops_a_full_batch_optimizer_without_a_warning(optimizer):
    stop = Record(KeyboardInterrupt(), "on_epoch_end", epoch=2)
    clf = fit(optimizer=optimizer, alpha=0.01, callbacks=[stop])
    assert clf.n_iter_ == 2


@FULL_BATCH
def test_freezer_holds_the_bias_of_a_full_batch_optimizer(optimizer):
    """These start at zero: a frozen bias is a model without one."""
    params = {"optimizer": optimizer, "alpha": 0.01, "epochs": 50, "tol": 1e-8}
    clf = fit(callbacks=[Freezer("linear.bias")], **params)
    assert clf.intercept_ == 0
    expected = fit(fit_intercept=False, **params)
    np.testing.assert_allclose(clf.coef_, expected.coef_, rtol=1e-5)


class RecordSteps(Callback):
    """Keeps what the events of batches carry."""

    def initialize(self):
        self.batches_, self.losses_, self.logits_, self.gradients_ = [], [], [], []
        return self

    def on_batch_begin(self, net, batch, training, **kwargs):
        if training:
            self.batches_.append([part.clone().numpy() for part in batch])

    def on_grad_computed(self, net, named_parameters, **kwargs):
        self.gradients_.append(
            {name: p.grad.clone().numpy() for name, p in named_parameters}
        )

    def on_batch_end(self, net, training, loss, y_pred, **kwargs):
        if training:
            self.losses_.append(loss.item())
            self.logits_.append(y_pred.clone().numpy())


@pytest.mark.parametrize("data", [(X, Y), (X3, Y3)], ids=["binary", "multinomial"])
def test_events_of_batches_carry_rows_loss_logits_and_gradient(data):
    record = RecordSteps()
    clf = classifier(lr=0.5, epochs=1, callbacks=[record]).fit(*data)
    start = classifier(epochs=0).fit(*data)

    rows = np.vstack([batch[0] for batch in record.batches_])
    assert [len(batch[0]) for batch in record.batches_] == [16, 16, 16, 12]
    key = np.lexsort(rows.T), np.lexsort(data[0].T)
    np.testing.assert_array_equal(rows[key[0]], data[0][key[1]])
    labels = np.concatenate([batch[1] for batch in record.batches_])
    np.testing.assert_array_equal(labels[key[0]], data[1][key[1]])

    first, first_labels = record.batches_[0]
    logits = start.decision_function(first)
    np.testing.assert_allclose(record.logits_[0], logits)
    loss = log_loss(first_labels, start.predict_proba(first), labels=start.classes_)
    assert record.losses_[0] == pytest.approx(loss)
    mean = np.average(record.losses_, weights=[16, 16, 16, 12])
    assert clf.loss_curve_[0] == pytest.approx(mean)

    step = sum(gradient["linear.weight"] for gradient in record.gradients_)
    np.testing.assert_allclose(start.coef_ - clf.coef_, 0.5 * step)
    step = sum(gradient["linear.bias"] for gradient in record.gradients_)
    np.testing.assert_allclose(start.intercept_ - clf.intercept_, 0.5 * step)


# Stopping and interrupting


def test_callback_stops_the_fit_and_later_ones_still_see_that_epoch():
    before, after = Record(), Record()
    stop = Record(KeyboardInterrupt(), "on_epoch_end", epoch=3)
    clf = fit(callbacks=[("a", before), ("b", stop), ("c", after)])
    assert clf.n_iter_ == 3
    assert_same_fit(clf, fit(epochs=3))
    for callback in (before, stop, after):
        assert callback.heard_["on_epoch_end"] == 3
        assert callback.heard_["on_train_end"] == 1


def test_callback_that_stops_is_seen_by_scoring_and_log_of_that_epoch():
    log = Lines()
    stop = Record(KeyboardInterrupt(), "on_epoch_end", epoch=2)
    callbacks = [stop, EpochScoring("accuracy"), PrintLog(sink=log)]
    clf = fit(validation=True, callbacks=callbacks)
    assert ["accuracy" in row for row in clf.history_] == [True, True]
    assert len(log) == 2 + 2


def test_callback_stops_the_fits_of_a_grid_search_one_by_one():
    stop = Record(KeyboardInterrupt(), "on_epoch_end", epoch=2)
    search = GridSearchCV(
        classifier(callbacks=[stop]),
        {"lr": [0.1, 0.2]},
        cv=2,
        scoring=lambda clf, X, y: clf.n_iter_,
        error_score="raise",
    )
    search.fit(X, Y)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], [2, 2])


def send_sigint():
    signal.raise_signal(signal.SIGINT)


def send_sigint_from_thread():
    """As the terminal does: at some moment of the sleep."""
    thread = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT))
    thread.start()
    time.sleep(10)


class Interrupt(Callback):
    def __init__(self, event, interrupt):
        self.event = event
        self.interrupt = interrupt

    def on_epoch_begin(self, net, **kwargs):
        if self.event == "on_epoch_begin" and len(net.history) == 2:
            self.interrupt()


class InterruptEnd(Interrupt):
    """Interrupts where callbacks may also ask to stop."""

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            self.interrupt()


def interrupted_score(net, X, y=None):
    send_sigint()


class InterruptBatch(Interrupt):
    def on_batch_end(self, net, **kwargs):
        if len(net.history) == 2:
            self.interrupt()


def each(cls, error):
    """Callbacks that raise an error in each event but the one that means to stop."""
    for event in cls.EVENTS:
        if event != "on_epoch_end" or not isinstance(error, KeyboardInterrupt):
            yield f"{type(error).__name__} {event}", cls(error, event), type(error)


INTERRUPTIONS = {
    name: (callback, error)
    for name, callback, error in [
        *each(RecordBatches, KeyboardInterrupt()),
        *each(RecordBatches, ZeroDivisionError("own")),
        *each(RecordBatches, SystemExit(3)),
        ("SIGINT", Interrupt("on_epoch_begin", send_sigint), KeyboardInterrupt),
        ("SIGINT batch", InterruptBatch(None, send_sigint), KeyboardInterrupt),
        ("SIGINT epoch end", InterruptEnd(None, send_sigint), KeyboardInterrupt),
        (
            "SIGINT thread epoch end",
            InterruptEnd(None, send_sigint_from_thread),
            KeyboardInterrupt,
        ),
        (
            "SIGINT score",
            EpochScoring(interrupted_score, on_train=True, use_caching=False),
            KeyboardInterrupt,
        ),
        (
            "SIGINT thread",
            Interrupt("on_epoch_begin", send_sigint_from_thread),
            KeyboardInterrupt,
        ),
        (
            "SIGINT thread batch",
            InterruptBatch(None, send_sigint_from_thread),
            KeyboardInterrupt,
        ),
    ]
}


@pytest.fixture
def ctrl_c():
    """Python's own handler of SIGINT, whatever the test runner did."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "callback, error", INTERRUPTIONS.values(), ids=INTERRUPTIONS.keys()
)
@pytest.mark.usefixtures("ctrl_c")
def test_interrupted_fit_raises_and_leaves_the_earlier_state(callback, error):
    clf = fit(momentum=0.9)
    before = pickle.dumps({k: v for k, v in vars(clf).items() if k != "callbacks"})
    predicted = clf.predict_proba(X)
    clf.set_params(callbacks=[callback])
    with pytest.raises(error):
        clf.fit(np.hstack([X, X]), np.where(Y, "yes", "no"))
    clf.set_params(callbacks=None)
    after = pickle.dumps({k: v for k, v in vars(clf).items() if k != "callbacks"})
    assert after == before
    assert clf.n_features_in_ == 2
    np.testing.assert_array_equal(clf.predict_proba(X), predicted)
    assert torch.is_grad_enabled()


@pytest.mark.usefixtures("ctrl_c")
def test_handler_of_the_users_interrupts_at_the_end_of_an_epoch():
    """It is called where the signal arrives, and may be written in Python."""

    def handler(number, frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handler)
    with pytest.raises(KeyboardInterrupt):
        fit(callbacks=[InterruptEnd(None, send_sigint)])


class StopInParts(Callback):
    """Asks to stop, with statements around it that touch the exception."""

    def on_epoch_end(self, net, **kwargs):
        try:
            try:
                raise KeyboardInterrupt("enough")
            finally:
                net.history.record("stopped", True)
        except KeyboardInterrupt:
            raise


def test_callback_that_reraises_its_stop_still_stops():
    assert fit(callbacks=[StopInParts()]).n_iter_ == 1


@pytest.mark.usefixtures("ctrl_c", "skl")
def test_ctrl_c_in_a_callback_of_sklearns_is_no_stop():
    class Interrupted(Watcher):
        def on_fit_task_end(self, estimator, context):
            if context.task_name == "epoch":
                send_sigint()

    clf = classifier().set_callbacks(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    assert not hasattr(clf, "coef_")


@pytest.mark.parametrize(
    "name", ["predict", "predict_proba", "decision_function", "to_sklearn", "module_"]
)
def test_classifier_is_not_fitted_during_its_first_fit(name):
    class Ask(Callback):
        def on_epoch_end(self, net, **kwargs):
            with pytest.raises(NotFittedError):
                member = getattr(clf, name)
                member(*([X] if name != "to_sklearn" else []))

    clf = classifier(epochs=1)
    clf.callbacks = [Ask()]
    clf.fit(X, Y)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_interrupted_first_fit_leaves_the_classifier_unfitted(error):
    clf = classifier(callbacks=[Record(error(), "on_epoch_begin", epoch=2)])
    with pytest.raises(error):
        clf.fit(X, Y)
    with pytest.raises(NotFittedError):
        clf.predict(X)
    assert not hasattr(clf, "n_features_in_")


@pytest.mark.parametrize(
    "again",
    [
        lambda clf: clf.partial_fit(X, Y),
        lambda clf: clf.set_params(warm_start=True).fit(X, Y),
    ],
    ids=["partial_fit", "warm_start"],
)
def test_interrupted_continuation_can_be_repeated_exactly(again):
    clf, expected = fit(momentum=0.9), fit(momentum=0.9)
    interrupt = RecordBatches(KeyboardInterrupt(), "on_batch_end")
    clf.set_params(callbacks=[interrupt])
    with pytest.raises(KeyboardInterrupt):
        again(clf)
    clf.set_params(callbacks=None)
    assert_same_fit(again(clf), again(expected))


def test_interrupted_grid_search_does_not_go_on():
    """Ctrl-C is not an error of one fit that a score of nan stands for."""
    interrupt = Record(KeyboardInterrupt(), "on_epoch_begin", epoch=2)
    search = GridSearchCV(classifier(callbacks=[interrupt]), {"lr": [0.1, 0.2]}, cv=2)
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, Y)


# scikit-learn's callbacks


@pytest.fixture
def skl():
    return pytest.importorskip("sklearn.callback")


class Watcher:
    """A callback of scikit-learn's that keeps what it is told.

    Parameters
    ----------
    stop_at : int, optional
        The epoch, from one on, at whose end to ask to stop.
    """

    def __init__(self, stop_at=None):
        self.stop_at = stop_at
        self.events = []
        self.estimators = {}

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X, y, metadata):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        self.events.append(f"end {context.task_name}")
        epoch = context.task_id + 1
        if context.task_name == "epoch":
            self.estimators[epoch] = fitted_estimator
        return context.task_name == "epoch" and epoch == self.stop_at


class HandedDown(Watcher):
    """The same, handed down to estimators inside others."""

    max_propagation_depth = None


class WatcherOfBegins(Watcher):
    """Asks for the fitted estimator when an epoch begins, too."""

    def on_fit_task_begin(self, estimator, context, *, fitted_estimator):
        if context.task_name == "epoch":
            self.estimators[context.task_id] = fitted_estimator

    def on_fit_task_end(self, estimator, context):
        return False


@pytest.mark.usefixtures("skl")
def test_sklearn_callback_sees_the_estimator_at_the_begin_of_an_epoch():
    watcher = WatcherOfBegins()
    classifier(epochs=3).set_callbacks(watcher).fit(X, Y)
    for epoch, seen in watcher.estimators.items():
        fresh = classifier(epochs=epoch).fit(X, Y)
        assert seen.n_iter_ == epoch
        np.testing.assert_array_equal(seen.coef_, fresh.coef_)
    assert len(watcher.estimators) == 3


@pytest.mark.usefixtures("skl")
def test_sklearn_callback_hears_of_the_fit_and_its_epochs():
    watcher = Watcher()
    clf = classifier(epochs=2).set_callbacks(watcher).fit(X, Y)
    epoch = ["begin epoch", "end epoch"]
    fit_events = ["setup", "begin fit", *epoch, *epoch, "end fit", "teardown"]
    assert watcher.events == fit_events
    assert_same_fit(clf, fit(epochs=2))


@pytest.mark.usefixtures("skl")
def test_sklearn_callback_hears_of_partial_fit():
    watcher = Watcher()
    clf = classifier().set_callbacks(watcher)
    for _ in range(2):
        clf.partial_fit(X, Y, classes=[0, 1])
    events = ["setup", "begin fit", "begin epoch", "end epoch", "end fit", "teardown"]
    assert watcher.events == 2 * events
    np.testing.assert_array_equal(watcher.estimators[1].coef_, clf.coef_)


@pytest.mark.usefixtures("skl")
def test_what_sklearn_callbacks_saw_stays():
    watcher = Watcher()
    classifier(epochs=2).set_callbacks(watcher).fit(X, Y)
    seen = watcher.estimators[1]
    assert seen._run["least"]["train"] == seen.loss_curve_[0]


FITTED = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "adam": {"optimizer": "adam"},
}


@pytest.mark.usefixtures("skl")
@pytest.mark.parametrize("data", [(X, Y), (X3, Y3)], ids=["binary", "multinomial"])
@pytest.mark.parametrize("params", FITTED.values(), ids=FITTED)
def test_fitted_estimator_of_an_epoch_is_that_of_a_fit_so_long(params, data):
    watcher = Watcher()
    classifier(**params, epochs=5).set_callbacks(watcher).fit(*data)
    assert list(watcher.estimators) == [1, 2, 3, 4, 5]
    for epoch in (1, 2, 4):
        seen = watcher.estimators[epoch]
        expected = classifier(**params, epochs=epoch).fit(*data)
        assert_same_fit(seen, expected)
        np.testing.assert_array_equal(seen.classes_, expected.classes_)
        proba = expected.predict_proba(data[0])
        np.testing.assert_array_equal(seen.predict_proba(data[0]), proba)


@pytest.mark.usefixtures("skl")
def test_fitted_estimator_of_an_epoch_with_early_stopping_is_not_the_best():
    watcher = Watcher()
    clf = classifier(**RESTLESS | EARLY).set_callbacks(watcher).fit(X, Y)
    train, held = held_out(X, Y, **EARLY)
    params = {**RESTLESS, "random_state": 3, "epochs": clf.n_iter_}
    last = classifier(**params).fit(*train, **held)
    assert_same_fit(watcher.estimators[clf.n_iter_], last)
    assert not np.array_equal(clf.coef_, last.coef_)


@pytest.mark.usefixtures("skl")
def test_fitted_estimator_of_an_epoch_does_not_change_afterwards():
    watcher = Watcher()
    clf = classifier().set_callbacks(watcher)
    copies = []

    class Copy(Watcher):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            copies.append(fitted_estimator.coef_.copy())

    clf.set_callbacks(watcher, Copy()).fit(X, Y)
    for copy, seen in zip(copies, watcher.estimators.values(), strict=False):
        np.testing.assert_array_equal(copy, seen.coef_)


@pytest.mark.usefixtures("skl")
def test_fitted_estimator_of_an_epoch_has_the_classes_of_rows_with_weight():
    """A class whose rows all weigh nothing is none of the model's."""
    watcher = Watcher()
    labels, weight = Y.copy(), np.ones(len(Y))
    labels[:5], weight[:5] = 2, 0
    clf = classifier(epochs=2).set_callbacks(watcher)
    with pytest.warns(UserWarning, match="sample_weight is zero for all rows of"):
        clf.fit(X, labels, sample_weight=weight)
    assert clf.classes_.tolist() == [0, 1]
    seen = watcher.estimators[2]
    assert seen.classes_.tolist() == [0, 1]
    np.testing.assert_array_equal(seen.predict_proba(X), clf.predict_proba(X))


@pytest.mark.usefixtures("skl")
def test_fitted_estimator_of_an_epoch_converts_to_sklearn():
    watcher = Watcher()
    clf = classifier(epochs=2, alpha=0.1).set_callbacks(watcher).fit(X, Y)
    converted = watcher.estimators[2].to_sklearn()
    np.testing.assert_allclose(converted.predict_proba(X), clf.predict_proba(X))
    assert converted.C == clf.to_sklearn().C


@pytest.mark.usefixtures("skl")
@pytest.mark.parametrize("epoch", [1, 3])
def test_sklearn_callback_stops_at_the_end_of_an_epoch(epoch):
    watcher = Watcher(stop_at=epoch)
    clf = classifier().set_callbacks(watcher).fit(X, Y)
    assert clf.n_iter_ == epoch
    assert_same_fit(clf, fit(epochs=epoch))
    assert watcher.events[-2:] == ["end fit", "teardown"]


@pytest.mark.usefixtures("skl")
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_sklearn_callback_is_torn_down_when_fit_raises(error):
    watcher = Watcher()
    record = Record(error(), "on_epoch_begin", epoch=2)
    clf = classifier(callbacks=[record]).set_callbacks(watcher)
    with pytest.raises(error):
        clf.fit(X, Y)
    assert watcher.events[-1] == "teardown"
    assert watcher.events.count("teardown") == 1
    assert watcher.events.count("begin epoch") == 1
    # The estimator is not left inside the fit that failed.
    clf.set_params(callbacks=None).fit(X, Y)
    assert watcher.events.count("teardown") == 2
    assert_same_fit(clf, fit())


@pytest.mark.usefixtures("skl")
def test_sklearn_callback_that_raises_leaves_the_earlier_state():
    class Broken(Watcher):
        def on_fit_task_begin(self, estimator, context):
            if context.task_name == "epoch" and context.task_id == 2:
                raise ZeroDivisionError

    clf = fit()
    coef = clf.coef_
    with pytest.raises(ZeroDivisionError):
        clf.set_callbacks(Broken()).fit(X[:, ::-1], Y)
    np.testing.assert_array_equal(clf.coef_, coef)


@pytest.mark.usefixtures("skl")
def test_callbacks_of_both_kinds_work_in_one_fit():
    watcher, record = Watcher(stop_at=3), Record()
    clf = classifier(callbacks=[EpochScoring("accuracy"), record])
    clf.set_callbacks(watcher).fit(X, Y, **VALIDATION)
    assert clf.n_iter_ == record.heard_["on_epoch_end"] == len(watcher.estimators) == 3
    seen = watcher.estimators[3]
    assert seen.history_[2]["accuracy"] == clf.history_[2]["accuracy"]


def pipeline(clf):
    return make_pipeline(StandardScaler(), clf)


def grid_search(clf):
    return GridSearchCV(clf, {"lr": [0.1, 0.2]}, cv=2, error_score="raise")


NESTED = {  # what the classifier is put in, and how often that fits it
    "alone": (lambda clf: clf, 1),
    "pipeline": (pipeline, 1),
    "grid search": (grid_search, 5),
    "grid search of pipeline": (
        lambda clf: GridSearchCV(
            pipeline(clf), {"torchlogisticclassifier__lr": [0.1, 0.2]}, cv=2
        ),
        5,
    ),
}


@pytest.mark.parametrize("nest, n_fits", NESTED.values(), ids=NESTED.keys())
def test_sklearn_progress_bar_shows_the_classifier(
    nest, n_fits, skl, capfd, monkeypatch
):
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "200")
    model = nest(classifier()).set_callbacks(skl.ProgressBar(None)).fit(X, Y)
    printed = capfd.readouterr()
    shown = re.sub(r"\s+", " ", printed.out)
    assert shown.count("TorchLogisticClassifier - fit") == n_fits
    assert printed.err == ""
    np.testing.assert_array_equal(
        model.predict_proba(X), nest(classifier()).fit(X, Y).predict_proba(X)
    )


@pytest.mark.usefixtures("skl")
@pytest.mark.parametrize("nest, n_fits", NESTED.values(), ids=NESTED.keys())
def test_sklearn_callback_handed_down_hears_of_every_epoch(nest, n_fits):
    watcher = HandedDown()
    nest(classifier()).set_callbacks(watcher).fit(X, Y)
    assert watcher.events.count("end epoch") == 5 * n_fits
    assert watcher.events.count("setup") == watcher.events.count("teardown") == 1


@pytest.mark.parametrize("nest, n_fits", NESTED.values(), ids=NESTED.keys())
def test_sklearn_scoring_monitor_logs_every_epoch(nest, n_fits, skl):
    monitor = skl.ScoringMonitor(scoring=["accuracy", "neg_log_loss"])
    clf = classifier().set_callbacks(monitor)
    model = nest(clf).fit(X, Y)
    rows = monitor.get_logs().data
    epochs = [row for row in rows if row["task_name"] == "epoch"]
    assert len(epochs) == 5 * n_fits
    assert len({row["neg_log_loss"] for row in epochs}) == len(epochs)
    # The fit on all rows is the one that is nested least.
    depth = min(len(row["task_id_path"]) for row in epochs)
    last = [row for row in epochs if len(row["task_id_path"]) == depth][-1]
    assert last["accuracy"] == model.score(X, Y)
    expected = -log_loss(Y, model.predict_proba(X))
    assert last["neg_log_loss"] == pytest.approx(expected, rel=1e-14)


def test_sklearn_scoring_monitor_weighs_the_rows_as_the_fit(skl):
    monitor = skl.ScoringMonitor(scoring="neg_log_loss")
    weight = np.random.default_rng(0).integers(0, 4, len(X)).astype(float)
    clf = classifier().set_callbacks(monitor).fit(X, Y, sample_weight=weight)
    expected = -log_loss(Y, clf.predict_proba(X), sample_weight=weight)
    last = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"][-1]
    assert last["neg_log_loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("skl")
def test_clone_keeps_sklearn_callbacks():
    watcher = Watcher()
    clone(classifier().set_callbacks(watcher)).fit(X, Y)
    assert watcher.events.count("end epoch") == 5


@pytest.mark.usefixtures("skl")
def test_fit_of_no_epochs_is_a_task_without_epochs():
    watcher = Watcher()
    classifier(epochs=0).set_callbacks(watcher).fit(X, Y)
    assert watcher.events == ["setup", "begin fit", "end fit", "teardown"]


# The parameter callbacks


def test_parameters_of_callbacks_are_parameters():
    stop = EarlyStopping(patience=3)
    clf = classifier(callbacks=[("stop", stop), EpochScoring("accuracy")])
    params = clf.get_params()
    assert params["callbacks__stop"] is stop
    assert params["callbacks__stop__patience"] == 3
    assert params["callbacks__EpochScoring__scoring"] == "accuracy"
    assert not [name for name in clf.get_params(deep=False) if "__" in name]

    clf.set_params(callbacks__stop__patience=7, epochs=9)
    assert stop.patience == 7
    assert clf.get_params()["callbacks__stop__patience"] == 7
    assert clf.epochs == 9


def test_set_params_of_a_clone_leaves_the_original():
    clf = classifier(callbacks=[("stop", EarlyStopping(patience=3))])
    clone(clf).set_params(callbacks__stop__patience=7)
    assert clf.get_params()["callbacks__stop__patience"] == 3


def test_unnamed_callbacks_have_the_name_of_their_class_numbered_if_repeated():
    callbacks = [
        EpochScoring("accuracy"),
        ("mine", EpochScoring("f1")),
        Record(),
        EpochScoring("roc_auc"),
        NoOp,
    ]
    names = [
        name.removeprefix("callbacks__")
        for name in classifier(callbacks=callbacks).get_params()
        if re.fullmatch(r"callbacks__((?!__).)*", name)
    ]
    assert names == ["EpochScoring_1", "mine", "Record", "EpochScoring_2", "NoOp"]


def test_parameters_of_repeated_callbacks_reach_each(folder):
    clf = classifier(callbacks=[EpochScoring("accuracy"), EpochScoring("accuracy")])
    clf.set_params(
        callbacks__EpochScoring_1__name="one", callbacks__EpochScoring_2__name="two"
    )
    clf.fit(X, Y, **VALIDATION)
    assert {"one", "two"} < set(clf.history_[0])


def test_callback_is_replaced_and_disabled():
    clf = classifier(callbacks=[Record(), ("stop", EarlyStopping())])
    other = Record()
    clf.set_params(callbacks__Record=other, callbacks__stop=None)
    clf.fit(X, Y)
    assert other.heard_["on_train_end"] == 1
    assert clf.get_params()["callbacks__stop"] is None
    assert "callbacks__stop__patience" not in clf.get_params()
    assert_same_fit(clf, fit())
    clf.set_params(callbacks__stop=Record(KeyboardInterrupt(), "on_epoch_end"))
    assert clf.fit(X, Y).n_iter_ == 1


def test_replacing_a_callback_leaves_the_users_list_alone():
    callbacks = [Record(), ("stop", EarlyStopping())]
    before = list(callbacks)
    classifier(callbacks=callbacks).set_params(callbacks__stop=None)
    assert callbacks == before


def test_repeated_callbacks_keep_their_names_when_one_is_replaced():
    clf = classifier(callbacks=[Record(), Record()])
    clf.set_params(callbacks__Record_1=None, callbacks__Record_2=None)
    assert clf.get_params()["callbacks__Record_1"] is None
    assert clf.get_params()["callbacks__Record_2"] is None


@pytest.mark.parametrize(
    "name, message",
    [
        ("callbacks__nobody", r"there is no callback 'nobody'. .* \['stop'\]"),
        ("callbacks__nobody__patience", "there is no callback 'nobody'"),
        ("callbacks__", "there is no callback ''"),
        ("callbacks__stop__nothing", "Invalid parameter 'nothing'"),
        ("callback__stop__patience", "Invalid parameter 'callback'"),
    ],
)
def test_unknown_name_of_a_callback_says_which_there_are(name, message):
    clf = classifier(callbacks=[("stop", EarlyStopping())])
    with pytest.raises(ValueError, match=message):
        clf.set_params(**{name: 1})


def test_grid_search_over_a_parameter_of_a_callback():
    """No epoch improves by so much: the fit ends when the patience does."""
    stop = EarlyStopping("train_loss", threshold=0.9, threshold_mode="abs")
    search = GridSearchCV(
        classifier(epochs=9, callbacks=[("stop", stop)]),
        {"callbacks__stop__patience": [1, 3]},
        cv=2,
        scoring=lambda clf, X, y: clf.n_iter_,
        error_score="raise",
    )
    search.fit(X, Y)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], [2, 4])
    assert search.best_params_ == {"callbacks__stop__patience": 3}
    assert stop.patience == 5


def test_grid_search_over_callbacks():
    stop = EarlyStopping("train_loss", patience=1, threshold=0.9, threshold_mode="abs")
    search = GridSearchCV(
        classifier(callbacks=[("stop", None)]),
        {"callbacks__stop": [None, stop]},
        cv=2,
        scoring=lambda clf, X, y: clf.n_iter_,
        error_score="raise",
    )
    search.fit(X, Y)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], [5, 2])


@pytest.mark.parametrize(
    "callbacks", ["disable", (EarlyStopping(),), EarlyStopping(), {"a": Record()}, 1]
)
def test_callbacks_of_a_wrong_type_are_refused(callbacks):
    clf = classifier(callbacks=callbacks)
    assert isinstance(repr(clf), str)
    with pytest.raises(InvalidParameterError, match="The 'callbacks' parameter of"):
        clf.fit(X, Y)


def test_callbacks_of_the_same_name_are_refused():
    clf = classifier(callbacks=[("a", Record()), ("a", Record())])
    with pytest.raises(ValueError, match="duplicate user-set callback name 'a'"):
        clf.fit(X, Y)


def test_callback_may_be_a_class():
    clf = classifier(callbacks=[PrintLog, ("score", EpochScoring("accuracy"))])
    assert "accuracy" in clf.fit(X, Y, **VALIDATION).history_[0]


def test_callbacks_hear_of_partial_fit():
    record = Record()
    clf = classifier(callbacks=[record])
    clf.partial_fit(X, Y, classes=[0, 1])
    assert record.heard_["on_epoch_end"] == record.heard_["on_train_end"] == 1


def test_empty_list_of_callbacks_is_none():
    assert_same_fit(fit(callbacks=[]), fit())


# The parameter early_stopping


EARLY = {"early_stopping": True, "validation_fraction": 0.3, "random_state": 3}


def held_out(X, y, **params):
    """The rows that early stopping trains on and those it holds out."""
    train, held = train_test_split(
        np.arange(len(y)),
        test_size=params["validation_fraction"],
        stratify=y,
        random_state=params["random_state"],
    )
    train, held = np.sort(train), np.sort(held)
    return (X[train], y[train]), {"X_val": X[held], "y_val": y[held]}


EARLY_DATA = {
    "binary": (X, Y),
    "imbalanced": (X[:40], np.r_[Y[:40]] & (np.arange(40) % 3 == 0)),
    "multinomial": (X3, Y3),
}


# Steps that are too long for three classes leave a loss that is warned of.
restless = pytest.mark.filterwarnings("ignore:The mean loss at the end, of 42 rows")


@restless
@pytest.mark.parametrize("data", EARLY_DATA.values(), ids=EARLY_DATA)
def test_early_stopping_never_trains_on_the_rows_it_holds_out(data):
    stopped = classifier(**RESTLESS | EARLY).fit(*data)
    train, held = held_out(*data, **EARLY)
    expected = classifier(**RESTLESS | EARLY).fit(*train, **held)
    assert_same_fit(stopped, expected)


@pytest.mark.parametrize("data", EARLY_DATA.values(), ids=EARLY_DATA)
def test_early_stopping_holds_out_each_class_in_its_share(data):
    _, held = held_out(*data, **EARLY)
    counts = [np.bincount(y) / len(y) for y in (data[1], held["y_val"])]
    np.testing.assert_allclose(*counts, atol=1 / len(held["y_val"]))


@restless
@pytest.mark.parametrize("data", EARLY_DATA.values(), ids=EARLY_DATA)
def test_early_stopping_keeps_the_coefficients_of_the_best_epoch(data):
    clf = classifier(**RESTLESS | EARLY).fit(*data)
    best = int(np.argmin(clf.validation_loss_curve_)) + 1
    assert best < clf.n_iter_ < RESTLESS["epochs"]
    train, held = held_out(*data, **EARLY)
    params = {**RESTLESS, "random_state": 3, "epochs": best}
    assert_same_coefficients(clf, classifier(**params).fit(*train, **held))


@pytest.mark.parametrize("n_iter_no_change", [1, 2, 4])
@pytest.mark.parametrize("tol", [0.0, 1e-3, 0.1])
def test_early_stopping_counts_epochs_without_improvement(n_iter_no_change, tol):
    params = {"n_iter_no_change": n_iter_no_change, "tol": tol}
    clf = classifier(**RESTLESS | EARLY | params).fit(X, Y)
    target, misses = np.inf, 0
    for epoch, loss in enumerate(clf.validation_loss_curve_, start=1):
        misses = 0 if loss < target else misses + 1
        target = loss - tol if loss < target else target
        assert (epoch == clf.n_iter_) == (misses == n_iter_no_change)
    train, held = held_out(X, Y, **EARLY)
    whole = classifier(**RESTLESS, random_state=3).fit(*train, **held)
    expected = whole.validation_loss_curve_[: clf.n_iter_]
    assert clf.validation_loss_curve_ == expected


def test_early_stopping_that_never_stops_still_keeps_the_best_epoch():
    clf = classifier(**RESTLESS | EARLY | {"n_iter_no_change": 100}).fit(X, Y)
    assert clf.n_iter_ == RESTLESS["epochs"]
    train, held = held_out(X, Y, **EARLY)
    best = int(np.argmin(clf.validation_loss_curve_)) + 1
    assert best < clf.n_iter_
    params = {**RESTLESS, "random_state": 3, "epochs": best}
    assert_same_coefficients(clf, classifier(**params).fit(*train, **held))


class TestEarlyStoppingOfARunInParts:
    """The coefficients that a part starts from are the best of those before."""

    params: dict[str, Any] = {  # noqa: RUF012 (it is not changed)
        **RESTLESS,
        **EARLY,
        "warm_start": True,
        "n_iter_no_change": 100,
    }

    def test_worse_epochs_are_not_kept(self):
        clf = classifier(**self.params).fit(X, Y)
        coef = clf.coef_
        clf.set_params(epochs=2, lr=30.0).fit(X, Y)
        assert min(clf.validation_loss_curve_[-2:]) > min(clf.validation_loss_curve_)
        np.testing.assert_array_equal(clf.coef_, coef)
        assert clf.n_iter_ == RESTLESS["epochs"] + 2

    def test_better_epochs_are_kept(self):
        clf = classifier(**self.params | {"epochs": 1, "lr": 0.1}).fit(X, Y)
        coef = clf.coef_
        clf.set_params(epochs=5).fit(X, Y)
        assert np.argmin(clf.validation_loss_curve_) == 5
        assert not np.array_equal(clf.coef_, coef)

    def test_the_start_is_what_must_be_improved(self):
        clf = classifier(**self.params).fit(X, Y)
        clf.set_params(n_iter_no_change=3, lr=30.0).fit(X, Y)
        assert clf.n_iter_ == RESTLESS["epochs"] + 3

    def test_other_validation_rows_judge_the_start_anew(self):
        clf = classifier(**self.params).fit(X, Y)
        coef = clf.coef_
        flipped = {"X_val": X_VAL, "y_val": 1 - Y_VAL}
        clf.set_params(epochs=1).fit(X, 1 - Y, **flipped)
        assert not np.array_equal(clf.coef_, coef)

    def test_fit_without_early_stopping_before(self):
        clf = classifier(**self.params | {"early_stopping": False}).fit(X, Y)
        coef = clf.coef_
        clf.set_params(early_stopping=True, epochs=2, lr=300.0).fit(X, Y)
        np.testing.assert_array_equal(clf.coef_, coef)


def test_early_stopping_takes_the_validation_rows_that_fit_got():
    clf = fit(validation=True, early_stopping=True, **RESTLESS)
    assert clf.n_iter_ < RESTLESS["epochs"]
    whole = fit(validation=True, **RESTLESS)
    assert clf.loss_curve_ == whole.loss_curve_[: clf.n_iter_]
    assert clf.validation_loss_curve_ == whole.validation_loss_curve_[: clf.n_iter_]


def test_early_stopping_saves_the_best_epoch_in_a_train_end_checkpoint(tmp_path):
    callbacks = [TrainEndCheckpoint(dirname=str(tmp_path))]
    clf = fit(**RESTLESS, early_stopping=True, callbacks=callbacks)
    state = torch.load(tmp_path / "train_end_params.pt", weights_only=True)
    np.testing.assert_array_equal(state["linear.weight"], clf.coef_)


@pytest.mark.parametrize(
    "labels, fraction, counts",
    [
        (np.r_[np.zeros(59), 1].astype(int), 0.1, "{0: 59, 1: 1}"),
        (np.repeat(["a", "b", "c"], [30, 29, 1]), 0.1, "{'a': 30, 'b': 29, 'c': 1}"),
        (Y, 0.01, "{0: 30, 1: 30}"),
        (Y, 0.99, "{0: 30, 1: 30}"),
    ],
)
def test_early_stopping_of_a_class_too_small_says_so(labels, fraction, counts):
    message = (
        f"cannot hold out validation_fraction={fraction} of 60 rows .* rows per class: "
        f"{re.escape(counts)}. Pass X_val and y_val"
    )
    clf = classifier(early_stopping=True, validation_fraction=fraction)
    with pytest.raises(ValueError, match=message):
        clf.fit(X, labels)


# The parameter verbose


def test_verbose_0_prints_nothing(capfd):
    fit(validation=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("validation", [False, True], ids=["", "validation"])
def test_verbose_1_shows_one_progress_bar_over_epochs_on_stderr(validation, capfd):
    clf = fit(verbose=1, validation=validation)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    last = printed.err.strip().split("\r")[-1]
    assert "100%" in last
    assert "5/5" in last
    assert f"train_loss={clf.loss_curve_[-1]:.4f}" in last
    assert ("valid_loss=" in last) == validation
    assert_same_fit(clf, fit(validation=validation))


def test_verbose_1_ends_its_line_when_the_fit_is_interrupted(capfd):
    interrupt = Record(KeyboardInterrupt(), "on_epoch_begin", epoch=3)
    with pytest.raises(KeyboardInterrupt):
        fit(verbose=1, callbacks=[interrupt])
    assert capfd.readouterr().err.endswith("\n")


def test_verbose_1_shows_how_far_an_early_stop_came(capfd):
    clf = fit(verbose=1, early_stopping=True, **RESTLESS)
    last = capfd.readouterr().err.strip().split("\r")[-1]
    assert f"{clf.n_iter_}/{RESTLESS['epochs']}" in last


def test_verbose_2_prints_skorchs_table_on_stdout(capfd):
    clf = fit(verbose=2, validation=True)
    printed = capfd.readouterr()
    assert printed.err == ""
    plain = re.sub(r"\x1b\[\d+m", "", printed.out)
    header, rule, *rows = plain.splitlines()
    assert header.split() == ["epoch", "train_loss", "valid_loss", "dur"]
    assert set(rule) == {"-", " "}
    assert [int(row.split()[0]) for row in rows] == [1, 2, 3, 4, 5]
    shown = [float(row.split()[1]) for row in rows]
    np.testing.assert_allclose(shown, clf.loss_curve_, atol=5e-5)
    assert_same_fit(clf, fit(validation=True))


class Replace(Callback):
    """Puts another tensor where the gradient was."""

    def on_grad_computed(self, net, named_parameters, **kwargs):
        for _, parameter in named_parameters:
            parameter.grad = parameter.grad * 0


@pytest.mark.parametrize("optimizer", ["sgd", "adam", torch.optim.Adamax])
def test_a_gradient_that_a_callback_replaces_counts(optimizer):
    still = classifier(optimizer=optimizer, callbacks=[Replace()]).fit(X, Y)
    start = classifier(epochs=0).fit(X, Y)
    np.testing.assert_array_equal(still.coef_, start.coef_)


class Explode(Callback):
    """Spoils the last epoch."""

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == net.max_epochs:
            with torch.no_grad():
                net.module_.linear.weight.fill_(1e9)


def test_early_stopping_keeps_the_best_of_a_run_that_ends_badly():
    settings = {"early_stopping": True, "epochs": 4, "tol": 0, "n_iter_no_change": 9}
    clf = classifier(callbacks=[Explode()], **settings).fit(X, Y)
    assert np.abs(clf.coef_).max() < 10
    with pytest.raises(ValueError, match="diverged"):
        classifier(callbacks=[Explode()], epochs=4).fit(X, Y)


def test_hooks_of_the_optimizer_are_called():
    calls = []

    class Hook(Callback):
        def on_train_begin(self, net, **kwargs):
            net.optimizer_.register_step_pre_hook(lambda *args: calls.append(1))

    clf = classifier(epochs=2, callbacks=[Hook()]).fit(X, Y)
    assert len(calls) == 2 * -(-len(X) // clf.batch_size_)


def test_validation_logits_may_be_kept():
    class Keep(Callback):
        def __init__(self):
            self.logits_ = []

        def on_batch_end(self, net, training, y_pred, **kwargs):
            if not training:
                self.logits_.append(y_pred)

    keep = Keep()
    classifier(epochs=2, callbacks=[keep]).fit(X, Y, X_val=X, y_val=Y)
    assert not torch.equal(*keep.logits_)


def test_names_of_callbacks_have_no_double_underscore():
    clf = classifier(callbacks=[("a__b", Replace())])
    with pytest.raises(ValueError, match="must not contain '__'"):
        clf.fit(X, Y)


# What callbacks watch


WATCHERS = {
    "EarlyStopping": (EarlyStopping(), "valid_loss"),
    "class": (EarlyStopping, "valid_loss"),
    "Checkpoint": (Checkpoint(), "valid_loss_best"),
    "LRScheduler": (
        LRScheduler("ReduceLROnPlateau", monitor="valid_loss"),
        "valid_loss",
    ),
}


@pytest.mark.parametrize(("callback", "monitor"), WATCHERS.values(), ids=list(WATCHERS))
def test_what_watches_validation_rows_needs_some(callback, monitor, folder):
    clf = classifier(callbacks=[("mine", callback)])
    instead = monitor.replace("valid", "train")
    message = f"'mine' watches '{monitor}'.*X_val and y_val.*monitor='{instead}'"
    with pytest.raises(ValueError, match=message):
        clf.fit(X, Y)
    assert not hasattr(clf, "coef_")
    clf.fit(X, Y, **VALIDATION)
    clf.set_params(early_stopping=True).fit(X, Y)


@pytest.mark.parametrize(
    ("validation", "known"),
    [
        (
            VALIDATION,
            "'valid_loss_best'. Put the callback that scores before this one.",
        ),
        (
            {},
            "'train_loss_best'.*this one; for scores of validation rows pass X_val",
        ),
    ],
    ids=["with validation rows", "without"],
)
@pytest.mark.parametrize("order", [1, -1], ids=["unknown", "scored too late"])
def test_what_watches_something_unknown(order, validation, known):
    """skorch's error names neither the callback nor what there is to watch."""
    score = EpochScoring("accuracy", name="correct", on_train=not validation)
    watched = "corect" if order == 1 else "correct"
    clf = classifier(callbacks=[score, ("mine", EarlyStopping(watched))][::order])
    message = f"^callback 'mine' watches '{watched}', which the history .*{known}"
    with pytest.raises(ValueError, match=message):
        clf.fit(X, Y, **validation)
    assert not hasattr(clf, "coef_")


@pytest.mark.parametrize("monitor", ["train_loss", "accuracy"])
def test_other_errors_of_a_callback_are_its_own(monitor):
    class Careless(Callback):
        def __init__(self):
            self.monitor = monitor

        def on_epoch_end(self, net, **kwargs):
            {}["anything"]

    with pytest.raises(KeyError, match="anything"):
        classifier(callbacks=[Careless()]).fit(X, Y)


def test_a_score_may_be_called_validation_loss():
    score = EpochScoring("neg_log_loss", name="valid_loss", on_train=True)
    clf = classifier(
        callbacks=[score, EarlyStopping(patience=2, sink=lambda text: None)]
    )
    assert "valid_loss" in clf.fit(X, Y).history_[0]
