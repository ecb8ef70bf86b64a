"""The skorch net inside the classifier: what callbacks find in it, what it keeps."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs, make_moons
from sklearn.metrics import log_loss
from skorch.callbacks import (
    BatchScoring,
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    EpochTimer,
    Freezer,
    GradientNormClipping,
    Initializer,
    LoadInitState,
    LRScheduler,
    MlflowLogger,
    NeptuneLogger,
    ParamMapper,
    PassthroughScoring,
    PrintLog,
    ProgressBar,
    SacredLogger,
    TensorBoard,
    TrainEndCheckpoint,
    Unfreezer,
)
from skorch.dataset import Dataset
from skorch.history import History

from torchlogistic import TorchLogisticClassifier
from torchlogistic._callbacks import hears_batches, hears_training
from torchlogistic._module import QuickHistory

X, Y = make_moons(60, noise=0.3, random_state=0)
X3, Y3 = make_blobs(60, centers=3, cluster_std=4.0, random_state=0)
BOTH = pytest.mark.parametrize(
    "data", [(X, Y), (X3, Y3)], ids=["binary", "multinomial"]
)


def classifier(**params) -> TorchLogisticClassifier:
    defaults = {"epochs": 3, "batch_size": 16, "random_state": 0, "device": "cpu"}
    return TorchLogisticClassifier(**{**defaults, **params})


def assert_same_fit(one, other):
    np.testing.assert_array_equal(one.coef_, other.coef_)
    np.testing.assert_array_equal(one.intercept_, other.intercept_)
    assert one.loss_curve_ == other.loss_curve_


class Look(Callback):
    """Calls a function with the net and what came with an event."""

    def __init__(self, function, event):
        self.function = function
        self.event = event

    def look(self, event, net, **kwargs):
        if event == self.event:
            self.function(net, **kwargs)

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        self.look("on_train_begin", net, X=X, y=y)

    def on_epoch_begin(self, net, **kwargs):
        self.look("on_epoch_begin", net, **kwargs)

    def on_epoch_end(self, net, **kwargs):
        self.look("on_epoch_end", net)

    def on_train_end(self, net, X=None, y=None, **kwargs):
        self.look("on_train_end", net)


def look(function, event="on_epoch_end", data=(X, Y), **params):
    """Fit with one callback that calls a function."""
    return classifier(callbacks=[Look(function, event)], **params).fit(*data)


# Which callbacks listen to batches


class OwnScoring(EpochScoring):
    """Inherits its events."""


class ListeningScoring(EpochScoring):
    def on_batch_end(self, net, **kwargs):
        pass


class OnBatchBegin(Callback):
    def on_batch_begin(self, net, **kwargs):
        pass


class OnBatchEnd(Callback):
    def on_batch_end(self, net, **kwargs):
        pass


class OnGradComputed(Callback):
    def on_grad_computed(self, net, named_parameters, **kwargs):
        pass


class OnEpochEnd(Callback):
    def on_epoch_end(self, net, **kwargs):
        pass


LISTENERS = [  # callback, hears batches at all, hears those of the training rows
    (Callback(), False, False),
    (EpochTimer(), False, False),
    (PrintLog(), False, False),
    (EarlyStopping(), False, False),
    (Checkpoint(), False, False),
    (TrainEndCheckpoint(), False, False),
    (LoadInitState(Checkpoint()), False, False),
    (PassthroughScoring("train_loss", on_train=True), False, False),
    (ParamMapper("*"), False, False),
    (Freezer("*"), False, False),
    (Unfreezer("*"), False, False),
    (Initializer("*"), False, False),
    (OnEpochEnd(), False, False),
    (LRScheduler(), True, False),
    (LRScheduler(step_every="batch"), True, True),
    (ProgressBar(), True, True),
    (EpochScoring("accuracy"), True, False),
    (EpochScoring("accuracy", use_caching=False), True, False),
    (EpochScoring("accuracy", on_train=True), True, True),
    (EpochScoring("accuracy", on_train=True, use_caching=False), True, False),
    (OwnScoring("accuracy"), True, False),
    (OwnScoring("accuracy", on_train=True), True, True),
    (ListeningScoring("accuracy"), True, True),
    (BatchScoring("accuracy"), True, False),
    (BatchScoring("accuracy", on_train=True), True, True),
    (GradientNormClipping(1.0), True, True),
    (TensorBoard(writer=None), True, False),
    (NeptuneLogger(run=None), True, False),
    (NeptuneLogger(run=None, log_on_batch_end=True), True, True),
    (SacredLogger(experiment=None), True, False),
    (SacredLogger(experiment=None, log_on_batch_end=True), True, True),
    (MlflowLogger(run=0, client=0), True, False),
    (MlflowLogger(run=0, client=0, log_on_batch_end=True), True, True),
    (OnBatchBegin(), True, True),
    (OnBatchEnd(), True, True),
    (OnGradComputed(), True, True),
]


@pytest.mark.parametrize(
    "callback, batches, training",
    LISTENERS,
    ids=[f"{type(case[0]).__name__} {i}" for i, case in enumerate(LISTENERS)],
)
def test_callback_hears_batches_only_if_it_listens(callback, batches, training):
    assert hears_batches(callback) is batches
    assert hears_training(callback) is training


# The history


def history_of(cls):
    history = cls()
    for epoch in range(3):
        history.new_epoch()
        history.record("epoch", epoch + 1)
        history.record("train_loss", 1 / (1 + epoch))
        if epoch:
            history.record("late", epoch)
        for batch in range(2 + epoch):
            history.new_batch()
            history.record_batch("train_loss", batch / 7)
            history.record_batch("train_batch_size", 16)
    return history


EPOCHS = slice(None)
INDICES = [
    0,
    2,
    -1,
    -3,
    EPOCHS,
    slice(1, None),
    slice(None, None, -1),
    (-1,),
    (-1, "train_loss"),
    (EPOCHS, "train_loss"),
    (EPOCHS, ("epoch", "train_loss")),
    (EPOCHS, ["epoch", "train_loss"]),
    (EPOCHS, "late"),
    (EPOCHS, "batches"),
    (-1, "batches"),
    (-1, "batches", -1),
    (-1, "batches", EPOCHS, "train_loss"),
    (-1, "batches", -1, "train_loss"),
    (-1, "batches", EPOCHS, ["train_batch_size", "train_loss"]),
    (slice(1, 3), "batches", slice(0, 2), ("train_batch_size", "train_loss")),
]
WRONG_INDICES = [
    3,
    -4,
    (3,),
    (EPOCHS, "nothing"),
    (0, "late"),
    (-1, "epoch", 0),
    (-1, "batches", 9),
    (-1, "batches", EPOCHS, "nothing"),
    (0, "batches", 0, "train_loss", 1),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_history_is_indexed_as_skorchs(index):
    ours, theirs = history_of(QuickHistory)[index], history_of(History)[index]
    assert ours == theirs
    assert type(ours) is type(theirs)


@pytest.mark.parametrize("index", WRONG_INDICES, ids=str)
def test_history_refuses_what_skorchs_refuses(index):
    with pytest.raises((LookupError, ValueError)) as theirs:
        history_of(History)[index]
    with pytest.raises(theirs.type):
        history_of(QuickHistory)[index]


def test_history_row_is_the_row_itself_and_files_are_skorchs(tmp_path):
    history = history_of(QuickHistory)
    history[-1]["mine"] = 1
    assert history[-1, "mine"] == 1
    history.to_file(str(tmp_path / "history.json"))
    assert History.from_file(str(tmp_path / "history.json")) == history
    assert QuickHistory.from_file(str(tmp_path / "history.json"))[0] == history[0]


def test_history_in_a_fit_is_skorchs_with_one_batch_an_epoch():
    histories = []
    look(lambda net: histories.append(net.history), "on_train_end")
    (history,) = histories
    assert isinstance(history, History)
    assert history[:, "epoch"] == [1, 2, 3]
    assert history[:, "train_batch_count"] == [4, 4, 4]
    batches = history[:, "batches", EPOCHS, "train_loss"]
    assert batches == [[loss] for loss in history[:, "train_loss"]]
    assert history[:, "batches", EPOCHS, "train_batch_size"] == [[60]] * 3
    assert json.loads(json.dumps(history)) == history


# The module


@pytest.mark.parametrize("fit_intercept", [True, False], ids=["", "no intercept"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@BOTH
def test_module_of_fitted_classifier_gives_the_same_logits(data, dtype, fit_intercept):
    clf = classifier(dtype=dtype, fit_intercept=fit_intercept).fit(*data)
    module = clf.module_
    rows = torch.from_numpy(data[0]).to(getattr(torch, dtype))
    logits = module(rows).detach().numpy()
    assert logits.dtype == dtype
    expected = clf.decision_function(data[0]).reshape(len(rows), -1)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(logits, expected, rtol=tolerance, atol=tolerance)
    assert (module.linear.bias is not None) == fit_intercept


@BOTH
def test_module_of_fitted_classifier_is_its_own_and_can_be_saved(data, tmp_path):
    clf = classifier().fit(*data)
    coef = clf.coef_.copy()
    with torch.no_grad():
        clf.module_.linear.weight.zero_()
    np.testing.assert_array_equal(clf.coef_, coef)
    assert clf.module_ is not clf.module_

    torch.save(clf.module_.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    np.testing.assert_array_equal(state["linear.weight"], coef)
    copied = pickle.loads(pickle.dumps(clf.module_))
    assert torch.equal(copied.linear.weight, clf.module_.linear.weight)


# Saving and loading


@BOTH
def test_checkpoint_saves_and_loads_safetensors(data, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    clf = {}
    for use_safetensors in (True, False):
        checkpoint = Checkpoint(
            monitor="valid_loss_best",
            dirname=str(tmp_path / str(use_safetensors)),
            f_optimizer=None,
            load_best=True,
            use_safetensors=use_safetensors,
        )
        held = {"X_val": data[0][:20], "y_val": data[1][:20]}
        params = {"lr": 5.0, "epochs": 8, "callbacks": [checkpoint]}
        clf[use_safetensors] = classifier(**params).fit(*data, **held)
    assert 1 <= clf[True].n_iter_ < 8  # went back to an epoch before the last
    assert_same_fit(clf[True], clf[False])
    state = safetensors.load_file(tmp_path / "True" / "params.pt")
    np.testing.assert_array_equal(state["linear.weight"], clf[True].coef_)
    np.testing.assert_array_equal(state["linear.bias"], clf[True].intercept_)


@BOTH
def test_load_init_state_continues_from_safetensors(data, tmp_path):
    pytest.importorskip("safetensors.torch")
    checkpoint = TrainEndCheckpoint(
        dirname=str(tmp_path), f_optimizer=None, use_safetensors=True
    )
    load = LoadInitState(checkpoint, use_safetensors=True)
    clf = classifier(batch_size=None, callbacks=[checkpoint, load])
    clf.fit(*data).fit(*data)
    assert_same_fit(clf, classifier(batch_size=None, epochs=6).fit(*data))


@BOTH
def test_net_saves_and_loads_its_parts(data, tmp_path):
    """Saved after the first epoch, loaded after the last."""
    files = {
        f"f_{name}": str(tmp_path / name)
        for name in ("params", "optimizer", "criterion", "history")
    }

    def save_and_load(net):
        if len(net.history) == 1:
            net.save_params(**files)
        if len(net.history) == 3:
            net.load_params(**files)

    params = {"momentum": 0.9, "warm_start": True}
    clf = look(save_and_load, data=data, **params)
    first = classifier(epochs=1, **params).fit(*data)
    assert_same_fit(clf, first)
    # The optimizer's state is that of the first epoch, too.
    again = {"callbacks": None, "epochs": 2, "shuffle": False, "batch_size": None}
    clf.set_params(**again).fit(*data)
    assert_same_fit(clf, first.set_params(**again).fit(*data))


@BOTH
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_run_in_two_parts_is_one_run(optimizer, data):
    params = {"optimizer": optimizer, "momentum": 0.9}
    clf = classifier(epochs=2, warm_start=True, **params).fit(*data)
    clf = pickle.loads(pickle.dumps(clf))
    clf.set_params(epochs=3).fit(*data)
    assert_same_fit(clf, classifier(epochs=5, **params).fit(*data))


COPIES = pytest.mark.parametrize(
    "make_copy",
    [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))],
    ids=["deepcopy", "pickle"],
)


class Keep(Callback):
    """Keeps a copy of the net before each epoch."""

    def __init__(self, make_copy):
        self.make_copy = make_copy
        self.copies = []

    def on_epoch_begin(self, net, **kwargs):
        self.copies.append(self.make_copy(net))

    def __getstate__(self):
        return {"make_copy": None, "copies": []}


def train_alone(net, epochs):
    net.callbacks_ = net.callbacks_[:1]  # the timer, without whom copied the net
    net.fit_loop(None, epochs=epochs)


@BOTH
@COPIES
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_copy_of_the_net_trains_as_the_net_does(optimizer, make_copy, data):
    keep = Keep(make_copy)
    params = {"optimizer": optimizer, "momentum": 0.9}
    clf = classifier(callbacks=[keep], **params).fit(*data)
    start, _, last = keep.copies
    train_alone(start, 1)
    again = make_copy(start)
    train_alone(again, 2)
    train_alone(last, 1)
    for net in (again, last):
        linear = net.module_.linear.requires_grad_(False)
        np.testing.assert_array_equal(linear.weight, np.atleast_2d(clf.coef_))
        np.testing.assert_array_equal(linear.bias, clf.intercept_)
        assert net.history[:, "train_loss"] == list(clf.loss_curve_)


def test_shallow_copy_of_the_net_has_its_own_parameters():
    def zero(net):
        with torch.no_grad():
            copy.copy(net).module_.linear.weight.zero_()

    assert_same_fit(look(zero), classifier().fit(X, Y))


@COPIES
def test_copy_of_a_net_that_is_not_initialized(make_copy):
    keep = Keep(make_copy)
    classifier(callbacks=[keep], epochs=1).fit(X, Y)
    (net,) = keep.copies
    del net.module_
    assert not hasattr(make_copy(net), "module_")


def test_second_part_of_a_run_takes_changed_arguments_of_the_optimizer():
    clf = classifier(warm_start=True, momentum=0.9, epochs=2).fit(X, Y)
    clf.set_params(lr=0.5, momentum=0.5, epochs=1).fit(X, Y)

    def change(net, **kwargs):
        if len(net.history) == 3:
            net.optimizer_.param_groups[0].update(lr=0.5, momentum=0.5)

    assert_same_fit(clf, look(change, "on_epoch_begin", momentum=0.9))


def test_second_part_of_a_run_with_another_optimizer_starts_its_state_afresh():
    clf = classifier(warm_start=True, optimizer="adam", epochs=2).fit(X, Y)
    again = pickle.loads(pickle.dumps(clf))
    again._run = {**again._run, "state": [{}, {}]}
    for model in (clf, again):
        model.set_params(optimizer="sgd", momentum=0.9).fit(X, Y)
    assert_same_fit(clf, again)


# What callbacks find in the net


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_end", "on_train_end"])
@pytest.mark.parametrize("name", ["weight", "bias"])
@BOTH
def test_what_a_callback_changes_in_the_module_counts(data, name, event):
    def fill(net, **kwargs):
        with torch.no_grad():
            getattr(net.module_.linear, name).fill_(0.25)

    # With no step to speak of, what was filled in stays.
    clf = look(fill, event, data, lr=1e-12)
    attribute = {"weight": "coef_", "bias": "intercept_"}[name]
    np.testing.assert_allclose(getattr(clf, attribute), 0.25, atol=1e-9)
    untouched = {"weight": "intercept_", "bias": "coef_"}[name]
    start = getattr(classifier(epochs=0).fit(*data), untouched)
    np.testing.assert_allclose(getattr(clf, untouched), start, atol=1e-9)


@pytest.mark.parametrize("labels", ["numbers", "names"])
@BOTH
def test_net_predicts_and_scores_as_the_classifier(data, labels):
    rows, y = data
    named = np.array(["a", "b", "c"])[y] if labels == "names" else y
    seen = {}

    def predict(net):
        seen["proba"] = net.predict_proba(rows)
        seen["tensor"] = net.predict_proba(torch.from_numpy(rows))
        seen["float32"] = net.predict_proba(rows.astype(np.float32))
        seen["index"] = net.predict(rows)
        seen["score"] = net.score(rows, y)
        seen["classes"] = net.classes_
        seen["logits"] = torch.cat(list(net.forward_iter(rows)))

    clf = look(predict, data=(rows, named))
    np.testing.assert_allclose(seen["proba"], clf.predict_proba(rows))
    np.testing.assert_array_equal(seen["tensor"], seen["proba"])
    np.testing.assert_allclose(seen["float32"], seen["proba"], rtol=1e-4)
    np.testing.assert_array_equal(clf.classes_[seen["index"]], clf.predict(rows))
    assert seen["score"] == clf.score(rows, named)
    np.testing.assert_array_equal(seen["classes"], range(len(clf.classes_)))
    np.testing.assert_allclose(seen["logits"], clf.decision_function(rows))


@BOTH
def test_net_shows_callbacks_the_rows_and_labels(data):
    rows, y = data
    named = np.array(["a", "b", "c"])[y]
    seen = {}

    def at_start(net, X, y):
        seen["X"] = X

    def at_epoch(net, dataset_train, dataset_valid):
        seen["train"], seen["valid"] = dataset_train, dataset_valid

    callbacks = [Look(at_start, "on_train_begin"), Look(at_epoch, "on_epoch_begin")]
    clf = classifier(callbacks=callbacks)
    clf.fit(rows, named, X_val=rows[:7], y_val=named[:7])
    np.testing.assert_array_equal(seen["X"], rows)
    for part, n_rows in (("train", 60), ("valid", 7)):
        dataset = seen[part]
        assert isinstance(dataset, Dataset)
        assert len(dataset) == n_rows
        np.testing.assert_array_equal(dataset.X, rows[:n_rows])
        np.testing.assert_array_equal(dataset.y, y[:n_rows])
        row, label = dataset[3]
        np.testing.assert_array_equal(row, rows[3])
        assert label == y[3]


def test_net_without_validation_rows_shows_none():
    seen = []
    look(lambda net, **data: seen.append(data["dataset_valid"]), "on_epoch_begin")
    assert seen == [None, None, None]


def test_net_of_a_fit_has_skorchs_parameters():
    seen = {}

    def read(net):
        seen.update(net.get_params())
        assert net.initialized_
        assert "LogisticNet" in repr(net)

    look(read, lr=0.3, momentum=0.5)
    assert seen["lr"] == 0.3
    assert seen["optimizer"] is torch.optim.SGD
    assert seen["optimizer__momentum"] == 0.5
    assert seen["batch_size"] == 16
    assert seen["max_epochs"] == 3


def test_net_records_losses_as_skorch_does():
    seen = []

    class Losses(Callback):
        def on_epoch_end(self, net, **kwargs):
            seen.append(net.history[-1].copy())

    clf = classifier(lr=5.0, epochs=8, callbacks=[Losses()])
    clf.fit(X, Y, X_val=X[:20], y_val=Y[:20])
    for name in ("train_loss", "valid_loss"):
        losses = [row[name] for row in seen]
        best = [loss < min(losses[:i], default=np.inf) for i, loss in enumerate(losses)]
        assert [row[f"{name}_best"] for row in seen] == best
        assert not all(best)
    assert clf.loss_curve_ == [row["train_loss"] for row in seen]
    assert all(row["dur"] > 0 for row in seen)
    expected = log_loss(Y[:20], clf.predict_proba(X[:20]))
    assert clf.validation_loss_curve_[-1] == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:The mean loss at the end")
def test_best_loss_is_the_best_over_a_warm_start():
    clf = classifier(lr=1.0, epochs=10, warm_start=True).fit(X, Y)
    clf.set_params(lr=50.0, epochs=1).fit(X, Y)
    assert clf.loss_curve_[-1] > min(clf.loss_curve_)
    assert clf.history_[-1]["train_loss_best"] is False


# A run that diverges


@pytest.mark.parametrize("callbacks", [None, [OnBatchEnd()]], ids=["", "batches"])
@pytest.mark.parametrize("lr", [1e6, 1e300])
def test_run_that_diverges_says_what_to_do(lr, callbacks):
    clf = classifier(lr=lr, alpha=0.1, epochs=30, callbacks=callbacks)
    message = (
        r"Training diverged with lr=1e\+.*classes\. Try lr=0\.1 or a lower alpha\.$"
    )
    with pytest.raises(ValueError, match=message):
        clf.fit(X, Y)
    assert not hasattr(clf, "coef_")


def test_run_that_diverges_in_the_validation_rows_says_so():
    clf = classifier(lr=1e3, epochs=3)
    rows = np.full((4, 2), 1e306)
    with pytest.raises(ValueError, match="Training diverged"):
        clf.fit(X, Y, X_val=rows, y_val=[0, 1, 0, 1])


def test_run_of_no_epochs_leaves_the_start_and_calls_the_callbacks():
    heard = []
    begin = Look(lambda net, X, y: heard.append("begin"), "on_train_begin")
    end = Look(lambda net: heard.append("end"), "on_train_end")
    clf = classifier(epochs=0, callbacks=[begin, end]).fit(X, Y)
    assert heard == ["begin", "end"]
    assert clf.n_iter_ == 0
    assert clf.loss_curve_ == clf.history_ == []
