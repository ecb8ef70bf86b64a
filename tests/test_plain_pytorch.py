"""The estimator equals the program that a PyTorch user would write."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchlogistic import TorchLogisticClassifier, _batches


def plain_program(
    X,
    y,
    *,
    seed,
    batch_size,
    epochs,
    optimizer,
    X_val=None,
    pos_weight=None,
    alpha=0.0,
    **arguments,
):
    """Train with autograd and DataLoader; returns (coef, intercept, loss curve)."""
    n_classes = len(np.unique(y))
    n_outputs = 1 if n_classes == 2 else n_classes
    torch.manual_seed(seed)
    model = nn.Linear(X.shape[1], n_outputs).double()
    optimizer = optimizer(model.parameters(), **arguments)
    if n_outputs == 1:
        targets = torch.as_tensor(y, dtype=torch.float64)[:, None]
        weight = None if pos_weight is None else torch.tensor([float(pos_weight)])
        loss_fn = nn.BCEWithLogitsLoss(pos_weight=weight)
    else:
        targets = torch.as_tensor(y)
        loss_fn = nn.CrossEntropyLoss()
    torch.manual_seed(seed)
    data = TensorDataset(torch.as_tensor(X), targets)
    loader = DataLoader(data, batch_size=batch_size, shuffle=True)
    val_loader = None
    if X_val is not None:
        val_loader = DataLoader(TensorDataset(torch.as_tensor(X_val)), batch_size=8)
    curve = []
    for _ in range(epochs):
        total = 0.0
        for Xb, yb in loader:
            losses = []

            def closure(Xb=Xb, yb=yb, losses=losses):
                optimizer.zero_grad()
                loss = loss_fn(model(Xb), yb)
                losses.append(loss.item())
                loss = loss + alpha / 2 * model.weight.square().sum()
                loss.backward()
                return loss

            optimizer.step(closure)
            total += losses[0] * len(Xb)
        curve.append(total / len(data))
        if val_loader is not None:
            for _ in val_loader:
                pass
    state = model.state_dict()
    return state["weight"].numpy(), state["bias"].numpy(), curve


SGD = torch.optim.SGD
# name: (optimizer of the plain program, its arguments, parameters of the estimator)
OPTIMIZERS = {
    "sgd": (SGD, {"lr": 0.1}, {}),
    "momentum": (SGD, {"lr": 0.1, "momentum": 0.9}, {"momentum": 0.9}),
    "nesterov": (
        SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "optimizer_params": {"nesterov": True}},
    ),
    "dampening and decay": (
        SGD,
        {"lr": 0.1, "momentum": 0.5, "dampening": 0.3, "weight_decay": 0.01},
        {
            "momentum": 0.5,
            "optimizer_params": {"dampening": 0.3, "weight_decay": 0.01},
        },
    ),
    "adam": (torch.optim.Adam, {"lr": 0.05}, {"optimizer": "adam", "lr": 0.05}),
    "amsgrad": (
        torch.optim.Adam,
        {"lr": 0.05, "amsgrad": True, "betas": (0.8, 0.9)},
        {
            "optimizer": "adam",
            "lr": 0.05,
            "optimizer_params": {"amsgrad": True, "betas": (0.8, 0.9)},
        },
    ),
    "adamw": (torch.optim.AdamW, {"lr": 0.05}, {"optimizer": "adamw", "lr": 0.05}),
    "rmsprop": (
        torch.optim.RMSprop,
        {"lr": 0.01},
        {"optimizer": "rmsprop", "lr": 0.01},
    ),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.1}, {"optimizer": "adagrad"}),
    "a class": (
        torch.optim.Adamax,
        {"lr": 0.05},
        {"optimizer": torch.optim.Adamax, "lr": 0.05},
    ),
}


def problem(n_rows=83, n_classes=2, seed=0):
    return make_classification(
        n_rows,
        5,
        n_informative=4,
        n_redundant=0,
        n_classes=n_classes,
        flip_y=0.1,
        random_state=seed,
    )


def assert_same(clf, expected):
    coef, intercept, curve = expected
    np.testing.assert_allclose(clf.coef_, coef, atol=1e-6)
    np.testing.assert_allclose(clf.intercept_, intercept, atol=1e-6)
    np.testing.assert_allclose(clf.loss_curve_, curve, atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name, n_classes):
    optimizer, arguments, parameters = OPTIMIZERS[name]
    X, y = problem(n_classes=n_classes)
    clf = TorchLogisticClassifier(
        epochs=12, batch_size=16, random_state=3, device="cpu", **parameters
    )
    expected = plain_program(
        X, y, seed=3, batch_size=16, epochs=12, optimizer=optimizer, **arguments
    )
    assert_same(clf.fit(X, y), expected)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_with_validation_rows(name, n_classes):
    """The validation loader draws from the random stream too, and trains nothing."""
    optimizer, arguments, parameters = OPTIMIZERS[name]
    X, y = problem(n_classes=n_classes)
    X_val, y_val = problem(20, n_classes=n_classes, seed=1)
    clf = TorchLogisticClassifier(
        epochs=12, batch_size=16, random_state=3, device="cpu", **parameters
    ).fit(X, y, X_val=X_val, y_val=y_val)
    run = {"seed": 3, "batch_size": 16, "epochs": 12, "X_val": X_val}
    assert_same(clf, plain_program(X, y, optimizer=optimizer, **run, **arguments))
    without = plain_program(
        X, y, optimizer=optimizer, **run | {"X_val": None, **arguments}
    )
    assert not np.allclose(clf.coef_, without[0], atol=1e-6)


# Those that take dense gradients of vectors.
CLASSES = [
    cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type)
    and issubclass(cls, torch.optim.Optimizer)
    and name not in ("Optimizer", "SparseAdam", "Muon")
]


def test_classes_are_those_of_torch():
    assert {
        torch.optim.Adadelta,
        torch.optim.Adafactor,
        torch.optim.Adamax,
        torch.optim.ASGD,
        torch.optim.LBFGS,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.Rprop,
    } < set(CLASSES)


def class_settings(cls):
    """A step size that suits a class, and the run in which it is tried."""
    lr = 1.0 if cls is torch.optim.Adadelta else 0.02
    # These compare gradients of steps in a row, as if they were of the same rows.
    batch_size = 83 if cls in (torch.optim.Rprop, torch.optim.LBFGS) else 16
    return {"lr": lr, "batch_size": batch_size, "epochs": 8}


by_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


@by_class
@pytest.mark.parametrize("n_classes", [2, 3])
def test_classes(cls, n_classes):
    X, y = problem(n_classes=n_classes)
    settings = class_settings(cls)
    clf = TorchLogisticClassifier(
        optimizer=cls, random_state=3, device="cpu", **settings
    )
    assert_same(clf.fit(X, y), plain_program(X, y, seed=3, optimizer=cls, **settings))
    start = plain_program(X, y, seed=3, optimizer=cls, **{**settings, "epochs": 0})
    assert not np.allclose(clf.coef_, start[0], atol=1e-3)


@by_class
@pytest.mark.parametrize("n_classes", [2, 3])
def test_classes_continue_to_the_bit_after_pickling(cls, n_classes):
    X, y = problem(n_classes=n_classes)
    settings = {**class_settings(cls), "optimizer": cls, "random_state": 3}
    whole = TorchLogisticClassifier(**settings, device="cpu").fit(X, y)
    part = TorchLogisticClassifier(**settings, device="cpu", warm_start=True)
    part = pickle.loads(pickle.dumps(part.set_params(epochs=3).fit(X, y)))
    part.set_params(epochs=5).fit(X, y)
    np.testing.assert_array_equal(part.coef_, whole.coef_)
    np.testing.assert_array_equal(part.intercept_, whole.intercept_)
    assert part.loss_curve_ == whole.loss_curve_


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31 - 1])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 83, 500])
def test_seeds_and_batch_sizes(seed, batch_size):
    X, y = problem()
    clf = TorchLogisticClassifier(
        epochs=5, batch_size=batch_size, random_state=seed, device="cpu"
    )
    expected = plain_program(
        X, y, seed=seed, batch_size=batch_size, epochs=5, optimizer=SGD, lr=0.1
    )
    assert_same(clf.fit(X, y), expected)
    assert clf.batch_size_ == min(batch_size, 83)


@pytest.mark.parametrize(
    "setting",
    [
        {"alpha": 0.1},
        {"pos_weight": 3.0},
        {"pos_weight": 0.25, "alpha": 0.01},
        {"X_val": problem(20, seed=1)[0]},
    ],
    ids=str,
)
def test_penalty_weight_and_validation_rows(setting):
    X, y = problem()
    parameters = {k: v for k, v in setting.items() if k != "X_val"}
    validation = {}
    if "X_val" in setting:
        validation = {"X_val": setting["X_val"], "y_val": problem(20, seed=1)[1]}
    clf = TorchLogisticClassifier(
        epochs=6, batch_size=16, random_state=5, device="cpu", **parameters
    )
    expected = plain_program(
        X, y, seed=5, batch_size=16, epochs=6, optimizer=SGD, lr=0.1, **setting
    )
    assert_same(clf.fit(X, y, **validation), expected)


def test_a_buffer_of_several_chunks(monkeypatch):
    """Rows that do not fit the cache are visited in the same order."""
    X, y = problem(403)
    expected = plain_program(
        X, y, seed=5, batch_size=16, epochs=6, optimizer=SGD, lr=0.1
    )
    monkeypatch.setitem(_batches.CHUNK_BYTES, "cpu", 5 * 8 * 16 * 3)
    clf = TorchLogisticClassifier(epochs=6, batch_size=16, random_state=5, device="cpu")
    assert_same(clf.fit(X, y), expected)


def test_float32(chapter):
    """In float32 the two programs differ by rounding only."""
    X = chapter.X_train
    expected = plain_program(
        X, chapter.y_train, seed=1, batch_size=16, epochs=20, optimizer=SGD, lr=0.1
    )
    clf = TorchLogisticClassifier(
        epochs=20, batch_size=16, random_state=1, dtype="float32", device="cpu"
    )
    assert_same(clf.fit(X, chapter.y_train), expected)


def test_lbfgs_of_torch_gets_a_closure(chapter):
    """An optimizer that asks for a closure evaluates the objective with it."""
    clf = TorchLogisticClassifier(
        optimizer=torch.optim.LBFGS,
        optimizer_params={
            "line_search_fn": "strong_wolfe",
            "tolerance_grad": 1e-10,
            "tolerance_change": 1e-15,
        },
        lr=1.0,
        epochs=10,
        batch_size=None,
        device="cpu",
        random_state=0,
    ).fit(chapter.X_train, chapter.y_train)
    # The optimum, from LogisticRegression(C=inf) at tight tolerance.
    np.testing.assert_allclose(clf.coef_, [[1.20401973, -1.93297462]], atol=1e-5)
    np.testing.assert_allclose(clf.intercept_, [-0.0626374], atol=1e-5)
